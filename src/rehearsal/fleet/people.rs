//! The people: users who are prompted and react, or do not; who mistype, close the widget, or repair their link where
//! nobody sees it; and the customer's application, which reads data and reports Belvo's errors.

use std::time::Duration;

use belvo_sandbox::{Login, LoginFailure};
use secrecy::SecretString;

use super::checker::GroundTruth;
use super::customer::Outcome;
use super::hazards::{BANKS, DAY, Draw, HOUR, UNLOCKING, percent};
use super::state::{Happening, Simulation, Visit};
use crate::belvo::{CallError, WidgetToken};
use crate::contract::{InputKind, Widget};
use crate::link::LinkId;

const MINUTE: Duration = Duration::from_secs(60);

/// How long a user is in the widget.
const IN_WIDGET: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(180));

impl Simulation {
    /// A link has just broken: a few notice by themselves.
    pub(super) fn broke(&mut self, number: usize) {
        let bank = &self.banks[self.members[number].bank];
        let member = &mut self.members[number];
        member.wronged = bank.is_confused && member.login == Login::Works;
        let locked = is_locked(&member.login);
        let wait = member.rng.between((MINUTE * 10, DAY * 2));
        let visit = match member.rng.u32(0..100) {
            drawn if drawn < percent::MENDED_ELSEWHERE && !locked => Visit::MendsElsewhere,
            drawn if drawn < percent::MENDED_ELSEWHERE + percent::COMES_UNASKED => Visit::Opens,
            _stays => return,
        };
        self.plan_in(wait, Happening::Visit(number, visit));
    }

    /// The user gets a prompt or a reminder.
    pub(super) fn user_is_told(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.is_awaited || member.rng.happens(percent::IGNORED) {
            return;
        }
        let wait = member.rng.reaction();
        self.await_user(number, wait, Visit::Opens);
    }

    fn await_user(&mut self, number: usize, wait: Duration, visit: Visit) {
        self.members[number].is_awaited = true;
        self.plan_in(wait, Happening::Visit(number, visit));
    }

    /// A user does something.
    pub(super) async fn visit(&mut self, number: usize, visit: Visit) -> anyhow::Result<()> {
        self.members[number].is_awaited = false;
        // Who has left the widget open overnight is as good as gone.
        // Who was asked for a password gives it, whether the bank still wants it or not.
        let asked = self.members[number].told_broken && !matches!(visit, Visit::MendsElsewhere);
        let (works, gone) =
            (self.checker.truth(number) == GroundTruth::Works, self.checker.truth(number) == GroundTruth::Gone);
        if self.is_quiet() || gone || (works && !asked) {
            return Ok(());
        }
        match visit {
            Visit::MendsElsewhere if self.can_repair(number) => {
                self.control.repair(self.members[number].id)?;
                self.repaired(number);
                Ok(())
            }
            Visit::MendsElsewhere => Ok(()),
            Visit::Opens => self.open(number).await,
            Visit::OpensUnlocked => {
                if is_locked(&self.members[number].login) {
                    // The bank takes the password again; that Belvo does not try is another matter.
                    self.members[number].login = Login::Fails(LoginFailure::InvalidCredentials);
                    self.show_login(number);
                }
                self.open(number).await
            }
            Visit::Ends { token, has_mistyped } => self.end_visit(number, token, has_mistyped).await,
        }
    }

    async fn open(&mut self, number: usize) -> anyhow::Result<()> {
        let member = &self.members[number];
        if !BANKS[member.bank].has_password {
            // A consent is renewed in Belvo's portal, which tells the customer nothing.
            if self.can_repair(number) {
                self.control.renew_consent(member.id)?;
                self.repaired(number);
            }
            return Ok(());
        }
        let link = member.link.clone();
        match self.relink.belvo.update_token(&link).await {
            Ok(WidgetToken { access, expires_in, .. }) => {
                self.report_widget(&link, &Widget::Started { expires_in_seconds: expires_in.as_secs() })?;
                let wait = self.members[number].rng.between(IN_WIDGET);
                self.await_user(number, wait, Visit::Ends { token: access, has_mistyped: false });
            }
            Err(error) => {
                if let CallError::Api(error) = error {
                    self.report(number, &error)?;
                }
                let wait = self.members[number].rng.between((MINUTE * 10, HOUR * 6));
                self.await_user(number, wait, Visit::Opens);
            }
        }
        Ok(())
    }

