//! The one task that delivers webhooks: in order of their time, with Belvo's timeout and retries.
//!
//! With one webhook at a time, webhooks are sent in the order of the queue; a test changes the order with a
//! fault. With several at a time there is no order, as at Belvo, and a slow response does not delay the others. Next:
//! [`super::outbox`], which queues webhooks and records their deliveries.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::JoinSet;

use crate::outbox::{DeliveryOutcome, QueuedWebhook};
use crate::shared::{Shared, sleep};
use crate::world::Target;

/// The task's loop. The loop ends when the sandbox stops, and drops the attempts in progress.
pub(crate) async fn run(shared: Arc<Shared>, client: reqwest::Client) {
    let at_once = shared.config.deliveries_at_once.max(1);
    let mut out = JoinSet::new();
    loop {
        let nap = {
            let mut world = shared.world();
            while out.len() < at_once
                && let Some((_, queued)) = world.outbox.take_due(shared.clock.now_ms())
            {
                out.spawn(attempt(Arc::clone(&shared), client.clone(), queued, world.target.clone()));
            }
            world.outbox.next_due().filter(|_| out.len() < at_once).and_then(|due_at| shared.clock.until(due_at))
        };
        tokio::select! {
            Some(_done) = out.join_next() => {}
            () = shared.wake.notified() => {}
            () = sleep(nap) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn attempt(shared: Arc<Shared>, client: reqwest::Client, queued: QueuedWebhook, target: Option<Target>) {
    let outcome = deliver(&client, &queued, target.as_ref(), shared.config.webhook_timeout).await;
    if let Some(reason) = outcome.failure() {
        let QueuedWebhook { webhook_type, webhook_code, link_id, attempt, .. } = &queued;
        tracing::warn!(%webhook_type, %webhook_code, link = %link_id, attempt, %reason, "webhook not delivered");
    }
    shared.change(|world, now| world.record_outcome(now, queued, outcome));
}

async fn deliver(
    client: &reqwest::Client,
    queued: &QueuedWebhook,
    target: Option<&Target>,
    timeout: Duration,
) -> DeliveryOutcome {
    let Some(target) = target else { return DeliveryOutcome::NoUrl };
    let mut request = client.post(&target.url).timeout(timeout).json(&queued.body);
    if let Some(authorization) = &target.authorization {
        request = request.header(reqwest::header::AUTHORIZATION, authorization.expose_secret());
    }
    match request.send().await {
        Ok(response) => DeliveryOutcome::Answered(response.status().as_u16()),
        Err(error) if error.is_timeout() => DeliveryOutcome::TimedOut,
        Err(error) => DeliveryOutcome::Failed(error.without_url().to_string()),
    }
}
