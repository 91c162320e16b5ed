//! Builds and parses the subjects and the stream names. No other file does.
//!
//! ```text
//!   published      belvo.<kind>.<link>               kind: webhook api_error widget observation command
//!   stored         belvo.<partition>.<kind>.<link>   the stream's subject transform adds the partition
//!   state          $KV.links.<link>    the output stream is the key-value bucket `links`
//!   about a link   link.notice.<type>.<link>   link.job.<type>.<link>   link.refused.<link>
//!                  link.observed.<type>.<link>   a notice that observe mode keeps back
//!   institution    link.incident.<institution>
//!   partition      link.fence.<partition>   link.offset.<partition>
//!   process        link.commit.<writer>
//!   dead letter    relink.dead.<reason>
//! ```
//!
//! `belvo` and `link` are prefixes that a configuration may change, so that several environments share one NATS; every
//! other name here follows from them.
//!
//! This file must never build a subject from a token that has not passed [`is_token_safe`]: with a dot or a wildcard in a link id, a
//! message would go to the subject of another link.
//! Next: `stream.rs` declares the streams over these subjects.

use crate::contract::{EventKind, InputKind};
use crate::link::{LINK_ID_LENGTH_MAX, LinkId};

/// The longest token, in characters. A Belvo link id is a UUID of 36.
pub const TOKEN_LENGTH_MAX: usize = LINK_ID_LENGTH_MAX;

/// Whether `token` may stand between two dots of a subject: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
pub fn is_token_safe(token: &str) -> bool {
    (1..=TOKEN_LENGTH_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The tokens of a stored subject of the input stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredInput<'a> {
    /// The partition.
    pub partition: u16,
    /// The kind of the input.
    pub kind: InputKind,
    /// The link id.
    pub link_id: &'a str,
}

/// The tokens of a subject of the output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the tokens of the subjects drawn in the file's head")]
pub enum OutputSubject<'a> {
    /// The state of a link.
    State { link_id: &'a str },
    /// A notice about a link.
    Notice { notice: &'a str, link_id: &'a str },
    /// A notice about a link that observe mode keeps back.
    Observed { notice: &'a str, link_id: &'a str },
    /// A job about a link.
    Job { job: &'a str, link_id: &'a str },
    /// A refused event of a link.
    Refused { link_id: &'a str },
    /// A fence: the owner of the last one owns the partition.
    Fence { partition: u16 },
    /// The committed offset of a partition.
    Offset { partition: u16 },
    /// The closing message of a commit.
    Commit { writer: &'a str },
    /// The start or the end of an institution's incident.
    Incident { institution: &'a str },
}

/// The reason why a pair of prefixes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The prefix is not one to four tokens with dots between them.
    #[error(
        "the subject prefix `{0}` must be one to four words of letters, digits, `_` and `-`, with dots between them"
    )]
    Malformed(String),
    /// The subjects of two streams would overlap.
    #[error("the subject prefixes `{0}` and `{1}` overlap; choose two that differ in their first word")]
    Overlap(String, String),
}

/// The subject prefixes, and the names that are derived from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    input_prefix: String,
    output_prefix: String,
    dead_prefix: String,
    /// What the key-value clients put before a key of the bucket: `$KV.links`.
    state_prefix: String,
}

impl Default for Subjects {
    fn default() -> Self {
        Self::of(INPUT_PREFIX, OUTPUT_PREFIX, DEAD_PREFIX.to_owned())
    }
}

const INPUT_PREFIX: &str = "belvo";
const OUTPUT_PREFIX: &str = "link";
const DEAD_PREFIX: &str = "relink.dead";

/// The token of a committed offset's subject in relink 0.1.
const OFFSET_TOKEN_0_1: &str = "mark";

