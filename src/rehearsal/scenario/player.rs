//! Plays a scenario: sets the stage, goes through the steps, waits, judges.
//!
//! Before anything is judged the story comes to rest: Belvo has nothing left to send, relink has no call left to make,
//! and every link has answered a question of ours, which relink handles after everything that was sent before it.
//! Next: [`super::acts`] for what the people in it do.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use belvo_sandbox::{Control, NewFleetLink, Sandbox};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ear::{Ear, Heard, Kind};
use super::outside::{BelvoHttp, RelinkHttp};
use super::script::{Before, Deed, Expectation, NOTICES, Name, UNCOUNTED, Until, Wait};
use super::{Failure, PlayError, RelinkUnderTest, Scenario, Tell};

/// How long the story may take to come to rest, unless a step says otherwise.
pub(super) const REST_WITHIN: Duration = Duration::from_secs(60);
/// How long relink or the sandbox may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How many dead letters are read at once.
const LETTERS: usize = 1_000;

/// What is counted of an institution.
const INCIDENT: &str = "incident";

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
    let silence = |place: &str, problem| Failure { place: place.to_owned(), problem, heard: String::new() };
    let mut player = Player::new(sandbox, relink, tell).await.map_err(|problem| silence("at the start", problem))?;
    let fail = |player: &Player<'_>, place: &str, problem| {
        tell(&format!("  FAILED  {place}"));
        Failure { place: place.to_owned(), problem, heard: player.story() }
    };
    if let Err(problem) = player.set_the_stage(scenario).await {
        return Err(fail(&player, "before the story", problem));
    }
    for step in &scenario.steps {
        let place = format!("line {}: {}", step.line, step.text);
        tell(&format!("  {place}"));
        if let Err(problem) = player.perform(&step.deed).await {
            return Err(fail(&player, &place, problem));
        }
    }
    for ending in &scenario.endings {
        let place = format!("the end of `{}`", ending.link);
        if let Err(problem) = player.judge(ending, true).await {
            return Err(fail(&player, &place, problem));
        }
        tell(&format!("  {place} is as it should be"));
    }
    if let Err(problem) = player.judge_incidents() {
        return Err(fail(&player, "the end of the institutions", problem));
    }
    Ok(())
}

