//! The one task that delivers webhooks: in order of their time, with Belvo's timeout and retries.
//!
//! One parcel at a time, the order on the wire is the order in the queue, and a test that wants disorder asks for it.
//! With several at a time it is as with Belvo: nothing is promised, and a slow answer holds up nobody else. Next:
//! [`super::outbox`], where parcels come from, and what follows a delivery.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::JoinSet;

use crate::outbox::{DeliveryOutcome, Parcel};
use crate::shared::{Shared, sleep};
use crate::world::Target;

/// The task's loop; ends when the sandbox stops, and leaves those who are out where they are.
pub(crate) async fn run(shared: Arc<Shared>, client: reqwest::Client) {
    let at_once = shared.config.deliveries_at_once.max(1);
    let mut out = JoinSet::new();
    loop {
        let nap = {
            let mut world = shared.world();
            while out.len() < at_once
                && let Some((_, parcel)) = world.post_box.take_due(shared.clock.now_ms())
            {
                out.spawn(errand(Arc::clone(&shared), client.clone(), parcel, world.target.clone()));
            }
            world.post_box.next_due().filter(|_| out.len() < at_once).and_then(|due_at| shared.clock.until(due_at))
        };
        tokio::select! {
            Some(_done) = out.join_next() => {}
            () = shared.wake.notified() => {}
            () = sleep(nap) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn errand(shared: Arc<Shared>, client: reqwest::Client, parcel: Parcel, target: Option<Target>) {
    let outcome = deliver(&client, &parcel, target.as_ref(), shared.config.webhook_timeout).await;
    if let Some(reason) = outcome.failure() {
        let Parcel { webhook_type, webhook_code, link_id, attempt, .. } = &parcel;
        tracing::warn!(%webhook_type, %webhook_code, link = %link_id, attempt, %reason, "webhook not delivered");
    }
    shared.change(|world, now| world.settle(now, parcel, outcome));
}

async fn deliver(
    client: &reqwest::Client,
    parcel: &Parcel,
    target: Option<&Target>,
    timeout: Duration,
) -> DeliveryOutcome {
    let Some(target) = target else { return DeliveryOutcome::NoUrl };
    let mut request = client.post(&target.url).timeout(timeout).json(&parcel.body);
    if let Some(authorization) = &target.authorization {
        request = request.header(reqwest::header::AUTHORIZATION, authorization.expose_secret());
    }
    match request.send().await {
        Ok(response) => DeliveryOutcome::Answered(response.status().as_u16()),
        Err(error) if error.is_timeout() => DeliveryOutcome::TimedOut,
        Err(error) => DeliveryOutcome::Failed(error.without_url().to_string()),
    }
}
