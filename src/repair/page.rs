//! The template of the page. Every value is escaped; nothing comes from another server.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use strum::{IntoStaticStr, VariantArray};

use super::brand::Brand;
use super::locale::Locale;
use super::texts::{self, Message, Texts};
use super::view::{Need, Successor, View};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const WIDGET_SCRIPT: &str = include_str!("widget.js");

/// What all pages of an installation share: the brand, the style sheet, and the policy of the browser.
#[derive(Debug)]
pub struct Look {
    brand: Brand,
    /// The address of the logo.
    logo_url: Option<String>,
    style: String,
    style_source: String,
    script_source: String,
    /// The origins to which the form of the page may lead.
    form_origins: String,
}

/// One page.
#[derive(Debug)]
pub struct Page<'a> {
    /// The language.
    pub locale: Locale,
    /// The name of the bank.
    pub bank: Option<&'a str>,
    /// What the page shows.
    pub shown: Shown<'a>,
    /// The token in the address of this page; `None` if relink did not sign it.
    pub token: Option<&'a str>,
    /// Whether the user comes from the widget, or has seen the attempt on this page.
    pub is_return: bool,
    /// What goes wrong at the bank.
    pub trouble: Option<Trouble>,
    /// Whether no token could be minted.
    pub cannot_start: bool,
}

/// The content of a page.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// The view of the link.
    View(View),
    /// The form of a renewal, with what the user has typed wrongly.
    Form(&'a Person, Mistakes),
    /// The link cannot be read now.
    NotNow,
    /// Belvo's widget, on this page.
    Widget(&'a WidgetOnPage),
}

/// The institution is down, so the user can do nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Trouble {
    /// Nobody promises a message to the user.
    BankDown,
    /// The subscriber got the notice `institution_down`, and will get another one when the institution works again.
    BankDownAndPromised,
}

impl Trouble {
    /// The name in the page and in its JSON.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The user's entries for the renewal of a consent. They are passed on to Belvo and kept nowhere.
#[derive(Clone, Default)]
pub struct Person {
    /// The full name.
    pub name: String,
    /// The number of the CPF or CNPJ, as typed.
    pub document: String,
}

impl std::fmt::Debug for Person {
    /// Without the entries.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Person")
    }
}

/// The wrong entries of a form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// The name is missing.
    pub name: bool,
    /// The number has the wrong length.
    pub document: bool,
}

/// Belvo's widget on the page, instead of Belvo's hosted widget.
pub struct WidgetOnPage {
    /// The access token.
    pub token: String,
    /// The addresses of the callbacks: success, exit, event.
    pub callbacks: [String; 3],
    /// The address of Belvo's program.
    pub script_url: String,
}

impl std::fmt::Debug for WidgetOnPage {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WidgetOnPage")
    }
}

impl Person {
    /// The name and the number as Belvo takes them, with the type of the document; or what is wrong.
    ///
    /// # Errors
    /// [`Mistakes`].
    pub fn check(&self) -> Result<(String, &'static str, String), Mistakes> {
        let name: String = self.name.split_whitespace().collect::<Vec<_>>().join(" ");
        let number: String = self.document.chars().filter(char::is_ascii_alphanumeric).collect();
        let kind = match number.len() {
            11 if number.bytes().all(|byte| byte.is_ascii_digit()) => Some("CPF"),
            // From July 2026 on a CNPJ may have letters.
            14 => Some("CNPJ"),
            _ => None,
        };
        let is_name = (3..=200).contains(&name.chars().count()) && name.chars().any(char::is_alphabetic);
        match kind {
            Some(kind) if is_name => Ok((name, kind, number.to_ascii_uppercase())),
            kind => Err(Mistakes { name: !is_name, document: kind.is_none() }),
        }
    }
}

