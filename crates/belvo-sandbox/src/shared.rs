//! The state that the server, the dispatcher and the control API share, behind a lock, with the clock and the signals.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, millis};
use crate::config::SandboxConfig;
use crate::rate_limit::RateLimit;
use crate::world::{Rules, Target, World};

/// Shared by the server, the dispatcher and the control API.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SandboxConfig,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
    /// Wakes the dispatcher.
    pub(crate) wake: Notify,
    /// Changes after each delivery and each new webhook.
    pub(crate) changed: watch::Sender<u64>,
    world: Mutex<World>,
}

impl Shared {
    pub(crate) fn new(config: SandboxConfig) -> Self {
        let rules = Rules {
            data_delay_ms: millis(config.data_delay),
            logins_until_invalid: config.logins_until_invalid.max(1),
            retry_step_ms: millis(config.webhook_retry_step),
            deliveries_kept: config.deliveries_kept,
            schedule: config.schedule,
            repeats_while_broken: config.repeats_while_broken,
            consent_warnings: config.consent_warnings,
            monthly_wipe: config.monthly_wipe,
        };
        let clock = Clock::new(config.time);
        let authorization = config.webhook_authorization.clone();
        let target = config.webhook_url.clone().map(|url| Target { url, authorization });
        let mut world = World::new(rules, config.seed, target, config.payload_shape);
        world.rate_limit = RateLimit::new(config.requests_per_30s);
        world.plan_wipe(clock.now_ms());
        Self {
            world: Mutex::new(world),
            clock,
            stop: CancellationToken::new(),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            config,
        }
    }

    /// The state. Never held across an await.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs all due actions, then changes the state; then wakes the dispatcher and the waiting tasks.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World, i64) -> T) -> T {
        let answer = {
            let mut world = self.world();
            let now = self.clock.now_ms();
            world.do_what_is_due(now);
            change(&mut world, now)
        };
        self.announce();
        answer
    }

    /// Moves the time forward; scheduled actions happen at their own times.
    pub(crate) fn advance(&self, span_ms: impl FnOnce(i64) -> i64) {
        {
            let mut world = self.world();
            let span_ms = span_ms(self.clock.now_ms());
            world.do_what_is_due(self.clock.advance(span_ms));
        }
        self.announce();
    }

    /// Wakes the dispatcher and the waiting tasks.
    fn announce(&self) {
        self.wake.notify_one();
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Sleeps for the span; `None` means forever.
pub(crate) async fn sleep(nap: Option<Duration>) {
    match nap {
        Some(nap) => tokio::time::sleep(nap).await,
        None => std::future::pending().await,
    }
}

/// Runs the schedule until the sandbox stops. A manual clock does not need it: moving the clock does the same.
pub(crate) async fn run_schedule(shared: Arc<Shared>) {
    let mut changed = shared.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let nap = shared.world().schedule.next_due().and_then(|due_at| shared.clock.until(due_at));
        tokio::select! {
            () = sleep(nap) => shared.change(|_, _| ()),
            _ = changed.changed() => {}
            () = shared.stop.cancelled() => return,
        }
    }
}
