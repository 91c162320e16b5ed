//! Plays a scenario: creates the links, performs the steps, and compares the result.
//!
//! Before each comparison the player waits until all work is done: Belvo has no webhook left to send, relink has no call left
//! to make, and relink has answered a probe input about every link, which it handles after all earlier inputs.
//! [`super::actors`] has the actions of Belvo, the user and the application.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use belvo_sandbox::{AccessMode, Control, LinkStatus, NewFleetLink, Sandbox};
use secrecy::SecretString;
use serde_json::{Value, json};
use strum::VariantArray;
use uuid::Uuid;

use super::actions::{Action, Before, Expectation, IDLE_WITHIN, LinkSetup, Name, WAIT_WITHIN};
use super::error::{Failure, PlayError};
use super::file::Scenario;
use super::http::{BelvoHttp, RelinkHttp};
use super::subscriber::{Kind, Received, Subscriber};
use super::values::{Notice, Span};

/// The timeout of a request to relink or the sandbox.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The page size for dead letters.
const DEAD_LETTERS_PAGE: usize = 1_000;

/// The name under which waits for incidents are counted.
const INCIDENT: &str = "incident";

/// The relink that a scenario is played against. The sandbox must be its Belvo.
#[derive(Clone, Debug)]
pub struct RelinkUnderTest {
    /// The base URL of its HTTP server.
    pub url: String,
    /// A bearer token of its API.
    pub api_token: SecretString,
    /// The secret of the webhooks of Belvo's status page, if the scenario sends any.
    pub status_secret: Option<SecretString>,
    /// The URL of its NATS server.
    pub nats_url: String,
    /// The name of its output stream; `KV_links` by default.
    pub stream: String,
}

/// Receives the progress of a scenario, line by line.
pub type Report<'a> = &'a (dyn Fn(&str) + Sync);

/// Plays a scenario in a sandbox, which is `relink`'s Belvo and sends its webhooks to `relink`.
///
/// # Errors
/// The step that failed, or the difference at the end.
pub async fn play(
    scenario: &Scenario,
    sandbox: &Sandbox,
    relink: &RelinkUnderTest,
    report: Report<'_>,
) -> Result<(), Failure> {
    let at_start = |problem| Failure { place: "at the start".to_owned(), problem, received: String::new() };
    let mut player = Player::new(sandbox, relink, report).await.map_err(at_start)?;
    let fail = |player: &Player<'_>, place: &str, problem| {
        report(&format!("  FAILED  {place}"));
        Failure { place: place.to_owned(), problem, received: player.history() }
    };
    if let Err(problem) = player.set_up(scenario).await {
        return Err(fail(&player, "before the first step", problem));
    }
    for step in &scenario.steps {
        let place = format!("line {}: {}", step.line, step.text);
        report(&format!("  {place}"));
        if let Err(problem) = player.perform(&step.action).await {
            return Err(fail(&player, &place, problem));
        }
    }
    for (link, ending) in &scenario.endings {
        let place = format!("the final state of `{link}`");
        if let Err(problem) = player.compare(link, ending, true).await {
            return Err(fail(&player, &place, problem));
        }
        report(&format!("  {place} is correct"));
    }
    if let Err(problem) = player.compare_incidents() {
        return Err(fail(&player, "the incidents at the end", problem));
    }
    Ok(())
}

/// A scenario that is being played.
pub(super) struct Player<'a> {
    pub(super) control: Control,
    pub(super) relink: RelinkHttp,
    pub(super) belvo: BelvoHttp,
    pub(super) subscriber: Subscriber,
    pub(super) report: Report<'a>,
    /// The ids of the links: first those of the setup, in the order of their names, then those that a step has registered.
    pub(super) ids: Vec<(Name, Uuid)>,
    pub(super) links: HashMap<Name, LinkSetup>,
    /// The widget token of each user.
    pub(super) tokens: HashMap<Name, String>,
    /// The MFA session of the latest 428 of each link.
    pub(super) sessions: HashMap<Name, String>,
    /// The id of each labelled refresh.
    pub(super) refreshes: HashMap<String, Uuid>,
    /// The number of waits for each notice, refusal or incident.
    waited: HashMap<(Name, String), usize>,
    /// The number of messages that were received during the setup.
    began: usize,
}

