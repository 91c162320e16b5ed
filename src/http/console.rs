//! The console: one page at `/console` for support and operators. It is a client of `/v1` like every other.
//!
//! The page has no data and needs no credentials. It asks for an API token, keeps it in the `sessionStorage` of the tab, and sends it with
//! each request to `/v1`. All files are in the binary, so the page works without another server and without a build step.
//! The policy of the browser forbids inline scripts, inline styles and every conversion of a text to HTML.
//!
//! `console/page.html` loads `console/app.js`, whose head lists the other modules.

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::SharedServer;
use super::problem::{Kind, Problem};
use crate::drawing::{self, Format};
use crate::wording;

/// The path of the page.
pub(super) const PATH: &str = "/console";

/// What the browser allows. `trusted-types 'none'` makes the browser refuse `innerHTML` and all that is like it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// A file of the page: its name, its type, its content.
type File = (&'static str, &'static str, &'static str);

const FILES: &[File] = &[
    ("activity.js", SCRIPT, include_str!("console/activity.js")),
    ("app.js", SCRIPT, include_str!("console/app.js")),
    ("api.js", SCRIPT, include_str!("console/api.js")),
    ("commands.js", SCRIPT, include_str!("console/commands.js")),
    ("dead_letters.js", SCRIPT, include_str!("console/dead_letters.js")),
    ("dom.js", SCRIPT, include_str!("console/dom.js")),
    ("held.js", SCRIPT, include_str!("console/held.js")),
    ("link.js", SCRIPT, include_str!("console/link.js")),
    ("links.js", SCRIPT, include_str!("console/links.js")),
    ("live.js", SCRIPT, include_str!("console/live.js")),
    ("machine.js", SCRIPT, include_str!("console/machine.js")),
    ("overview.js", SCRIPT, include_str!("console/overview.js")),
    ("status.js", SCRIPT, include_str!("console/status.js")),
    ("why.js", SCRIPT, include_str!("console/why.js")),
    ("style.css", STYLE, include_str!("console/style.css")),
    // The plots: uPlot 1.6.32, unchanged, with its licence beside it.
    ("uplot.js", SCRIPT, include_str!("console/vendor/uPlot.esm.js")),
    ("uplot.css", STYLE, include_str!("console/vendor/uPlot.min.css")),
    ("icon.svg", IMAGE, include_str!("console/icon.svg")),
];

/// The routes of the page.
pub(super) fn routes() -> Router<SharedServer> {
    Router::new()
        .route(PATH, get(async || answer(HTML, include_str!("console/page.html"))))
        // The addresses in the page are relative, so that a proxy may put the page below another path.
        .route("/console/", get(async || (StatusCode::PERMANENT_REDIRECT, [(LOCATION, "../console")])))
        .route("/console/machine.json", get(async || answer("application/json", drawing::draw(Format::Json))))
        .route("/console/words.js", get(async || answer(SCRIPT, words())))
        .route("/console/{file}", get(file))
}

/// A module with the words of `relink why`.
fn words() -> String {
    format!("export const WORDS = {};\n", wording::tables())
}

async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, media_type, content)) => answer(media_type, *content),
        None => Problem::new(Kind::NotFound, "The console has no such file.").into_response(),
    }
}

fn answer(media_type: &'static str, content: impl IntoResponse) -> Response {
    let fixed = [
        (CONTENT_TYPE, media_type),
        // After an upgrade of relink, no browser mixes old files with new ones.
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
    ];
    (fixed, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_no_inline_script_and_no_inline_style() {
        let page = include_str!("console/page.html");
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" on"), "{page}");
        let scripts: Vec<_> = page.split("<script").skip(1).collect();
        assert!(
            scripts.iter().all(|script| script.contains("src=\"console/") && script.contains("></script>")),
            "{page}"
        );
    }

    #[test]
    fn every_module_is_served_and_none_makes_html_of_a_text() {
        for (name, _, content) in FILES.iter().filter(|(_, media_type, _)| *media_type == SCRIPT) {
            for imported in content.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(
                    imported == "words.js" || FILES.iter().any(|(file, ..)| *file == imported),
                    "{name} imports {imported}, which is not served"
                );
            }
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage.token"]
            {
                assert!(!content.contains(forbidden), "{name} uses {forbidden}");
            }
            assert!(*name == "uplot.js" || content.lines().count() <= 400, "{name} is too long");
        }
    }
}
