//! How messages get from the publishers to the input stream: directly, or over HTTP and through the journal of a host.

use super::bug_injector::Bug;
use super::fault::Fault;
use super::journal_events::JournalEvent;
use super::world::{Event, World};
use crate::contract::InputKind;
use crate::engine::Delivery;

/// How often a sender repeats a message that was not accepted, as Belvo does.
const RETRIES_MAX: u32 = 5;

impl World {
    pub(super) fn publisher_turn(&mut self) {
        if self.is_finishing {
            return;
        }
        self.turns_left = self.turns_left.saturating_sub(1);
        self.advance_belvo();
        let now = self.now();
        let published = self.publishers.next(&mut self.random, &self.fault_mix, now);
        for (after_ms, delivery) in published.into_iter().chain(self.publishers.status_page.next(now)) {
            if self.fault_mix.occurs(Fault::DuplicateInputs, &mut self.random) {
                let again_ms = after_ms + self.random.delay_ms(3_000);
                self.publish_later(again_ms, delivery.clone());
            }
            self.publish_later(after_ms, delivery);
        }
        let mut pause_ms = self.random.delay_ms(400);
        // A pause gives jobs and sweeps time to make progress.
        if self.client.is_some() && self.random.one_in(20) {
            pause_ms += self.random.within(5_000, 40_000);
        }
        self.later(pause_ms, Event::PublisherTurn);
    }

    /// Most messages that have an HTTP path take it.
    fn publish_later(&mut self, after_ms: i64, delivery: Delivery) {
        let has_path = matches!(
            delivery.kind.parse(),
            Ok(InputKind::Webhook
                | InputKind::ApiError
                | InputKind::Widget
                | InputKind::Command
                | InputKind::InstitutionStatus)
        );
        let event = if has_path && !self.random.one_in(4) {
            Event::Journal(JournalEvent::Request { delivery, retries: 0 })
        } else {
            Event::Publish(delivery)
        };
        self.later(after_ms, event);
    }

    pub(super) fn publish(&mut self, delivery: Delivery) {
        // The publisher gets an error and retries.
        if self.now_ms < self.server_up_at_ms {
            let wait_ms = self.server_up_at_ms - self.now_ms + self.random.delay_ms(50);
            self.later(wait_ms, Event::Publish(delivery));
            return;
        }
        let (partition, subject) = (delivery.partition, delivery.subject.clone());
        let place = self.jetstream.input.publish(delivery, self.server_now_ms() * 1_000_000);
        self.checkers.received(&self.jetstream, place);
        let sequence = self.jetstream.input.ever[place].sequence;
        self.log(|| format!("input {sequence} of partition {partition}: {subject}"));
        self.hand_out_later(partition, 0);
    }

    /// A message arrives at an HTTP server; its sender repeats it if it is not accepted.
    pub(super) fn request(&mut self, delivery: Delivery, retries: u32) {
        if !self.accept(delivery.clone()) && retries < RETRIES_MAX {
            let after_ms = self.random.within(100, 5_000);
            self.later(after_ms, Event::Journal(JournalEvent::Request { delivery, retries: retries + 1 }));
        }
    }

    /// The HTTP server of a running process appends a message to its journal. Returns whether the sender gets an answer with 2xx.
    pub(super) fn accept(&mut self, delivery: Delivery) -> bool {
        let hosts: Vec<usize> = self.processes.keys().filter_map(|id| self.journals.host_of.get(id)).copied().collect();
        if hosts.is_empty() {
            return false;
        }
        let host = *self.random.pick(&hosts);
        let is_refused = self.fault_mix.occurs(Fault::PublishRefused, &mut self.random);
        let (number, entry) = self.journals.note(delivery.clone(), is_refused, self.now());
        let appended = self.journals.hosts[host].append(entry);
        self.log(|| format!("host {host} gets message {number}, {}: {appended:?}", delivery.subject));
        if appended.is_err() && self.options.bug != Some(Bug::AnsweredBeforeSync) {
            self.counts.lost += 1;
            return false;
        }
        self.counts.accepted += 1;
        self.checkers.journal.accepted(number, host, delivery, self.now());
        self.forward_later(host, 0);
        true
    }
}
