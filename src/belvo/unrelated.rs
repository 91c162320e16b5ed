//! The classes of messages that are not about the link: they never become an event.

use strum::{IntoStaticStr, VariantArray};

/// The classes of messages that are not about the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Unrelated {
    /// Belvo does not accept the API keys.
    Keys,
    /// The API keys do not give access to the resource, the environment, or more links.
    Permission,
    /// The request was wrong.
    Request,
    /// Belvo is down, or a request took too long. Try again later.
    Outage,
    /// The institution is down. Try again later.
    InstitutionDown,
    /// The user, or Belvo, is logged in at the institution already. Try again in two minutes.
    Busy,
    /// Too many requests were sent. Try again later.
    RateLimit,
    /// The link was refreshed within the last minutes. Try again later.
    Delay,
    /// Belvo switched the institution off.
    InstitutionOff,
    /// Some of the data is not available.
    PartialData,
    /// The user has not authorised the consent yet.
    ConsentPending,
    /// The creation of a new link failed, so there is no link.
    Creation,
    /// The user entered a wrong MFA token. The attempt goes on.
    WrongToken,
    /// An error inside the widget. Another message reports how the attempt ends.
    InWidget,
}

impl Unrelated {
    /// The name in messages and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What the message says instead, as a clause.
    pub const fn clause(self) -> &'static str {
        match self {
            Self::Keys => "Belvo does not accept the API keys",
            Self::Permission => "the API keys give no access to this",
            Self::Request => "the request was wrong",
            Self::Outage => "Belvo is down, or a request took too long",
            Self::InstitutionDown => "the institution is down",
            Self::Busy => "somebody is logged in at the institution already",
            Self::RateLimit => "too many requests were sent",
            Self::Delay => "the link was refreshed a short time before",
            Self::InstitutionOff => "Belvo has switched the institution off",
            Self::PartialData => "some of the data is not available",
            Self::ConsentPending => "the user has not authorised the consent yet",
            Self::Creation => "the creation of a new link failed, so there is no link",
            Self::WrongToken => "the user entered a wrong MFA token, and may try again",
            Self::InWidget => {
                "an error inside the widget is shown to the user there, and another message reports how that ends"
            }
        }
    }

    /// Whether Belvo says that the institution does not work.
    pub const fn is_about_the_institution(self) -> bool {
        matches!(self, Self::InstitutionDown | Self::InstitutionOff)
    }

    /// Whether the same request may succeed later (guide: Belvo API errors, retry policy).
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Outage | Self::InstitutionDown | Self::Busy | Self::RateLimit | Self::Delay => true,
            Self::Keys
            | Self::Permission
            | Self::Request
            | Self::InstitutionOff
            | Self::PartialData
            | Self::ConsentPending
            | Self::Creation
            | Self::WrongToken
            | Self::InWidget => false,
        }
    }
}
