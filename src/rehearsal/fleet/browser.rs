//! The browser of a user: it opens the repair page, runs the page's program, sends the page's form, and follows redirects, also that
//! of Belvo's widget back to relink.

use anyhow::{Context as _, bail};
use reqwest::header::{ACCEPT_LANGUAGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};
use secrecy::SecretString;
use serde_json::Value;

use super::http_server::{API_TOKEN, Answer, BASE_URL, Batch};
use super::mails::Mail;
use super::state::Simulation;
use crate::link::LinkId;

/// The languages of a user in Brazil, or in another country.
const LANGUAGES: [&str; 2] = ["pt-BR,pt;q=0.9,en;q=0.5", "es-MX,es;q=0.9"];

/// The form of a renewal, as a user fills it in.
const PERSON: &str = "name=Ana+Souza&document=761.092.776-73";

/// The form of the page without fields.
const NO_FIELDS: &str = "";

/// What a user finds on the page.
#[derive(Debug)]
pub(super) enum Found {
    /// Belvo's widget or portal opens at this address.
    Opens(Url),
    /// There is no button: nothing is left to do on this page, or nothing can be done now.
    NoButton,
    /// The address has expired: the page leads to the app.
    Expired,
    /// Belvo's page cannot be opened now.
    NotNow,
}

impl Simulation {
    /// Sends a request to relink's HTTP server. relink handles the inputs of the request before the answer.
    pub(super) async fn ask(&mut self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let mut answered = Box::pin(Answer::to(request));
        loop {
            tokio::select! {
                biased;
                Some(batch) = self.http.next_batch() => self.take_batch(batch)?,
                answer = &mut answered => return answer,
            }
        }
    }

    fn take_batch(&mut self, batch: Batch) -> anyhow::Result<()> {
        let first = self.relink.inputs_count() + 1;
        let count = batch.entries.len() as u64;
        for entry in batch.entries {
            let subjects = &self.subjects;
            let (kind, link) = subjects.parse_published(&entry.subject).context("relink publishes no input")?;
            let link: LinkId = link.parse()?;
            self.relink.receive(kind, link, entry.payload.to_vec());
        }
        self.run_relink()?;
        // The server has gone away only if the run ends.
        let _ended = batch.stored.send((first..first + count).collect());
        Ok(())
    }

    fn browse(&self, number: usize, method: Method, url: &str) -> anyhow::Result<RequestBuilder> {
        let is_brazilian = self.has_consent(number);
        let language = if is_brazilian { LANGUAGES[0] } else { LANGUAGES[1] };
        Ok(self.http.request(method, url)?.header(ACCEPT_LANGUAGE, HeaderValue::from_static(language)))
    }

    /// A user opens the address in a message, and presses the button if there is one.
    pub(super) async fn visit(&mut self, number: usize, mail: &Mail) -> anyhow::Result<Found> {
        let mut page = self.ask(self.browse(number, Method::GET, &mail.url)?).await?;
        self.check_page(number, mail, &page)?;
        if let Some(check) = attribute(&page.body, "data-check") {
            // The program of the page sends this once, and loads the page again if the state of the link differs.
            let address = joined(&mail.url, &check)?;
            let state = self.ask(self.browse(number, Method::POST, &address)?).await?;
            let state: Value = serde_json::from_str(&state.body).context("the state of a page is JSON")?;
            if state["view"].as_str().map(str::to_owned) != view_of(&page.body) {
                page = self.ask(self.browse(number, Method::GET, &mail.url)?).await?;
                self.check_page(number, mail, &page)?;
            }
        }
        let view = view_of(&page.body);
        let Some(action) = attribute(&page.body, "action") else {
            return Ok(if view.as_deref() == Some("expired") { Found::Expired } else { Found::NoButton });
        };
        let fields = if page.body.contains("name=\"document\"") { PERSON } else { NO_FIELDS };
        let mut answer = self.press(number, mail, &action, fields).await?;
        if answer.status == 422 {
            // While an attempt is open, its button asks for the entries again.
            let action = attribute(&answer.body, "action").context("a page with a form has an action")?;
            answer = self.press(number, mail, &action, PERSON).await?;
        }
        match (answer.status, answer.location) {
            (303, Some(url)) => Ok(Found::Opens(url)),
            // The link has been found to work, or the episode has ended meanwhile.
            (200 | 410, None) => Ok(Found::NoButton),
            (429 | 502 | 503, None) => Ok(Found::NotNow),
            (status, _) => bail!("the button of the page {view:?} answers {status}: {}", answer.body),
        }
    }

    async fn press(
        &mut self,
        number: usize,
        mail: &Mail,
        action: &str,
        fields: &'static str,
    ) -> anyhow::Result<Answer> {
        let request = self.browse(number, Method::POST, &joined(&mail.url, action)?)?;
        self.ask(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(fields)).await
    }

    /// The browser goes where Belvo's widget leads it: to relink, and from there to the page again.
    pub(super) async fn return_from_widget(
        &mut self,
        number: usize,
        callback: &str,
        mail: Option<&Mail>,
    ) -> anyhow::Result<()> {
        let mut next = callback.to_owned();
        for _ in 0..3 {
            let answer = self.ask(self.browse(number, Method::GET, &next)?).await?;
            match answer.location {
                Some(url) if answer.status == 303 => next = url.into(),
                _ => return mail.map_or(Ok(()), |mail| self.check_page(number, mail, &answer)),
            }
        }
        bail!("the browser is redirected again and again, now to {next}")
    }

    /// The customer's application asks relink for a widget token, for a user who has not opened the page; `None` if there is none now.
    pub(super) async fn token_for_app(&mut self, link: &LinkId) -> anyhow::Result<Option<SecretString>> {
        let url = format!("{BASE_URL}/v1/links/{link}/update");
        let request = self.http.request(Method::POST, &url)?.bearer_auth(API_TOKEN);
        let answer = self.ask(request).await?;
        if !(200..300).contains(&answer.status) {
            return Ok(None);
        }
        let minted: Value = serde_json::from_str(&answer.body).context("a minted token is JSON")?;
        Ok(minted["access"].as_str().map(SecretString::from))
    }
}

/// The address to which an element of a page leads, which is relative to the page.
fn joined(page: &str, relative: &str) -> anyhow::Result<String> {
    Ok(Url::parse(page)?.join(relative)?.into())
}

/// The name of the view of a page.
pub(super) fn view_of(page: &str) -> Option<String> {
    attribute(page, "data-view")
}

/// The first value of an attribute.
fn attribute(page: &str, name: &str) -> Option<String> {
    let (_, rest) = page.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(value.replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_page_are_found() {
        let page =
            r#"<body data-view="needs_you" data-check="T/check"><form method="post" action="?locale=es&amp;done">"#;
        assert_eq!(view_of(page).as_deref(), Some("needs_you"));
        assert_eq!(attribute(page, "action").as_deref(), Some("?locale=es&done"));
        let page_url = format!("{BASE_URL}/repair/T");
        assert_eq!(joined(&page_url, "T/check").unwrap(), format!("{BASE_URL}/repair/T/check"));
        assert_eq!(joined(&page_url, "?locale=es").unwrap(), format!("{BASE_URL}/repair/T?locale=es"));
    }
}
