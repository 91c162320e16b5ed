//! relink keeps Belvo links alive.
//!
//! A *link* is a user's connection to one bank through Belvo. Webhooks of Belvo, errors of its API, widget callbacks, reads and
//! commands are *inputs*: messages in the NATS stream `BELVO`. An engine reads them in order, drives one state machine per link, and
//! commits the new states, the messages to others (*notices*) and its own position as one atomic batch to the stream `LINKS`. An
//! embedded store (sled) holds the latest state of every link; it can be rebuilt from `LINKS` at any time.
//!
//! This page has three parts: the modules, the way of one webhook through them, and the invariants, each with the test that holds it.
//! ARCHITECTURE.md has the reasons, the crash table and the glossary; docs/ is for those who run relink.
//!
//! # The modules
//!
//! From the centre outwards. Imports only ever point towards the centre; `tests/architecture.rs` holds that.
//!
//! | module | what it is |
//! |---|---|
//! | [`link`] | **the core**, pure: the state machine of one link. Start at [`link::machine`], then read its table, [`link::table`]. |
//! | [`contract`] | the messages that others see: every JSON body on a subject, as a type |
//! | [`belvo`] | what Belvo sends, what it means, and how to call Belvo's API |
//! | [`store`] | what the store promises ([`store::Store`]), and sled keeping the promise |
//! | [`engine`] | the durable step: a slice of deliveries in, one plan of a commit out; synchronous, without I/O |
//! | [`node`] | the commit protocol of a process, as a state machine without I/O: fences, catching up, one commit at a time |
//! | [`nats`] | the bus: streams, atomic batches, the publisher, and the driver that runs [`node`] |
//! | [`http`] | webhooks, reports, the widget, and questions about links, over HTTP |
//! | [`jobs`] | verify and refresh: call Belvo, and publish the answer as a new input |
//! | [`reconciler`] | finds what the webhooks missed: sweeps over Belvo's API |
//! | [`service`], [`config`], [`cli`], [`telemetry`], [`metric`], [`clock`], [`tls`] | wiring |
//! | [`drawing`], [`schemas`], [`printable`] | the machine as a picture; JSON Schemas; text from outside, made safe for a terminal |
//! | [`rehearsal`] | relink against relink's sandbox (the crate `belvo-sandbox`, a stand-in for Belvo): demo, scenarios, a month of a fleet |
//! | [`simulation`] | node, jobs and reconciler among faults: one seed is one run |
//!
//! # The way of one webhook
//!
//! Belvo posts `LINK / invalid_credentials`. What happens until a subscriber has its notice:
//!
//! 1. **Receive.** [`http::router`] routes `POST /webhooks/belvo` to `webhook` (`src/http/ingest.rs`). `check_webhook` (`src/http/auth.rs`)
//!    compares the credentials in constant time; `read` (`src/http/body.rs`) reads at most 1 MiB.
//! 2. **Understand.** [`belvo::translate::link_of_webhook`] finds the link. The tables of [`mod@belvo::translate`] are tried on the body:
//!    one that cannot be read is set aside as a dead letter, and refused to its sender.
//! 3. **Store.** [`nats::publisher::Publisher::publish`] puts the body, byte for byte, into `BELVO`. NATS assigns the partition by a
//!    hash of the link's id. Belvo gets its 200 only after JetStream's acknowledgement.
//! 4. **Read.** The driver, [`nats::node`], pulls the partition's consumer and hands the deliveries to
//!    [`node::Node::handle`], which answers with values that say what is to be done.
//! 5. **Decide.** [`engine::Engine::plan_at_most`] asks [`belvo::translate::translate`] what each delivery means, loads the link from
//!    the store, and calls [`link::step`]: link, event, time and policy in; the new link and its effects out, or a refusal.
//! 6. **Commit.** The plan becomes one atomic batch on `LINKS`: notices, jobs, states, and how far the input has been handled.
//!    [`nats::batch::OpenBatch::commit`] sends its last message. NATS refuses the whole batch if the process has been replaced, or if its
//!    last commit is no longer on the stream.
//! 7. **Apply.** [`store::Store::apply`] writes the same change into the store; only then is the delivery acknowledged.
//! 8. **Act.** A subscriber of `link.notice.>` receives `update_required` and prompts the user. If the step asked for a read of Belvo,
//!    [`jobs::Worker`] does it and publishes an observation, which enters at step 3.
//!
//! # The invariants
//!
//! A test reads this page and checks that each test, and each private function above, is there.
//!
//! | invariant | held by |
//! |---|---|
//! | one outage is one episode with one prompt | `tests/machine/properties.rs`: `leaving_valid_opens_one_episode_with_one_prompt` |
//! | only reminders follow a prompt | `tests/machine/properties.rs`: `an_episode_prompts_at_most_once_and_reminds_only_by_the_ladder` |
//! | an update ends in `valid` only by proof | `tests/machine/properties.rs`: `updating_becomes_valid_only_by_proof` |
//! | evidence is verified, and never lost | `tests/machine/properties.rs`: `evidence_is_never_lost` |
//! | a repeated input changes nothing | `tests/machine/properties.rs`: `a_repeat_changes_nothing` |
//! | machine and table are one | `tests/machine/table.rs`: `the_machine_accepts_exactly_the_transitions_of_the_table` |
//! | a link's inputs, replayed, give the link | `tests/machine/properties.rs`: `a_history_replayed_gives_its_link` |
//! | effects are stored exactly once, whatever fails | `tests/simulation.rs`: `nothing_is_lost_and_nothing_is_said_twice` |
//! | the checkers of that simulation find planted bugs | `tests/simulation.rs`: `every_planted_bug_is_found` |
//! | the same with real processes and `kill -9` | `tests/kill.rs`: `no_input_is_lost_and_no_message_is_published_twice` |
//! | nothing is built on a commit that the stream has lost | `src/node/tests/chain.rs`: `no_commit_is_built_on_one_that_the_stream_has_lost` |
//! | a batch of a replaced owner is refused, whole | `tests/nats_batch.rs`: `a_replaced_owner_is_refused_even_with_a_batch_it_had_staged` |
//! | an unreadable input stops nothing | `tests/node.rs`: `an_unreadable_input_becomes_a_dead_letter_and_the_partition_goes_on` |
//! | a store that knows more than the stream is rebuilt | `tests/node.rs`: `a_store_that_knows_more_than_the_stream_is_rebuilt` |
//! | no secret gets into a message, a record or a log | `tests/engine/secrets.rs`: `no_secret_gets_into_a_message_a_record_or_a_log` |
//! | data of every earlier version is read, or refused in plain words | `tests/compatibility/main.rs`: `VERSIONS` |
//! | imports point towards the centre | `tests/architecture.rs`: `modules_import_only_what_their_row_allows` |

pub mod link;

pub mod drawing;

pub mod contract;

pub mod belvo;
pub mod store;

pub mod engine;
pub mod node;

pub mod nats;

pub mod schemas;

pub mod http;
pub mod jobs;
pub mod reconciler;

pub mod cli;
pub mod clock;
pub mod config;
pub mod metric;
pub mod printable;
pub mod rehearsal;
pub mod service;
pub mod simulation;
pub mod telemetry;
pub mod tls;
