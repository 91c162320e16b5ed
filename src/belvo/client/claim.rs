//! The claim `link` of an update-mode token: `{"id", "status", "institution"}`, the link as Belvo knows it when it mints
//! the token. The guides do not document the claim, so a token without it is no error. The signature is not checked,
//! because the token comes from Belvo itself.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Belvo's status of the link; `None` if the token has no such claim.
pub(super) fn status_in(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["link"]["status"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_second_part_of_the_token() {
        let token = |claims: &str| format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(claims));
        let claims = r#"{"link": {"id": "16f68516", "status": "token_required", "institution": "erebor_mx_retail"}}"#;
        assert_eq!(status_in(&token(claims)).as_deref(), Some("token_required"));
        for other in
            ["", "a.b.c", "e30", &token("{}"), &token(r#"{"link": null}"#), &token(r#"{"link": {"status": 1}}"#)]
        {
            assert_eq!(status_in(other), None, "{other}");
        }
    }
}
