//! Plays a scenario: sets up the links, goes through the steps, waits, and compares.
//!
//! Before anything is compared, everything under way comes to its end: Belvo has nothing left to send, relink has no
//! call left to make, and relink has answered an input about every link, which it handles after everything that was
//! sent before. Next: [`super::acts`] for the actions of Belvo, the user and the application.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use belvo_sandbox::{AccessMode, Control, LinkStatus, NewFleetLink, Sandbox};
use secrecy::SecretString;
use serde_json::{Value, json};
use strum::VariantArray;
use uuid::Uuid;

use super::actions::{Action, Before, Expectation, LinkSetup, Name, SETTLE_WITHIN, WAIT_WITHIN};
use super::error::{Failure, PlayError};
use super::file::Scenario;
use super::http::{BelvoHttp, RelinkHttp};
use super::subscriber::{Kind, Received, Subscriber};
use super::values::{Notice, Span};

/// How long relink or the sandbox may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How many dead letters are read at once.
const LETTERS: usize = 1_000;

/// What is counted of an institution.
const INCIDENT: &str = "incident";

/// The relink a scenario is played against. It must be configured with the sandbox as its Belvo.
#[derive(Clone, Debug)]
pub struct RelinkUnderTest {
    /// The base URL of its HTTP server.
    pub url: String,
    /// A bearer token of its API.
    pub api_token: SecretString,
    /// The NATS it publishes on.
    pub nats_url: String,
    /// Its output stream, `LINKS` unless it was given another prefix.
    pub stream: String,
}

/// Receives what happens, a line at a time.
pub type Tell<'a> = &'a (dyn Fn(&str) + Sync);

/// Plays a scenario in a sandbox that is `relink`'s Belvo and sends it its webhooks.
///
/// # Errors
/// The step that failed, or what was not true at the end.
pub async fn play(
    scenario: &Scenario,
    sandbox: &Sandbox,
    relink: &RelinkUnderTest,
    tell: Tell<'_>,
) -> Result<(), Failure> {
    let silence = |place: &str, problem| Failure { place: place.to_owned(), problem, received: String::new() };
    let mut player = Player::new(sandbox, relink, tell).await.map_err(|problem| silence("at the start", problem))?;
    let fail = |player: &Player<'_>, place: &str, problem| {
        tell(&format!("  FAILED  {place}"));
        Failure { place: place.to_owned(), problem, received: player.history() }
    };
    if let Err(problem) = player.set_up(scenario).await {
        return Err(fail(&player, "before the first step", problem));
    }
    for step in &scenario.steps {
        let place = format!("line {}: {}", step.line, step.text);
        tell(&format!("  {place}"));
        if let Err(problem) = player.perform(&step.action).await {
            return Err(fail(&player, &place, problem));
        }
    }
    for (link, ending) in &scenario.endings {
        let place = format!("the end of `{link}`");
        if let Err(problem) = player.compare(link, ending, true).await {
            return Err(fail(&player, &place, problem));
        }
        tell(&format!("  {place} is as it should be"));
    }
    if let Err(problem) = player.compare_incidents() {
        return Err(fail(&player, "the end of the institutions", problem));
    }
    Ok(())
}

/// A scenario that is being played.
pub(super) struct Player<'a> {
    pub(super) control: Control,
    pub(super) relink: RelinkHttp,
    pub(super) belvo: BelvoHttp,
    pub(super) subscriber: Subscriber,
    pub(super) tell: Tell<'a>,
    /// The links of the story that exist, in the order of their names; then those that the story has registered.
    pub(super) ids: Vec<(Name, Uuid)>,
    pub(super) links: HashMap<Name, LinkSetup>,
    /// The widget token each user holds.
    pub(super) tokens: HashMap<Name, String>,
    /// The MFA session of the latest 428 of each link.
    pub(super) sessions: HashMap<Name, String>,
    /// The refreshes that webhooks of the file belong to.
    pub(super) refreshes: HashMap<String, Uuid>,
    /// How often each notice or refusal has been waited for.
    waited: HashMap<(Name, String), usize>,
    /// Messages received before this belong to the setup.
    began: usize,
}

