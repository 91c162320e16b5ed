//! A usual webhook is read in a short way (`body/usual.rs`), and each body must mean the same there as in the long way.

use proptest::prelude::*;

use super::*;
use crate::belvo::body::usual;
use crate::belvo::read_json;

/// How a body is read in the long way alone.
fn long_way(payload: &[u8]) -> Result<Reading, Undecodable> {
    read_json(payload).and_then(|value| read_value(InputKind::Webhook, &link(), value, now()))
}

/// Both ways mean the same, and find the same link.
fn assert_same(payload: &[u8]) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(payload);
    prop_assert_eq!(read(InputKind::Webhook, &link(), payload, now()), long_way(payload), "{}", text);
    let expected = read_json(payload).and_then(|value| link_in(&value));
    prop_assert_eq!(link_of_webhook(payload), expected, "{}", text);
    Ok(())
}

fn is_usual(payload: &[u8]) -> bool {
    usual::parse(payload, now()).is_some()
}

/// The fields of a body, each as its name and its value in JSON: the order is kept, and a name may occur twice.
type Fields = Vec<(String, String)>;

fn written(fields: &Fields, blank: &str) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}{blank}:{blank}{value}")).collect();
    format!("{blank}{{{blank}{}{blank}}}{blank}", fields.join(&format!("{blank},{blank}")))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The fields that Belvo's `data` has.
fn usual_data() -> impl Strategy<Value = Fields> {
    let count = any::<u32>().prop_map(|count| count.to_string());
    let date = prop::sample::select(vec!["2026-12-01", "2026-12-01T10:00:00.123456+00:00", "0001-01-01", "soon", ""]);
    let text = prop_oneof![
        "[ -~&&[^\"\\\\]]{0,20}",
        Just("login_error".to_owned()),
        Just("The user account is locked, user needs to contact the institution to unlock it".to_owned()),
        Just("A MFA token is required by the institution to login".to_owned()),
        Just("{'code': [1]}".to_owned()),
        Just("[1] and {}".to_owned()),
    ];
    let names = |names: &'static [&'static str]| prop::sample::select(names).prop_map(quoted);
    let field = prop_oneof![
        (names(&["total_accounts", "new_transactions", "total_inflow_transactions", "status", "total_errors"]), count),
        (names(&["consent_due_date", "first_transaction_date"]), date.prop_map(quoted)),
        (
            names(&[
                "error_code",
                "error_message",
                "institution",
                "consent_id",
                "institution_icon_logo",
                "reason",
                "code",
                "x"
            ]),
            text.prop_map(|text| quoted(&text))
        ),
        (
            names(&["errors", "failed_resources", "employment_changes", "Error", "success", "ok", "undefined"]),
            prop::sample::select(vec![
                "null",
                "true",
                "false",
                "[]",
                "{}",
                "[\"EMPLOYED\"]",
                "[{\"code\":\"invalid_link\"}]",
                "-7"
            ])
            .prop_map(str::to_owned)
        ),
    ];
    prop::collection::vec(field, 0..6).prop_map(|mut fields| {
        fields.sort();
        fields.dedup_by(|one, other| one.0 == other.0);
        fields
    })
}

/// The body of a usual webhook: any row of the table, or an unknown code, with any of the fields that may be missing.
fn usual_body() -> impl Strategy<Value = Fields> {
    let rows = WEBHOOKS.iter().map(|row| (row.0, row.1)).chain([
        ("LINK", "link_healed"),
        ("link", "Invalid_Credentials"),
        ("LINKS", "token_required"),
        ("CONSENT", "openfinance_consent_expired"),
        ("ACCOUNTS", "new_investments_available"),
    ]);
    let optional = vec![
        ("webhook_id", "aadf41a1fc8e4f79a49f7f04027ac999"),
        ("process_type", "recurrent_update"),
        ("request_id", REQUEST),
        ("external_id", " 007 "),
    ];
    let data =
        prop_oneof![Just(None), Just(Some("null".to_owned())), usual_data().prop_map(|data| Some(written(&data, "")))];
    let kept = prop::sample::subsequence(optional, 0..=4);
    (prop::sample::select(rows.collect::<Vec<_>>()), kept, data)
        .prop_map(|((family, code), kept, data)| {
            let needed = [("webhook_type", family), ("webhook_code", code), ("link_id", LINK)];
            let texts = needed.into_iter().chain(kept).map(|(name, text)| (quoted(name), quoted(text)));
            texts.chain(data.map(|data| (quoted("data"), data))).collect::<Fields>()
        })
        .prop_shuffle()
}

/// What is unusual about a field, or about a whole body.
#[derive(Clone, Debug)]
enum Odd {
    Missing,
    Twice(String),
    Value(String),
    Named(String),
    Escaped,
    Around(&'static str, &'static str),
    Damaged(u8),
    Cut,
}

