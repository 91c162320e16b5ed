//! One round: a load, one fault, and the checks when everything is handled.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::fault::{Fault, cause};
use super::ledger::Ledger;
use super::load::{Load, Requests, Shared};
use super::readiness;
use super::streams::StreamReader;
use super::support::binary::API_TOKEN;
use super::world::{Acknowledge, Kind, PATIENCE, World};

/// The requests about each link in one round.
const PER_LINK: usize = 4;

/// How long a load may take, with its repeats.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// A relink that is ready decides about an input within this time. A replaced process that goes on may take an input with it; NATS delivers
/// it again after 30 s (`StreamSettings::partition_ack_wait`).
const DECIDED_WITHIN: Duration = Duration::from_secs(45);

/// The time from a claim to the proof. A killed process may take a job with it; NATS delivers it again after 60 s
/// (`StreamSettings::job_ack_wait`).
const REPAIRED_WITHIN: Duration = Duration::from_secs(100);

/// Belvo's patience.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// How much more memory than after the first round relink may use after any other round, in bytes.
const MEMORY_GROWTH_MAX: u64 = 64 << 20;

/// What an answer has besides the state: it follows from the state, the policy, and other links.
const NOT_OF_STATE: [&str; 4] = ["due_at", "due", "last_mention", "institution_down_since"];

const POLL: Duration = Duration::from_millis(20);

/// The result of a round.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    pub(crate) memory: Option<u64>,
    pub(crate) notes: Vec<String>,
}

/// The rounds with one pair of processes.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) ledger: Ledger,
    pub(crate) requests: Requests,
    pub(crate) random: fastrand::Rng,
    pub(crate) http: reqwest::Client,
    pub(crate) links: usize,
    outputs: StreamReader,
    dead_letters: StreamReader,
    inputs: StreamReader,
    first_memory: Option<u64>,
    notes: Vec<String>,
    loaded: Duration,
    _sampler: AbortOnDropHandle<()>,
}

impl Run {
    pub(crate) async fn start(
        kind: Kind,
        dir: PathBuf,
        nats: PathBuf,
        has_belvo: bool,
        links: usize,
        seed: u64,
    ) -> Result<Self> {
        relink::tls::install();
        let http = reqwest::Client::builder().no_proxy().timeout(HTTP_TIMEOUT).build()?;
        let shared = Arc::new(Shared::default());
        let world = World::start(kind, dir, nats, has_belvo, Arc::clone(&shared)).await?;
        let requests = Requests::of(world.belvo());
        Ok(Self {
            world,
            ledger: Ledger::default(),
            requests,
            random: fastrand::Rng::with_seed(seed),
            http: http.clone(),
            links,
            outputs: StreamReader::new("KV_links"),
            dead_letters: StreamReader::new("RELINK_DEAD"),
            inputs: StreamReader::new("BELVO"),
            first_memory: None,
            notes: Vec::new(),
            loaded: Duration::ZERO,
            _sampler: readiness::sample(shared, http),
        })
    }

    /// Adds a detail to the report of the round.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The details of the present round.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Reads all streams into the ledger.
    pub(crate) async fn read(&mut self) -> Result<()> {
        let client = self.world.client().await?;
        // A failed read of one stream leaves all readers where they were.
        let (mut outputs, mut dead_letters, mut inputs) =
            (self.outputs.clone(), self.dead_letters.clone(), self.inputs.clone());
        let new_outputs = outputs.read(&client).await?;
        let new_dead_letters = dead_letters.read(&client).await?;
        // The inputs come last, so that every input of the messages above is known.
        let new_inputs = inputs.read(&client).await?;
        (self.outputs, self.dead_letters, self.inputs) = (outputs, dead_letters, inputs);
        new_inputs.map_or(Ok(()), |news| self.ledger.take_inputs(news)).map_err(violation)?;
        new_dead_letters.map_or(Ok(()), |news| self.ledger.take_dead_letters(news)).map_err(violation)?;
        new_outputs.map_or(Ok(()), |news| self.ledger.take_outputs(news)).map_err(violation)
    }

