//! The evidence about an institution, and the level that each kind of it shows at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::link::{LinkId, Timestamp};

/// A repeated status, and an incident, count for this long. A status page may forget to say that an outage is over.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);

/// After an outage by errors, the threshold divided by this number keeps it going.
const CALM_DIVISOR: usize = 4;

/// The settings of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many distinct links with an outage error within the window are an outage. 0: outage errors do not count.
    pub links: usize,
    /// The window of outage errors, and how long a level lasts at least.
    pub window: Duration,
}

impl Settings {
    /// How long an incident counts after its last sign. Its end is reported after a calm window, which is earlier.
    fn incident_life(&self) -> Duration {
        LIFE.max(self.window * 2)
    }
}

/// What the evidence shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No evidence of a problem.
    Calm,
    /// Something does not work.
    Trouble,
    /// The institution cannot be used.
    Outage,
}

/// The kind of evidence that led to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Many links of the institution failed together.
    FailingLinks,
    /// Belvo's API answered that the institution is down.
    OutageErrors,
    /// Belvo's status page.
    StatusPage,
}

/// The status of an institution on Belvo's status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageStatus {
    /// Everything works.
    Operational,
    /// Some functions do not work.
    Partial,
    /// Nothing works.
    Major,
}

/// One piece of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence<'a> {
    /// Belvo answered a call about this link with an outage error.
    OutageError(&'a LinkId),
    /// Many links fail together (`true`), or no longer.
    Incident(bool),
    /// The status page.
    Page(PageStatus),
}

/// All evidence that still counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    errors: Errors,
    /// Until when the incident counts if it is not confirmed again.
    incident_until: Option<Timestamp>,
    page: Option<Page>,
}

impl Known {
    /// Takes evidence that is of `at` and is read at `now`.
    pub(super) fn take(&mut self, evidence: Evidence<'_>, at: Timestamp, now: Timestamp, settings: &Settings) {
        match evidence {
            Evidence::OutageError(link) => self.errors.add(link, at, now, settings),
            Evidence::Incident(goes_on) => self.incident_until = goes_on.then(|| now.after(settings.incident_life())),
            Evidence::Page(status) => self.page = Some(Page::after(self.page, status, at, now)),
        }
    }

    /// Forgets the evidence that no longer counts at `now`.
    pub(super) fn expire(&mut self, now: Timestamp, settings: &Settings) {
        self.errors.expire(now, settings);
        self.incident_until = self.incident_until.filter(|until| now < *until);
        self.page = self.page.filter(|page| now < page.until);
    }

    /// Evidence that was read by a clock that was ahead counts from `now`, the latest time that it may be, at most for its usual time.
    pub(super) fn correct_times(&mut self, now: Timestamp, settings: &Settings) {
        self.errors.correct_times(now, settings);
        self.incident_until = self.incident_until.map(|until| until.min(now.after(settings.incident_life())));
        self.page = self.page.map(|page| Page { until: page.until.min(now.after(LIFE)), at: page.at.min(now), ..page });
    }

    /// What the evidence shows, and its kind.
    pub(super) fn level(&self, settings: &Settings) -> (Level, Cause) {
        let incident = if self.incident_until.is_some() { Level::Outage } else { Level::Calm };
        let page = self.page_level();
        let all = [
            (incident, Cause::FailingLinks),
            (self.errors.level(settings), Cause::OutageErrors),
            (page, Cause::StatusPage),
        ];
        // Of equal levels the first kind counts.
        all.into_iter().reduce(|first, next| if next.0 > first.0 { next } else { first }).unwrap_or(all[0])
    }

    /// What the status page shows.
    pub(super) fn page_level(&self) -> Level {
        self.page.map_or(Level::Calm, |page| page.level)
    }

    /// When evidence stops to count, if nothing new arrives.
    pub(super) fn next_expiry(&self, settings: &Settings) -> Option<Timestamp> {
        let page = self.page.map(|page| page.until);
        [self.errors.next_expiry(settings), self.incident_until, page].into_iter().flatten().min()
    }

    /// How many links had an outage error within the window.
    pub(super) fn error_links(&self) -> usize {
        self.errors.recent.len()
    }

