//! A relink on this machine with all that it needs: a nats-server of its own, and relink's sandbox in the place of Belvo.
//!
//! The demo and `relink dev` use it. `screen` prints, `subscriber` receives the messages, `parts` starts everything, `tail` prints what
//! happens.

mod parts;
mod screen;
mod subscriber;
mod tail;

pub(super) use self::parts::{Local, quoted};
pub(super) use self::screen::Screen;
pub(super) use self::subscriber::Received;
pub(super) use self::tail::{Tail, transition};