impl Subjects {
    /// Checks the prefixes and derives all names.
    ///
    /// # Errors
    /// [`PrefixError`] if a prefix is malformed or the subjects overlap.
    pub fn new(input_prefix: &str, output_prefix: &str) -> Result<Self, PrefixError> {
        for prefix in [input_prefix, output_prefix] {
            let tokens = prefix.split('.').count();
            if tokens > 4 || !prefix.split('.').all(is_token_safe) {
                return Err(PrefixError::Malformed(prefix.to_owned()));
            }
        }
        let dead_prefix = match input_prefix {
            INPUT_PREFIX => DEAD_PREFIX.to_owned(),
            other => format!("relink-dead.{other}"),
        };
        let subjects = Self::of(input_prefix, output_prefix, dead_prefix);
        let spaces = [&subjects.input_prefix, &subjects.output_prefix, &subjects.dead_prefix];
        for (index, one) in spaces.iter().enumerate() {
            for other in &spaces[index + 1..] {
                if contains(one, other) || contains(other, one) {
                    return Err(PrefixError::Overlap((*one).clone(), (*other).clone()));
                }
            }
        }
        Ok(subjects)
    }

    fn of(input_prefix: &str, output_prefix: &str, dead_prefix: String) -> Self {
        let state_prefix = format!("$KV.{}", bucket_name(output_prefix));
        Self {
            input_prefix: input_prefix.to_owned(),
            output_prefix: output_prefix.to_owned(),
            dead_prefix,
            state_prefix,
        }
    }

    /// The input stream, `BELVO`.
    pub fn input_stream(&self) -> String {
        stream_name(&self.input_prefix)
    }

    /// The output stream, `KV_links`. It is a key-value bucket: the key-value clients add `KV_` to the name of a bucket.
    pub fn output_stream(&self) -> String {
        format!("KV_{}", self.bucket())
    }

    /// The output stream of relink 0.1 and 0.2, `LINKS`. It is neither read nor written.
    pub fn output_stream_0_2(&self) -> String {
        format!("{}S", stream_name(&self.output_prefix))
    }

    /// The stream of dead letters, `RELINK_DEAD`.
    pub fn dead_stream(&self) -> String {
        stream_name(&self.dead_prefix.replace('-', "_"))
    }

    /// The key-value bucket with the state of every link, `links`.
    pub fn bucket(&self) -> String {
        bucket_name(&self.output_prefix)
    }

    /// The subjects of the input stream: `belvo.*.*`.
    pub fn input_wildcard(&self) -> String {
        format!("{}.*.*", self.input_prefix)
    }

    /// The destination of the input stream's subject transform; the partition is chosen by a hash of the link id.
    pub fn input_transform(&self, partitions: u16) -> String {
        format!("{}.{{{{partition({partitions},2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}", self.input_prefix)
    }

    /// The subjects of the output stream: `link.>`, and the keys of the bucket, `$KV.links.>`.
    pub fn output_wildcards(&self) -> Vec<String> {
        vec![format!("{}.>", self.output_prefix), format!("{}.>", self.state_prefix)]
    }

    /// The states of all links: `$KV.links.*`.
    pub fn state_wildcard(&self) -> String {
        format!("{}.*", self.state_prefix)
    }

    /// The committed offsets of all partitions: `link.offset.*`.
    pub fn offset_wildcard(&self) -> String {
        format!("{}.offset.*", self.output_prefix)
    }

    /// The subjects on which relink 0.1 published committed offsets: `link.mark.*`. They are read and never written.
    pub fn offset_wildcard_0_1(&self) -> String {
        format!("{}.{OFFSET_TOKEN_0_1}.*", self.output_prefix)
    }

    /// The fences of all partitions.
    pub fn fence_wildcard(&self) -> String {
        format!("{}.fence.*", self.output_prefix)
    }

    /// The last messages of all commits.
    pub fn commit_wildcard(&self) -> String {
        format!("{}.commit.*", self.output_prefix)
    }

    /// The incidents of all institutions.
    pub fn incident_wildcard(&self) -> String {
        format!("{}.incident.*", self.output_prefix)
    }

    /// All notices.
    pub fn notice_wildcard(&self) -> String {
        format!("{}.notice.>", self.output_prefix)
    }

    /// All notices that observe mode keeps back.
    pub fn observed_wildcard(&self) -> String {
        format!("{}.observed.>", self.output_prefix)
    }

    /// The inputs of all partitions, as stored: `belvo.*.*.*`.
    pub fn stored_inputs(&self) -> String {
        format!("{}.*.*.*", self.input_prefix)
    }

    /// The webhooks of all partitions, as stored: `belvo.*.webhook.*`.
    pub fn stored_webhooks(&self) -> String {
        format!("{}.*.{}.*", self.input_prefix, InputKind::Webhook)
    }

