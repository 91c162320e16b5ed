//! Which institutions a component of Belvo's status page stands for.
//!
//! Belvo documents the name of a component as "the name of the institution". That is a name for people, such as `Erebor México`, and no
//! list of these names is published. So an operator configures which institution has which name on the page; relink guesses nothing. Only a
//! name that has the form of Belvo's own names of institutions, such as `erebor_mx_retail`, stands for itself.

use std::collections::BTreeMap;

/// The institutions of each component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Components(BTreeMap<String, Vec<String>>);

/// An entry is not `Name on the page=institution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a list of `Name on the status page=belvos_name_of_the_institution`")]
pub struct BadComponent;

impl Components {
    /// Reads entries of the form `Name on the page=institution`. A name may occur several times, with different institutions.
    ///
    /// # Errors
    /// [`BadComponent`]: an entry has another form.
    pub fn parse<T: AsRef<str>>(entries: &[T]) -> Result<Self, BadComponent> {
        let mut components = BTreeMap::<String, Vec<String>>::new();
        for entry in entries {
            let (name, institution) = entry.as_ref().rsplit_once('=').ok_or(BadComponent)?;
            let (name, institution) = (plain(name), institution.trim());
            if name.is_empty() || !is_name_of_institution(institution) {
                return Err(BadComponent);
            }
            let institutions = components.entry(name).or_default();
            if !institutions.iter().any(|known| known == institution) {
                institutions.push(institution.to_owned());
            }
        }
        Ok(Self(components))
    }

    /// The institutions of a component; none if it is not configured.
    pub fn institutions(&self, component: &str) -> Vec<String> {
        match self.0.get(&plain(component)) {
            Some(institutions) => institutions.clone(),
            None if component.contains('_') && is_name_of_institution(component) => vec![component.to_owned()],
            None => Vec::new(),
        }
    }

    /// The most institutions of one component.
    pub fn institutions_max(&self) -> usize {
        self.0.values().map(Vec::len).max().unwrap_or(0).max(1)
    }
}

/// A name in the form in which names are compared: without surrounding blanks, in lower case.
fn plain(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Whether the text has the form of Belvo's names: `erebor_mx_retail`, `ofmockbank_br_retail`.
fn is_name_of_institution(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_stands_for_the_configured_institutions_or_for_itself() {
        let entries =
            ["Erebor México=erebor_mx_retail", "erebor méxico = erebor_mx_business", "A=B=gotham_mx_business"];
        let components = Components::parse(&entries).unwrap();
        for (name, expected) in [
            (" EREBOR MÉXICO", &["erebor_mx_retail", "erebor_mx_business"][..]),
            ("A=B", &["gotham_mx_business"]),
            ("gringotts_mx_retail", &["gringotts_mx_retail"]),
            ("Gringotts", &[]),
            ("gringotts", &[]),
            ("", &[]),
        ] {
            assert_eq!(components.institutions(name), expected, "{name}");
        }
        assert_eq!(components.institutions_max(), 2);
        for wrong in ["erebor_mx_retail", "=erebor_mx_retail", "Erebor=", "Erebor=Erebor México"] {
            assert_eq!(Components::parse(&[wrong]), Err(BadComponent), "{wrong}");
        }
    }
}