fn odd() -> impl Strategy<Value = Odd> {
    let values = vec![
        "null",
        "true",
        "false",
        "0",
        "-0",
        "7",
        "1.5",
        "1e3",
        "1e999",
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "\"\"",
        "\" \"",
        "\"x\"",
        "\"CONSENT\"",
        "\" consent_expired \\n\"",
        "\"\\ud83d\"",
        "\"a\\u0000b\"",
        "\"a\tb\"",
        "\"é\"",
        "[]",
        "[1]",
        "{}",
        "{\"a\":1,\"a\":2}",
        "{\"a\\n\":1}",
        "{\"total_x\":1.5}",
        "{\"total_x\":1e400}",
        "{\"reason\":\"Invalid credentials\"}",
        "{\"message\":{\"error\":1}}",
        "NaN",
        "\"Not found.\"",
        "\"{\\\"error\\\": \\\"x\\\"}\"",
        "\"[{\\\"code\\\": \\\"token_required\\\"}]\"",
        "16f68516bcbc4cf7b815c500d4204e28",
        "\"16F68516-BCBC-4CF7-B815-C500D4204E28\"",
        "\"30cb4806-6e00-48a4-91c9-ca55968576c8\"",
        "\"a.b\"",
    ];
    let names = vec![
        "\"error\"",
        "\"message\"",
        "\"status\"",
        "\"Data\"",
        "\"object_id\"",
        "\"link\\u005fid\"",
        "\"webhook_id\"",
        "\"data\"",
        "\"\"",
        "link_id",
        "7",
    ];
    let long = [511_usize, 512, 513, 4096, 4097].map(|length| quoted(&"é".repeat(length / 2 + length % 2)));
    let deep = [2_usize, 60, 126, 127, 128]
        .map(|depth| format!("{}{}", "{\"a\":[".repeat(depth / 2) + "1", "]}".repeat(depth / 2)));
    let values: Vec<String> = values.into_iter().map(str::to_owned).chain(long).chain(deep).collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let around = vec![
        ("[", "]"),
        ("[", ",1]"),
        ("\u{feff}", ""),
        ("", "\0"),
        ("", "}"),
        ("\r\n\t ", "\n"),
        ("{\"a\":", "}"),
        ("\u{a0}", ""),
    ];
    prop_oneof![
        Just(Odd::Missing),
        prop::sample::select(values.clone()).prop_map(Odd::Twice),
        prop::sample::select(values).prop_map(Odd::Value),
        prop::sample::select(names).prop_map(Odd::Named),
        Just(Odd::Escaped),
        prop::sample::select(around).prop_map(|(before, behind)| Odd::Around(before, behind)),
        any::<u8>().prop_map(Odd::Damaged),
        Just(Odd::Cut),
    ]
}

/// The body with something unusual about the field or the byte at `place`.
fn changed(mut fields: Fields, odd: Odd, place: prop::sample::Index, blank: &str) -> Vec<u8> {
    let at = place.index(fields.len());
    match &odd {
        Odd::Missing => drop(fields.remove(at)),
        Odd::Twice(value) => fields.push((fields[at].0.clone(), value.clone())),
        Odd::Value(value) => fields[at].1.clone_from(value),
        Odd::Named(name) => fields[at].0.clone_from(name),
        Odd::Escaped => fields[at].1 = fields[at].1.replace('e', "\\u0065").replace('/', "\\/"),
        Odd::Around(..) | Odd::Damaged(_) | Odd::Cut => {}
    }
    let mut body = written(&fields, blank).into_bytes();
    let at = place.index(body.len());
    match odd {
        Odd::Around(before, behind) => body = [before.as_bytes(), &body, behind.as_bytes()].concat(),
        Odd::Damaged(byte) => body[at] = byte,
        Odd::Cut => body.truncate(at),
        Odd::Missing | Odd::Twice(_) | Odd::Value(_) | Odd::Named(_) | Odd::Escaped => {}
    }
    body
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", " ", "\r\n\t"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_usual_webhook_takes_the_short_way_and_means_the_same(fields in usual_body(), blank in blank()) {
        let body = written(&fields, blank);
        prop_assert!(is_usual(body.as_bytes()), "{body}");
        assert_same(body.as_bytes())?;
    }

    #[test]
    fn an_unusual_webhook_means_the_same_as_in_the_long_way(
        fields in usual_body(),
        odd in odd(),
        place in any::<prop::sample::Index>(),
        blank in blank(),
    ) {
        let body = changed(fields, odd, place, blank);
        assert_same(&body)?;
    }

    #[test]
    fn odd_data_means_the_same_as_in_the_long_way(data in fuzz::almost_right()) {
        assert_same(webhook_with(&data).as_bytes())?;
    }
}

fn webhook_with(data: &Value) -> String {
    json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "token_required", "link_id": LINK, "data": data})
        .to_string()
}

#[test]
fn the_documented_webhooks_are_usual_and_others_are_not() {
    let example = InputKind::Webhook.example();
    assert!(is_usual(example.to_string().as_bytes()));
    assert!(is_usual(serde_json::to_string_pretty(&example).unwrap().as_bytes()));
    let values: Vec<&Value> = ["webhook_id", "webhook_type", "webhook_code", "link_id", "request_id", "external_id"]
        .map(|name| &example[name])
        .into_iter()
        .collect();
    // serde would read the fields of the envelope from this list.
    let list = json!([values[0], values[1], values[2], values[3], values[4], values[5], null, null]);
    for unusual in [list, json!([example]), json!(example.to_string()), json!({}), Value::Null] {
        let body = unusual.to_string();
        assert!(!is_usual(body.as_bytes()), "{body}");
        assert_same(body.as_bytes()).unwrap();
    }
    for data in [json!("text"), json!([1]), json!(7), json!({"total_x": 1.5}), json!({"a\n": 1})] {
        assert!(!is_usual(webhook_with(&data).as_bytes()), "{data}");
    }
    // The last value counts.
    for twice in [r#"{"new_x":1,"new_x":2}"#, r#"{"new_y":1,"new_x":1,"new_\u0079":2}"#] {
        let body = webhook_with(&json!("twice")).replace("\"twice\"", twice);
        assert!(!is_usual(body.as_bytes()), "{body}");
        assert_same(body.as_bytes()).unwrap();
    }
    for data in [Value::Null, json!({}), json!({"employment_changes": ["EMPLOYED", {"a": null}]}), json!({"a": "\n"})] {
        assert!(is_usual(webhook_with(&data).as_bytes()), "{data}");
    }
}
