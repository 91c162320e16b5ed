//! The users, who react to prompts or ignore them, mistype passwords, close the widget, or repair a link without relink;
//! and the customer's application, which reads data and reports Belvo's errors.

use std::time::Duration;

use anyhow::Context as _;
use belvo_sandbox::{Login, LoginFailure};
use reqwest::Url;
use secrecy::SecretString;

use super::browser::Found;
use super::checker::GroundTruth;
use super::customer::{Left, Outcome};
use super::mails::Mail;
use super::rates::{BANKS, DAY, Draw, HOUR, UNLOCKING, percent};
use super::state::{FleetEvent, Simulation, UserAction};
use crate::contract::{InputKind, Widget};
use crate::link::LinkId;

const MINUTE: Duration = Duration::from_secs(60);

/// The time that a user spends in the widget.
const IN_WIDGET: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(180));

impl Simulation {
    /// Handles a new outage: a few users act without a prompt.
    pub(super) fn link_broke(&mut self, number: usize) {
        let bank = &self.banks[self.members[number].bank];
        let member = &mut self.members[number];
        member.is_falsely_invalid = bank.refuses_logins && member.login == Login::Works;
        let locked = is_locked(&member.login);
        let wait = member.rng.between((MINUTE * 10, DAY * 2));
        let act = match member.rng.u32(0..100) {
            drawn if drawn < percent::REPAIRED_ELSEWHERE && !locked => UserAction::RepairsElsewhere,
            drawn if drawn < percent::REPAIRED_ELSEWHERE + percent::COMES_UNPROMPTED => UserAction::Opens,
            _stays => return,
        };
        self.plan_in(wait, FleetEvent::UserAction(number, act));
    }

    /// The user gets a prompt or a reminder.
    pub(super) fn notify_user(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.has_planned_action || member.is_replaced || member.rng.happens(percent::IGNORED) {
            return;
        }
        let wait = member.rng.reaction();
        self.plan_user_action(number, wait, UserAction::Opens);
    }

    fn plan_user_action(&mut self, number: usize, wait: Duration, act: UserAction) {
        self.members[number].has_planned_action = true;
        self.plan_in(wait, FleetEvent::UserAction(number, act));
    }

    /// Performs the planned action of a user.
    pub(super) async fn act(&mut self, number: usize, act: UserAction) -> anyhow::Result<()> {
        self.members[number].has_planned_action = false;
        // A user who acts while the link works does so only if relink has reported it as broken:
        // a prompted user enters the password, even if the bank no longer requires it.
        let asked = self.members[number].is_notified_broken && !matches!(act, UserAction::RepairsElsewhere);
        let (works, gone) =
            (self.checker.truth(number) == GroundTruth::Works, self.checker.truth(number) == GroundTruth::Gone);
        if self.is_final_phase() || gone || (works && !asked) || self.members[number].is_replaced {
            return Ok(());
        }
        match act {
            UserAction::RepairsElsewhere if self.can_repair(number) => {
                self.control.repair(self.members[number].id)?;
                self.repaired(number);
                Ok(())
            }
            UserAction::RepairsElsewhere => Ok(()),
            UserAction::Opens if self.connects_anew(number) => self.connect_anew(number),
            UserAction::Opens => self.open(number).await,
            UserAction::OpensUnlocked => {
                if is_locked(&self.members[number].login) {
                    // The bank accepts the password again, but Belvo does not try it before the user enters it.
                    self.members[number].login = Login::Fails(LoginFailure::InvalidCredentials);
                    self.set_sandbox_login(number);
                }
                self.open(number).await
            }
            UserAction::Ends { token, has_mistyped, mail } => {
                self.leave_widget(number, token, has_mistyped, mail).await
            }
        }
    }

    /// Whether the user of a broken link connects the bank anew in place of a repair, and can.
    fn connects_anew(&mut self, number: usize) -> bool {
        let is_broken = self.checker.truth(number) != GroundTruth::Works && self.can_repair(number);
        is_broken && self.members[number].rng.happens(percent::CONNECTS_ANEW)
    }

    /// The user opens the address in the last message. Without a message that has one, or if it has expired, the user opens the
    /// application of the customer.
    async fn open(&mut self, number: usize) -> anyhow::Result<()> {
        let Some(mail) = self.members[number].mail.clone() else { return self.open_in_app(number).await };
        match self.visit(number, &mail).await? {
            Found::Opens(portal) if self.has_consent(number) => self.renew(number, &portal, &mail).await,
            Found::Opens(widget) => {
                let token = widget.query_pairs().find(|(name, _)| name == "access_token");
                let (_, token) = token.context("the address of the widget has a token")?;
                self.enter_widget(number, token.into_owned().into(), Some(mail));
                Ok(())
            }
            Found::NoButton => Ok(()),
            Found::NotNow => {
                self.try_later(number);
                Ok(())
            }
            Found::Expired => self.open_in_app(number).await,
        }
    }

    async fn open_in_app(&mut self, number: usize) -> anyhow::Result<()> {
        if self.has_consent(number) {
            // This customer has an own way to Belvo's portal, which relink does not see.
            if self.can_repair(number) {
                self.control.renew_consent(self.members[number].id)?;
                self.repaired(number);
            }
            return Ok(());
        }
        let link = self.members[number].link.clone();
        match self.token_for_app(&link).await? {
            Some(token) => self.enter_widget(number, token, None),
            None => self.try_later(number),
        }
        Ok(())
    }

