//! The banks and Belvo: what goes wrong with one link, with one bank, and with the machines between them.

use std::time::Duration;

use belvo_sandbox::{ApiFault, LinkStatus, Login, LoginFailure};

use super::checker::GroundTruth;
use super::hazards::{
    AMENDS, API_DOWN, BANK_CONFUSED, BANK_DOWN, BANKS, DAY, Disturbance, Draw, RECEIVER_DOWN, per_day_and_million,
    percent,
};
use super::state::{BankState, Happening, Simulation};

/// A trouble of a single link.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    PasswordChanged,
    TokenWanted,
    Locked,
    Deleted,
}

/// What can happen to a link of such a bank, and how often.
fn troubles(bank: usize) -> impl Iterator<Item = (Trouble, u32)> {
    let of_passwords = [
        (Trouble::PasswordChanged, per_day_and_million::PASSWORD_CHANGED),
        (Trouble::TokenWanted, per_day_and_million::TOKEN_WANTED),
        (Trouble::Locked, per_day_and_million::LOCKED),
    ];
    let of_passwords = of_passwords.into_iter().filter(move |_| BANKS[bank].has_password);
    of_passwords.chain([(Trouble::Deleted, per_day_and_million::DELETED)])
}

impl Simulation {
    pub(super) fn time_to_trouble(&self, bank: usize, rng: &mut fastrand::Rng) -> Duration {
        let per_million: u32 = troubles(bank).map(|(_, rate)| rate).sum();
        rng.wait_for(DAY.mul_f64(1e6 / f64::from(per_million)))
    }

    /// Something happens to a link; it shows at the next login.
    pub(super) async fn trouble(&mut self, number: usize) -> anyhow::Result<()> {
        if self.is_quiet() || self.checker.truth(number) == GroundTruth::Gone {
            return Ok(());
        }
        let bank = self.members[number].bank;
        let mut rng = self.members[number].rng.fork();
        let mut drawn = rng.u32(0..troubles(bank).map(|(_, rate)| rate).sum());
        let trouble = troubles(bank).find(|(_, rate)| {
            let is_this = drawn < *rate;
            drawn = drawn.saturating_sub(*rate);
            is_this
        });
        let login = match trouble {
            Some((Trouble::PasswordChanged, _)) => Login::Fails(LoginFailure::InvalidCredentials),
            Some((Trouble::TokenWanted, _)) => Login::TokenRequired,
            Some((Trouble::Locked, _)) => Login::Fails(LoginFailure::Locked),
            Some((Trouble::Deleted, _)) | None => {
                let link = self.members[number].link.clone();
                self.customer.delete(&link, rng.happens(percent::DELETED_ALOUD)).await?;
                self.look(number);
                Login::Works
            }
        };
        let member = &mut self.members[number];
        if member.login == Login::Works && self.checker.truth(number) == GroundTruth::Works {
            member.login = login;
            self.show_login(number);
        }
        let wait = self.time_to_trouble(bank, &mut rng);
        self.plan_in(wait, Happening::Trouble(number));
        Ok(())
    }

    /// Sets the bank's answer to this link's credentials in the sandbox.
    pub(super) fn show_login(&self, number: usize) {
        let member = &self.members[number];
        let login = match &self.banks[member.bank] {
            BankState { is_down: true, .. } => Login::Answers("institution_down".to_owned()),
            BankState { is_confused: true, .. } if member.login == Login::Works => {
                Login::Fails(LoginFailure::InvalidCredentials)
            }
            BankState { .. } => member.login.clone(),
        };
        // A link that is gone needs none.
        let _gone = self.control.set_login(member.id, login);
    }

