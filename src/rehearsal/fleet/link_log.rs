//! The full history of one link, to find out why it was lost, prompted twice, or left in the wrong state.

use serde_json::Value;

use crate::contract::Address;
use crate::engine::Message;
use crate::link::{LinkId, Timestamp};

/// The log of one link.
#[derive(Debug, Default)]
pub(super) struct LinkLog {
    link: Option<LinkId>,
    pub(super) lines: Vec<String>,
}

impl LinkLog {
    pub(super) fn of(link: Option<LinkId>) -> Self {
        Self { link, lines: Vec::new() }
    }

    /// Logs an event, if it is about the selected link.
    pub(super) fn log(&mut self, link: &LinkId, at: Timestamp, what: impl FnOnce() -> String) {
        if self.link.as_ref() == Some(link) {
            self.lines.push(format!("{at}  {}", what()));
        }
    }

    /// Logs a message of relink, if it is about the selected link.
    pub(super) fn log_message(&mut self, message: &Message) {
        let (Address::State(link) | Address::Notice(_, link) | Address::Job(_, link) | Address::Refused(link)) =
            &message.address
        else {
            return;
        };
        if self.link.as_ref() != Some(link) {
            return;
        }
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let because = &body["because"];
        let line = match &message.address {
            Address::Notice(name, _) => format!("relink   notice {}", name.as_str()),
            Address::Job(name, _) => format!("relink   job {}", name.as_str()),
            Address::Refused(_) => format!("relink   refuses {}: {}", body["event"], body["reason"]),
            _state => {
                format!(
                    "relink   {} -> {} by {} ({})",
                    because["from"], because["to"], because["event"], because["origin"]["kind"]
                )
            }
        };
        self.lines.push(format!("{}  {}", message.at, line.replace('"', "")));
    }
}
