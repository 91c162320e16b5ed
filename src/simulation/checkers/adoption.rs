//! A link that was broken before relink came is adopted: its user hears nothing until it is released.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::jetstream::InputStream;
use super::Checked;
use crate::contract::{Address, InputKind, NoticeName};
use crate::engine::{Delivery, Message};

/// Links that relink first heard of by a sweep, as broken, and that nobody has unmuted yet.
#[derive(Default)]
pub(super) struct Adoption(BTreeSet<String>);

const RECONCILER: (&str, &str) = ("ce-source", "/relink/reconciler");

impl Adoption {
    /// An input is stored.
    pub(super) fn heard(&mut self, input: &InputStream, place: usize) {
        let delivery = &input.ever[place];
        let is_from_sweep = |headers: &[(String, String)]| {
            headers.iter().any(|(name, value)| (name.as_str(), value.as_str()) == RECONCILER)
        };
        let body: Value = serde_json::from_slice(&delivery.payload).unwrap_or_default();
        if delivery.kind == InputKind::Command.as_str() && body["command"] == "unmute" {
            self.0.remove(&delivery.link);
        }
        let says_broken = matches!(body["link"]["status"].as_str(), Some("invalid" | "token_required"));
        // A sweep may have seen it work before: then this is what no webhook told, and no adoption.
        let is_mute = |other: &Delivery| is_from_sweep(&other.headers) && other.kind == InputKind::Command.as_str();
        let is_first = input.ever[..place].iter().all(|other| other.link != delivery.link || is_mute(other));
        if is_from_sweep(&delivery.headers) && says_broken && is_first {
            self.0.insert(delivery.link.clone());
        }
    }

    /// A message is on the output stream.
    pub(super) fn check(&self, message: &Message) -> Checked {
        match &message.address {
            Address::Notice(NoticeName::UpdateRequired, link) if self.0.contains(link.as_str()) => {
                Err(format!("{link} was broken before relink came, and its user is prompted before it is released"))
            }
            _other => Ok(()),
        }
    }

    /// What was stored is not there any more: mutes may be among it.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}
