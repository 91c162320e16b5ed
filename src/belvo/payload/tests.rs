//! JSON is read unchanged, text that is almost JSON is repaired, and everything else is refused.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const TEXT: &str = r#"{"name": "José Conceição 🦀", "list": [1, -2.5, true, null]}"#;

fn plain() -> Value {
    json!({"name": "José Conceição 🦀", "list": [1, -2.5, true, null]})
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_encoding_of_one_text() {
    let with_mark = |mark: &[u8], text: &[u8]| [mark, text].concat();
    let utf16 = |unit: fn(u16) -> [u8; 2]| TEXT.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
    let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
    for (name, bytes) in [
        ("utf-8", TEXT.into()),
        ("utf-8 with a byte order mark", with_mark(b"\xef\xbb\xbf", TEXT.as_bytes())),
        ("utf-8 with two byte order marks", with_mark(b"\xef\xbb\xbf\xef\xbb\xbf", TEXT.as_bytes())),
        ("utf-8 with a zero", [TEXT.as_bytes(), b"\0"].concat()),
        ("utf-16 le with a byte order mark", with_mark(b"\xff\xfe", &little)),
        ("utf-16 be with a byte order mark", with_mark(b"\xfe\xff", &big)),
        ("utf-16 le", little),
        ("utf-16 be", big),
        ("gzip", gzip(TEXT.as_bytes())),
        ("gzip in two members", [gzip(&TEXT.as_bytes()[..20]), gzip(&TEXT.as_bytes()[20..])].concat()),
        ("gzip with a byte order mark", gzip(&with_mark(b"\xef\xbb\xbf", TEXT.as_bytes()))),
        ("zlib, fast", zlib(TEXT.as_bytes(), 1)),
        ("zlib", zlib(TEXT.as_bytes(), 6)),
        ("zlib, best", zlib(TEXT.as_bytes(), 9)),
        ("a text that contains JSON", Value::from(TEXT).to_string().into()),
        (
            "a text that contains a text that contains JSON",
            Value::from(Value::from(TEXT).to_string()).to_string().into(),
        ),
    ] {
        // A text is unwrapped only if it contains an object or an array.
        let expected = if name == "a text that contains a text that contains JSON" {
            Value::from(Value::from(TEXT).to_string())
        } else {
            plain()
        };
        assert_eq!(read_json(&bytes), Ok(expected), "{name}");
    }
}

#[test]
fn latin_1_is_read_byte_by_byte() {
    for (bytes, expected) in [
        (&b"{\"name\": \"Jos\xe9 da Concei\xe7\xe3o\"}"[..], "José da Conceição"),
        // One field is UTF-8, the other is Latin-1.
        (b"{\"name\": \"Jos\xc3\xa9 e Jo\xe3o\"}", "José e João"),
        (b"{\"name\": \"\xff\xfe\"}", "ÿþ"),
    ] {
        assert_eq!(read_json(bytes), Ok(json!({"name": expected})));
    }
    assert_eq!(read_json(b"\xe9"), Err(Undecodable::NotJson { line: 1, column: 1 }));
}

#[test]
fn almost_json_is_repaired() {
    for (text, expected) in [
        (r#"{"a": "\ud83d"}"#, json!({"a": "\u{fffd}"})),
        (r#"{"a": "\ud83d x \ude00"}"#, json!({"a": "\u{fffd} x \u{fffd}"})),
        (r#"{"a": "\ud83d\ud83d\ude00"}"#, json!({"a": "\u{fffd}😀"})),
        (r#"{"a": "\ud83d\ude00", "\udc00": 1}"#, json!({"a": "😀", "\u{fffd}": 1})),
        (r#"{"a": "\ud83d\n\\\ud83d"}"#, json!({"a": "\u{fffd}\n\\\u{fffd}"})),
        (r#"{"a": "\\ud83d"}"#, json!({"a": "\\ud83d"})),
        ("{\"a\": \"one\ntwo\tthree\r\0\u{1f}\"}", json!({"a": "one\ntwo\tthree\r\0\u{1f}"})),
        (r#"[NaN, Infinity, -Infinity, "NaN", -1]"#, json!([null, null, null, "NaN", -1])),
        (r#"{"a": 123456789012345678901234567890}"#, json!({"a": "123456789012345678901234567890"})),
        (
            r#"{"a": 12345678901234567890, "b": -9223372036854775808}"#,
            json!({"a": 12345678901234567890_u64, "b": i64::MIN}),
        ),
        (
            r#"[1.10, 1.1, 1e3, 1E400, 0.1, -0, 1.0, 0.10000000000000000001]"#,
            json!(["1.10", 1.1, "1e3", "1E400", 0.1, "-0", 1.0, "0.10000000000000000001"]),
        ),
        (
            r#"{"a": "12345678901234567890123", "a1.10": "1.10"}"#,
            json!({"a": "12345678901234567890123", "a1.10": "1.10"}),
        ),
        (r#"{"a": 1, "a": 2}"#, json!({"a": 2})),
        ("\"{\\\"a\\\": 1}\"", json!({"a": 1})),
        ("\"  [1]\"", json!([1])),
        ("\"{oops\"", json!("{oops")),
        ("\"12\"", json!("12")),
    ] {
        assert_eq!(read_json(text.as_bytes()), Ok(expected), "{text}");
    }
}

#[test]
fn other_bytes_are_refused() {
    let deep = "[".repeat(100_000);
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for text in [
        "hello",
        "{",
        "{\"a\": \"",
        "{\"a\": \"\\",
        "{\"a\": \"\\u",
        "{\"a\": \"\\ud83",
        "{\"a\": 1.}",
        "{\"a\": 01}",
        "{\"a\": 1e}",
        "{\"a\": --1}",
        "{\"a\": +1}",
        "{\"a\": -}",
        "{\"a\": 1} x",
        "{'a': 1}",
        "{\"a\": NaNa}",
        "{\"\u{e9}",
        "\u{feff}é",
        &deep,
        &nested,
    ] {
        let read = read_json(text.as_bytes());
        assert!(matches!(read, Err(Undecodable::NotJson { .. })), "{text:.60}: {read:?}");
    }
    for nothing in [&b""[..], b" \n", b"\xef\xbb\xbf", b"\xff\xfe", b"\0", &gzip(b""), &gzip(b" ")] {
        assert_eq!(read_json(nothing), Err(Undecodable::Empty), "{nothing:?}");
    }
}

#[test]
fn compression_is_bounded_and_checked() {
    let padded = |length: usize| gzip(format!("1{}", " ".repeat(length - 1)).as_bytes());
    assert_eq!(read_json(&padded(TEXT_BYTES_MAX)), Ok(json!(1)));
    let too_large = Err(Undecodable::TooLarge { max: TEXT_BYTES_MAX });
    assert_eq!(read_json(&padded(TEXT_BYTES_MAX + 1)), too_large);
    let bomb = gzip(&vec![b' '; 200 * TEXT_BYTES_MAX]);
    assert!(bomb.len() < TEXT_BYTES_MAX);
    assert_eq!(read_json(&bomb), too_large);
    assert_eq!(read_json(&zlib(&vec![b' '; 2 * TEXT_BYTES_MAX], 9)), too_large);

    let whole = gzip(TEXT.as_bytes());
    let mut damaged = whole.clone();
    damaged[20] ^= 0xff;
    for bytes in [&whole[..whole.len() - 1], &whole[..10], b"\x1f\x8b", &damaged, b"\x78\x9c", b"\x78\x9chello"] {
        assert_eq!(read_json(bytes), Err(Undecodable::Compressed), "{bytes:?}");
    }

    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(TEXT.as_bytes()).unwrap();
    assert_eq!(decompress_bare(&encoder.finish().unwrap()).as_deref(), Ok(TEXT.as_bytes()));
}

/// JSON in the form that a library writes.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // serde_json does not keep every digit of other fractions.
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_is_read_as_it_is(value in any_json()) {
        prop_assume!(unwrapped(&value).is_none());
        for text in [value.to_string(), format!("{value:#}")] {
            prop_assert_eq!(repair::repair(&text), text.as_str());
            prop_assert_eq!(read_json(text.as_bytes()), Ok(value.clone()));
        }
    }

    #[test]
    fn valid_json_is_never_refused(text in r#"[\[\]{}",:0-9.eE+\-\\u\ndDbB8fn NaIy]{0,40}"#) {
        let strict = serde_json::from_str::<Value>(&text);
        let read = read_json(text.as_bytes());
        prop_assert!(strict.is_err() || read.is_ok(), "{:?} {:?}", strict, read);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _value = read_json(&bytes);
        let _plain = decompress_bare(&bytes);
    }

    #[test]
    fn cut_texts_do_not_panic(cut in 0_usize..200) {
        let text = r#"{"é": "\ud83d\ude00 \u00e9 🦀", "n": -123456789012345678901.5e-10, "w": [NaN, -Infinity]}"#;
        let bytes = text.as_bytes();
        let _value = read_json(&bytes[..cut.min(bytes.len())]);
    }
}
