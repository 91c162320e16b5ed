//! The fleet, and everything that is going to happen to it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use belvo_sandbox::{Control, Login, Sandbox};
use secrecy::SecretString;
use uuid::Uuid;

use super::calendar::Calendar;
use super::checker::Checker;
use super::customer::Customer;
use super::hazards::DAY;
use super::options::FleetOptions;
use super::relink::Relink;
use super::story::Story;
use crate::contract::JobBody;
use crate::link::{LinkId, Timestamp};
use crate::reconciler::Schedule;

/// When the month begins: 2026-03-02T00:00:00Z, a Monday. Any would do.
pub(super) const BEGIN: Timestamp = Timestamp::from_millis(1_772_409_600_000);

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// A link's next trouble.
    Trouble(usize),
    /// The customer reads data of a single link.
    Call(usize),
    /// A user does something.
    Visit(usize, Visit),
    /// A webhook arrives that was late.
    Arrival(Box<InTransit>),
    /// A job is due.
    Job {
        job: Box<JobBody>,
        link: LinkId,
        stored_at: Timestamp,
        tries: i64,
    },
    /// The next step of relink's reconciler.
    Reconcile,
    /// A bank goes down, or confuses its passwords; and is over it.
    BankDown(usize),
    BankUp(usize),
    Confusion(usize),
    ConfusionEnds(usize),
    /// Belvo calls valid again what the confusion broke.
    Amends(usize),
    /// The receiver of webhooks goes down, and comes back.
    ReceiverDown,
    ReceiverUp,
    /// Belvo's API answers 500; it does not any more.
    ApiDown,
    ApiUp,
}

/// The next action of a user.
#[derive(Debug)]
pub(super) enum Visit {
    /// Opens the widget, or the portal for consents.
    Opens,
    /// Is done in the widget, one way or the other.
    Ends { token: SecretString, has_mistyped: bool },
    /// Has an account unlocked at the bank, and opens the widget.
    OpensUnlocked,
    /// Has it repaired where relink does not see it: by a call of the customer's own.
    MendsElsewhere,
}

/// A webhook on its way.
#[derive(Clone, Debug)]
pub(super) struct InTransit {
    pub(super) link: Uuid,
    pub(super) family: String,
    pub(super) code: String,
    pub(super) body: Vec<u8>,
}

/// How a bank is.
#[derive(Debug, Default)]
pub(super) struct BankState {
    /// It answers `institution_down`.
    pub(super) is_down: bool,
    /// It refuses every password.
    pub(super) is_confused: bool,
}

/// One link of the fleet.
pub(super) struct Member {
    pub(super) id: Uuid,
    pub(super) link: LinkId,
    pub(super) bank: usize,
    /// The bank's answer to its credentials, as long as the bank is up.
    pub(super) login: Login,
    /// Whether Belvo's last answer about it was that only its user can help.
    pub(super) refused: bool,
    /// Whether it broke for no fault of its user's.
    pub(super) wronged: bool,
    /// Whether relink has published that it is broken, and not yet that it works again.
    pub(super) told_broken: bool,
    /// Whether its user is about to do something.
    pub(super) is_awaited: bool,
    pub(super) rng: fastrand::Rng,
}

/// The fleet, and all it has to do with.
pub(super) struct Simulation {
    pub(super) options: FleetOptions,
    pub(super) control: Control,
    pub(super) customer: Customer,
    pub(super) relink: Relink,
    pub(super) checker: Checker,
    pub(super) calendar: Calendar<Happening>,
    pub(super) members: Vec<Member>,
    pub(super) banks: Vec<BankState>,
    pub(super) receiver_is_down: bool,
    pub(super) rng: fastrand::Rng,
    pub(super) notices: BTreeMap<&'static str, u64>,
    /// How often relink published that an institution's incident began.
    pub(super) incidents: u64,
    pub(super) webhooks_sent: u64,
    pub(super) jobs_given_up: u64,
    pub(super) refreshes_asked: u64,
    pub(super) story: Story,
    pub(super) index: HashMap<Uuid, usize>,
    /// When relink's reconciler does what.
    pub(super) schedule: Schedule,
    pub(super) sandbox: Sandbox,
}

impl Simulation {
    pub(super) fn now(&self) -> Timestamp {
        self.relink.clock.now()
    }

    pub(super) fn plan_in(&mut self, span: Duration, what: Happening) {
        let at = self.now().after(span);
        self.calendar.plan(at, what);
    }

    /// Whether the last days have come, in which nothing new goes wrong and no user acts.
    pub(super) fn is_quiet(&self) -> bool {
        self.now() >= self.end_of_days()
    }

    pub(super) fn end_of_days(&self) -> Timestamp {
        BEGIN.after(DAY * self.options.days)
    }
}