impl<'a> Player<'a> {
    async fn new(sandbox: &Sandbox, relink: &RelinkUnderTest, report: Report<'a>) -> Result<Self, PlayError> {
        let client = crate::direct::client().timeout(ANSWER_WITHIN).build()?;
        let config = sandbox.config();
        let belvo = BelvoHttp {
            client: client.clone(),
            url: sandbox.url(),
            secret_id: config.secret_id.clone(),
            secret_password: config.secret_password.clone(),
        };
        let url = relink.url.trim_end_matches('/').to_owned();
        Ok(Self {
            control: sandbox.control(),
            relink: RelinkHttp {
                client,
                url,
                api_token: relink.api_token.clone(),
                status_secret: relink.status_secret.clone(),
            },
            belvo,
            subscriber: Subscriber::open(&relink.nats_url, &relink.stream).await?,
            report,
            ids: Vec::new(),
            links: HashMap::new(),
            tokens: HashMap::new(),
            sessions: HashMap::new(),
            refreshes: HashMap::new(),
            waited: HashMap::new(),
            began: 0,
        })
    }

    async fn set_up(&mut self, scenario: &Scenario) -> Result<(), PlayError> {
        for (name, setup) in &scenario.links {
            let consent_ends_in =
                setup.consent_ends_in.map(|span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX));
            let new = NewFleetLink {
                institution: setup.institution.clone(),
                access_mode: setup.access_mode.unwrap_or(AccessMode::Recurrent),
                external_id: Some(setup.external_id.clone().unwrap_or_else(|| name.clone())),
                refresh_rate: setup.refresh_rate,
                consent_ends_at_ms: consent_ends_in.map(|ms| self.control.now_ms().saturating_add(ms)),
                is_announced: setup.before == Before::Known,
                ..NewFleetLink::default()
            };
            let id = match setup.before {
                Before::Known | Before::Unknown => Some(self.control.add_fleet_link(new)?),
                Before::Absent => None,
            };
            self.ids.extend(id.map(|id| (name.clone(), id)));
            self.links.insert(name.clone(), setup.clone());
            let id = id.map_or_else(|| "to be registered".to_owned(), |id| id.to_string());
            (self.report)(&format!("  {name} is {id}, of {}", setup.institution));
        }
        self.wait_until_idle(IDLE_WITHIN).await?;
        for (name, _) in scenario.links.iter().filter(|(_, setup)| setup.before == Before::Known) {
            match self.state(name)? {
                Some(state) if state == "valid" => {}
                state => {
                    let state = state.unwrap_or_else(|| "unknown".to_owned());
                    let problem = format!(
                        "the sandbox sent the first data of `{name}` to relink, but relink's state is {state}, not valid; does \
                         relink receive this sandbox's webhooks?"
                    );
                    return Err(PlayError::Unexpected(problem));
                }
            }
        }
        self.began = self.subscriber.len();
        Ok(())
    }

    async fn perform(&mut self, action: &Action) -> Result<(), PlayError> {
        let limit = |within: &Option<Span>, usual: Duration| within.map_or(usual, |span| span.0);
        match action {
            Action::Belvo(action) => self.belvo(action).await,
            Action::Bank { bank, link } => Ok(self.control.set_login(self.id(link)?, bank.0.clone())?),
            Action::User(action) => self.user(action).await,
            Action::App(action) => self.app(action).await,
            Action::Notice { notice, link, with, within } => {
                let notice = self.next_notice(link, *notice, limit(within, WAIT_WITHIN)).await?;
                for (key, wanted) in with {
                    let found = key.split('.').fold(&notice.body, |value, key| &value[key]);
                    if found != wanted {
                        let problem = format!("the notice has {key} = {found}, not {wanted}");
                        return Err(PlayError::Unexpected(problem));
                    }
                }
                Ok(())
            }
            Action::State { state, link, within } => {
                let (id, state) = (self.id(link)?, <&'static str>::from(state));
                let is_there = |subscriber: &Subscriber| {
                    (latest_state(&subscriber.about(id, 0)).as_deref() == Some(state)).then_some(())
                };
                let what = format!("the state {state} of `{link}`");
                self.subscriber.wait(&what, limit(within, WAIT_WITHIN), is_there).await
            }
            Action::Refused { refused, link, within } => {
                let reason = <&'static str>::from(refused);
                let what = format!("a refusal `{reason}`");
                let nth = self.count_wait(link, &what);
                let fits = |received: &Received| received.kind == Kind::Refused && received.body["reason"] == reason;
                self.nth(link, &what, limit(within, WAIT_WITHIN), nth, fits).await.map(drop)
            }
            Action::DeadLetter { dead_letter, link, within } => {
                self.expect_dead_letter(link, dead_letter, limit(within, IDLE_WITHIN)).await
            }
            Action::Incident { incident, institution, within } => {
                let (nth, began) = (self.count_wait(institution, INCIDENT), self.began);
                let what = format!("message {} about an incident of {institution}", nth + 1);
                let find = |subscriber: &Subscriber| subscriber.of_institution(institution, began).into_iter().nth(nth);
                let received = self.subscriber.wait(&what, limit(within, WAIT_WITHIN), find).await?;
                if received.body["type"] == <&'static str>::from(incident) {
                    return Ok(());
                }
                Err(PlayError::Unexpected(format!("{what} is {}", received.body["type"])))
            }
            Action::Idle { _idle, within } => self.wait_until_idle(limit(within, IDLE_WITHIN)).await,
            Action::Expect { expect, state, belvo, notices } => {
                let expected = Expectation { state: *state, belvo: *belvo, notices: notices.clone() };
                self.compare(expect, &expected, false).await
            }
        }
    }

    pub(super) fn id(&self, name: &str) -> Result<Uuid, PlayError> {
        let found = self.ids.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
        found.ok_or_else(|| PlayError::Unexpected(format!("`{name}` has not been registered yet")))
    }

    // --- waits ---

    /// Waits for the next notice of this type that no step has waited for yet.
    async fn next_notice(&mut self, link: &str, notice: Notice, within: Duration) -> Result<Received, PlayError> {
        let notice = <&'static str>::from(notice);
        let nth = self.count_wait(link, &format!("notice {notice}"));
        self.nth(link, notice, within, nth, |received| received.kind == Kind::Notice(notice.to_owned())).await
    }

    /// Counts a wait; returns the number of earlier waits.
    fn count_wait(&mut self, link: &str, what: &str) -> usize {
        let count = self.waited.entry((link.to_owned(), what.to_owned())).or_default();
        *count += 1;
        *count - 1
    }

    async fn nth(
        &self,
        link: &str,
        what: &str,
        within: Duration,
        nth: usize,
        fits: impl Fn(&Received) -> bool,
    ) -> Result<Received, PlayError> {
        let (id, began) = (self.id(link)?, self.began);
        let what = format!("{what} of `{link}` (number {})", nth + 1);
        self.subscriber
            .wait(&what, within, |subscriber| subscriber.about(id, began).into_iter().filter(&fits).nth(nth))
            .await
    }

    /// Waits until no webhook, input or job is in progress.
    async fn wait_until_idle(&self, within: Duration) -> Result<(), PlayError> {
        let idle = async {
            loop {
                let before = self.subscriber.len();
                self.control.outbox_idle().await?;
                self.subscriber.jobs_done(IDLE_WITHIN).await?;
                for (_, id) in &self.ids {
                    self.probe(*id).await?;
                }
                self.subscriber.jobs_done(IDLE_WITHIN).await?;
                if self.ids.iter().all(|(_, id)| self.subscriber.about(*id, before).is_empty()) {
                    return Ok(());
                }
            }
        };
        let late = |_| PlayError::Late { what: "the end of all work in progress".to_owned(), within };
        tokio::time::timeout(within, idle).await.map_err(late)?
    }

    /// Sends an input about a link that changes nothing, and waits for its refusal: relink has then handled all earlier
    /// inputs about the link.
    async fn probe(&self, id: Uuid) -> Result<(), PlayError> {
        let warning = json!({"event": "warning", "warning": "scenario", "warning_message": "Probe; changes nothing."});
        let answer = self.relink.post(&format!("/v1/links/{id}/widget"), &warning).await?;
        let Some(message_id) = answer["message_id"].as_str() else {
            return Err(PlayError::Unexpected(format!("relink's response has no message_id: {answer}")));
        };
        self.subscriber.ignore(message_id);
        let answered = |subscriber: &Subscriber| subscriber.has_answered(id, message_id).then_some(());
        self.subscriber.wait("the refusal of a probe", IDLE_WITHIN, answered).await
    }

    async fn expect_dead_letter(&self, link: &str, reason: &str, within: Duration) -> Result<(), PlayError> {
        let id = self.id(link)?.to_string();
        self.wait_until_idle(within).await?;
        let is_of_link =
            |dead_letter: &Value| dead_letter["subject"].as_str().is_some_and(|subject| subject.ends_with(&id));
        let (mut after, mut others) = (0, Vec::new());
        loop {
            let listed = self.relink.get(&format!("/v1/dead-letters?limit={DEAD_LETTERS_PAGE}&after={after}")).await?;
            let dead_letters = listed["dead_letters"].as_array().cloned().unwrap_or_default();
            for dead_letter in dead_letters.into_iter().filter(is_of_link) {
                if dead_letter["reason"] == reason {
                    return Ok(());
                }
                others.push(dead_letter["reason"].to_string());
            }
            match listed["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        let problem = format!("there is no dead letter `{reason}` of `{link}`, only [{}]", others.join(", "));
        Err(PlayError::Unexpected(problem))
    }

    // --- comparisons ---

    fn state(&self, name: &str) -> Result<Option<String>, PlayError> {
        Ok(latest_state(&self.subscriber.about(self.id(name)?, 0)))
    }

    /// Compares a link with the expectation. At the end a notice type that is not named must have the count 0.
    async fn compare(&self, link: &str, expected: &Expectation, at_the_end: bool) -> Result<(), PlayError> {
        self.wait_until_idle(IDLE_WITHIN).await?;
        let mut wrong = Vec::new();
        let mut compare = |what: &str, found: String, wanted: String| {
            if found != wanted {
                wrong.push(format!("{what}: found {found}, expected {wanted}"));
            }
        };
        if let Some(wanted) = expected.state {
            let found = self.state(link)?.unwrap_or_else(|| "unknown".to_owned());
            compare("relink's state", found, <&'static str>::from(wanted).to_owned());
        }
        let id = self.id(link)?;
        if let Some(wanted) = expected.belvo {
            let status = self.control.status_of(id).map_or("gone", LinkStatus::as_str);
            compare("Belvo's status", status.to_owned(), <&'static str>::from(wanted).to_owned());
        }
        let received = self.subscriber.about(id, self.began);
        for notice in Notice::VARIANTS {
            let name = <&'static str>::from(notice);
            let named = expected.notices.0.get(notice).copied();
            let wanted = named.or((at_the_end && notice.is_counted()).then_some(0));
            let found = received.iter().filter(|received| received.kind == Kind::Notice(name.to_owned())).count();
            if let Some(wanted) = wanted {
                compare(&format!("notices `{name}`"), found.to_string(), wanted.to_string());
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(PlayError::Unexpected(wrong.join("; "))) }
    }

    /// Checks that a step has waited for every incident message, so that an unexpected incident is detected.
    fn compare_incidents(&self) -> Result<(), PlayError> {
        let institutions: BTreeSet<&String> = self.links.values().map(|setup| &setup.institution).collect();
        for institution in institutions {
            let received = self.subscriber.of_institution(institution, self.began).len();
            let waited = self.waited.get(&(institution.clone(), INCIDENT.to_owned())).copied().unwrap_or_default();
            if received != waited {
                let problem = format!(
                    "{received} incident messages of {institution} were received, and the steps waited for {waited}"
                );
                return Err(PlayError::Unexpected(problem));
            }
        }
        Ok(())
    }

    /// All messages that relink has published, as text.
    fn history(&self) -> String {
        let mut lines = Vec::new();
        for (name, id) in &self.ids {
            for received in self.subscriber.about(*id, 0) {
                let because = if received.kind == Kind::Refused { &received.body } else { &received.body["because"] };
                let message = match &received.kind {
                    Kind::Notice(notice) => format!("notice {notice}"),
                    Kind::Refused => format!("refused {}: {}", received.body["reason"], received.body["detail"]),
                    Kind::State | Kind::Incident | Kind::Other => format!("state {}", received.body["state"]),
                };
                let (event, origin) = (&because["event"], &because["origin"]["kind"]);
                lines.push(format!("    {name}: {message} (event {event}, from {origin})"));
            }
        }
        lines.join("\n")
    }
}

fn latest_state(received: &[Received]) -> Option<String> {
    let latest = received.iter().rev().find(|received| received.kind == Kind::State)?;
    latest.body["state"].as_str().map(str::to_owned)
}