/// Whoever holds the threads.
pub(super) struct Player<'a> {
    pub(super) control: Control,
    pub(super) relink: RelinkHttp,
    pub(super) belvo: BelvoHttp,
    pub(super) ear: Ear,
    pub(super) tell: Tell<'a>,
    /// The links of the story that exist, in the order of their names; then those that the story has registered.
    pub(super) ids: Vec<(Name, Uuid)>,
    pub(super) cast: HashMap<Name, super::script::Part>,
    /// The widget token each user holds.
    pub(super) tokens: HashMap<Name, String>,
    /// The MFA session of the latest 428 of each link.
    pub(super) sessions: HashMap<Name, String>,
    /// The refreshes that webhooks of the file belong to.
    pub(super) refreshes: HashMap<String, Uuid>,
    /// How often each notice or refusal has been waited for.
    waited: HashMap<(Name, String), usize>,
    /// What was heard before this belongs to the stage.
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
            ear: Ear::open(&relink.nats_url, &relink.stream).await?,
            tell,
            ids: Vec::new(),
            cast: HashMap::new(),
            tokens: HashMap::new(),
            sessions: HashMap::new(),
            refreshes: HashMap::new(),
            waited: HashMap::new(),
            began: 0,
        })
    }

    async fn set_the_stage(&mut self, scenario: &Scenario) -> Result<(), PlayError> {
        for part in &scenario.links {
            let ends_in_ms = part.consent_ends_in.map(|span| i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2));
            let new = NewFleetLink {
                institution: part.institution.clone(),
                access_mode: part.access_mode,
                external_id: part.external_id.clone(),
                refresh_rate: part.refresh_rate,
                consent_ends_at_ms: ends_in_ms.map(|ms| self.control.now_ms().saturating_add(ms)),
                is_announced: part.before == Before::Known,
                ..NewFleetLink::default()
            };
            let id = match part.before {
                Before::Known | Before::Unheard => Some(self.control.add_fleet_link(new)?),
                Before::Absent => None,
            };
            self.ids.extend(id.map(|id| (part.name.clone(), id)));
            self.cast.insert(part.name.clone(), part.clone());
            let id = id.map_or_else(|| "to be registered".to_owned(), |id| id.to_string());
            (self.tell)(&format!("  {} is {id}, of {}", part.name, part.institution));
        }
        self.settle(REST_WITHIN).await?;
        for part in scenario.links.iter().filter(|part| part.before == Before::Known) {
            match self.state(&part.name)? {
                Some(state) if state == "valid" => {}
                state => {
                    let state = state.unwrap_or_else(|| "unheard of".to_owned());
                    let problem = format!(
                        "relink was sent the first data of `{}`, and holds it for {state}, not valid; does relink get \
                         this sandbox's webhooks?",
                        part.name
                    );
                    return Err(PlayError::Unexpected(problem));
                }
            }
        }
        self.began = self.ear.len();
        Ok(())
    }

    async fn perform(&mut self, deed: &Deed) -> Result<(), PlayError> {
        match deed {
            Deed::Belvo(deed) => self.belvo_does(deed),
            Deed::Bank { link, says } => Ok(self.control.set_login(self.id(link)?, says.clone())?),
            Deed::User(deed) => self.user_does(deed).await,
            Deed::App(deed) => self.app_does(deed).await,
            Deed::Wait(wait) => self.wait(wait).await,
            Deed::Expect(expectation) => self.judge(expectation, false).await,
        }
    }

    pub(super) fn id(&self, name: &str) -> Result<Uuid, PlayError> {
        let found = self.ids.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
        found.ok_or_else(|| PlayError::Unexpected(format!("`{name}` has not been registered yet")))
    }

    // --- waiting ---

    async fn wait(&mut self, wait: &Wait) -> Result<(), PlayError> {
        match &wait.until {
            Until::Notice { link, notice, with } => {
                let nth = self.count_wait(link, &format!("notice {notice}"));
                let heard =
                    self.nth(link, notice, wait.within, nth, |heard| heard.kind == Kind::Notice(notice.clone()));
                let heard = heard.await?;
                for (key, wanted) in with {
                    let found = key.split('.').fold(&heard.body, |value, key| &value[key]);
                    if found != wanted {
                        let problem = format!("the notice has {key} = {found}, not {wanted}");
                        return Err(PlayError::Unexpected(problem));
                    }
                }
                Ok(())
            }
            Until::Refused { link, reason } => {
                let what = format!("a refusal `{reason}`");
                let nth = self.count_wait(link, &what);
                let fits = |heard: &Heard| heard.kind == Kind::Refused && heard.body["reason"] == reason.as_str();
                self.nth(link, &what, wait.within, nth, fits).await.map(drop)
            }
            Until::State { link, state } => {
                let id = self.id(link)?;
                let is_there = |ear: &Ear| (latest_state(&ear.about(id, 0)).as_ref() == Some(state)).then_some(());
                self.ear.wait(&format!("the state {state} of `{link}`"), wait.within, is_there).await
            }
            Until::Incident { institution, news } => {
                let (nth, began) = (self.count_wait(institution, INCIDENT), self.began);
                let what = format!("the {} word on an incident of {institution}", nth + 1);
                let heard = |ear: &Ear| ear.of_institution(institution, began).into_iter().nth(nth);
                let heard = self.ear.wait(&what, wait.within, heard).await?;
                if heard.body["type"] == news.as_str() {
                    return Ok(());
                }
                Err(PlayError::Unexpected(format!("{what} is {}", heard.body["type"])))
            }
            Until::DeadLetter { link, reason } => self.expect_dead_letter(link, reason, wait.within).await,
            Until::Settled => self.settle(wait.within).await,
        }
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
        fits: impl Fn(&Heard) -> bool,
    ) -> Result<Heard, PlayError> {
        let (id, began) = (self.id(link)?, self.began);
        let what = format!("{what} of `{link}` (number {})", nth + 1);
        self.ear.wait(&what, within, |ear| ear.about(id, began).into_iter().filter(&fits).nth(nth)).await
    }

    /// Waits until nothing is under way.
    async fn settle(&self, within: Duration) -> Result<(), PlayError> {
        let rest = async {
            loop {
                let before = self.ear.len();
                self.control.settled().await?;
                self.ear.jobs_done(REST_WITHIN).await?;
                for (_, id) in &self.ids {
                    self.ask(*id).await?;
                }
                self.ear.jobs_done(REST_WITHIN).await?;
                if self.ids.iter().all(|(_, id)| self.ear.about(*id, before).is_empty()) {
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
        self.ear.ignore(input);
        let answered = |ear: &Ear| ear.has_answered(id, input).then_some(());
        self.ear.wait("relink's word on a question", REST_WITHIN, answered).await
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
        Ok(latest_state(&self.ear.about(self.id(name)?, 0)))
    }

    async fn judge(&self, expected: &Expectation, at_the_end: bool) -> Result<(), PlayError> {
        self.settle(REST_WITHIN).await?;
        let mut wrong = Vec::new();
        let mut compare = |what: &str, found: String, wanted: String| {
            if found != wanted {
                wrong.push(format!("{what}: {found}, and not {wanted}"));
            }
        };
        if let Some(wanted) = &expected.state {
            let found = self.state(&expected.link)?.unwrap_or_else(|| "unheard of".to_owned());
            compare("relink's state", found, wanted.clone());
        }
        let id = self.id(&expected.link)?;
        if let Some(wanted) = &expected.belvo {
            let status = self.control.status_of(id);
            compare("Belvo's status", status.map_or("gone", |status| status.as_str()).to_owned(), wanted.clone());
        }
        let heard = self.ear.about(id, self.began);
        for notice in NOTICES {
            let named = expected.notices.iter().find(|(name, _)| name == notice).map(|(_, count)| *count);
            let wanted = named.or((at_the_end && notice != UNCOUNTED).then_some(0));
            let found = heard.iter().filter(|heard| heard.kind == Kind::Notice(notice.to_owned())).count();
            if let Some(wanted) = wanted {
                compare(&format!("notices `{notice}`"), found.to_string(), wanted.to_string());
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(PlayError::Unexpected(wrong.join("; "))) }
    }

    /// Whatever was said of an institution has been waited for: one beginning too many is a mistake nobody asked about.
    fn judge_incidents(&self) -> Result<(), PlayError> {
        let institutions: BTreeSet<&String> = self.cast.values().map(|part| &part.institution).collect();
        for institution in institutions {
            let told = self.ear.of_institution(institution, self.began).len();
            let waited = self.waited.get(&(institution.clone(), INCIDENT.to_owned())).copied().unwrap_or_default();
            if told != waited {
                let problem = format!("{told} words on incidents of {institution}, and {waited} were waited for");
                return Err(PlayError::Unexpected(problem));
            }
        }
        Ok(())
    }

    /// Everything relink has said, for people.
    fn story(&self) -> String {
        let mut lines = Vec::new();
        for (name, id) in &self.ids {
            for heard in self.ear.about(*id, 0) {
                let because = if heard.kind == Kind::Refused { &heard.body } else { &heard.body["because"] };
                let said = match &heard.kind {
                    Kind::Notice(notice) => format!("notice {notice}"),
                    Kind::Refused => format!("refused {}: {}", heard.body["reason"], heard.body["detail"]),
                    Kind::State | Kind::Incident | Kind::Other => format!("state {}", heard.body["state"]),
                };
                let (event, origin) = (&because["event"], &because["origin"]["kind"]);
                lines.push(format!("    {name}: {said} (event {event}, from {origin})"));
            }
        }
        lines.join("\n")
    }
}

fn latest_state(heard: &[Heard]) -> Option<String> {
    let latest = heard.iter().rev().find(|heard| heard.kind == Kind::State)?;
    latest.body["state"].as_str().map(str::to_owned)
}