    fn enter_widget(&mut self, number: usize, token: SecretString, mail: Option<Mail>) {
        let wait = self.members[number].rng.between(IN_WIDGET);
        self.plan_user_action(number, wait, UserAction::Ends { token, has_mistyped: false, mail: mail.map(Box::new) });
    }

    fn try_later(&mut self, number: usize) {
        let wait = self.members[number].rng.between((MINUTE * 10, HOUR * 6));
        self.plan_user_action(number, wait, UserAction::Opens);
    }

    /// The user renews the consent in Belvo's portal, and the browser returns to the page.
    async fn renew(&mut self, number: usize, portal: &Url, mail: &Mail) -> anyhow::Result<()> {
        if !self.can_repair(number) {
            return Ok(());
        }
        let Some(left) = self.customer.in_portal(portal).await? else { return Ok(()) };
        self.repaired(number);
        let callback_lost = self.members[number].rng.happens(percent::CALLBACK_LOST);
        match left.next.filter(|_| !callback_lost) {
            Some(next) => self.return_from_widget(number, &next, Some(mail)).await,
            None => Ok(()),
        }
    }

    async fn leave_widget(
        &mut self,
        number: usize,
        token: SecretString,
        has_mistyped: bool,
        mail: Option<Box<Mail>>,
    ) -> anyhow::Result<()> {
        let link = self.members[number].link.clone();
        let can_repair = self.can_repair(number);
        let locked = is_locked(&self.members[number].login);
        let rng = &mut self.members[number].rng;
        let drawn = rng.u32(0..100);
        let wait = rng.between(IN_WIDGET);
        if can_repair && (has_mistyped || drawn < percent::SUCCEEDS) {
            let callback_lost = rng.happens(percent::CALLBACK_LOST);
            if let Some(left) = self.customer.in_widget(&token, Outcome::Success).await? {
                self.repaired(number);
                match left.next {
                    _ if callback_lost => {}
                    Some(next) => self.return_from_widget(number, &next, mail.as_deref()).await?,
                    None => {
                        let institution = Some(BANKS[self.members[number].bank].name.to_owned());
                        self.report_widget(&link, &Widget::Success { link: Some(link.to_string()), institution })?;
                    }
                }
                return Ok(());
            }
        } else if drawn < percent::SUCCEEDS + percent::MISTYPES && !has_mistyped {
            self.customer.in_widget(&token, Outcome::WrongPassword).await?;
            self.plan_user_action(number, wait, UserAction::Ends { token, has_mistyped: true, mail });
            return Ok(());
        }
        // The application reads data when its user comes back from the widget, and gets the error that stopped the user too.
        let bank = self.members[number].bank;
        if self.banks[bank].is_down && BANKS[bank].has_owners {
            if let Some(error) = self.customer.read_owners(&link).await? {
                self.report(number, &error)?;
            }
            self.update_truth(number);
        }
        let rng = &mut self.members[number].rng;
        let is_reported = rng.happens(percent::EXIT_REPORTED);
        let comes_back = locked || rng.happens(percent::COMES_BACK);
        let wait = if locked { rng.between(UNLOCKING) } else { rng.reaction() };
        let exit = self.customer.in_widget(&token, Outcome::Exit).await?;
        if let Some(Left { next, callback: mut exit }) = exit.filter(|_| is_reported) {
            if let Some(next) = next {
                self.return_from_widget(number, &next, mail.as_deref()).await?;
            } else {
                exit["event"] = "exit".into();
                self.relink.receive(InputKind::Widget, link, serde_json::to_vec(&exit)?);
            }
        }
        if comes_back {
            self.plan_user_action(number, wait, if locked { UserAction::OpensUnlocked } else { UserAction::Opens });
        }
        Ok(())
    }

    /// Whether a login with the correct password would succeed.
    fn can_repair(&self, number: usize) -> bool {
        let member = &self.members[number];
        let bank = &self.banks[member.bank];
        !bank.is_down && !bank.refuses_logins && !is_locked(&member.login)
    }

    /// Records that the link works again.
    fn repaired(&mut self, number: usize) {
        let member = &mut self.members[number];
        (member.login, member.refused, member.is_falsely_invalid) = (Login::Works, false, false);
        self.set_sandbox_login(number);
        self.update_truth(number);
    }

    fn report_widget(&self, link: &LinkId, widget: &Widget) -> anyhow::Result<()> {
        self.relink.receive(InputKind::Widget, link.clone(), serde_json::to_vec(widget)?);
        Ok(())
    }

    /// The customer reads data of a single link, unless relink has reported it as broken.
    pub(super) async fn call(&mut self, number: usize) -> anyhow::Result<()> {
        if self.is_final_phase() || self.checker.truth(number) == GroundTruth::Gone {
            return Ok(());
        }
        let member = &mut self.members[number];
        // The seed is the link's number: the habits of its application are constant.
        let mut app_rng = fastrand::Rng::with_seed(number as u64);
        let every = if app_rng.happens(percent::CALLED_DAILY) { DAY } else { DAY * 7 };
        let calls_broken = app_rng.happens(percent::CALLED_WHILE_BROKEN);
        let wait = member.rng.between((every.mul_f64(0.9), every.mul_f64(1.1)));
        let skips = member.is_notified_broken && !calls_broken;
        let link = member.link.clone();
        self.plan_in(wait, FleetEvent::Call(number));
        if skips {
            return Ok(());
        }
        match self.customer.read_owners(&link).await? {
            Some(error) => self.report(number, &error)?,
            None => self.members[number].refused = false,
        }
        self.update_truth(number);
        Ok(())
    }
}

fn is_locked(login: &Login) -> bool {
    *login == Login::Fails(LoginFailure::Locked)
}
