//! `GET /api/institutions/`: the display name of an institution. Links have only its code. Source: "API reference:
//! institutions" (filter `name`, field `display_name`).

use reqwest::{Method, Url};
use serde_json::Value;

use super::answer::{BODY_BYTES_MAX, Refused};
use super::{Call, CallError, Client};
use crate::belvo::budget::Urgency;

impl Client {
    /// The display name of the institution with this code; `None` if Belvo lists no such institution.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn institution_name(&self, code: &str) -> Result<Option<String>, CallError> {
        let call = Call { method: Method::GET, path: "/api/institutions/".to_owned(), link: None };
        let query = [("name", code), ("page_size", "10")];
        let Ok(url) = Url::parse_with_params(&format!("{}{}", self.base, call.path), query) else { return Ok(None) };
        let keys = |request| self.with_keys(request);
        // Nobody waits long for a name, so it must not take a call from a repair.
        let (answer, _took) = self.ask_at(&call, url.as_str(), Urgency::Background, BODY_BYTES_MAX, keys).await?;
        if !answer.status.is_success() {
            return Err(Refused::of(&call, answer)?.into());
        }
        let page = answer.object().unwrap_or_default();
        let mut listed = page.get("results").and_then(Value::as_array).into_iter().flatten();
        let found = listed.find(|institution| institution["name"].as_str() == Some(code));
        Ok(found.and_then(|institution| institution["display_name"].as_str()).map(str::to_owned))
    }
}
