//! The bank's answer to a login, with its error looked up in Belvo's error reference.
//!
//! The error is looked up when a test sets it, so that an undocumented code is refused immediately and not at
//! a later login. Next: [`super::bank`], which attempts logins.

use crate::error::ControlError;
use crate::login::{Login, LoginFailure};
use crate::problem::Problem;

/// The bank's answer to the next login: [`Login`], with its error looked up.
#[derive(Clone, Debug)]
pub(crate) enum BankAnswer {
    Works,
    TokenRequired,
    QrRequired,
    Fails(LoginFailure),
    Answers(Problem),
}

impl BankAnswer {
    pub(crate) fn of(login: Login) -> Result<Self, ControlError> {
        let code = match login {
            Login::Works => return Ok(Self::Works),
            Login::TokenRequired => return Ok(Self::TokenRequired),
            Login::QrRequired => return Ok(Self::QrRequired),
            Login::Fails(failure) => return Ok(Self::Fails(failure)),
            Login::Answers(code) => code,
        };
        match code.as_str() {
            "token_required" => Ok(Self::TokenRequired),
            "login_error" => Ok(Self::Fails(LoginFailure::InvalidCredentials)),
            code => match code.strip_prefix("login_error:").and_then(|name| name.parse().ok()) {
                Some(failure) => Ok(Self::Fails(failure)),
                None => Problem::documented(code).map(Self::Answers),
            },
        }
    }
}

impl Login {
    /// Checks that Belvo documents the code.
    ///
    /// # Errors
    /// [`ControlError::NoSuchCode`] if it does not.
    pub fn check(&self) -> Result<(), ControlError> {
        BankAnswer::of(self.clone()).map(drop)
    }
}
