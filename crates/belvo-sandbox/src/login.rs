//! The bank's answer to a login, as a test sets it.

use serde::{Deserialize, Serialize};
use strum::{EnumMessage, EnumString, IntoStaticStr, VariantArray};

/// Why a login fails: the seven messages of `login_error` (error reference).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    EnumMessage,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum LoginFailure {
    /// The password is wrong.
    #[strum(message = "Invalid credentials provided to login to the institution")]
    InvalidCredentials,
    /// Belvo did not try to log in, because the password was wrong before.
    #[strum(message = "Login not attempted due to invalid credentials")]
    NotAttempted,
    /// No credentials are stored.
    #[strum(message = "Missing credentials to login to the institution")]
    MissingCredentials,
    /// The bank locked the account; a new password will not help.
    #[strum(message = "The user account is locked, user needs to contact the institution to unlock it")]
    Locked,
    /// The bank forbids the access; a new password will not help.
    #[strum(message = "The user account access was forbidden by the institution")]
    Forbidden,
    /// An unexpected error; a later try may succeed.
    #[strum(
        message = "Impossible to login, something unexpected happened while logging into the institution. Try again later."
    )]
    Unexpected,
    /// The bank requires a kind of token that Belvo does not support.
    #[strum(message = "A MFA token is required by the institution, but it’s not supported yet by Belvo.")]
    MfaUnsupported,
}

impl LoginFailure {
    /// Belvo's message for it.
    pub fn message(self) -> &'static str {
        self.get_message().expect("each failure has its message")
    }
}

/// The bank's answer to the next login with the stored credentials.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Login {
    /// The login succeeds.
    #[default]
    Works,
    /// The bank requires a one-time token: 428.
    TokenRequired,
    /// The bank shows a QR code to confirm: 428, whose session is resumed without a token (`expects_user_input` false).
    QrRequired,
    /// The bank refuses the login: `login_error`.
    Fails(LoginFailure),
    /// Another error of Belvo's error reference, such as `institution_down` or `too_many_sessions`, by its code.
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
            name => name.parse().map_or_else(|_| Self::Answers(name.to_owned()), Self::Fails),
        }
    }
}
