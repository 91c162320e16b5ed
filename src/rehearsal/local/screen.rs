//! The output of the demo and of `relink dev`. It has colours only on a terminal and without NO_COLOR.

use std::io::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::contract::StateWord;
use crate::printable::{printable, printable_lines};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

/// The pause after a line, for a reader.
const PACE: Duration = Duration::from_millis(500);

/// Prints a line. A terminal that was closed is no error: the demo then gets SIGHUP, and stops its nats-server and removes its
/// directory. `println!` would panic instead.
macro_rules! print_line {
    ($($line:tt)*) => {
        let _ = writeln!(anstream::stdout(), $($line)*);
    };
}

/// The output.
pub(in crate::rehearsal) struct Screen {
    /// Whether there are pauses.
    paced: bool,
}

impl Screen {
    pub(in crate::rehearsal) const fn new(paced: bool) -> Self {
        Self { paced }
    }

    /// Pauses the output; the parts of the demo keep running.
    pub(in crate::rehearsal) async fn pause(&self) {
        if self.paced {
            tokio::time::sleep(PACE).await;
        }
    }

    pub(in crate::rehearsal) fn title(&self, text: &str) {
        print_line!("\n{BOLD}{text}{BOLD:#}\n");
    }

    pub(in crate::rehearsal) fn section(&self, number: &str, text: &str) {
        print_line!("\n{BOLD}{number}. {text}{BOLD:#}");
    }

    /// An action of a user, a bank, the application or a part of the demo.
    pub(in crate::rehearsal) fn action(&self, who: &str, text: &str) {
        let (who, text) = (printable(who), printable(text));
        print_line!("   {CYAN}{who:>8}{CYAN:#}  {text}");
    }

    /// A notice from the stream.
    pub(in crate::rehearsal) fn notice(&self, subject: &str, text: &str) {
        let (subject, text) = (printable(subject), printable(text));
        print_line!("   {GREEN}{:>8}{GREEN:#}  {subject}  {DIM}{text}{DIM:#}", "relink");
    }

    pub(in crate::rehearsal) fn text(&self, text: &str) {
        print_line!("{}", printable_lines(text));
    }

    pub(in crate::rehearsal) fn aside(&self, text: &str) {
        print_line!("{DIM}{}{DIM:#}", printable_lines(text));
    }

    pub(in crate::rehearsal) fn problem(&self, text: &str) {
        print_line!("\n{RED}{}{RED:#}", printable_lines(text));
    }

    pub(in crate::rehearsal) fn heading(&self, columns: [&str; 5]) {
        let [link, user, institution, state, prompts] = columns;
        print_line!("\n   {BOLD}{link:<36}  {user:<6}  {institution:<20}  {state:<15}  {prompts}{BOLD:#}");
    }

    pub(in crate::rehearsal) fn row(&self, columns: [&str; 4], state: StateWord, is_correct: bool) {
        let [link, user, institution, prompts] = columns.map(printable);
        let style = match state {
            StateWord::Valid => GREEN,
            StateWord::Invalid | StateWord::TokenRequired => RED,
            StateWord::Updating | StateWord::Unconfirmed | StateWord::Removed => YELLOW,
        };
        let name = crate::link::StateName::from(state).as_str();
        let mark = if is_correct { "" } else { "  <- not the expected state" };
        print_line!(
            "   {link:<36}  {user:<6}  {institution:<20}  {style}{name:<15}{style:#}  {prompts}{RED}{mark}{RED:#}"
        );
    }

    pub(in crate::rehearsal) fn command(&self, what: &str, command: &str) {
        print_line!("   {DIM}# {what}{DIM:#}\n   {}\n", printable_lines(command));
    }
}
