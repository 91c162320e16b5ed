//! What the bank says to a login.

use serde::{Deserialize, Serialize};

/// Why a login fails: the seven messages of `login_error` (error reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginFailure {
    /// The password is wrong.
    InvalidCredentials,
    /// Belvo did not even try, the password having been wrong before.
    NotAttempted,
    /// There are no credentials to try.
    MissingCredentials,
    /// The bank locked the account; a new password will not help.
    Locked,
    /// The bank forbids the access; a new password will not help.
    Forbidden,
    /// Something unexpected, to be tried later.
    Unexpected,
    /// The bank wants a kind of token that Belvo cannot handle.
    MfaUnsupported,
}

impl LoginFailure {
    const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::InvalidCredentials, "invalid_credentials", "Invalid credentials provided to login to the institution"),
        (Self::NotAttempted, "not_attempted", "Login not attempted due to invalid credentials"),
        (Self::MissingCredentials, "missing_credentials", "Missing credentials to login to the institution"),
        (Self::Locked, "locked", "The user account is locked, user needs to contact the institution to unlock it"),
        (Self::Forbidden, "forbidden", "The user account access was forbidden by the institution"),
        (
            Self::Unexpected,
            "unexpected",
            "Impossible to login, something unexpected happened while logging into the institution. Try again later.",
        ),
        (
            Self::MfaUnsupported,
            "mfa_unsupported",
            "A MFA token is required by the institution, but it’s not supported yet by Belvo.",
        ),
    ];

    /// Belvo's message for it.
    pub fn message(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.2)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|row| row.1)
    }
}

/// What the bank will say to the next login with the stored credentials.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Login {
    /// It lets Belvo in.
    #[default]
    Works,
    /// It asks for a one-time token: 428.
    TokenRequired,
    /// It shows a QR code to confirm with: 428, whose session is resumed without a token (`expects_user_input` false).
    QrRequired,
    /// It refuses: `login_error`.
    Fails(LoginFailure),
    /// Anything else from Belvo's error reference, such as `institution_down` or `too_many_sessions`, by its code.
    Answers(String),
}

impl Login {
    /// From its name in the control API: `works`, `token_required`, `qr_required`, a login failure, or an
    /// error code.
    pub fn from_name(name: &str) -> Self {
        match name {
            "works" => Self::Works,
            "token_required" => Self::TokenRequired,
            "qr_required" => Self::QrRequired,
            name => LoginFailure::from_name(name).map_or_else(|| Self::Answers(name.to_owned()), Self::Fails),
        }
    }
}
