//! NATS: everything that relink publishes to NATS and reads from it.
//!
//! | file | what it is |
//! |---|---|
//! | [`subject`] | builds and parses subjects and stream names; no other file does |
//! | [`stream`], [`declaration`] | declares streams and consumers, and compares them with the existing ones; no other file does |
//! | [`watch`] | ensures the streams and consumers again while relink runs |
//! | [`batch`] | atomic batch publish: the server stores all messages or none; a fence refuses a replaced writer |
//! | [`publisher`] | publishes inputs: groups the messages of many callers into few batches, and answers each caller |
//! | `publish` | publishes a group of inputs with few disk syncs, and gives each one its outcome |
//! | [`inputs`] | the part of the publisher that the jobs and the reconciler use, as a trait |
//! | [`dead_letter`], `dead_letter_log` | dead letters: stored with their bytes, listed, replayed; their lines in the log |
//! | [`node`] | **the driver of the node**: performs the outputs of `crate::node` over NATS |
//! | `raw_message` | reads a message whose headers the NATS client cannot parse |
//! | `foreign` | steps over such messages on the output stream |
//! | [`partition`] | reads one partition's deliveries, in order |
//! | [`lag`] | reads how many messages of each partition wait |
//! | `restore` | fills a new output stream from the store |
//! | `streams_read` | reads facts and messages of the two streams for the node |
//! | [`commit`], [`envelope`] | the atomic batch of a plan with its fences; the subject and the headers of each message |
//! | `limit` | the time limits of requests |
//! | `notes`, `step_spans` | the notes of the node, as log lines and metrics; the steps of a commit, as spans |
//! | [`events`] | reads the messages about links and institutions as they come |
//! | [`history`] | reads all messages about one link on the output stream |
//! | [`inspection`] | compares the streams with their declarations and reads their sizes, for `relink doctor` |
//! | [`recorded`] | reads everything that a stream has recorded, for `relink replay` |
//! | [`durability`], [`server_health`] | check whether a server syncs its writes, and whether it can write |
//! | [`connection`] | connects: addresses, login, TLS |
//! | [`server`], [`server_binary`], [`server_login`] | a nats-server as a child process: started and stopped; its binary; its password |
//!
//! This module moves bytes. It never decides about a link. Only [`node`] and [`lag`] read the clock.

pub mod subject;

pub mod declaration;
pub mod stream;
pub mod watch;

pub mod batch;
pub mod inputs;
mod publish;
pub mod publisher;

pub mod dead_letter;
mod dead_letter_log;
pub mod events;
pub mod history;
pub mod inspection;

pub mod commit;
pub mod envelope;
pub(crate) mod foreign;
pub mod lag;
pub(crate) mod limit;
pub mod node;
mod notes;
mod output_read;
pub mod partition;
mod pull;
mod raw_message;
pub mod recorded;
mod restore;
mod step_spans;
mod streams_read;

pub mod backup;
pub mod connection;
pub mod durability;
pub mod server;
pub mod server_binary;
pub mod server_health;
pub mod server_login;