    /// Plans the first of each kind of disturbance.
    pub(super) fn plan_disturbances(&mut self) {
        for (bank, kind) in BANKS.iter().enumerate() {
            self.plan_next(&BANK_DOWN, Happening::BankDown(bank));
            if kind.has_password {
                self.plan_next(&BANK_CONFUSED, Happening::Confusion(bank));
            }
        }
        self.plan_next(&RECEIVER_DOWN, Happening::ReceiverDown);
        self.plan_next(&API_DOWN, Happening::ApiDown);
    }

    fn plan_next(&mut self, disturbance: &Disturbance, what: Happening) {
        let wait = self.rng.wait_for(disturbance.every);
        self.plan_in(wait, what);
    }

    fn plan_end(&mut self, disturbance: &Disturbance, what: Happening) {
        let lasts = self.rng.between(disturbance.lasts);
        self.plan_in(lasts, what);
    }

    /// Something happens to many at once, or is over.
    pub(super) fn disturb(&mut self, happening: Happening) -> anyhow::Result<()> {
        let begins = matches!(
            happening,
            Happening::BankDown(_) | Happening::Confusion(_) | Happening::ReceiverDown | Happening::ApiDown
        );
        if begins && self.is_quiet() {
            return Ok(());
        }
        match happening {
            Happening::BankDown(bank) => {
                self.banks[bank].is_down = true;
                self.plan_end(&BANK_DOWN, Happening::BankUp(bank));
                self.show_logins(bank);
            }
            Happening::BankUp(bank) => {
                self.banks[bank].is_down = false;
                self.plan_next(&BANK_DOWN, Happening::BankDown(bank));
                self.show_logins(bank);
            }
            Happening::Confusion(bank) => {
                self.banks[bank].is_confused = true;
                self.plan_end(&BANK_CONFUSED, Happening::ConfusionEnds(bank));
                self.show_logins(bank);
            }
            Happening::ConfusionEnds(bank) => {
                self.banks[bank].is_confused = false;
                self.plan_next(&BANK_CONFUSED, Happening::Confusion(bank));
                self.show_logins(bank);
                let amends = self.rng.between(AMENDS);
                self.plan_in(amends, Happening::Amends(bank));
                for number in self.with_bank(bank) {
                    if self.members[number].refused && self.members[number].wronged {
                        self.members[number].refused = false;
                        self.look(number);
                    }
                }
            }
            Happening::Amends(bank) => self.make_amends(bank)?,
            Happening::ReceiverDown => {
                self.receiver_is_down = true;
                self.plan_end(&RECEIVER_DOWN, Happening::ReceiverUp);
            }
            Happening::ReceiverUp => {
                self.receiver_is_down = false;
                self.plan_next(&RECEIVER_DOWN, Happening::ReceiverDown);
            }
            Happening::ApiDown => {
                self.control.fail_api(ApiFault::server_error(), usize::MAX, "/api/")?;
                self.plan_end(&API_DOWN, Happening::ApiUp);
            }
            Happening::ApiUp => {
                self.control.clear_faults();
                self.plan_next(&API_DOWN, Happening::ApiDown);
            }
            other => anyhow::bail!("{other:?} is no disturbance"),
        }
        Ok(())
    }

    /// Belvo calls valid again, in silence, what the bank's confusion has broken.
    fn make_amends(&mut self, bank: usize) -> anyhow::Result<()> {
        for number in self.with_bank(bank) {
            let member = &mut self.members[number];
            if !std::mem::take(&mut member.wronged) || self.checker.truth(number) != GroundTruth::Broken {
                continue;
            }
            let id = member.id;
            if self.control.status_of(id)? == LinkStatus::Invalid {
                self.control.set_status(id, LinkStatus::Valid)?;
                self.show_login(number);
            }
            self.look(number);
        }
        Ok(())
    }

    fn show_logins(&self, bank: usize) {
        self.with_bank(bank).into_iter().for_each(|number| self.show_login(number));
    }

    fn with_bank(&self, bank: usize) -> Vec<usize> {
        (0..self.members.len()).filter(|&number| self.members[number].bank == bank).collect()
    }
}
