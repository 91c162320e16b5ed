//! Faults of single links, of banks, of the webhook receiver, and of Belvo's API.

use std::time::Duration;

use belvo_sandbox::{ApiFault, LinkStatus, Login, LoginFailure};
use serde_json::json;

use super::checker::GroundTruth;
use super::rates::{
    API_DOWN, BANK_DOWN, BANKS, DAY, Disturbance, Draw, LOGINS_REFUSED, PAGE_REPORTS, RECEIVER_DOWN, STATUS_RESTORE,
    per_day_and_million, percent,
};
use super::state::{BankState, FleetEvent, Simulation};
use crate::contract::{InputKind, STATUS_PAGE};

/// A fault of a single link.
#[derive(Clone, Copy, Debug)]
enum LinkFault {
    PasswordChanged,
    TokenWanted,
    Locked,
    Deleted,
}

/// The faults of the links of a bank, with their rates.
fn link_faults(bank: usize) -> impl Iterator<Item = (LinkFault, u32)> {
    let of_passwords = [
        (LinkFault::PasswordChanged, per_day_and_million::PASSWORD_CHANGED),
        (LinkFault::TokenWanted, per_day_and_million::TOKEN_WANTED),
        (LinkFault::Locked, per_day_and_million::LOCKED),
    ];
    let of_passwords = of_passwords.into_iter().filter(move |_| BANKS[bank].has_password);
    of_passwords.chain([(LinkFault::Deleted, per_day_and_million::DELETED)])
}

impl Simulation {
    pub(super) fn time_to_fault(&self, bank: usize, rng: &mut fastrand::Rng) -> Duration {
        let per_million: u32 = link_faults(bank).map(|(_, rate)| rate).sum();
        rng.wait_for(DAY.mul_f64(1e6 / f64::from(per_million)))
    }

    /// Injects a fault into a link; it has its effect at the next login.
    pub(super) async fn link_fault(&mut self, number: usize) -> anyhow::Result<()> {
        if self.is_final_phase() || self.checker.truth(number) == GroundTruth::Gone {
            return Ok(());
        }
        let bank = self.members[number].bank;
        let mut rng = self.members[number].rng.fork();
        let mut drawn = rng.u32(0..link_faults(bank).map(|(_, rate)| rate).sum());
        let link_fault = link_faults(bank).find(|(_, rate)| {
            let is_this = drawn < *rate;
            drawn = drawn.saturating_sub(*rate);
            is_this
        });
        let login = match link_fault {
            Some((LinkFault::PasswordChanged, _)) => Login::Fails(LoginFailure::InvalidCredentials),
            Some((LinkFault::TokenWanted, _)) => Login::TokenRequired,
            Some((LinkFault::Locked, _)) => Login::Fails(LoginFailure::Locked),
            Some((LinkFault::Deleted, _)) | None => {
                let link = self.members[number].link.clone();
                self.customer.delete(&link, rng.happens(percent::DELETED_WITH_WEBHOOK)).await?;
                self.update_truth(number);
                Login::Works
            }
        };
        let member = &mut self.members[number];
        if member.login == Login::Works && self.checker.truth(number) == GroundTruth::Works {
            member.login = login;
            self.set_sandbox_login(number);
        }
        let wait = self.time_to_fault(bank, &mut rng);
        self.plan_in(wait, FleetEvent::LinkFault(number));
        Ok(())
    }

    /// Sets the bank's answer to this link's credentials in the sandbox.
    pub(super) fn set_sandbox_login(&self, number: usize) {
        let member = &self.members[number];
        let login = match &self.banks[member.bank] {
            BankState { is_down: true, .. } => Login::Answers("institution_down".to_owned()),
            BankState { refuses_logins: true, .. } if member.login == Login::Works => {
                Login::Fails(LoginFailure::InvalidCredentials)
            }
            BankState { .. } => member.login.clone(),
        };
        // The call fails for a deleted link, which needs no login.
        let _gone = self.control.set_login(member.id, login);
    }

    /// Schedules the first disturbance of each kind.
    pub(super) fn plan_disturbances(&mut self) {
        for (bank, kind) in BANKS.iter().enumerate() {
            self.plan_next(&BANK_DOWN, FleetEvent::BankDown(bank));
            if kind.has_password {
                self.plan_next(&LOGINS_REFUSED, FleetEvent::LoginsRefused(bank));
            }
        }
        self.plan_next(&RECEIVER_DOWN, FleetEvent::ReceiverDown);
        self.plan_next(&API_DOWN, FleetEvent::ApiDown);
    }

    fn plan_next(&mut self, disturbance: &Disturbance, what: FleetEvent) {
        let wait = self.rng.wait_for(disturbance.every);
        self.plan_in(wait, what);
    }

    fn plan_end(&mut self, disturbance: &Disturbance, what: FleetEvent) {
        let lasts = self.rng.between(disturbance.lasts);
        self.plan_in(lasts, what);
    }