    /// All jobs.
    pub fn job_wildcard(&self) -> String {
        format!("{}.job.>", self.output_prefix)
    }

    /// The subjects of the stream of dead letters: `relink.dead.>`.
    pub fn dead_wildcard(&self) -> String {
        format!("{}.>", self.dead_prefix)
    }

    /// The inputs of one partition, as stored: `belvo.<p>.>`.
    pub fn partition(&self, partition: u16) -> String {
        format!("{}.{partition}.>", self.input_prefix)
    }

    /// The subject on which an input is published: `belvo.<kind>.<link>`.
    pub fn input(&self, kind: InputKind, link_id: &str) -> String {
        format!("{}.{kind}.{}", self.input_prefix, checked(link_id))
    }

    /// `$KV.links.<link>`: the key is the link id.
    pub fn state(&self, link_id: &str) -> String {
        format!("{}.{}", self.state_prefix, checked(link_id))
    }

    /// `link.notice.<type>.<link>`.
    pub fn notice(&self, notice: &str, link_id: &str) -> String {
        format!("{}.notice.{}.{}", self.output_prefix, checked(notice), checked(link_id))
    }

    /// `link.observed.<type>.<link>`.
    pub fn observed(&self, notice: &str, link_id: &str) -> String {
        format!("{}.observed.{}.{}", self.output_prefix, checked(notice), checked(link_id))
    }

    /// `link.job.<type>.<link>`.
    pub fn job(&self, job: &str, link_id: &str) -> String {
        format!("{}.job.{}.{}", self.output_prefix, checked(job), checked(link_id))
    }

    /// `link.refused.<link>`.
    pub fn refused(&self, link_id: &str) -> String {
        format!("{}.refused.{}", self.output_prefix, checked(link_id))
    }

    /// `link.fence.<p>`.
    pub fn fence(&self, partition: u16) -> String {
        format!("{}.fence.{partition}", self.output_prefix)
    }

    /// `link.offset.<p>`.
    pub fn offset(&self, partition: u16) -> String {
        format!("{}.offset.{partition}", self.output_prefix)
    }

    /// `link.commit.<writer>`; the writer's name is unique.
    pub fn commit(&self, writer: &str) -> String {
        format!("{}.commit.{}", self.output_prefix, checked(writer))
    }

    /// `link.incident.<institution>`, with the institution as `contract::institution_token` spells it.
    pub fn incident(&self, institution: &str) -> String {
        format!("{}.incident.{}", self.output_prefix, checked(institution))
    }

    /// `relink.dead.<reason>`.
    pub fn dead(&self, reason: &str) -> String {
        format!("{}.{}", self.dead_prefix, checked(reason))
    }

