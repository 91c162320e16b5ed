//! Parameters of paths and queries. Unknown parameters are refused: if a mistyped filter were ignored, the caller
//! would not notice that the answer is not filtered.

use std::fmt::Display;
use std::num::ParseIntError;
use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use super::problem::{Kind, Problem};
use crate::link::LinkId;

/// The `{id}` of a path.
pub(super) struct LinkInPath(pub(super) LinkId);

/// The `{sequence}` of a path.
pub(super) struct SequenceInPath(pub(super) u64);

impl<S: Send + Sync> FromRequestParts<S> for LinkInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path_parameter(parts, state, "id").await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SequenceInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let number: Result<u64, Problem> = path_parameter(parts, state, "sequence").await;
        number.map(Self).map_err(|_| bad("sequence", "must be a whole number, from 1"))
    }
}

async fn path_parameter<T, S>(parts: &mut Parts, state: &S, name: &str) -> Result<T, Problem>
where
    T: FromStr<Err: Display>,
    S: Send + Sync,
{
    let all = RawPathParams::from_request_parts(parts, state).await.map_err(|_| bad(name, "must be UTF-8"))?;
    let (_, text) = all.iter().find(|(found, _)| *found == name).unwrap_or((name, ""));
    text.parse().map_err(|error| bad(name, &format!("{error}")))
}

/// The query of a request.
pub(super) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        pairs.map(|pairs| Self(pairs.0)).map_err(|_| bad("query", "must consist of `name=value` pairs joined by `&`"))
    }
}

impl Query {
    /// Fails if a parameter is not in `known`, or is given twice.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        for (at, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = known.join("`, `");
                return Err(bad(name, &format!("the parameter is unknown; known are `{known}`")));
            }
            if self.0[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(bad(name, "may be given once"));
            }
        }
        Ok(())
    }

    /// The text of a parameter; `None` if it is absent or empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(found, _)| found == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    /// A text that links are filtered by; `None` if it is absent. An empty one is refused: a program whose variable is empty by mistake would
    /// get all links.
    pub(super) fn filter(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.0.iter().find(|(found, _)| found == name) {
            Some((_, value)) if value.is_empty() => Err(bad(name, "must not be empty; leave it out to get all")),
            found => Ok(found.map(|(_, value)| value.clone())),
        }
    }

    /// The parsed value of a parameter; `None` if it is absent or empty.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name).map(|text| text.parse().map_err(|error| bad(name, &format!("{error}")))).transpose()
    }

    /// A whole number, from 0; `None` if it is absent or empty.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let parsed = self.text(name).map(str::parse).transpose();
        parsed.map_err(|_: ParseIntError| bad(name, "must be a whole number, from 0"))
    }

    /// The parameter `limit`: the number of items on a page, between 1 and a maximum, with a default.
    pub(super) fn limit(&self, bounds: (usize, usize)) -> Result<usize, Problem> {
        self.count("limit", bounds)
    }

    /// A number between 1 and a maximum, with a default.
    pub(super) fn count(&self, name: &str, (default, max): (usize, usize)) -> Result<usize, Problem> {
        match self.parse::<usize>(name) {
            Ok(None) => Ok(default),
            Ok(Some(count)) if (1..=max).contains(&count) => Ok(count),
            Ok(Some(_)) | Err(_) => Err(bad(name, &format!("must be a whole number from 1 to {max}"))),
        }
    }
}

/// The problem for a parameter with a wrong value; `what` is the end of the sentence.
pub(super) fn bad(name: &str, what: &str) -> Problem {
    let name: String = name.chars().take(40).collect();
    Problem::new(Kind::BadParameter, format!("`{}`: {what}.", name.escape_debug())).with("parameter", name)
}