impl Look {
    /// The look of a brand. `logo_url` is where the logo is served; `form_urls` are the addresses of Belvo's pages, to
    /// which the button leads.
    pub fn new(brand: Brand, logo_url: String, form_urls: &[&str]) -> Self {
        let [light, dark] = brand.colors;
        let colors = format!(
            ":root{{--accent-light:{light};--on-accent-light:{};--accent-dark:{dark};--on-accent-dark:{}}}\n",
            light.text_on(),
            dark.text_on()
        );
        let style = colors + STYLE;
        // The widget and the portal of the sandbox have one origin.
        let origins: BTreeSet<_> = form_urls.iter().filter_map(|url| origin_of(url)).collect();
        let form_origins = origins.into_iter().map(|origin| format!(" {origin}")).collect();
        Self {
            logo_url: brand.logo.as_ref().map(|_| logo_url),
            style_source: source_of(&style),
            script_source: source_of(SCRIPT),
            style,
            form_origins,
            brand,
        }
    }

    /// The brand.
    pub const fn brand(&self) -> &Brand {
        &self.brand
    }

    /// The header `Content-Security-Policy` of a page.
    pub fn policy(&self, shown: &Shown<'_>) -> String {
        let Self { style_source, script_source, form_origins, .. } = self;
        let shared = format!(
            "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; img-src 'self'; connect-src 'self'; form-action 'self'{form_origins}"
        );
        match shown {
            // Belvo's program makes its own elements and frame on the page.
            Shown::Widget(widget) => {
                let origin = origin_of(&widget.script_url).unwrap_or_default();
                let own = source_of(WIDGET_SCRIPT);
                format!(
                    "{shared}; script-src {own} {origin}; style-src 'unsafe-inline'; frame-src {origin}{form_origins}"
                )
            }
            Shown::View(_) | Shown::Form(..) | Shown::NotNow => {
                format!("{shared}; script-src {script_source}; style-src {style_source}")
            }
        }
    }

    /// The page as HTML.
    pub fn render(&self, page: &Page<'_>) -> String {
        let texts = texts::of(page.locale);
        let filler = Filler { page, texts, brand: &self.brand };
        let message = filler.message();
        let title = filler.fill(message.title);
        let view = match page.shown {
            Shown::View(view) => Some(view),
            Shown::Form(..) | Shown::NotNow | Shown::Widget(_) => None,
        };
        // A page that the user has seen during an attempt ends with "all set".
        let is_return = page.is_return || view.is_some_and(View::is_passing);
        let query = if is_return { "&done" } else { "" };
        let next = here(page.locale, query);
        let is_followed = view.is_some_and(|view| view.may_start() || view.is_passing());
        let is_checked = view.is_some_and(|view| matches!(view, View::NeedsYou(_)) && view.may_start());
        // These addresses are relative, so the page also works behind a proxy that removes a prefix of the path.
        let state = page
            .token
            .filter(|_| is_followed)
            .map(|token| format!("{token}/state{}", if is_return { "?done" } else { "" }));
        let check = page.token.filter(|_| is_checked).map(|token| format!("{token}/check"));
        html! {
            (DOCTYPE)
            html lang=(page.locale.as_str()) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    meta name="referrer" content="no-referrer";
                    @if view.is_some_and(View::is_passing) {
                        noscript { meta http-equiv="refresh" content={ "5; url=" (next) }; }
                    }
                    title { (title) @if let Some(name) = &self.brand.name { " · " (name) } }
                    style { (PreEscaped(&self.style)) }
                }
                body data-view=[view.map(View::as_str)] data-trouble=[page.trouble.map(Trouble::as_str)] data-state=[state] data-check=[check] data-next=(next) {
                    header { (self.heading()) }
                    main {
                        div class="card" {
                            @if let Some(view) = view { (sign(view)) }
                            h1 { (title) }
                            (filler.body(&self.brand, query))
                        }
                    }
                    footer { (filler.footer(&self.brand, query)) }
                    @if !matches!(page.shown, Shown::Widget(_)) { script { (PreEscaped(SCRIPT)) } }
                }
            }
        }
        .into_string()
    }

    fn heading(&self) -> Markup {
        let name = self.brand.name.as_deref().unwrap_or_default();
        html! {
            @match &self.logo_url {
                Some(path) => { img src=(path) alt=(name); },
                None => { (name) },
            }
        }
    }
}

/// Inserts the names into the texts of one page.
struct Filler<'a> {
    page: &'a Page<'a>,
    texts: &'static Texts,
    brand: &'a Brand,
}

