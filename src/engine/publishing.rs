//! How the effects of the machine are published: with the address of the repair page or without it, and as notices or, in observe mode, as
//! a record of what relink would have sent, and with spans or without.

use crate::contract::{Address, NoticeName, SampleRatio};
use crate::link::{Job, LinkId};
use crate::repair::RepairLinks;

/// How the effects of the machine are published.
#[derive(Clone, Default)]
pub struct Publishing {
    /// Signs the address of the repair page in notices; `None` if the page is not configured.
    pub repair_links: Option<RepairLinks>,
    /// relink only observes: it sends no notice, and changes nothing at Belvo.
    pub observe: bool,
    /// Each step is recorded as a span; of the traces that begin here, this share. `None`: no spans, and the trace of an input is only
    /// passed on.
    pub spans: Option<SampleRatio>,
}

impl Publishing {
    /// The address of a notice. A subscriber of notices, and an HTTP target, read `link.notice.>` only.
    pub(super) fn address_of(&self, name: NoticeName, link: LinkId) -> Address {
        if self.observe { Address::Observed(name, link) } else { Address::Notice(name, link) }
    }

    /// Whether the job is published. A refresh lets Belvo log in at the bank, which another system may do at the same time; the other jobs
    /// only read.
    pub(super) const fn includes(&self, job: &Job) -> bool {
        match job {
            Job::Refresh { .. } => !self.observe,
            Job::Verify { .. } | Job::FindSuperseded | Job::ReadSuccessor { .. } => true,
        }
    }
}
