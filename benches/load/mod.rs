//! The load of every bench: links that have one outage each.
//!
//! Each link has eight inputs: an observation; a webhook about a failed refresh; the same webhook again; an API error
//! of a request; a widget callback for the start and one for the success; an observation; a webhook with data. Two of
//! the eight change nothing, as in production.

#![expect(dead_code, reason = "every bench compiles this file and uses a part of it")]

use relink::contract::InputKind;
use relink::engine::Delivery;

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of inputs of a link.
pub(crate) const INPUTS_PER_LINK: usize = 8;

/// The number of links with an outage at the same time, so that some inputs of a link are in the same commit and some are not.
const LINKS_AT_ONCE: usize = 500;

/// An input to publish.
#[derive(Clone, Debug)]
pub(crate) struct LoadInput {
    pub(crate) link: String,
    pub(crate) kind: InputKind,
    pub(crate) body: String,
}

/// The inputs of `links` links in a round; groups of links have their outage at the same time.
pub(crate) fn inputs(links: usize, round: usize) -> Vec<LoadInput> {
    inputs_of(&(0..links).collect::<Vec<_>>(), round)
}

/// The inputs of these links.
pub(crate) fn inputs_of(links: &[usize], round: usize) -> Vec<LoadInput> {
    let together = links.chunks(LINKS_AT_ONCE);
    together
        .flat_map(|links| (0..INPUTS_PER_LINK).flat_map(|n| links.iter().map(move |&link| input_of(link, round, n))))
        .collect()
}

/// The id of a link.
pub(crate) fn link_id(link: usize) -> String {
    format!("16f68516-bcbc-4cf7-b815-{link:012x}")
}

/// The number of a link among many, spread like a random id, so that neighbours in time are not neighbours in the store.
pub(crate) fn spread(link: usize) -> usize {
    ((link as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) as usize
}

/// What relink sees when it looks at a link that works.
pub(crate) fn sighting(link: usize) -> LoadInput {
    input_of(link, 0, 0)
}

/// A webhook that breaks a link.
pub(crate) fn breakage(link: usize) -> LoadInput {
    input_of(link, 0, 1)
}

fn input_of(link: usize, round: usize, n: usize) -> LoadInput {
    let id = link_id(link);
    let (kind, body) = match n {
        0 => (InputKind::Observation, observation(&id)),
        // The second webhook repeats the first one.
        1 | 2 => (InputKind::Webhook, webhook(&id, round, "LINK", "invalid_credentials", LOGIN_ERROR)),
        3 => (InputKind::ApiError, api_error(&id, round)),
        4 => (InputKind::Widget, r#"{"event":"started","expires_in_seconds":600}"#.to_owned()),
        5 => {
            let body = format!(r#"{{"event":"success","link":"{id}","institution":"erebor_mx_retail"}}"#);
            (InputKind::Widget, body)
        }
        6 => (InputKind::Observation, observation(&id)),
        _ => (
            InputKind::Webhook,
            webhook(&id, round, "TRANSACTIONS", "new_transactions_available", r#"{"new_transactions":17}"#),
        ),
    };
    LoadInput { link: id, kind, body }
}

const LOGIN_ERROR: &str = r#"{"error_code":"login_error","status":400,
    "error_message":"Invalid credentials provided to login to the institution"}"#;

fn webhook(id: &str, round: usize, family: &str, code: &str, data: &str) -> String {
    format!(
        r#"{{"webhook_id":"aadf41a1fc8e4f79a49f7f04027ac999","webhook_type":"{family}",
            "process_type":"recurrent_update","webhook_code":"{code}","link_id":"{id}","request_id":"{round:08x}-51eb-4350-9c74-5df5ac92a7f6",
            "external_id":"user-{id}","data":{data}}}"#
    )
}

fn api_error(id: &str, round: usize) -> String {
    format!(
        r#"{{"http_status":400,"method":"POST","path":"/api/transactions/","link_id":"{id}",
            "body":[{{"code":"invalid_link","message":"Invalid link","request_id":"{round:08x}c04e4d1b8a3c3f6a2b0e7d19"}}]}}"#
    )
}

/// An observation from the future, which counts as now, so it is never older than an earlier input.
fn observation(id: &str) -> String {
    format!(
        r#"{{"observed_at":"2099-01-01T00:00:00Z","source":"verify","outcome":"found","link":{{"id":"{id}",
            "institution":"erebor_mx_retail","access_mode":"recurrent","status":"valid","refresh_rate":"24h",
            "last_accessed_at":"2026-11-22T10:14:58.593032Z","external_id":"user-{id}",
            "fetch_resources":["ACCOUNTS","OWNERS","TRANSACTIONS"]}}}}"#
    )
}

/// The delivery of an input, with this sequence and time.
pub(crate) fn delivery(input: &LoadInput, sequence: u64, seconds: i64) -> Delivery {
    Delivery {
        partition: 0,
        sequence,
        stored_at_ns: (1_790_000_000 + seconds) * 1_000_000_000,
        subject: format!("belvo.0.{}.{}", input.kind, input.link),
        kind: input.kind.as_str().to_owned(),
        link: input.link.clone(),
        headers: Vec::new(),
        payload: input.body.clone().into(),
        receipt: String::new(),
    }
}