    /// Evidence of this kind was known before a restart, and its state began at `since`.
    pub(super) fn restore(
        &mut self,
        level: Level,
        cause: Cause,
        since: Timestamp,
        now: Timestamp,
        settings: &Settings,
    ) {
        match cause {
            Cause::FailingLinks => self.incident_until = Some(now.after(settings.incident_life())),
            // The links are not known any more, so the level holds for one window.
            Cause::OutageErrors => self.errors.floor = Some((level, now.after(settings.window))),
            // Restarts must not make an outage longer, so the end is counted from its beginning.
            Cause::StatusPage => self.page = Some(Page { level, until: since.after(LIFE), at: since }),
        }
    }
}

/// Links with an outage error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Errors {
    /// At most as many links as the threshold, those with the newest errors: when the error was received, and when it
    /// was read.
    recent: BTreeMap<LinkId, (Timestamp, Timestamp)>,
    /// The level lasts until then, whatever the links show. After a restart the links are not known.
    floor: Option<(Level, Timestamp)>,
}

impl Errors {
    /// The window is that of the times of receipt, so that a backlog gives the same result however fast it is read. Its
    /// end is that of the times of reading, so that an outage does not end while its backlog has not been read.
    fn add(&mut self, link: &LinkId, at: Timestamp, now: Timestamp, settings: &Settings) {
        if settings.links == 0 {
            return;
        }
        let latest = self.recent.get(link).map_or(at, |(known, _)| at.max(*known));
        self.recent.insert(link.clone(), (latest, now));
        let newest = self.recent.values().map(|(at, _)| *at).max().unwrap_or(at);
        self.recent.retain(|_, (at, _)| newest < at.after(settings.window));
        if self.recent.len() > settings.links {
            let oldest = self.recent.iter().min_by_key(|(_, times)| **times).map(|(link, _)| link.clone());
            oldest.and_then(|link| self.recent.remove(&link));
        }
        // A level lasts a window: errors that are almost too old must not make the state change back at once.
        let level = self.level(settings);
        if level > Level::Calm {
            self.floor = Some((level, now.after(settings.window)));
        }
    }

    fn expire(&mut self, now: Timestamp, settings: &Settings) {
        self.recent.retain(|_, (_, read_at)| now < read_at.after(settings.window));
        self.floor = self.floor.filter(|(_, until)| now < *until);
    }

    fn correct_times(&mut self, now: Timestamp, settings: &Settings) {
        for (at, read_at) in self.recent.values_mut() {
            (*at, *read_at) = ((*at).min(now), (*read_at).min(now));
        }
        self.floor = self.floor.map(|(level, until)| (level, until.min(now.after(settings.window))));
    }

    fn level(&self, settings: &Settings) -> Level {
        let floor = self.floor.map_or(Level::Calm, |(level, _)| level);
        let count = self.recent.len();
        let few = settings.links.div_ceil(CALM_DIVISOR).max(1);
        let shown = if settings.links == 0 || count < few {
            Level::Calm
        } else if count >= settings.links || floor == Level::Outage {
            Level::Outage
        } else {
            Level::Trouble
        };
        floor.max(shown)
    }

    fn next_expiry(&self, settings: &Settings) -> Option<Timestamp> {
        let recent = self.recent.values().map(|(_, read_at)| read_at.after(settings.window)).min();
        [recent, self.floor.map(|(_, until)| until)].into_iter().flatten().min()
    }
}

/// What the status page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    level: Level,
    until: Timestamp,
    /// The time of the last report. An older report that arrives later does not count.
    at: Timestamp,
}

impl Page {
    /// The page after a report. People write it, so each report counts at once.
    fn after(page: Option<Self>, status: PageStatus, at: Timestamp, now: Timestamp) -> Self {
        let level = match status {
            PageStatus::Operational => Level::Calm,
            PageStatus::Partial => Level::Trouble,
            PageStatus::Major => Level::Outage,
        };
        let report = Self { level, until: now.after(LIFE), at };
        page.filter(|known| at < known.at).unwrap_or(report)
    }
}