impl Filler<'_> {
    fn fill(&self, text: &str) -> String {
        let bank = self.page.bank.unwrap_or(self.texts.your_bank);
        let brand = self.brand.name.as_deref().unwrap_or(self.texts.the_app);
        // The parts are joined, not replaced one after the other: a name may contain a placeholder.
        let mut filled: String = text
            .split("{bank}")
            .map(|part| part.split("{brand}").collect::<Vec<_>>().join(brand))
            .collect::<Vec<_>>()
            .join(bank);
        // A sentence may begin with "your bank".
        if let Some(first) = filled.chars().next() {
            filled.replace_range(..first.len_utf8(), &first.to_uppercase().to_string());
        }
        filled
    }

    fn message(&self) -> &'static Message {
        let texts = self.texts;
        match self.page.shown {
            Shown::Form(..) => &texts.needs_consent,
            Shown::NotNow => &texts.not_now,
            Shown::Widget(_) => &texts.opening,
            Shown::View(view) => match view {
                View::NeedsYou(Need::Credentials | Need::Token) => &texts.needs_you,
                View::NeedsYou(Need::Institution) => &texts.needs_bank,
                View::NeedsYou(Need::Consent) => &texts.needs_consent,
                View::NeedsYou(Need::Nothing) => &texts.needs_nothing,
                View::InProgress => &texts.in_progress,
                View::Superseded(Successor::Works) => &texts.superseded,
                View::Superseded(Successor::NeedsYou) => &texts.superseded_and_broken,
                View::Checking => &texts.checking,
                View::StillChecking => &texts.still_checking,
                View::Repaired if self.page.is_return => &texts.all_set,
                View::Repaired => &texts.already_repaired,
                View::Replaced => &texts.replaced,
                View::Removed => &texts.removed,
                View::Expired => &texts.expired,
                View::Unknown => &texts.unknown,
            },
        }
    }

    fn body(&self, brand: &Brand, query: &str) -> Markup {
        let texts = self.texts;
        let lead = match self.page.shown {
            Shown::View(View::NeedsYou(Need::Credentials)) => texts.credentials,
            Shown::View(View::NeedsYou(Need::Token)) => texts.token,
            _ => self.message().lead,
        };
        // Only a page that asks for something says that the bank is down: another one would contradict itself.
        let asks = matches!(self.page.shown, Shown::Form(..) | Shown::View(View::NeedsYou(_)));
        let trouble = self.page.trouble.filter(|_| asks).map(|trouble| match trouble {
            Trouble::BankDown => texts.bank_down,
            Trouble::BankDownAndPromised => texts.bank_down_and_promised,
        });
        // While the bank is down there is nothing to type.
        let is_wait = trouble.is_some()
            && matches!(
                self.page.shown,
                Shown::View(View::NeedsYou(Need::Credentials | Need::Token | Need::Institution))
            );
        let note = if self.page.cannot_start { Some(texts.cannot_start) } else { trouble };
        let back =
            brand.return_url.as_deref().map(|url| html! { a class="button" href=(url) { (self.fill(texts.back)) } });
        html! {
            @if !is_wait { p { (self.fill(lead)) } }
            @if let Some(note) = note { p class="note" role="status" { (self.fill(note)) } }
            @match &self.page.shown {
                Shown::View(View::NeedsYou(Need::Consent)) => (self.form(&Person::default(), Mistakes::default())),
                Shown::Form(person, mistakes) => (self.form(person, *mistakes)),
                Shown::View(View::NeedsYou(Need::Nothing) | View::Repaired | View::Removed | View::Expired | View::Replaced) => {
                    @if let Some(back) = back { (back) }
                },
                Shown::View(View::NeedsYou(_)) => {
                    (self.button(texts.start, note.is_some(), ""))
                    p class="small" { (self.fill(texts.privacy)) }
                },
                Shown::View(View::Superseded(_)) => {
                    @if let Some(back) = back { (back) }
                    (self.button(texts.start, true, query))
                },
                Shown::View(View::InProgress) => (self.button(texts.start_again, true, query)),
                Shown::View(View::StillChecking) => (self.button(texts.try_again, true, query)),
                Shown::View(View::Checking | View::Unknown) => {},
                Shown::NotNow => a class="button" href=(here(self.page.locale, query)) { (texts.try_again) },
                Shown::Widget(widget) => (self.widget(widget)),
            }
        }
    }

    fn button(&self, text: &str, is_second: bool, query: &str) -> Markup {
        html! {
            form method="post" action=(here(self.page.locale, query)) {
                button type="submit" class=(if is_second { "button second" } else { "button" }) { (text) }
            }
        }
    }

    fn form(&self, person: &Person, mistakes: Mistakes) -> Markup {
        let texts = self.texts;
        let described =
            |hint: &'static str, is_wrong: bool, wrong: &str| if is_wrong { wrong.to_owned() } else { hint.to_owned() };
        html! {
            form method="post" action=(here(self.page.locale, "")) novalidate {
                div class="field" {
                    label for="name" { (texts.name) }
                    input id="name" name="name" autocomplete="name" maxlength="200" required value=(person.name)
                        aria-invalid=[mistakes.name.then_some("true")] aria-describedby=[mistakes.name.then_some("name-wrong")];
                    @if mistakes.name { p class="wrong" id="name-wrong" { (texts.name_wrong) } }
                }
                div class="field" {
                    label for="document" { (texts.document) }
                    input id="document" name="document" autocomplete="off" maxlength="30" required value=(person.document)
                        aria-invalid=[mistakes.document.then_some("true")]
                        aria-describedby=(described("document-hint", mistakes.document, "document-wrong document-hint"));
                    p class="hint" id="document-hint" { (texts.document_hint) }
                    @if mistakes.document { p class="wrong" id="document-wrong" { (texts.document_wrong) } }
                }
                button type="submit" class="button" { (texts.renew) }
            }
            p class="small" { (self.fill(texts.privacy_consent)) }
        }
    }

    fn widget(&self, widget: &WidgetOnPage) -> Markup {
        let [success, exit, event] = &widget.callbacks;
        html! {
            noscript {
                p { (self.texts.without_script) }
                form method="post" action=(here(self.page.locale, "&hosted")) {
                    button type="submit" class="button" { (self.texts.open_hosted) }
                }
            }
            div id="belvo" data-token=(widget.token) data-locale=(self.page.locale.as_str())
                data-success=(success) data-exit=(exit) data-event=(event) {}
            script id="belvo-script" src=(widget.script_url) async {}
            script { (PreEscaped(WIDGET_SCRIPT)) }
        }
    }

    fn footer(&self, brand: &Brand, query: &str) -> Markup {
        html! {
            @if let Some(support) = &brand.support {
                div {
                    (self.texts.support) " "
                    @match support_url(support) {
                        Some(url) => a href=(url) { (support.trim_start_matches("https://")) },
                        None => (support),
                    }
                }
            }
            nav aria-label=(self.texts.languages) {
                ul {
                    @for locale in Locale::VARIANTS {
                        li {
                            a href=(here(*locale, query)) lang=(locale.as_str()) hreflang=(locale.as_str())
                                aria-current=[(*locale == self.page.locale).then_some("true")] { (texts::own_name(*locale)) }
                        }
                    }
                }
            }
        }
    }
}

