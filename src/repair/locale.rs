//! The language of the page: Spanish, Portuguese or English.

use strum::{EnumString, IntoStaticStr, VariantArray};

/// A language of the page and of Belvo's widget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Locale {
    /// Spanish.
    Es,
    /// Portuguese.
    Pt,
    /// English.
    En,
}

impl Locale {
    /// The code: `es`, `pt` or `en`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The language of the page: the given `locale`, else the browser's first language that relink has, else the one of
    /// the institution's country.
    pub fn choose(given: Option<&str>, accept_language: Option<&str>, institution: Option<&str>) -> Self {
        let country = match institution {
            Some(institution) if institution.contains("_br_") => Self::Pt,
            Some(_) => Self::Es,
            None => Self::En,
        };
        given.and_then(Self::of_tag).or_else(|| Self::of_browser(accept_language?)).unwrap_or(country)
    }

    /// The language of a tag such as `pt-BR`.
    fn of_tag(tag: &str) -> Option<Self> {
        let language = tag.trim().split(['-', '_']).next()?;
        language.to_ascii_lowercase().parse().ok()
    }

    /// The preferred language of an `Accept-Language` header (RFC 9110, section 12.5.4).
    fn of_browser(header: &str) -> Option<Self> {
        let mut wanted: Vec<(u16, Self)> = Vec::new();
        for item in header.split(',').take(20) {
            let (tag, weight) = item.split_once(';').unwrap_or((item, "q=1"));
            let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
            // A weight has at most three digits after the point. A weight that cannot be read counts as the lowest.
            let weight = weight.map_or(1, |weight| (weight.clamp(0.0, 1.0) * 1_000.0) as u16);
            if let Some(locale) = Self::of_tag(tag).filter(|_| weight > 0)
                && wanted.iter().all(|(_, known)| *known != locale)
            {
                wanted.push((weight, locale));
            }
        }
        // The sort is stable: the first of several with the same weight stays the first.
        wanted.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        wanted.first().map(|(_, locale)| *locale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_given_language_wins_then_the_browser_then_the_country() {
        for (given, browser, institution, expected) in [
            (Some("pt"), Some("en"), None, Locale::Pt),
            (Some("PT-br"), Some("en"), None, Locale::Pt),
            (Some("xx"), Some("es-MX,es;q=0.9,en;q=0.8"), None, Locale::Es),
            (None, Some("en;q=0.5, pt-BR;q=0.9, es;q=0.1"), None, Locale::Pt),
            (None, Some("fr, de;q=0.9, en;q=0.1"), Some("erebor_mx_retail"), Locale::En),
            (None, Some("en;q=0"), Some("ofmockbank_br_retail"), Locale::Pt),
            (None, Some("es;q=x, en;q=0.2"), None, Locale::En),
            (None, Some("fr"), Some("erebor_mx_retail"), Locale::Es),
            (None, None, Some("ofmockbank_br_retail"), Locale::Pt),
            (None, None, None, Locale::En),
        ] {
            assert_eq!(Locale::choose(given, browser, institution), expected, "{given:?} {browser:?} {institution:?}");
        }
    }
}
