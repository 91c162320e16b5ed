//! relink keeps Belvo links alive.
//!
//! A *link* is a user's connection to one bank through Belvo. Webhooks of Belvo, errors of Belvo's API, widget callbacks, observations
//! (results of reading a link from Belvo) and commands of operators are *inputs*: messages in the NATS stream `BELVO`. An engine reads
//! the inputs in order and runs one state machine per link. The new states, the messages to subscribers (*notices*) and the position in
//! the input are committed to the stream `KV_links` as one atomic batch. An embedded store (sled) has the latest state of every link; it
//! can be rebuilt from `KV_links` at any time.
//!
//! This page has three parts: the modules, the path of one webhook through the modules, and the invariants with their
//! tests. ARCHITECTURE.md has the reasons, the table of failures and the glossary; docs/ is for operators and users of
//! relink.
//!
//! # The modules
//!
//! From the centre outwards: imports point only towards the centre, and `tests/architecture.rs` checks this.
//!
//! | module | content |
//! |---|---|
//! | [`link`] | **the core**, pure: the state machine of one link. Start with [`link::machine`], then read its table, [`link::table`]. |
//! | [`repair`] | the signed link in a notice, and the page behind it, on which the user repairs the link |
//! | [`contract`] | the messages on the subjects: every JSON body, as a type |
//! | [`belvo`] | the reading of Belvo's messages, their meaning, and the calls to Belvo's API |
//! | [`store`] | the promise of the store ([`store::Store`]), and its implementation with sled |
//! | [`engine`] | the durable step: deliveries in, one plan of a commit out; synchronous; its only I/O is to read the store |
//! | [`node`] | the commit protocol of a process, as a state machine without I/O: fences, catching up, one commit at a time |
//! | [`activity`] | what relink has done in the last day, as numbers |
//! | [`nats`] | the bus: streams, atomic batches, the publisher, and the driver that runs [`node`] |
//! | [`http`] | the HTTP server: webhooks, reports, the widget, queries about links; the proxy for Belvo's API |
//! | [`outbound`] | HTTP requests to the customer's programs: notices as signed webhooks, Belvo's webhooks passed on |
//! | [`jobs`] | verify and refresh: a call to Belvo, whose result is published as a new input |
//! | [`reconciler`] | sweeps: regular reads of Belvo's API that find changes that no webhook reported |
//! | [`service`], [`config`], [`cli`], [`telemetry`], [`metric`], [`clock`], [`os`], [`tls`], [`direct`] | wiring |
//! | [`trace`] | spans of what relink does, for an OTLP endpoint |
//! | [`drawing`], [`schemas`], [`printable`] | the drawing of the machine; JSON Schemas; texts from outside, made safe for a terminal |
//! | [`wording`] | states, causes and events in words for people |
//! | [`replay`] | the shadow replay: another policy over what relink has recorded |
//! | [`rehearsal`] | relink against its sandbox (the crate `belvo-sandbox`, a stand-in for Belvo): demo, a relink to connect apps to, scenarios, a month of a fleet |
//! | [`simulation`] | node, jobs and reconciler with injected faults: one seed is one run |
//!
//! # The path of one webhook
//!
//! Belvo posts `LINK / invalid_credentials`. These are the steps until a subscriber receives the notice:
//!
//! 1. **Receive.** [`http::router`] routes `POST /webhooks/belvo` to `webhook` (`src/http/ingest.rs`). `check_webhook` (`src/http/auth.rs`)
//!    compares the credentials in constant time; `read` (`src/http/body.rs`) reads at most 1 MiB.
//! 2. **Check.** [`belvo::translate::link_of_webhook`] finds the link id. Then the body is translated by the tables of
//!    [`mod@belvo::translate`]. A body that cannot be read is stored as a dead letter, and refused.
//! 3. **Store.** [`nats::publisher::Publisher::publish`] puts the body, byte for byte, into `BELVO`. NATS assigns the partition by a
//!    hash of the link id. Belvo gets its 200 only after the acknowledgement of JetStream.
//! 4. **Read.** The driver, [`nats::node`], pulls from the consumer of the partition and gives the deliveries to
//!    [`node::Node::handle`], which returns the work as values.
//! 5. **Decide.** [`engine::Engine::plan_at_most`] gets the meaning of each delivery from [`belvo::translate::read`], loads the link from
//!    the store, and calls [`link::step`]: link, event, time and policy in; the new link and its effects out, or a refusal.
//! 6. **Commit.** The plan becomes one atomic batch on `KV_links`: notices, jobs, states, and committed offsets.
//!    [`nats::batch::OpenBatch::commit`] sends its last message. NATS refuses the whole batch if another process has taken over, or if
//!    the previous commit of this process is no longer on the stream.
//! 7. **Apply.** [`store::Store::apply`] writes the same changes to the store. Then the delivery is acknowledged.
//! 8. **Act.** A subscriber of `link.notice.>` receives `update_required` and prompts the user. If the step requires a read of Belvo,
//!    [`jobs::Worker`] calls Belvo and publishes an observation, which enters at step 3.
//!
//! # The invariants
//!
//! A test checks that each test named here exists, and each private function named above.
//!
//! | invariant | test |
//! |---|---|
//! | one outage is one episode with one prompt | `tests/machine/properties.rs`: `leaving_valid_opens_one_episode_with_one_prompt` |
//! | only reminders follow a prompt | `tests/machine/properties.rs`: `an_episode_prompts_at_most_once_and_reminds_only_by_the_ladder` |
//! | an attempt to repair a link ends in `valid` only by proof | `tests/machine/properties.rs`: `updating_becomes_valid_only_by_proof` |
//! | evidence is verified, and never lost | `tests/machine/properties.rs`: `evidence_is_never_lost` |
//! | a repeated input changes nothing | `tests/machine/properties.rs`: `a_repeat_changes_nothing` |
//! | the machine and its table agree | `tests/machine/table.rs`: `the_machine_accepts_exactly_the_transitions_of_the_table` |
//! | replaying the inputs of a link gives the link | `tests/machine/properties.rs`: `a_history_replayed_gives_its_link` |
//! | effects are stored exactly once, whatever fails | `tests/simulation.rs`: `no_input_is_lost_and_no_effect_is_published_twice` |
//! | the checkers of that simulation find injected bugs | `tests/simulation.rs`: `every_injected_bug_is_found` |
//! | the same with real processes and `kill -9` | `tests/kill/ledger.rs`: `check` |
//! | nothing is built on a commit that the stream has lost | `src/node/tests/chain.rs`: `no_commit_is_built_on_one_that_the_stream_has_lost` |
//! | a batch of a replaced owner is refused, whole | `tests/nats/batch.rs`: `a_replaced_owner_is_refused_even_with_a_batch_it_had_staged` |
//! | an unreadable input stops nothing | `tests/service/node.rs`: `an_unreadable_input_becomes_a_dead_letter_and_the_partition_goes_on` |
//! | a new output stream is filled from the store | `tests/service/node.rs`: `a_new_output_stream_is_filled_from_the_store` |
//! | no secret gets into a message, a record or a log | `tests/engine/secrets.rs`: `no_secret_gets_into_a_message_a_record_or_a_log` |
//! | data of every earlier version is read, or refused with a clear error | `tests/compatibility/main.rs`: `VERSIONS` |
//! | imports point towards the centre | `tests/architecture.rs`: `modules_import_only_what_their_row_allows` |

pub mod activity;
pub mod institution;
pub mod link;

pub mod drawing;
pub mod repair;

pub mod contract;

pub mod belvo;
pub mod store;

pub mod engine;
pub mod node;

pub mod nats;

pub mod journal;

pub mod outbound;

pub mod replay;
pub mod schemas;

pub mod http;
pub mod jobs;
pub mod reconciler;

pub mod cli;
pub mod clock;
pub mod config;
pub mod direct;
pub mod metric;
pub mod os;
pub mod printable;
pub mod rehearsal;
pub mod service;
pub mod simulation;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod wording;
