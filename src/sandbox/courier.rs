//! The one task that delivers webhooks: in order of their time, with Belvo's timeout and retries.
//!
//! One parcel at a time, so the order on the wire is the order in the queue and a test that wants disorder asks for it.
//! A refused parcel comes back one step later than the time before (linear back-off), five times; then it is lost, and
//! nothing can read it back. Next: [`super::post_box`], where parcels come from.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::Shared;
use super::clock::millis;
use super::post_box::{DeliveryOutcome, Parcel};
use super::world::Target;

/// The first attempt and five retries (webhook docs, oldest copy).
pub(crate) const ATTEMPTS_MAX: u32 = 6;

/// The task's loop; ends when the sandbox stops.
pub(crate) async fn run(shared: Arc<Shared>, client: reqwest::Client) {
    loop {
        let wait = {
            let mut world = shared.world();
            let now = shared.clock.now_ms();
            match world.post_box.take_due(now) {
                Some(parcel) => Next::Deliver(parcel, world.target.clone()),
                None => Next::Sleep(world.post_box.next_due().map(|due| due - now)),
            }
        };
        match wait {
            Next::Deliver(parcel, target) => {
                let outcome = tokio::select! {
                    outcome = deliver(&client, &parcel, target.as_ref(), shared.config.webhook_timeout) => outcome,
                    () = shared.stop.cancelled() => return,
                };
                settle(&shared, parcel, outcome);
            }
            Next::Sleep(ms) => {
                let nap = Duration::from_millis(ms.map_or(u64::MAX / 4, |ms| u64::try_from(ms).unwrap_or(0)));
                tokio::select! {
                    () = shared.wake.notified() => {}
                    () = tokio::time::sleep(nap) => {}
                    () = shared.stop.cancelled() => return,
                }
            }
        }
    }
}

/// What the loop does next.
enum Next {
    Deliver(Parcel, Option<Target>),
    Sleep(Option<i64>),
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

fn settle(shared: &Shared, mut parcel: Parcel, outcome: DeliveryOutcome) {
    {
        let mut world = shared.world();
        let now = shared.clock.now_ms();
        let lost = outcome.is_ok() || matches!(outcome, DeliveryOutcome::NoUrl) || parcel.attempt >= ATTEMPTS_MAX;
        world.post_box.record(now, &parcel, outcome);
        if !lost {
            let step = millis(shared.config.webhook_retry_step);
            let due_at = now.saturating_add(step.saturating_mul(i64::from(parcel.attempt)));
            parcel.attempt += 1;
            world.enqueue(due_at, parcel);
        }
        world.post_box.in_flight = false;
    }
    shared.announce();
}
