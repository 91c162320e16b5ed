//! The repair of a link by its user: the signed link that a notice carries, and the page behind it.
//!
//! - `link`: signs and verifies the address in `repair_url`, and the addresses to which Belvo's widget returns
//! - `view`: what the page shows for a link
//! - `page`: the template; `texts`: its texts in three languages; `locale`: the choice of the language
//! - `brand`: what the configuration changes; `bank`: the name of a bank
//!
//! This module has no I/O and no clock. `engine` signs addresses; `http` serves the page and mints the widget token.

mod bank;
mod brand;
mod link;
mod locale;
mod page;
mod texts;
mod view;

pub use bank::{readable as readable_bank, shown as shown_bank};
pub use brand::{Brand, Color, Logo};
pub use link::{BadLink, Claims, KEY_LENGTH_MIN, Purpose, RepairLinks};
pub use locale::Locale;
pub use page::{Look, Mistakes, Page, Person, Shown, Trouble, WidgetOnPage};
pub use view::{Need, Successor, View};