    /// Starts or ends a disturbance of many links.
    pub(super) fn handle_disturbance(&mut self, event: FleetEvent) -> anyhow::Result<()> {
        let begins = matches!(
            event,
            FleetEvent::BankDown(_) | FleetEvent::LoginsRefused(_) | FleetEvent::ReceiverDown | FleetEvent::ApiDown
        );
        if begins && self.is_final_phase() {
            return Ok(());
        }
        match event {
            FleetEvent::BankDown(bank) => {
                self.banks[bank].is_down = true;
                self.plan_end(&BANK_DOWN, FleetEvent::BankUp(bank));
                if self.rng.happens(percent::ON_STATUS_PAGE) {
                    self.plan_page(bank, true);
                }
                self.set_sandbox_logins(bank);
            }
            FleetEvent::BankUp(bank) => {
                self.banks[bank].is_down = false;
                self.plan_next(&BANK_DOWN, FleetEvent::BankDown(bank));
                self.set_sandbox_logins(bank);
                if self.banks[bank].evidence.page_says_down {
                    self.plan_page(bank, false);
                }
            }
            FleetEvent::LoginsRefused(bank) => {
                self.banks[bank].refuses_logins = true;
                self.plan_end(&LOGINS_REFUSED, FleetEvent::LoginsAccepted(bank));
                self.set_sandbox_logins(bank);
            }
            FleetEvent::LoginsAccepted(bank) => {
                self.banks[bank].refuses_logins = false;
                self.plan_next(&LOGINS_REFUSED, FleetEvent::LoginsRefused(bank));
                self.set_sandbox_logins(bank);
                let restore_in = self.rng.between(STATUS_RESTORE);
                self.plan_in(restore_in, FleetEvent::StatusesRestored(bank));
                for number in self.with_bank(bank) {
                    if self.members[number].refused && self.members[number].is_falsely_invalid {
                        self.members[number].refused = false;
                        self.update_truth(number);
                    }
                }
            }
            FleetEvent::StatusesRestored(bank) => self.restore_statuses(bank)?,
            FleetEvent::ReceiverDown => {
                self.receiver_is_down = true;
                self.plan_end(&RECEIVER_DOWN, FleetEvent::ReceiverUp);
            }
            FleetEvent::ReceiverUp => {
                self.receiver_is_down = false;
                self.plan_next(&RECEIVER_DOWN, FleetEvent::ReceiverDown);
            }
            FleetEvent::ApiDown => {
                self.control.fail_api(ApiFault::server_error(), usize::MAX, "/api/")?;
                self.plan_end(&API_DOWN, FleetEvent::ApiUp);
            }
            FleetEvent::ApiUp => {
                self.control.clear_faults();
                self.plan_next(&API_DOWN, FleetEvent::ApiDown);
            }
            // An outage that was short is never on the page.
            FleetEvent::PageReports(bank, true) if !self.banks[bank].is_down => {}
            FleetEvent::PageReports(bank, is_down) => self.page_reports(bank, is_down)?,
            other => anyhow::bail!("{other:?} is not a disturbance"),
        }
        Ok(())
    }

    fn plan_page(&mut self, bank: usize, is_down: bool) {
        let wait = self.rng.between(PAGE_REPORTS);
        self.plan_in(wait, FleetEvent::PageReports(bank, is_down));
    }

    /// Belvo's status page sends a webhook about a bank.
    fn page_reports(&mut self, bank: usize, is_down: bool) -> anyhow::Result<()> {
        self.banks[bank].evidence.page_says_down = is_down;
        let (incident, component) =
            if is_down { ("investigating", "major_outage") } else { ("resolved", "operational") };
        let components = json!([{"name": BANKS[bank].name, "status": component}]);
        let updated_at = self.now().to_string();
        let body = json!({"incident": {"status": incident, "updated_at": updated_at, "components": components}});
        self.relink.receive(InputKind::InstitutionStatus, STATUS_PAGE.parse()?, serde_json::to_vec(&body)?);
        Ok(())
    }

    /// Belvo sets the links valid again that the refused logins have broken, without a webhook.
    fn restore_statuses(&mut self, bank: usize) -> anyhow::Result<()> {
        for number in self.with_bank(bank) {
            let member = &mut self.members[number];
            if !std::mem::take(&mut member.is_falsely_invalid) || self.checker.truth(number) != GroundTruth::Broken {
                continue;
            }
            let id = member.id;
            if self.control.status_of(id)? == LinkStatus::Invalid {
                self.control.set_status(id, LinkStatus::Valid)?;
                self.set_sandbox_login(number);
            }
            self.update_truth(number);
        }
        Ok(())
    }

    fn set_sandbox_logins(&self, bank: usize) {
        self.with_bank(bank).into_iter().for_each(|number| self.set_sandbox_login(number));
    }

    fn with_bank(&self, bank: usize) -> Vec<usize> {
        (0..self.members.len()).filter(|&number| self.members[number].bank == bank).collect()
    }
}