    /// Parses a published input subject: `belvo.<kind>.<link>`.
    pub fn parse_published<'a>(&self, subject: &'a str) -> Option<(InputKind, &'a str)> {
        let (kind, link_id) = after(subject, &self.input_prefix)?.split_once('.')?;
        is_token_safe(link_id).then_some((kind.parse().ok()?, link_id))
    }

    /// Parses a stored input subject: `belvo.<partition>.<kind>.<link>`. The link has its publisher's spelling. Every spelling that
    /// [`LinkId`] accepts is allowed, for example `urn:uuid:…`.
    pub fn parse_input<'a>(&self, subject: &'a str) -> Option<StoredInput<'a>> {
        let (partition, rest) = after(subject, &self.input_prefix)?.split_once('.')?;
        let (kind, link_id) = rest.split_once('.')?;
        let (partition, kind) = (parse_partition(partition)?, kind.parse().ok()?);
        link_id.parse::<LinkId>().is_ok().then_some(StoredInput { partition, kind, link_id })
    }

    /// The subject of the messages of a kind about a link, or about every link with `*`. No subject matches two kinds.
    pub(crate) fn events(&self, kind: EventKind, link: &str) -> String {
        let (state, output) = (&self.state_prefix, &self.output_prefix);
        match kind {
            EventKind::State => format!("{state}.{link}"),
            EventKind::Notice => format!("{output}.notice.*.{link}"),
            EventKind::Observed => format!("{output}.observed.*.{link}"),
            EventKind::Job => format!("{output}.job.*.{link}"),
            EventKind::Refused => format!("{output}.refused.{link}"),
            EventKind::Incident => format!("{output}.incident.*"),
        }
    }

    /// The subject of the messages of a kind and a type about a link, or about every link with `*`; `None` if the subjects of the kind have
    /// no type.
    pub(crate) fn events_of_type(&self, kind: EventKind, name: &str, link: &str) -> Option<String> {
        let output = &self.output_prefix;
        match kind {
            EventKind::Notice => Some(format!("{output}.notice.{name}.{link}")),
            EventKind::Observed => Some(format!("{output}.observed.{name}.{link}")),
            EventKind::Job => Some(format!("{output}.job.{name}.{link}")),
            EventKind::State | EventKind::Refused | EventKind::Incident => None,
        }
    }

    /// Parses an output subject.
    pub fn parse_output<'a>(&self, subject: &'a str) -> Option<OutputSubject<'a>> {
        if let Some(link_id) = after(subject, &self.state_prefix) {
            return is_token_safe(link_id).then_some(OutputSubject::State { link_id });
        }
        let tokens: Vec<&str> = after(subject, &self.output_prefix)?.split('.').collect();
        if !tokens.iter().all(|token| is_token_safe(token)) {
            return None;
        }
        match tokens[..] {
            ["notice", notice, link_id] => Some(OutputSubject::Notice { notice, link_id }),
            ["observed", notice, link_id] => Some(OutputSubject::Observed { notice, link_id }),
            ["job", job, link_id] => Some(OutputSubject::Job { job, link_id }),
            ["refused", link_id] => Some(OutputSubject::Refused { link_id }),
            ["incident", institution] => Some(OutputSubject::Incident { institution }),
            ["fence", partition] => Some(OutputSubject::Fence { partition: parse_partition(partition)? }),
            ["commit", writer] => Some(OutputSubject::Commit { writer }),
            ["offset" | OFFSET_TOKEN_0_1, partition] => {
                Some(OutputSubject::Offset { partition: parse_partition(partition)? })
            }
            _ => None,
        }
    }
}

/// Panics for an unsafe token: callers must have parsed the id before.
fn checked(token: &str) -> &str {
    assert!(is_token_safe(token), "`{}` cannot be part of a subject", token.escape_debug());
    token
}

fn after<'a>(subject: &'a str, prefix: &str) -> Option<&'a str> {
    subject.strip_prefix(prefix)?.strip_prefix('.')
}

/// Whether the subjects below `outer` contain those below `inner`.
fn contains(outer: &str, inner: &str) -> bool {
    outer == inner || after(inner, outer).is_some()
}

fn bucket_name(prefix: &str) -> String {
    format!("{}s", prefix.replace('.', "_"))
}

fn stream_name(prefix: &str) -> String {
    prefix.replace('.', "_").to_ascii_uppercase()
}

