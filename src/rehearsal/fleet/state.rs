//! The state of the simulation: the fleet and its future events.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use belvo_sandbox::{Control, Login, Sandbox};
use secrecy::SecretString;
use uuid::Uuid;

use super::checker::Checker;
use super::customer::Customer;
use super::event_queue::EventQueue;
use super::http_server::HttpServer;
use super::in_vain::Evidence;
use super::link_log::LinkLog;
use super::mails::Mail;
use super::options::FleetOptions;
use super::rates::{BANKS, DAY, Look};
use super::relink::Relink;
use super::scans::Scans;
use crate::contract::JobBody;
use crate::link::{LinkId, Timestamp};
use crate::nats::subject::Subjects;
use crate::reconciler::Schedule;

/// The start of the simulation: 2026-03-02T00:00:00Z, a Monday. The date is arbitrary.
pub(super) const BEGIN: Timestamp = Timestamp::from_millis(1_772_409_600_000);

/// A future event.
#[derive(Debug)]
pub(super) enum FleetEvent {
    /// The next fault of a link.
    LinkFault(usize),
    /// The customer reads data of a single link.
    Call(usize),
    /// Performs the planned action of a user.
    UserAction(usize, UserAction),
    /// A mail scanner, or the preview of a link, opens the address in a message to the user of a link.
    Scan {
        number: usize,
        mail: Box<Mail>,
        look: &'static Look,
    },
    /// Handles the arrival of a webhook.
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
    /// A bank goes down or refuses all logins, or becomes normal again.
    BankDown(usize),
    BankUp(usize),
    LoginsRefused(usize),
    LoginsAccepted(usize),
    /// Belvo sets the links valid again that the refused logins broke.
    StatusesRestored(usize),
    /// The receiver of webhooks goes down, and is up again.
    ReceiverDown,
    ReceiverUp,
    /// Belvo's API begins to answer 500, or becomes normal again.
    ApiDown,
    ApiUp,
    /// Belvo's status page says that a bank is down (`true`), or that it works again.
    PageReports(usize, bool),
}

/// The next action of a user.
#[derive(Debug)]
pub(super) enum UserAction {
    /// Opens the repair page, or the widget in the app.
    Opens,
    /// Leaves the widget, with a success or an exit. `mail` is the message from which the user came.
    Ends { token: SecretString, has_mistyped: bool, mail: Option<Box<Mail>> },
    /// Has the account unlocked at the bank, and opens the widget.
    OpensUnlocked,
    /// The link is repaired by a call of the customer, which relink does not receive.
    RepairsElsewhere,
}

/// A webhook in transit.
#[derive(Clone, Debug)]
pub(super) struct InTransit {
    pub(super) link: Uuid,
    pub(super) family: String,
    pub(super) code: String,
    pub(super) body: Vec<u8>,
}

/// The state of a bank.
#[derive(Debug, Default)]
pub(super) struct BankState {
    /// The bank answers `institution_down`.
    pub(super) is_down: bool,
    /// The bank refuses every password.
    pub(super) refuses_logins: bool,
    /// What has been reported to relink about it.
    pub(super) evidence: Evidence,
}

/// A link of the fleet.
pub(super) struct Member {
    pub(super) id: Uuid,
    pub(super) link: LinkId,
    pub(super) bank: usize,
    /// The bank's answer to its credentials while the bank is up.
    pub(super) login: Login,
    /// Whether Belvo's last response about it was an error that only its user can resolve.
    pub(super) refused: bool,
    /// Whether it is invalid although its credentials are correct.
    pub(super) is_falsely_invalid: bool,
    /// Whether relink has reported it as broken and not yet as recovered.
    pub(super) is_notified_broken: bool,
    /// Whether its user has connected the bank anew: another link works in its place.
    pub(super) is_replaced: bool,
    /// The last message to its user with the address of the repair page.
    pub(super) mail: Option<Mail>,
    /// Whether an action of its user is scheduled.
    pub(super) has_planned_action: bool,
    pub(super) rng: fastrand::Rng,
}

impl Member {
    pub(super) const fn new(id: Uuid, link: LinkId, bank: usize, login: Login, rng: fastrand::Rng) -> Self {
        Self {
            id,
            link,
            bank,
            login,
            refused: false,
            is_falsely_invalid: false,
            is_notified_broken: false,
            is_replaced: false,
            mail: None,
            has_planned_action: false,
            rng,
        }
    }
}

/// The simulation of a fleet.
pub(super) struct Simulation {
    pub(super) options: FleetOptions,
    pub(super) control: Control,
    pub(super) customer: Customer,
    pub(super) relink: Relink,
    pub(super) http: HttpServer,
    pub(super) subjects: Subjects,
    pub(super) checker: Checker,
    pub(super) scans: Scans,
    pub(super) event_queue: EventQueue<FleetEvent>,
    pub(super) members: Vec<Member>,
    pub(super) banks: Vec<BankState>,
    pub(super) receiver_is_down: bool,
    pub(super) rng: fastrand::Rng,
    pub(super) notices: BTreeMap<&'static str, u64>,
    /// The number of incidents that relink has published.
    pub(super) incidents: u64,
    pub(super) webhooks_sent: u64,
    pub(super) jobs_abandoned: u64,
    pub(super) refreshes_requested: u64,
    pub(super) link_log: LinkLog,
    pub(super) index: HashMap<Uuid, usize>,
    /// The schedule of relink's reconciler.
    pub(super) schedule: Schedule,
    pub(super) sandbox: Sandbox,
}

impl Simulation {
    pub(super) fn now(&self) -> Timestamp {
        self.relink.clock.now()
    }

    pub(super) fn plan_in(&mut self, span: Duration, what: FleetEvent) {
        let at = self.now().after(span);
        self.event_queue.plan(at, what);
    }

    /// Whether the link has a consent, which its user renews in Belvo's portal.
    pub(super) fn has_consent(&self, number: usize) -> bool {
        !BANKS[self.members[number].bank].has_password
    }

    /// Whether the final phase has begun, without new faults and without actions of users.
    pub(super) fn is_final_phase(&self) -> bool {
        self.now() >= self.end_of_days()
    }

    pub(super) fn end_of_days(&self) -> Timestamp {
        BEGIN.after(DAY * self.options.days)
    }
}
