//! A link that was broken before relink was installed is adopted: its user gets no prompt until the link is released.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::jetstream::InputStream;
use super::Checked;
use crate::contract::{Address, InputKind, NoticeName};
use crate::engine::{Delivery, Message};

/// Links that a sweep has reported as broken in the first message about them, and that are not unmuted yet.
#[derive(Default)]
pub(super) struct Adoption(BTreeSet<String>);

const RECONCILER: (&str, &str) = ("ce-source", "/relink/reconciler");

impl Adoption {
    /// Records a stored input.
    pub(super) fn received(&mut self, input: &InputStream, place: usize) {
        let delivery = &input.ever[place];
        let is_from_sweep = |headers: &[(String, String)]| {
            headers.iter().any(|(name, value)| (name.as_str(), value.as_str()) == RECONCILER)
        };
        let body: Value = serde_json::from_slice(&delivery.payload).unwrap_or_default();
        if delivery.kind == InputKind::Command.as_str() && (body["command"] == "unmute" || body["command"] == "release")
        {
            self.0.remove(&delivery.link);
        }
        let reports_broken = matches!(body["link"]["status"].as_str(), Some("invalid" | "token_required"));
        // If a sweep has seen the link valid before, this is drift and no adoption.
        let is_mute = |other: &Delivery| is_from_sweep(&other.headers) && other.kind == InputKind::Command.as_str();
        let is_first = input.ever[..place].iter().all(|other| other.link != delivery.link || is_mute(other));
        if is_from_sweep(&delivery.headers) && reports_broken && is_first {
            self.0.insert(delivery.link.clone());
        }
    }

    /// Checks a message of the output stream.
    pub(super) fn check(&self, message: &Message) -> Checked {
        match &message.address {
            Address::Notice(NoticeName::UpdateRequired, link) if self.0.contains(link.as_str()) => Err(format!(
                "{link} was broken before relink was installed, and its user is prompted before the link is released"
            )),
            _other => Ok(()),
        }
    }

    /// Forgets all links after a loss of messages, which may include mutes.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}
