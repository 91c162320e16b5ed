//! The examples in the help of the subcommands.

use crate::config;

pub(super) const EXAMPLES: &str = "\
Examples:
  relink demo                          a demonstration, with everything that it needs
  relink dev                           relink with a stand-in for Belvo, to connect your application
  relink serve --config relink.toml    run the service
  relink check-config                  the resolved configuration, and the origin of each value
  relink why 16f68516-bcbc-4cf7-b815-c500d4204e28
                                       the history of that link
  relink stats                         how many repairs succeed, and how long they take
  relink machine --format mermaid      a diagram of the state machine";

pub(super) const SERVE_EXAMPLES: &str = "\
Examples:
  RELINK_WEBHOOK_SECRETS='Bearer s3cret' relink serve
  relink serve --config relink.toml --listen 0.0.0.0:8480
`relink serve --help` lists all settings.";

pub(super) const SANDBOX_EXAMPLES: &str = "\
Examples:
  relink sandbox --webhook-url http://127.0.0.1:8480/webhooks/belvo
                                       a simulated Belvo; links are broken by its control API
  relink sandbox --scenario scenarios/account-locked.toml --api-token TOKEN
                                       play a scenario against a running relink
  relink sandbox --links 10000 --days 30 --seed 7
                                       a month of 10,000 links, in a few minutes";

pub(super) const SIMULATE_EXAMPLES: &str = "\
Examples:
  relink simulate --minutes 10         new seeds for ten minutes
  relink simulate --seeds 5000 --from 1
                                       these seeds, with the same result each time
  relink simulate --seed 42 --trace    one run, and its last events";

pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 after a stop or a success, 78 if the configuration cannot be used, 1 after any other error, 2 for wrong flags.";

pub(super) fn serve_help() -> String {
    format!("{SERVE_EXAMPLES}\n\n{EXIT_CODES}\n\n{}", config::help())
}
