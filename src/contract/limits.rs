//! Limits for texts from outside that are kept in a record.
//!
//! A record is a message on the output stream, and other messages repeat parts of it. NATS refuses a message above
//! `max_payload` (1 MiB by default), so each text has a limit. The modules `belvo` and `engine` apply the limits when
//! they read a text. A text above its limit is left out, not cut, because half of an id would be another id.

/// A text of Belvo, such as `institution`, in bytes. Belvo's texts are far shorter.
pub const TEXT_BYTES_MAX: usize = 512;

/// The customer's own id of a link, in bytes. Belvo documents no limit.
pub const EXTERNAL_ID_BYTES_MAX: usize = 4096;

/// The number of resources that Belvo fetches for a link. Belvo has about twenty.
pub const RESOURCES_MAX: usize = 64;

/// The name of a resource, such as `INVESTMENT_TRANSACTIONS`, in bytes.
pub const RESOURCE_BYTES_MAX: usize = 64;

/// The id of the message that led to a transition (CloudEvents `ce-id`), in bytes. The ids that relink makes are UUIDs.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;

/// The name of an operator, or of an API token, in bytes.
pub const OPERATOR_BYTES_MAX: usize = 128;

/// The reason that an operator gives for a command, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;

/// The largest record, in bytes, if all of these are at their limits; a test makes such a record. This size leaves room
/// for the headers of a message, and for the other records of a commit.
pub const RECORD_BYTES_MAX: usize = 128 * 1024;
