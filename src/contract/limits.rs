//! How much of a message from outside enters a link's record, in one table.
//!
//! A record is a message on the output stream, and several messages repeat parts of it, so no text from outside may grow it
//! without bound: NATS refuses a message above `max_payload` (1 MiB by default). Each limit is applied where the text is
//! read (`belvo`, `engine`). A longer text is not cut but left out: half an id is another id.

/// A text of Belvo's, such as `institution`, in bytes. Belvo's own are far below.
pub const TEXT_BYTES_MAX: usize = 512;

/// The customer's own id of a link, in bytes. Belvo names no limit.
pub const EXTERNAL_ID_BYTES_MAX: usize = 4096;

/// How many resources are fetched for a link. Belvo has some twenty.
pub const RESOURCES_MAX: usize = 64;

/// The name of a resource, such as `INVESTMENT_TRANSACTIONS`, in bytes.
pub const RESOURCE_BYTES_MAX: usize = 64;

/// The id of the message that led to a transition (CloudEvents `ce-id`), in bytes. relink's own are UUIDs.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;

/// What a record comes to at most, in bytes, with all of these at their limits: a test makes one. It leaves room for the
/// headers of a message, and for the records of a commit.
pub const RECORD_BYTES_MAX: usize = 128 * 1024;
