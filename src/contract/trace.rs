//! The trace context of a message or a request: the headers `traceparent` and `tracestate` of W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! Both headers come from outside. A `traceparent` that is not valid is ignored, as the recommendation says; so is a `tracestate` that is
//! not valid or longer than 512 bytes. New ids follow from a seed, because the engine has no randomness: the same input gives the same ids.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The header with the ids and the flags.
pub const TRACEPARENT: &str = "traceparent";

/// The header with the data of the tracing systems that have taken part. relink passes it on unchanged.
pub const TRACESTATE: &str = "tracestate";

/// What happens within this time after its cause belongs to the trace of the cause. What happens later begins a new trace with a link.
pub const SAME_TRACE_MAX: Duration = Duration::from_secs(600);

/// The length of a `traceparent` of version 00, in bytes.
const PARENT_LENGTH: usize = 55;

/// The recommendation asks for at least 512 bytes, and for at most 32 members.
const STATE_BYTES_MAX: usize = 512;
const STATE_MEMBERS_MAX: usize = 32;

const SAMPLED: u8 = 0b01;

/// The flags that are passed on: sampled, and "the trace id is random" of level 2 of the recommendation.
const KNOWN_FLAGS: u8 = 0b11;

/// A span of a trace, which may be the parent of others.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
    state: Option<Arc<str>>,
}

/// The parent of a span that follows from `cause` after this time. If that is longer than [`SAME_TRACE_MAX`], the span has no parent, and
/// the second value is the cause, for a link.
pub fn parent_or_cause(age: Duration, cause: Option<TraceContext>) -> (Option<TraceContext>, Option<TraceContext>) {
    if age > SAME_TRACE_MAX { (None, cause) } else { (cause, None) }
}

/// The share of the new traces that are recorded. All programs that use the same share choose the same traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRatio(u64);

impl SampleRatio {
    /// Every trace.
    pub const ALL: Self = Self(1 << 63);

    /// `None` if `ratio` is not between 0 and 1.
    pub fn new(ratio: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 2^63")]
        (0.0..=1.0).contains(&ratio).then(|| Self((ratio * 2_f64.powi(63)) as u64))
    }

    /// Whether a trace is recorded, by the rule of the sampler `TraceIdRatioBased` of OpenTelemetry.
    pub fn takes(self, context: &TraceContext) -> bool {
        let [.., a, b, c, d, e, f, g, h] = context.trace_id;
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1) < self.0
    }

    /// The context of a new span: in the trace of `parent`, or the first one of a new trace. A new trace is recorded if that of its `cause`
    /// is, so that the rest of a story is recorded with its first part; without a cause, this ratio decides.
    pub fn begin(self, seed: &[u8], parent: Option<&TraceContext>, cause: Option<&TraceContext>) -> TraceContext {
        if let Some(parent) = parent {
            return parent.child(seed);
        }
        let root = TraceContext::root(seed);
        let is_sampled = cause.map_or_else(|| self.takes(&root), TraceContext::is_sampled);
        root.sampled(is_sampled)
    }
}

impl TraceContext {
    /// The context in these headers. `header` returns the value of a header. `None` without a valid `traceparent`.
    pub fn of<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let parent = Self::parse(header(TRACEPARENT)?)?;
        Some(parent.with_state(header(TRACESTATE)))
    }

    /// Reads a `traceparent`. `None` if it is not valid.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let text = traceparent.trim_matches([' ', '\t']).as_bytes();
        let (known, rest) = text.split_at_checked(PARENT_LENGTH)?;
        let dashes = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
        let [version] = hex(&known[..2])?;
        // A later version may only add parts, with another dash before them.
        let has_end = rest.is_empty() || (version > 0 && rest[0] == b'-');
        if !dashes || version == 0xff || !has_end {
            return None;
        }
        let (trace_id, span_id, [flags]) = (hex(&known[3..35])?, hex(&known[36..52])?, hex(&known[53..55])?);
        let is_zero = trace_id == [0; 16] || span_id == [0; 8];
        (!is_zero).then_some(Self { trace_id, span_id, flags: flags & KNOWN_FLAGS, state: None })
    }

    /// The same context with this `tracestate`, if it is valid.
    #[must_use]
    pub fn with_state(self, tracestate: Option<&str>) -> Self {
        let state = tracestate.map(str::trim).filter(|state| is_state(state)).map(Arc::from);
        Self { state, ..self }
    }

    /// The first span of a new trace, sampled. Different seeds give different ids.
    pub fn root(seed: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(b"relink trace\0").chain_update(seed).finalize();
        Self { trace_id: part(&hash), span_id: part(&hash[16..]), flags: SAMPLED, state: None }
    }

    /// A child span in the same trace.
    #[must_use]
    pub fn child(&self, seed: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(self.trace_id).chain_update(self.span_id).chain_update(seed).finalize();
        Self { span_id: part(&hash), ..self.clone() }
    }

    /// The same context, recorded or not.
    #[must_use]
    pub fn sampled(self, is_sampled: bool) -> Self {
        let flags = if is_sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED };
        Self { flags, ..self }
    }

    /// Whether the trace is recorded.
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The id of the trace.
    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The id of the span.
    pub const fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// The flags of the `traceparent`.
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// The `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The value of `traceparent`, in version 00.
    pub fn traceparent(&self) -> String {
        let (trace_id, span_id) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", self.flags)
    }

    /// The headers, with their names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let state = self.state.as_deref().map(|state| (TRACESTATE, state.to_owned()));
        [(TRACEPARENT, self.traceparent())].into_iter().chain(state)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent())
    }
}