/// The address of this page in a language, relative to itself.
fn here(locale: Locale, query: &str) -> String {
    format!("?locale={}{query}", locale.as_str())
}

fn sign(view: View) -> Markup {
    html! {
        @match view {
            View::Repaired => svg class="sign good" viewBox="0 0 48 48" aria-hidden="true" {
                circle cx="24" cy="24" r="21" {}
                path d="M14.5 24.5l6.5 6.5 12.5-13.5" {}
            },
            View::InProgress | View::Checking | View::StillChecking => svg class="sign waits" viewBox="0 0 48 48" aria-hidden="true" {
                circle cx="24" cy="24" r="19" {}
            },
            _ => {},
        }
    }
}

/// The address of a support contact; `None` for a telephone number and other texts.
fn support_url(support: &str) -> Option<String> {
    match support {
        url if url.starts_with("https://") => Some(url.to_owned()),
        address if address.contains('@') && !address.contains(char::is_whitespace) => Some(format!("mailto:{address}")),
        _ => None,
    }
}

/// Scheme, host and port of an address.
fn origin_of(url: &str) -> Option<&str> {
    let host = url.find("://")? + 3;
    Some(&url[..url[host..].find('/').map_or(url.len(), |end| host + end)])
}

/// The source of an inline script or style in a policy (CSP level 3).
fn source_of(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())))
}
