//! What a test wants the bank or Belvo to answer, looked up when it is asked for: a code that Belvo does not document is
//! refused then, and nothing that goes wrong later has to be papered over.
//!
//! Next: [`super::bank`] and [`super::fault`], which give these answers.

use crate::error::ControlError;
use crate::login::{Login, LoginFailure};
use crate::problem::Problem;

/// What the bank will say to the next login: [`Login`], looked up.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Works,
    TokenRequired,
    QrRequired,
    Fails(LoginFailure),
    Answers(Problem),
}

impl Verdict {
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
            code => match code.strip_prefix("login_error:").and_then(LoginFailure::from_name) {
                Some(failure) => Ok(Self::Fails(failure)),
                None => Problem::documented(code).map(Self::Answers),
            },
        }
    }
}

impl Login {
    /// Whether a bank can say this.
    ///
    /// # Errors
    /// A code that Belvo does not document.
    pub fn check(&self) -> Result<(), ControlError> {
        Verdict::of(self.clone()).map(drop)
    }
}
