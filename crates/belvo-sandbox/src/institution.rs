//! The institutions of the sandbox: Belvo's own fictional ones, as one table, and one more.
//!
//! The institutions differ only in how a user logs in (password, one-time token, consent) and in their resources. Next:
//! [`super::bank`], where a login is attempted.

use serde_json::{Value, json};

/// How a user gives Belvo access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Username and password.
    Password,
    /// A username only (Mexico's social security identifies a person by the CURP).
    Username,
    /// Password, and a one-time token at every login: Heimdall.
    Token,
    /// A Brazilian open-finance consent; no credentials are stored.
    Consent,
}

/// One institution.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Institution {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    pub(crate) display_name: &'static str,
    pub(crate) country: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) access: Access,
    pub(crate) resources: &'static [&'static str],
}

const RETAIL: &[&str] = &["ACCOUNTS", "OWNERS", "TRANSACTIONS"];

/// The institutions that Belvo lists. The resource lists are also the default `fetch_resources` of a link.
pub(crate) const INSTITUTIONS: &[Institution] = &[
    Institution {
        id: 1,
        name: "erebor_mx_retail",
        display_name: "Erebor",
        country: "MX",
        kind: "bank",
        access: Access::Password,
        resources: RETAIL,
    },
    Institution {
        id: 2,
        name: "gringotts_co_retail",
        display_name: "Gringotts",
        country: "CO",
        kind: "bank",
        access: Access::Password,
        resources: RETAIL,
    },
    Institution {
        id: 3,
        name: "heimdall_mx_retail",
        display_name: "Heimdall",
        country: "MX",
        kind: "bank",
        access: Access::Token,
        resources: RETAIL,
    },
    Institution {
        id: 4,
        name: "ofmockbank_br_retail",
        display_name: "OF Mock Bank",
        country: "BR",
        kind: "bank",
        access: Access::Consent,
        resources: &[
            "ACCOUNTS",
            "OWNERS",
            "TRANSACTIONS",
            "BILLS",
            "INVESTMENTS",
            "INVESTMENT_TRANSACTIONS",
            "INCOMES",
            "RECURRING_EXPENSES",
            "RISK_INSIGHTS",
        ],
    },
    Institution {
        id: 5,
        name: "planet_mx_employment",
        display_name: "Planet Employment",
        country: "MX",
        kind: "employment",
        access: Access::Username,
        resources: &["EMPLOYMENT_RECORDS"],
    },
    Institution {
        id: 6,
        name: "tatooine_mx_fiscal",
        display_name: "Tatooine Fiscal",
        country: "MX",
        kind: "fiscal",
        access: Access::Password,
        resources: &["INVOICES", "TAX_RETURNS", "TAX_STATUS"],
    },
];

/// An invented institution, modelled on the Mexican one: Belvo offers the product in Brazil, but its sandbox has no
/// institution for it. The institution can be used by name, and is in no list.
pub(crate) const UNLISTED: &[Institution] = &[Institution {
    id: 7,
    name: "planet_br_employment",
    display_name: "Planet Employment Brazil",
    country: "BR",
    kind: "employment",
    access: Access::Username,
    resources: &["EMPLOYMENTS"],
}];

impl Institution {
    /// The institution of this name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        INSTITUTIONS.iter().chain(UNLISTED).find(|institution| institution.name == name)
    }

    /// The entry in `GET /api/institutions/`.
    pub(crate) fn to_json(&self) -> Value {
        let field = |name: &str, kind: &str, label: &str| json!({"name": name, "type": kind, "label": label});
        let mut form_fields = vec![field("username", "text", "Username")];
        if matches!(self.access, Access::Password | Access::Token) {
            form_fields.push(field("password", "password", "Password"));
        }
        json!({
            "id": self.id,
            "name": self.name,
            "type": self.kind,
            "code": format!("{:05}", self.id),
            "website": null,
            "display_name": self.display_name,
            "country_code": self.country,
            "country_codes": [self.country],
            "primary_color": "#056dae",
            "logo": null,
            "icon_logo": null,
            "text_logo": null,
            "form_fields": form_fields,
            "features": [],
            "resources": self.resources,
            "integration_type": if self.access == Access::Consent { "openfinance" } else { "credentials" },
            "status": "healthy",
        })
    }
}
