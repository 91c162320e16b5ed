//! The name of a bank for people, made from Belvo's code of the institution.

/// The longest name that the page shows, in characters.
const NAME_LENGTH_MAX: usize = 60;

/// The kinds of institution at the end of Belvo's codes.
const KINDS: [&str; 6] = ["retail", "business", "corporate", "fiscal", "employment", "gig"];

/// A readable form of a code: `erebor_mx_retail` is shown as `Erebor`. `None` if nothing readable is left.
pub fn readable(code: &str) -> Option<String> {
    let mut parts: Vec<&str> = code.split(['_', ' ']).filter(|part| !part.is_empty()).collect();
    if parts.len() > 1 && parts.last().is_some_and(|last| KINDS.contains(last)) {
        parts.pop();
    }
    let is_country = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_lowercase());
    if parts.len() > 1 && parts.last().is_some_and(is_country) {
        parts.pop();
    }
    let words = parts.iter().map(|part| {
        let mut letters = part.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    });
    shown(&words.collect::<Vec<_>>().join(" "))
}

/// A name as the page shows it: bounded, on one line. `None` if it is empty.
pub fn shown(name: &str) -> Option<String> {
    let name: String = name.split_whitespace().collect::<Vec<_>>().join(" ");
    let name: String = name.chars().filter(|letter| !letter.is_control()).take(NAME_LENGTH_MAX).collect();
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_becomes_a_name() {
        for (code, name) in [
            ("erebor_mx_retail", Some("Erebor")),
            ("banco_de_bogota_co_business", Some("Banco De Bogota")),
            ("ofmockbank_br_retail", Some("Ofmockbank")),
            ("retail", Some("Retail")),
            ("mx", Some("Mx")),
            ("Already A Name", Some("Already A Name")),
            ("_ _", None),
            ("", None),
        ] {
            assert_eq!(readable(code).as_deref(), name, "{code}");
        }
        assert_eq!(shown(" a\n\u{7}b ").as_deref(), Some("a b"));
        assert_eq!(shown(&"x".repeat(500)).map(|name| name.len()), Some(60));
    }
}