/// Parses the form that the server writes: digits without leading zeros.
fn parse_partition(token: &str) -> Option<u16> {
    let partition: u16 = token.parse().ok()?;
    (partition.to_string() == token).then_some(partition)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use strum::VariantArray;

    use super::*;

    #[test]
    fn the_default_names_are_the_documented_ones() {
        let subjects = Subjects::default();
        assert_eq!(Subjects::new("belvo", "link"), Ok(subjects.clone()));
        let names = [subjects.input_stream(), subjects.output_stream(), subjects.dead_stream(), subjects.bucket()];
        assert_eq!(names, ["BELVO", "KV_links", "RELINK_DEAD", "links"]);
        assert_eq!(subjects.input(InputKind::ApiError, "a-1"), "belvo.api_error.a-1");
        assert_eq!(subjects.input_transform(16), "belvo.{{partition(16,2)}}.{{wildcard(1)}}.{{wildcard(2)}}");
        assert_eq!(subjects.partition(3), "belvo.3.>");
        assert_eq!(subjects.output_wildcards(), ["link.>", "$KV.links.>"]);
        assert_eq!(subjects.state("a"), "$KV.links.a");
        assert_eq!(subjects.notice("update_required", "a"), "link.notice.update_required.a");
        assert_eq!(subjects.dead("malformed"), "relink.dead.malformed");
    }

    #[test]
    fn other_prefixes_give_other_streams() {
        let subjects = Subjects::new("staging.belvo", "staging.link").expect("the prefixes differ");
        let names = [subjects.input_stream(), subjects.output_stream(), subjects.dead_stream(), subjects.bucket()];
        assert_eq!(names, ["STAGING_BELVO", "KV_staging_links", "RELINK_DEAD_STAGING_BELVO", "staging_links"]);
        assert_eq!(subjects.dead("malformed"), "relink-dead.staging.belvo.malformed");
    }

    #[test]
    fn unusable_prefixes_are_refused() {
        for prefix in ["", ".", "a..b", "belvo.*", "a b", ">", "$SYS", "a.b.c.d.e"] {
            assert_eq!(Subjects::new(prefix, "link"), Err(PrefixError::Malformed(prefix.to_owned())));
        }
        for (input, output) in [("a", "a"), ("a", "a.b"), ("a.b", "a"), ("belvo", "relink")] {
            assert!(matches!(Subjects::new(input, output), Err(PrefixError::Overlap(..))), "{input} {output}");
        }
    }

    #[test]
    fn foreign_subjects_are_not_parsed() {
        let subjects = Subjects::default();
        for subject in
            ["belvo.webhook.x", "belvo.01.webhook.x", "belvo.1.webhook", "belvo.1.webhook.x.y", "belvo.1.huh.x"]
        {
            assert_eq!(subjects.parse_input(subject), None, "{subject}");
        }
        // `link.state.a` was the subject of a state up to 0.2.
        for subject in ["link", "link.", "link.state.a", "links.fence.1", "link.fence.x", "link.refused.a.b"]
            .into_iter()
            .chain(["$KV", "$KV.links", "$KV.links.", "$KV.link.a", "$KV.links.a.b", "KV.links.a"])
        {
            assert_eq!(subjects.parse_output(subject), None, "{subject}");
        }
    }

    #[test]
    #[should_panic(expected = "cannot be part of a subject")]
    fn an_unsafe_id_never_becomes_a_subject() {
        let _ = Subjects::default().state("a.b");
    }

    proptest! {
        #[test]
        fn every_built_subject_is_parsed(
            id in "[A-Za-z0-9_-]{1,64}", word in "[a-z_]{1,20}", partition: u16, kind in 0..InputKind::VARIANTS.len(),
            prefix in "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}",
        ) {
            let Ok(subjects) = Subjects::new(&format!("in{prefix}"), &format!("out{prefix}")) else {
                return Err(TestCaseError::reject("the prefixes are too long"));
            };
            let kind = InputKind::VARIANTS[kind];
            let published = subjects.input(kind, &id);
            prop_assert_eq!(subjects.parse_published(&published), Some((kind, id.as_str())));
            let stored = format!("in{prefix}.{partition}.{kind}.{id}");
            let expected = StoredInput { partition, kind, link_id: &id };
            prop_assert_eq!(subjects.parse_input(&stored), Some(expected));
            for (subject, expected) in [
                (subjects.state(&id), OutputSubject::State { link_id: &id }),
                (subjects.notice(&word, &id), OutputSubject::Notice { notice: &word, link_id: &id }),
                (subjects.observed(&word, &id), OutputSubject::Observed { notice: &word, link_id: &id }),
                (subjects.job(&word, &id), OutputSubject::Job { job: &word, link_id: &id }),
                (subjects.refused(&id), OutputSubject::Refused { link_id: &id }),
                (subjects.incident(&id), OutputSubject::Incident { institution: &id }),
                (subjects.fence(partition), OutputSubject::Fence { partition }),
                (subjects.offset(partition), OutputSubject::Offset { partition }),
                (subjects.commit(&word), OutputSubject::Commit { writer: &word }),
            ] {
                prop_assert_eq!(subjects.parse_output(&subject), Some(expected));
                prop_assert_eq!(subjects.parse_input(&subject), None);
            }
        }

        #[test]
        fn parsing_never_panics(subject in ".{0,80}") {
            let _ = (Subjects::default().parse_input(&subject), Subjects::default().parse_output(&subject));
            prop_assert!(!is_token_safe(&subject) || !subject.contains(['.', '*', '>', ' ', '\r', '\n']));
        }
    }
}
