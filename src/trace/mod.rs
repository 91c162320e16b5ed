//! Traces: spans of what relink does, and the trace context that travels with the work.
//!
//! - `span`: begins a span, and runs work within it; the context of the running work
//! - `recorded`: a span that has ended
//! - `export`: sends the spans of this process to an OTLP endpoint
//!
//! Without an endpoint nothing is recorded: the context of a request or a message is only passed on, and work without a context does
//! nothing here. A span never has a body, an address of a page, or a text that a person has entered: only ids, names of institutions,
//! codes and states. Nothing waits for the export. If the endpoint is away, spans are counted and dropped.

mod export;
mod recorded;
mod span;

pub use export::{Exporting, Settings, StartError, is_on, start};
pub use opentelemetry::Value;
pub use opentelemetry::trace::SpanKind;
pub use recorded::{Recorded, record};
pub use span::{Span, current, current_headers, link_to, note};
