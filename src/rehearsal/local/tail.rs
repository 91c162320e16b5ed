//! Prints what happens, in order: the webhooks of the sandbox, and the notices (in observe mode what they would be),
//! refusals and new links of relink.

use belvo_sandbox::{Delivery, DeliveryOutcome, Sandbox};
use serde_json::Value;

use super::parts::Local;
use super::screen::Screen;
use super::subscriber::{Received, Subscriber};

/// How far the output has come.
pub(in crate::rehearsal) struct Tail {
    received: usize,
    delivered: u64,
}

impl Tail {
    /// Begins with what comes next.
    pub(in crate::rehearsal) fn from_now_on(local: &Local) -> Self {
        let delivered = local.sandbox.control().deliveries(0).last().map_or(0, |delivery| delivery.seq);
        Self { received: local.subscriber.len(), delivered }
    }

    /// Waits for the next event and prints it. Nothing is lost if the future is dropped; messages are left out only if very many come at once.
    ///
    /// # Errors
    /// If the sandbox or the subscription has ended.
    pub(in crate::rehearsal) async fn next(
        &mut self,
        sandbox: &Sandbox,
        subscriber: &Subscriber,
        screen: &Screen,
    ) -> anyhow::Result<()> {
        let control = sandbox.control();
        tokio::select! {
            delivery = control.wait_for_delivery(self.delivered, |_| true) => {
                let delivery = delivery?;
                self.delivered = delivery.seq;
                screen.action("belvo", &webhook(&delivery));
            }
            received = subscriber.at(self.received) => {
                let (index, received) = received?;
                self.received = index + 1;
                print(&received, screen);
            }
        }
        Ok(())
    }
}

fn webhook(delivery: &Delivery) -> String {
    let outcome = match &delivery.outcome {
        DeliveryOutcome::Answered(status) => format!("is answered {status}"),
        DeliveryOutcome::TimedOut => "has no answer in time".to_owned(),
        DeliveryOutcome::Failed(reason) => format!("fails: {reason}"),
        DeliveryOutcome::Dropped | DeliveryOutcome::NoUrl => "is not sent".to_owned(),
    };
    let Delivery { webhook_type, webhook_code, link_id, .. } = delivery;
    format!("webhook {webhook_type}/{webhook_code} of {link_id} {outcome}")
}

fn print(received: &Received, screen: &Screen) {
    let Received { subject, body } = received;
    let user = body["external_id"].as_str().map(|user| format!("{user}: ")).unwrap_or_default();
    if subject.starts_with("link.notice.") {
        screen.notice(subject, &format!("{user}{}", transition(body)));
        // Here the link is of no use to others: everything listens on this machine only.
        if let Some(url) = body["repair_url"].as_str() {
            screen.aside(&format!("             the user repairs it at {url}"));
        }
    } else if subject.starts_with("link.observed.") {
        screen.notice(subject, &format!("{user}{} (observe mode: this is recorded only)", transition(body)));
    } else if subject.starts_with("link.refused.") {
        let event = body["event"].as_str().map(|event| format!(" by {event}")).unwrap_or_default();
        let why = text_of(&body["detail"]);
        screen.aside(&format!("     relink  {subject}  nothing changed{event}: {why}"));
    } else if subject.starts_with("$KV.links.") && body["version"] == 1 {
        screen.notice(subject, &format!("{user}a new link, {}", text_of(&body["state"])));
    }
}

/// The transition that led to a notice, and what the notice says, on one line.
pub(in crate::rehearsal) fn transition(body: &Value) -> String {
    let because = &body["because"];
    let mut text = format!(
        "{} -> {}, because of {} ({})",
        text_of(&because["from"]),
        text_of(&because["to"]),
        text_of(&because["event"]),
        text_of(&because["origin"]["kind"])
    );
    for detail in ["action", "proof", "by", "attempt", "arrived"] {
        if !body[detail].is_null() {
            text.push_str(&format!(", {detail}: {}", body[detail]));
        }
    }
    text
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
