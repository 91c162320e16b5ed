//! `POST /api/token/`: the access token of the widget.
//!
//! The secrets are in the body; the `Authorization` header is ignored. With a `link_id` the token is for update mode and bound to
//! that link; it expires after ten minutes, and with the user's success (update mode guide). A link with a consent has
//! no update mode: its token has no `link_id`, and is for the portal (guide "My Belvo Portal"). The signature is invalid.
//! The claim `link` has the link as it was when the token was minted. The guides do not document it; it is in the tokens of
//! belvo-python's issue 92.

use axum::body::Bytes;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

use super::request::{Context, object, required, secrets_match, text};
use crate::link::CREATED_BY;
use crate::problem::Problem;
use crate::world::{Rules, Token, World};

/// The scopes of the guides, for all products.
const SCOPES: [&str; 7] = [
    "read_institutions",
    "write_links",
    "read_links",
    "read_consents",
    "write_consents",
    "write_consent_callback",
    "delete_consents",
];

/// Mints a token.
pub(super) async fn create(State(shared): Context, body: Bytes) -> Result<axum::Json<Value>, Problem> {
    let body = object(&body)?;
    let problems = ["id", "password", "scopes"].iter().filter_map(|field| required(&body, field).err()).collect();
    if let Some(problem) = Problem::all(problems) {
        return Err(problem);
    }
    let field = |name: &str| text(&body, name).unwrap_or_default();
    if !secrets_match(&shared.config, field("id"), field("password")) {
        return Err(Problem::of("authentication_failed"));
    }
    let scopes: Vec<&str> = field("scopes").split([',', ' ']).filter(|scope| !scope.is_empty()).collect();
    if let Some(scope) = scopes.iter().find(|scope| !SCOPES.contains(scope)) {
        return Err(Problem::field("scopes", "invalid", &format!("\"{scope}\" is not a valid scope.")));
    }
    let link: Option<Uuid> = match text(&body, "link_id") {
        None => None,
        Some(text) => {
            let message = format!("“{text}” is not a valid UUID.");
            Some(text.parse().map_err(|_| Problem::field("link_id", "invalid", &message))?)
        }
    };
    let widget = |name: &str| body.get("widget").and_then(|widget| widget.get(name));
    let callback_urls = widget("callback_urls").cloned().unwrap_or_default();
    let feature = widget("openfinance_feature").and_then(Value::as_str).map(str::to_owned);
    shared.change(|world, now| {
        if let Some(id) = link.filter(|id| !world.links.contains_key(id)) {
            let message = format!("Object with id={id} does not exist.");
            return Err(Problem::field("link_id", "does_not_exist", &message));
        }
        link.map_or(Ok(()), |id| world.has_update_mode(id))?;
        let expires_at = now + Rules::TOKEN_LIFE_MS;
        let claim = link
            .and_then(|id| world.links.get(&id))
            .map(|link| json!({"id": link.id, "status": link.status.as_str(), "institution": link.institution.name}));
        let access = jwt(world, "access", now, expires_at, &scopes, claim.as_ref());
        let refresh = jwt(world, "refresh", now, expires_at, &scopes, claim.as_ref());
        while let Some((_, old)) = world.minted.pop_front_if(|(at, _)| *at + 2 * Rules::TOKEN_LIFE_MS <= now) {
            world.tokens.remove(&old);
        }
        world.minted.push_back((now, access.clone()));
        world.minted_count += 1;
        let scopes = scopes.into_iter().map(str::to_owned).collect();
        let token = Token { link, scopes, expires_at, alive: true, last_error: None, feature, callback_urls };
        world.tokens.insert(access.clone(), token);
        Ok(axum::Json(json!({"access": access, "refresh": refresh})))
    })
}

fn jwt(world: &mut World, kind: &str, now: i64, expires_at: i64, scopes: &[&str], link: Option<&Value>) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "token_type": kind,
        "exp": expires_at / 1_000,
        "iat": now / 1_000,
        "jti": world.uuid().simple().to_string(),
        "user_id": CREATED_BY,
        "scopes": scopes,
        "environment": "sandbox",
        "link": link,
        "iss": "belvo-sandbox",
    });
    let mut signature = [0_u8; 32];
    world.rng.fill(&mut signature);
    let header = encode(json!({"alg": "HS256", "typ": "JWT"}));
    format!("{header}.{}.{}", encode(claims), URL_SAFE_NO_PAD.encode(signature))
}