impl<'a> Player<'a> {
    async fn new(sandbox: &Sandbox, relink: &RelinkUnderTest, tell: Tell<'a>) -> Result<Self, PlayError> {
        crate::tls::install();
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?;
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
            relink: RelinkHttp { client, url, api_token: relink.api_token.clone() },
            belvo,
            subscriber: Subscriber::open(&relink.nats_url, &relink.stream).await?,
            tell,
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
                Before::Known | Before::Unheard => Some(self.control.add_fleet_link(new)?),
                Before::Absent => None,
            };
            self.ids.extend(id.map(|id| (name.clone(), id)));
            self.links.insert(name.clone(), setup.clone());
            let id = id.map_or_else(|| "to be registered".to_owned(), |id| id.to_string());
            (self.tell)(&format!("  {name} is {id}, of {}", setup.institution));
        }
        self.settle(SETTLE_WITHIN).await?;
        for (name, _) in scenario.links.iter().filter(|(_, setup)| setup.before == Before::Known) {
            match self.state(name)? {
                Some(state) if state == "valid" => {}
                state => {
                    let state = state.unwrap_or_else(|| "not known".to_owned());
                    let problem = format!(
                        "relink was sent the first data of `{name}`, and its state of it is {state}, not valid; does \
                         relink get this sandbox's webhooks?"
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
            Action::Belvo(action) => self.belvo_does(action),
            Action::Bank { bank, link } => Ok(self.control.set_login(self.id(link)?, bank.0.clone())?),
            Action::User(action) => self.user_does(action).await,
            Action::App(action) => self.app_does(action).await,
            Action::Hear { hear, link, with, within } => {
                let notice = self.next_notice(link, *hear, limit(within, WAIT_WITHIN)).await?;
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
                self.expect_dead_letter(link, dead_letter, limit(within, SETTLE_WITHIN)).await
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
            Action::Settled { _settled, within } => self.settle(limit(within, SETTLE_WITHIN)).await,
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

    // --- waiting ---

    /// The next notice of this type that has not been waited for yet.
    async fn next_notice(&mut self, link: &str, notice: Notice, within: Duration) -> Result<Received, PlayError> {
        let notice = <&'static str>::from(notice);
        let nth = self.count_wait(link, &format!("notice {notice}"));
        self.nth(link, notice, within, nth, |received| received.kind == Kind::Notice(notice.to_owned())).await
    }

    /// How often this has been waited for before.
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

    /// Waits until nothing is under way.
    async fn settle(&self, within: Duration) -> Result<(), PlayError> {
        let rest = async {
            loop {
                let before = self.subscriber.len();
                self.control.settled().await?;
                self.subscriber.jobs_done(SETTLE_WITHIN).await?;
                for (_, id) in &self.ids {
                    self.ask(*id).await?;
                }
                self.subscriber.jobs_done(SETTLE_WITHIN).await?;
                if self.ids.iter().all(|(_, id)| self.subscriber.about(*id, before).is_empty()) {
                    return Ok(());
                }
            }
        };
        let late = |_| PlayError::Late { what: "the end of everything under way".to_owned(), within };
        tokio::time::timeout(within, rest).await.map_err(late)?
    }

    /// Says something about a link that changes nothing, and waits until relink has said so: everything that was sent
    /// before it has been handled then.
    async fn ask(&self, id: Uuid) -> Result<(), PlayError> {
        let warning =
            json!({"event": "warning", "warning": "scenario", "warning_message": "Nothing; only a question."});
        let answer = self.relink.post(&format!("/v1/links/{id}/widget"), &warning).await?;
        let Some(input) = answer["sequence"].as_u64() else {
            return Err(PlayError::Unexpected(format!("relink's answer has no sequence: {answer}")));
        };
        self.subscriber.ignore(input);
        let answered = |subscriber: &Subscriber| subscriber.has_answered(id, input).then_some(());
        self.subscriber.wait("relink's word on a question", SETTLE_WITHIN, answered).await
    }

    async fn expect_dead_letter(&self, link: &str, reason: &str, within: Duration) -> Result<(), PlayError> {
        let id = self.id(link)?.to_string();
        self.settle(within).await?;
        let is_of_link = |letter: &Value| letter["subject"].as_str().is_some_and(|subject| subject.ends_with(&id));
        let (mut after, mut others) = (0, Vec::new());
        loop {
            let listed = self.relink.get(&format!("/v1/dead-letters?limit={LETTERS}&after={after}")).await?;
            let letters = listed["dead_letters"].as_array().cloned().unwrap_or_default();
            for letter in letters.into_iter().filter(is_of_link) {
                if letter["reason"] == reason {
                    return Ok(());
                }
                others.push(letter["reason"].to_string());
            }
            match listed["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        let problem = format!("there is no dead letter `{reason}` of `{link}`, only [{}]", others.join(", "));
        Err(PlayError::Unexpected(problem))
    }

    // --- judging ---

    fn state(&self, name: &str) -> Result<Option<String>, PlayError> {
        Ok(latest_state(&self.subscriber.about(self.id(name)?, 0)))
    }

    /// Compares a link with what must be true; at the end, notices that are not named must not have come.
    async fn compare(&self, link: &str, expected: &Expectation, at_the_end: bool) -> Result<(), PlayError> {
        self.settle(SETTLE_WITHIN).await?;
        let mut wrong = Vec::new();
        let mut compare = |what: &str, found: String, wanted: String| {
            if found != wanted {
                wrong.push(format!("{what}: {found}, and not {wanted}"));
            }
        };
        if let Some(wanted) = expected.state {
            let found = self.state(link)?.unwrap_or_else(|| "not known".to_owned());
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

    /// Every message about an institution has been waited for: one incident too many would otherwise not be noticed.
    fn compare_incidents(&self) -> Result<(), PlayError> {
        let institutions: BTreeSet<&String> = self.links.values().map(|setup| &setup.institution).collect();
        for institution in institutions {
            let received = self.subscriber.of_institution(institution, self.began).len();
            let waited = self.waited.get(&(institution.clone(), INCIDENT.to_owned())).copied().unwrap_or_default();
            if received != waited {
                let problem =
                    format!("{received} messages about incidents of {institution}, and {waited} were waited for");
                return Err(PlayError::Unexpected(problem));
            }
        }
        Ok(())
    }

    /// Everything that relink has published, for people.
    fn history(&self) -> String {
        let mut lines = Vec::new();
        for (name, id) in &self.ids {
            for received in self.subscriber.about(*id, 0) {
                let because = if received.kind == Kind::Refused { &received.body } else { &received.body["because"] };
                let said = match &received.kind {
                    Kind::Notice(notice) => format!("notice {notice}"),
                    Kind::Refused => format!("refused {}: {}", received.body["reason"], received.body["detail"]),
                    Kind::State | Kind::Incident | Kind::Other => format!("state {}", received.body["state"]),
                };
                let (event, origin) = (&because["event"], &because["origin"]["kind"]);
                lines.push(format!("    {name}: {said} (event {event}, from {origin})"));
            }
        }
        lines.join("\n")
    }
}

fn latest_state(received: &[Received]) -> Option<String> {
    let latest = received.iter().rev().find(|received| received.kind == Kind::State)?;
    latest.body["state"].as_str().map(str::to_owned)
}
