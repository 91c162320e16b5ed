//! The sandbox as a library: a link breaks, and a year is simulated, in a few milliseconds and without a webhook receiver.
//!
//! `cargo run -p belvo-sandbox --example break_a_link`

use std::time::Duration;

use belvo_sandbox::{
    AccessMode, DeliveryOutcome, RefreshOutcome, Sandbox, SandboxConfig, SandboxTime, WebhookDelivery,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = SandboxConfig {
        // 2026-01-01T00:00:00Z; the clock moves only on request.
        time: SandboxTime::Driven { from_ms: 1_767_225_600_000 },
        schedule: true,
        delivery: WebhookDelivery::ByHand,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await?;
    let control = sandbox.control();
    let link = control.create_link("erebor_mx_retail", AccessMode::Recurrent, Some("user-1"))?;
    anstream::println!(
        "Belvo's API is at {}/api/; link {link} is {}",
        sandbox.url(),
        control.status_of(link)?.as_str()
    );

    control.scheduled_refresh(link, RefreshOutcome::LoginError)?;
    control.advance(Duration::from_secs(1));
    for webhook in control.take_webhooks() {
        anstream::println!("{}/{}", webhook.webhook_type, webhook.webhook_code);
        control.record_outcome(webhook, DeliveryOutcome::Answered(200));
    }
    anstream::println!("now the link is {}", control.status_of(link)?.as_str());

    control.repair(link)?;
    control.advance(Duration::from_secs(365 * 24 * 3_600));
    anstream::println!("a year later {} webhooks are due", control.take_webhooks().len());
    sandbox.shutdown().await;
    Ok(())
}
