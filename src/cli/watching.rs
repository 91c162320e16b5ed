//! `--watch`: prints the same output again and again, until Ctrl-C or until nobody reads it.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use super::client::is_for_ever;
use super::output::{CLEAR, note_retry, reaches_reader};

/// The pause between two outputs.
const PAUSE: Duration = Duration::from_secs(2);

/// What is printed.
pub(super) enum Output {
    /// A table for people. A terminal shows only the newest one.
    Text(String),
    /// A line for a program.
    Json(String),
}

/// Prints what `read` returns: once, or every two seconds. A relink that has answered once is waited for, because it may restart.
///
/// # Errors
/// The first answer is an error, or a later one that another attempt does not change.
pub(super) async fn print_each(
    is_watched: bool,
    mut read: impl AsyncFnMut() -> anyhow::Result<Output>,
) -> anyhow::Result<ExitCode> {
    let mut has_printed = false;
    loop {
        match read().await {
            Ok(output) => {
                let clear = if is_watched && std::io::stdout().is_terminal() { CLEAR } else { "" };
                let text = match output {
                    Output::Text(text) => format!("{clear}{text}"),
                    Output::Json(text) => text,
                };
                if !reaches_reader(&text)? {
                    return Ok(ExitCode::SUCCESS);
                }
                has_printed = true;
            }
            Err(error) if !has_printed || is_for_ever(&error) => return Err(error),
            Err(error) => note_retry(&error),
        }
        if !is_watched {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::refused;
    use super::*;

    /// What `print_each` makes of these answers, and how many of them it read.
    async fn printed(is_watched: bool, answers: Vec<anyhow::Result<Output>>) -> (Result<ExitCode, String>, usize) {
        let (mut answers, mut count) = (answers.into_iter(), 0);
        let read = async || {
            count += 1;
            answers.next().expect("it ends before the last answer")
        };
        let ended = print_each(is_watched, read).await.map_err(|error| error.to_string());
        (ended, count)
    }

    fn empty() -> anyhow::Result<Output> {
        Ok(Output::Json(String::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_relink_that_restarts_is_waited_for() {
        let away = || Err(anyhow::anyhow!("cannot reach it"));
        let (ended, count) =
            printed(true, vec![empty(), away(), Err(refused(503)), empty(), Err(refused(401)), empty()]).await;
        assert!(ended.is_err_and(|error| error.contains("401")));
        assert_eq!(count, 5, "only an error that another attempt does not change ends it");
        let (ended, count) = printed(true, vec![away(), empty()]).await;
        assert!(ended.is_err() && count == 1, "it was never there");
        let (ended, count) = printed(false, vec![empty(), empty()]).await;
        assert!(ended.is_ok() && count == 1);
    }
}
