//! The one task that delivers webhooks: in order of their time, with Belvo's timeout and retries.
//!
//! One parcel at a time, so the order on the wire is the order in the queue and a test that wants disorder asks for it.
//! Next: [`super::post_box`], where parcels come from, and what follows a delivery.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::Shared;
use super::post_box::{DeliveryOutcome, Parcel};
use super::world::Target;

/// The task's loop; ends when the sandbox stops.
pub(crate) async fn run(shared: Arc<Shared>, client: reqwest::Client) {
    loop {
        let wait = {
            let mut world = shared.world();
            let now = shared.clock.now_ms();
            match world.post_box.take_due(now) {
                Some((_, parcel)) => Next::Deliver(parcel, world.target.clone()),
                None => Next::Sleep(world.post_box.next_due().and_then(|due_at| shared.clock.until(due_at))),
            }
        };
        match wait {
            Next::Deliver(parcel, target) => {
                let outcome = tokio::select! {
                    outcome = deliver(&client, &parcel, target.as_ref(), shared.config.webhook_timeout) => outcome,
                    () = shared.stop.cancelled() => return,
                };
                shared.change(|world, now| world.settle(now, parcel, outcome));
            }
            Next::Sleep(nap) => {
                tokio::select! {
                    () = shared.wake.notified() => {}
                    () = super::sleep(nap) => {}
                    () = shared.stop.cancelled() => return,
                }
            }
        }
    }
}

/// What the loop does next.
enum Next {
    Deliver(Parcel, Option<Target>),
    Sleep(Option<Duration>),
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