    /// Runs one round.
    ///
    /// # Errors
    /// A violated promise, or a process that does not come back.
    pub(crate) async fn round(&mut self, fault: Fault, acknowledge: Acknowledge) -> Result<Outcome> {
        let began = Instant::now();
        if self.world.acknowledge != acknowledge {
            self.world.stop_relink().await?;
            self.world.acknowledge = acknowledge;
            self.world.start_relink().await?;
        }
        self.world.shared.readiness.start_again();
        // A claim is sent after its link was reported as broken.
        let (repaired, breaks) = self.requests.repairs(self.links, false);
        let breaks = Load::start(breaks, &self.world.shared, &self.http);
        while !breaks.is_done() {
            ensure!(began.elapsed() < LOAD_TIMEOUT, "the load before the round did not end");
            self.world.check_running()?;
            sleep(Duration::from_millis(1)).await;
        }
        let (_, claims) = self.requests.repairs(self.links, true);
        let mut requests = self.requests.round(self.links, PER_LINK, &mut self.random);
        requests.extend(claims);
        self.random.shuffle(&mut requests);
        let hits_after = self.random.u64(..requests.len() as u64 / 2);
        let done_before = self.world.shared.done.load(Ordering::Relaxed);
        let mut load = vec![breaks, Load::start(requests, &self.world.shared, &self.http)];
        while self.world.shared.done.load(Ordering::Relaxed) < done_before + hits_after {
            ensure!(began.elapsed() < LOAD_TIMEOUT, "the load before the fault did not end");
            self.world.check_running()?;
            sleep(Duration::from_millis(1)).await;
        }
        cause(fault, self, &mut load).await.with_context(|| format!("during: {fault}"))?;
        let caused = began.elapsed();
        self.handled(&load).await?;
        // A deleted stream takes the claims or the jobs with it; the next round claims again.
        if !matches!(fault, Fault::DeleteInputs | Fault::DeleteOutputs) && !repaired.is_empty() {
            self.repaired(&repaired).await?;
            self.handled(&load).await?;
        }
        let accepted: Vec<_> = load.iter().flat_map(Load::accepted).collect();
        self.ledger.check(&accepted)?;
        self.check_store().await?;
        self.note(format!("fault {caused:.1?}, load {:.1?}", self.loaded));
        let memory = self.world.memory();
        if let Some(memory) = memory {
            let first = *self.first_memory.get_or_insert(memory);
            ensure!(
                memory <= first + MEMORY_GROWTH_MAX,
                "relink uses {memory} bytes of memory, after the first round {first}"
            );
        }
        Ok(Outcome { took: began.elapsed(), memory, notes: std::mem::take(&mut self.notes) })
    }

    /// Waits until every request has succeeded, relink is ready and has published its journal, and every input has its outcome.
    async fn handled(&mut self, load: &[Load]) -> Result<()> {
        let began = Instant::now();
        while !load.iter().all(Load::is_done) {
            self.check_honest()?;
            ensure!(began.elapsed() < LOAD_TIMEOUT, "the load did not end within {LOAD_TIMEOUT:?}");
            sleep(POLL).await;
        }
        self.loaded = began.elapsed();
        let began = Instant::now();
        loop {
            self.check_honest()?;
            // What is published after this moment is read with the next attempt.
            let waiting = self.world.waiting(&self.http).await;
            let is_published = waiting.as_ref().is_ok_and(|waiting| *waiting == 0);
            match self.read().await {
                Ok(())
                    if is_published && self.ledger.undecided().is_empty() && self.world.is_ready(&self.http).await =>
                {
                    return Ok(());
                }
                Ok(()) => {}
                Err(error) if error.is::<Violation>() || began.elapsed() > PATIENCE => return Err(error),
                // NATS may be starting.
                Err(_) => {}
            }
            let undecided = self.ledger.undecided();
            if !undecided.is_empty() && self.world.shared.readiness.ready_for().min(began.elapsed()) > DECIDED_WITHIN {
                bail!("/readyz has been 200 for {DECIDED_WITHIN:?}, and these inputs have no outcome: {undecided:?}");
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "not ready within {PATIENCE:?}; in the journal: {waiting:?}; inputs without an outcome: {undecided:?}"
            );
            sleep(POLL).await;
        }
    }

    /// Waits until relink has asked Belvo about these links, which are valid there.
    async fn repaired(&mut self, links: &[String]) -> Result<()> {
        let began = Instant::now();
        loop {
            self.world.check_running()?;
            let state = |link: &String| self.ledger.states.get(link).map(|state| state["state"].clone());
            let broken: Vec<_> = links.iter().filter(|link| state(link) != Some("valid".into())).cloned().collect();
            if broken.is_empty() {
                self.ledger.figures.repaired += links.len() as u64;
                return Ok(());
            }
            ensure!(
                began.elapsed() < REPAIRED_WITHIN,
                "Belvo says that these links are valid, and relink does not: {broken:?}"
            );
            sleep(POLL).await;
            self.read().await?;
        }
    }

    fn check_honest(&mut self) -> Result<()> {
        self.world.check_running()?;
        match self.world.shared.readiness.violation() {
            Some(text) => bail!(text),
            None => Ok(()),
        }
    }

    /// The store, as the HTTP API shows it, has the last state of every link.
    async fn check_store(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut wrong = None;
            for (link, state) in &self.ledger.states {
                let shown = self.shown(link).await;
                if shown.as_ref().ok() != Some(state) {
                    wrong = Some(format!("the store has {shown:?} for {link}, and KV_links has {state}"));
                    break;
                }
            }
            let Some(wrong) = wrong else { return Ok(()) };
            ensure!(began.elapsed() < PATIENCE, wrong);
            sleep(POLL).await;
            // A timer may have changed a link.
            self.read().await?;
        }
    }

    async fn shown(&self, link: &str) -> Result<Value> {
        let request = self.http.get(format!("{}/v1/links/{link}", self.world.relink.url)).bearer_auth(API_TOKEN);
        let answer = request.send().await?.error_for_status()?;
        let mut shown: Value = timeout(HTTP_TIMEOUT, answer.json()).await??;
        shown.as_object_mut().map(|shown| NOT_OF_STATE.map(|added| shown.remove(added)));
        Ok(shown)
    }
}

/// A promise that the streams show as violated. It is never tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct Violation(anyhow::Error);

fn violation(error: anyhow::Error) -> anyhow::Error {
    Violation(error).into()
}
