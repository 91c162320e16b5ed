//! The type of a row in the table of settings. Next: `catalogue.rs` has the table.

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// The key in the TOML file, with the name of the table before the dot.
    pub key: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The flag of `relink serve`. Secrets have none, because other users of the machine can see the flags of a
    /// process.
    pub flag: Option<&'static str>,
    /// The format of the value.
    pub kind: Kind,
    /// Whether the value is hidden in all output.
    pub secret: bool,
    /// The default, in the format of the environment.
    pub default: Option<&'static str>,
    /// The description, one clause.
    pub about: &'static str,
}

/// The format of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// An address that may contain a user and a password.
    Url,
    /// A whole number.
    Number,
    /// A number of bytes, such as `1073741824` or `1GiB`.
    Bytes,
    /// `true` or `false`.
    Switch,
    /// Several texts: an array in the file, or comma-separated in one text.
    List,
    /// A duration, such as `30m`, `6h` or `1d`.
    Span,
    /// Several durations: an array in the file, or comma-separated in one text.
    Spans,
}

pub(super) const fn row(
    key: &'static str,
    variable: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    about: &'static str,
) -> Setting {
    Setting { key, variable, flag: None, kind, secret: false, default, about }
}

pub(super) const fn span(
    key: &'static str,
    variable: &'static str,
    default: &'static str,
    about: &'static str,
) -> Setting {
    row(key, variable, Kind::Span, Some(default), about)
}

pub(super) const fn switch(
    key: &'static str,
    variable: &'static str,
    default: &'static str,
    about: &'static str,
) -> Setting {
    row(key, variable, Kind::Switch, Some(default), about)
}

pub(super) const fn secret(key: &'static str, variable: &'static str, kind: Kind, about: &'static str) -> Setting {
    Setting { key, variable, flag: None, kind, secret: true, default: None, about }
}

impl Setting {
    pub(super) const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }
}