    async fn end_visit(&mut self, number: usize, token: SecretString, has_mistyped: bool) -> anyhow::Result<()> {
        let link = self.members[number].link.clone();
        let can_repair = self.can_repair(number);
        let locked = is_locked(&self.members[number].login);
        let rng = &mut self.members[number].rng;
        let drawn = rng.u32(0..100);
        let wait = rng.between(IN_WIDGET);
        if can_repair && (has_mistyped || drawn < percent::SUCCEEDS) {
            let callback_lost = rng.happens(percent::CALLBACK_LOST);
            if self.customer.in_widget(&token, Outcome::Success).await?.is_some() {
                self.repaired(number);
                if !callback_lost {
                    let institution = Some(BANKS[self.members[number].bank].name.to_owned());
                    self.report_widget(&link, &Widget::Success { link: Some(link.to_string()), institution })?;
                }
                return Ok(());
            }
        } else if drawn < percent::SUCCEEDS + percent::MISTYPES && !has_mistyped {
            self.customer.in_widget(&token, Outcome::WrongPassword).await?;
            self.await_user(number, wait, Visit::Ends { token, has_mistyped: true });
            return Ok(());
        }
        let is_heard = rng.happens(percent::EXIT_HEARD);
        let comes_back = locked || rng.happens(percent::COMES_BACK);
        let wait = if locked { rng.between(UNLOCKING) } else { rng.reaction() };
        let exit = self.customer.in_widget(&token, Outcome::Exit).await?;
        if let Some(mut exit) = exit.filter(|_| is_heard) {
            exit["event"] = "exit".into();
            self.relink.receive(InputKind::Widget, link, serde_json::to_vec(&exit)?);
        }
        if comes_back {
            self.await_user(number, wait, if locked { Visit::OpensUnlocked } else { Visit::Opens });
        }
        Ok(())
    }

    /// Whether the bank would let the user in with the right password.
    fn can_repair(&self, number: usize) -> bool {
        let member = &self.members[number];
        let bank = &self.banks[member.bank];
        !bank.is_down && !bank.is_confused && !is_locked(&member.login)
    }

    /// The link works again, for whatever its user did.
    fn repaired(&mut self, number: usize) {
        let member = &mut self.members[number];
        (member.login, member.refused, member.wronged) = (Login::Works, false, false);
        self.show_login(number);
        self.look(number);
    }

    fn report_widget(&self, link: &LinkId, widget: &Widget) -> anyhow::Result<()> {
        self.relink.receive(InputKind::Widget, link.clone(), serde_json::to_vec(widget)?);
        Ok(())
    }

    /// The customer reads data of a single link, unless it knows better.
    pub(super) async fn call(&mut self, number: usize) -> anyhow::Result<()> {
        if self.is_quiet() || self.checker.truth(number) == GroundTruth::Gone {
            return Ok(());
        }
        let member = &mut self.members[number];
        // The same applications each time, and the same links.
        let mut habits = fastrand::Rng::with_seed(number as u64);
        let every = if habits.happens(percent::CALLED_DAILY) { DAY } else { DAY * 7 };
        let calls_broken = habits.happens(percent::CALLED_ALL_THE_SAME);
        let wait = member.rng.between((every.mul_f64(0.9), every.mul_f64(1.1)));
        let skips = member.told_broken && !calls_broken;
        let link = member.link.clone();
        self.plan_in(wait, Happening::Call(number));
        if skips {
            return Ok(());
        }
        match self.customer.read_owners(&link).await? {
            Some(error) => self.report(number, &error)?,
            None => self.members[number].refused = false,
        }
        self.look(number);
        Ok(())
    }
}

fn is_locked(login: &Login) -> bool {
    *login == Login::Fails(LoginFailure::Locked)
}
