//! `GET /v1/activity`: what relink has done in the last hours.

use std::time::Duration;

use axum::Json;
use axum::extract::State;

use super::SharedServer;
use super::parameters::Query;
use super::problem::Problem;
use crate::activity::{PERIOD, Period, Spans};
use crate::contract::{ACTIVITY_HOURS, ActivityPeriod, ActivitySummary, At, NoticeName, TimeSpans, TransitionCount};
use crate::engine::Activity;
use crate::link::StateName;

pub(super) async fn summary(
    State(server): State<SharedServer>,
    query: Query,
) -> Result<Json<ActivitySummary>, Problem> {
    query.only(&["hours"])?;
    let span = Duration::from_secs(3_600 * query.count("hours", ACTIVITY_HOURS)? as u64);
    // The clock of NATS, by which the steps have their times; before relink has caught up, there is no step.
    let now = *server.as_of.borrow();
    let periods = now.map_or_else(Vec::new, |now| server.activity.since(now.before(span)));
    Ok(Json(summary_of(&periods)))
}

fn summary_of(periods: &[Period]) -> ActivitySummary {
    let mut counts = Activity::default();
    let (mut prompted, mut repaired) = (Spans::default(), Spans::default());
    for period in periods {
        counts.add(&period.counts);
        prompted.merge(&period.prompted_after);
        repaired.merge(&period.repaired_after);
    }
    let transition = |((from, to), count): (&(StateName, StateName), &u64)| TransitionCount {
        from: from.as_str(),
        to: to.as_str(),
        count: *count,
    };
    let steps = counts.prompts.keys().last().map_or(0, |last| last + 1);
    ActivitySummary {
        since: periods.first().map(|period| At(period.began_at)),
        period_secs: PERIOD.as_secs(),
        periods: periods.iter().map(of_period).collect(),
        transitions: counts.transitions.iter().map(transition).collect(),
        notices: counts.notices.iter().map(|(name, count)| (name.as_str(), *count)).collect(),
        outages_count: counts.outages_count,
        prompts: (0..steps).map(|number| counts.prompts.get(&number).copied().unwrap_or(0)).collect(),
        time_to_prompt: spans(&prompted),
        time_to_repair: spans(&repaired),
    }
}

fn of_period(Period { began_at, counts, repaired_after, .. }: &Period) -> ActivityPeriod {
    ActivityPeriod {
        at: At(*began_at),
        outages_count: counts.outages_count,
        prompts_count: counts.prompts.get(&0).copied().unwrap_or(0),
        recovered_count: counts.notices.get(&NoticeName::Recovered).copied().unwrap_or(0),
        repair_p50_secs: repaired_after.quantile(0.5),
    }
}

fn spans(spans: &Spans) -> TimeSpans {
    TimeSpans { count: spans.count() as u64, p50_secs: spans.quantile(0.5), p90_secs: spans.quantile(0.9) }
}