/// The first bytes. An id of zeros would mean "no id"; a hash begins with that once in 2^64 times.
fn part<const N: usize>(hash: &[u8]) -> [u8; N] {
    let mut id = [0; N];
    id.copy_from_slice(&hash[..N]);
    if id == [0; N] { [1; N] } else { id }
}

/// The bytes of a text in lower-case hexadecimal digits.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Whether a text can be passed on as `tracestate`: members `key=value` of printable characters.
fn is_state(text: &str) -> bool {
    let is_member = |member: &str| {
        let member = member.trim();
        let starts_well = member.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
        member.is_empty() || (starts_well && member.matches('=').count() == 1)
    };
    !text.is_empty()
        && text.len() <= STATE_BYTES_MAX
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.split(',').count() <= STATE_MEMBERS_MAX
        && text.split(',').all(is_member)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(parent: &str, state: Option<&str>) -> Option<TraceContext> {
        TraceContext::of(|name| match name {
            TRACEPARENT => Some(parent),
            TRACESTATE => state,
            _ => None,
        })
    }

    #[test]
    fn a_valid_context_is_read_and_written() {
        let context = of(GOOD, Some("vendor=1,other@x=a b")).unwrap();
        assert!(context.is_sampled());
        let headers: Vec<_> = context.headers().collect();
        let expected = [(TRACEPARENT, GOOD.to_owned()), (TRACESTATE, "vendor=1,other@x=a b".to_owned())];
        assert_eq!(headers, expected);
        // Whitespace around the value, a later version with more parts, and flags that this version does not know.
        let later = format!("\t{}-what-ever ", GOOD.replacen("00-", "cc-", 1));
        for (other, flags) in
            [(later.as_str(), "01"), (&GOOD.replace("-01", "-00"), "00"), (&GOOD.replace("-01", "-fe"), "02")]
        {
            let read = TraceContext::parse(other).unwrap();
            assert_eq!(read.traceparent(), GOOD.replace("-01", &format!("-{flags}")), "{other}");
        }
        assert_eq!(TraceContext::of(|_| None), None);
    }

    #[test]
    fn a_bad_traceparent_is_ignored() {
        let bad = [
            String::new(),
            "00".to_owned(),
            // The version 255, and one that is no number.
            GOOD.replacen("00-", "ff-", 1),
            GOOD.replacen("00-", "0g-", 1),
            // Upper case, other digits, a sign, and letters of several bytes.
            GOOD.to_uppercase(),
            GOOD.replacen("4bf9", "4bg9", 1),
            GOOD.replacen("4bf9", "+bf9", 1),
            GOOD.replacen("4bf9", "éé", 1),
            // Ids of zeros.
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            // Too short, too long, and other separators.
            GOOD[..54].to_owned(),
            format!("{GOOD}0"),
            format!("{GOOD}-00"),
            format!("{}0", GOOD.replacen("00-", "cc-", 1)),
            GOOD.replace('-', "_"),
            GOOD.replacen("-01", "-0x", 1),
            GOOD.replace("-01", ""),
            "x".repeat(1 << 20),
            format!("{GOOD},{GOOD}"),
        ];
        for text in bad {
            assert_eq!(TraceContext::parse(&text), None, "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn a_bad_tracestate_is_left_out_and_the_context_stays() {
        let members = |count: usize| vec!["a=1"; count].join(",");
        for (state, is_kept) in [
            ("a=1".to_owned(), true),
            ("a=1, b=2,,".to_owned(), true),
            (members(32), true),
            (members(33), false),
            (format!("a={}", "x".repeat(510)), true),
            (format!("a={}", "x".repeat(511)), false),
            (String::new(), false),
            ("a".to_owned(), false),
            ("a=1=2".to_owned(), false),
            ("A=1".to_owned(), false),
            ("a=\r\nx: 1".to_owned(), false),
            ("a=é".to_owned(), false),
        ] {
            let context = of(GOOD, Some(&state)).unwrap();
            assert_eq!(context.state().is_some(), is_kept, "{state}");
            assert_eq!(context.traceparent(), GOOD);
        }
    }

    #[test]
    fn new_ids_follow_from_the_seed_and_a_ratio_takes_its_share() {
        let (root, parent) = (TraceContext::root(b"1"), of(GOOD, Some("a=1")).unwrap());
        assert_eq!(root, TraceContext::root(b"1"));
        assert!(root.trace_id() != TraceContext::root(b"2").trace_id() && root.is_sampled());
        let (child, other) = (parent.child(b"1"), parent.child(b"2"));
        assert_eq!((child.trace_id(), child.state(), child.flags()), (parent.trace_id(), Some("a=1"), 1));
        assert!(child.span_id() != parent.span_id() && child.span_id() != other.span_id());
        assert!(!parent.clone().sampled(false).is_sampled() && parent.clone().sampled(false).sampled(true) == parent);
        let taken = |ratio: f64| {
            let ratio = SampleRatio::new(ratio).unwrap();
            (0..4_000_u32).filter(|seed| ratio.takes(&TraceContext::root(&seed.to_be_bytes()))).count()
        };
        assert_eq!((taken(0.0), taken(1.0)), (0, 4_000));
        assert!((900..1_100).contains(&taken(0.25)), "{}", taken(0.25));
        assert_eq!(SampleRatio::new(1.0), Some(SampleRatio::ALL));
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(SampleRatio::new(wrong), None);
        }
    }
}
