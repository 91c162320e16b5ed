//! Reads one step: who does what. The words here are the vocabulary of `scenarios/README.md`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::player::REST_WITHIN;
use super::reader::{ScenarioError, read_expectation};
use super::script::{
    Answer, AppDeed, BelvoDeed, Call, Deed, NOTICES, Name, STATES, SentWebhook, Until, UserDeed, Wait,
};
use crate::sandbox::verdict::{ApiAnswer, Verdict};
use crate::sandbox::{ApiFault, Login, WebhookFault};

/// How long a wait for one thing lasts unless the step says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a webhook can be mishandled, as a file spells it.
const MISHANDLED: [&str; 8] = [
    "dropped",
    "duplicated",
    "delayed",
    "reordered",
    "without_external_id",
    "of_unknown_code",
    "with_errors",
    "of_short_code",
];

/// Reads a step; `names` are the links there are.
pub(super) fn read(mut fields: Fields<'_>, names: &[Name]) -> Result<Deed, ScenarioError> {
    const ACTORS: [&str; 11] =
        ["belvo", "bank", "user", "app", "hear", "state", "refused", "dead_letter", "incident", "settled", "expect"];
    let expects = fields.has("expect");
    let mut actors = ACTORS.into_iter().filter(|actor| fields.has(actor) && (!expects || *actor == "expect"));
    let (Some(actor), None) = (actors.next(), actors.next()) else {
        return Err(fields.error(format!("a step has exactly one of {}", ACTORS.join(", "))));
    };
    let deed = match actor {
        "belvo" => Deed::Belvo(read_belvo(&mut fields, names)?),
        "bank" => Deed::Bank { says: read_login(&mut fields)?, link: link(&mut fields, names)? },
        "user" => Deed::User(read_user(&mut fields, names)?),
        "app" => Deed::App(read_app(&mut fields, names)?),
        "expect" => {
            let name = fields.required("expect")?;
            let name = known(&fields, name, names)?;
            Deed::Expect(read_expectation(name, &mut fields)?)
        }
        _ => Deed::Wait(read_wait(actor, &mut fields, names)?),
    };
    fields.finish()?;
    Ok(deed)
}

fn link(fields: &mut Fields<'_>, names: &[Name]) -> Result<Name, ScenarioError> {
    let name = fields.required("link")?;
    known(fields, name, names)
}

fn known(fields: &Fields<'_>, name: Name, names: &[Name]) -> Result<Name, ScenarioError> {
    if names.contains(&name) {
        return Ok(name);
    }
    Err(fields.error(format!("`{name}` is not in [links]")))
}

fn read_belvo(fields: &mut Fields<'_>, names: &[Name]) -> Result<BelvoDeed, ScenarioError> {
    const VERBS: [&str; 12] = [
        "refreshes",
        "sends",
        "repeats",
        "sets_status",
        "fails",
        "mishandles",
        "has_nothing_new",
        "announces_consent_end",
        "ends_consent",
        "wipes",
        "speaks",
        "lets_pass",
    ];
    let verb = fields.one_of("belvo", &VERBS)?.unwrap_or_default();
    Ok(match verb.as_str() {
        "refreshes" => {
            let (link, outcome) = (link(fields, names)?, fields.word("outcome")?);
            let missing = || fields.error("`refreshes` needs `outcome`, such as login_error");
            BelvoDeed::Refreshes { link, outcome: outcome.ok_or_else(missing)? }
        }
        "sends" => BelvoDeed::Sends { link: link(fields, names)?, webhook: read_webhook(fields)? },
        "repeats" => BelvoDeed::Repeats {
            link: link(fields, names)?,
            code: fields.required("code")?,
            times: fields.count("times", 1)?,
            delay: fields.span("delay")?.unwrap_or_default(),
        },
        "sets_status" => {
            let link = link(fields, names)?;
            let status = fields.word("status")?;
            BelvoDeed::SetsStatus { link, status: status.ok_or_else(|| fields.error("`sets_status` needs `status`"))? }
        }
        "fails" => {
            let error = fields.required("error")?;
            ApiAnswer::of(ApiFault::Error(error.clone())).map_err(|wrong| fields.error(wrong.to_string()))?;
            BelvoDeed::Fails { on: fields.text("call")?.unwrap_or_default(), error, times: fields.count("times", 1)? }
        }
        "mishandles" => {
            let how = fields.one_of("webhook", &MISHANDLED)?;
            let fault = match how.as_deref() {
                Some("dropped") => WebhookFault::Drop,
                Some("duplicated") => WebhookFault::Duplicate,
                Some("delayed") => WebhookFault::Delay(fields.span("delay")?.unwrap_or(Duration::from_secs(1))),
                Some("reordered") => WebhookFault::Reorder,
                Some("without_external_id") => WebhookFault::NullExternalId,
                Some("of_unknown_code") => WebhookFault::UnknownCode,
                Some("with_errors") => WebhookFault::DataErrors,
                Some("of_short_code") => WebhookFault::ShortCode,
                Some(_) | None => return Err(fields.error("`mishandles` needs `webhook`, such as dropped")),
            };
            BelvoDeed::Mishandles { fault, times: fields.count("times", 1)? }
        }
        "has_nothing_new" => BelvoDeed::HasNothingNew { link: link(fields, names)? },
        "announces_consent_end" => BelvoDeed::AnnouncesConsentEnd {
            link: link(fields, names)?,
            within: fields.span("within")?.unwrap_or(Duration::from_secs(7 * 24 * 3600)),
        },
        "ends_consent" => BelvoDeed::EndsConsent { link: link(fields, names)? },
        "wipes" => BelvoDeed::Wipes,
        "speaks" => {
            let shape = fields.word("shape")?;
            BelvoDeed::Speaks { shape: shape.ok_or_else(|| fields.error("`speaks` needs `shape`"))? }
        }
        _ => {
            let span = fields.span("span")?;
            BelvoDeed::LetsPass { span: span.ok_or_else(|| fields.error("`lets_pass` needs `span`"))? }
        }
    })
}

fn read_webhook(fields: &mut Fields<'_>) -> Result<SentWebhook, ScenarioError> {
    Ok(SentWebhook {
        family: fields.required("type")?,
        code: fields.required("code")?,
        process_type: fields.text("process_type")?,
        refresh: fields.text("refresh")?,
        data: fields.json("data")?,
        delay: fields.span("delay")?.unwrap_or_default(),
    })
}

fn read_login(fields: &mut Fields<'_>) -> Result<Login, ScenarioError> {
    let login = Login::from_name(&fields.required("bank")?);
    Verdict::of(login.clone()).map_err(|wrong| fields.error(wrong.to_string()))?;
    Ok(login)
}

fn read_user(fields: &mut Fields<'_>, names: &[Name]) -> Result<UserDeed, ScenarioError> {
    const VERBS: [&str; 5] = ["opens_widget", "succeeds", "mistypes", "closes_widget", "renews_consent"];
    let verb = fields.one_of("user", &VERBS)?.unwrap_or_default();
    let link = link(fields, names)?;
    Ok(match verb.as_str() {
        "opens_widget" => UserDeed::OpensWidget { link },
        "succeeds" => UserDeed::Succeeds { link, unheard: fields.switch("unheard", false)? },
        "mistypes" => UserDeed::Mistypes { link },
        "closes_widget" => UserDeed::ClosesWidget { link, unheard: fields.switch("unheard", false)? },
        _ => UserDeed::RenewsConsent { link, unheard: fields.switch("unheard", false)? },
    })
}

fn read_app(fields: &mut Fields<'_>, names: &[Name]) -> Result<AppDeed, ScenarioError> {
    const VERBS: [&str; 7] = ["calls", "registers", "changes_password", "resumes", "reports", "deletes", "commands"];
    let verb = fields.one_of("app", &VERBS)?.unwrap_or_default();
    let link = link(fields, names)?;
    Ok(match verb.as_str() {
        "calls" => AppDeed::Calls { link, call: read_call(fields)?, answer: read_answer(fields)? },
        "registers" => {
            let password = fields.text("password")?.unwrap_or_else(|| "right".to_owned());
            AppDeed::Registers { link, password, answer: read_answer(fields)? }
        }
        "changes_password" => {
            AppDeed::ChangesPassword { link, password: fields.required("password")?, answer: read_answer(fields)? }
        }
        "resumes" => AppDeed::Resumes { link, token: fields.required("token")?, answer: read_answer(fields)? },
        "reports" => {
            let status = fields.count("status", 0)?;
            let status = u16::try_from(status).ok().filter(|status| (400..600).contains(status));
            let status = status.ok_or_else(|| fields.error("`reports` needs `status`, from 400 to 599"))?;
            AppDeed::Reports { link, call: read_call(fields)?, status, errors: fields.json("errors")? }
        }
        "deletes" => AppDeed::Deletes { link, later: fields.switch("later", false)? },
        _ => AppDeed::Commands { link, command: fields.required("command")? },
    })
}

fn read_call(fields: &mut Fields<'_>) -> Result<Call, ScenarioError> {
    let text = fields.required("call")?;
    match text.split_once(' ') {
        Some((method, path)) if path.starts_with("/api/") && ["GET", "POST"].contains(&method) => {
            Ok(Call { method: method.to_owned(), path: path.to_owned() })
        }
        Some(_) | None => Err(fields.error("`call` must be a GET or POST such as `POST /api/accounts/`")),
    }
}

/// `answered = "428 token_required"`
fn read_answer(fields: &mut Fields<'_>) -> Result<Answer, ScenarioError> {
    let reported = fields.switch("reported", true)?;
    let Some(text) = fields.text("answered")? else { return Ok(Answer { status: None, code: None, reported }) };
    let (status, code) = text.split_once(' ').map_or((text.as_str(), None), |(status, code)| (status, Some(code)));
    let status = status.parse().map_err(|_| fields.error("`answered` must be such as `428 token_required`"))?;
    Ok(Answer { status: Some(status), code: code.map(str::to_owned), reported })
}

fn read_wait(what: &str, fields: &mut Fields<'_>, names: &[Name]) -> Result<Wait, ScenarioError> {
    const REFUSALS: [&str; 11] = [
        "repeated",
        "already_known",
        "stale",
        "removed",
        "not_updating",
        "data_with_errors",
        "creation_only",
        "cannot_verify",
        "not_due",
        "not_about_the_link",
        "unknown",
    ];
    let until = match what {
        "hear" => {
            let notice = fields.one_of(what, &NOTICES)?.unwrap_or_default();
            let with = match fields.json("with")? {
                Value::Object(with) => with,
                Value::Null => Map::new(),
                _ => return Err(fields.error("`with` must be a table such as { action = \"provide_token\" }")),
            };
            Until::Notice { link: link(fields, names)?, notice, with }
        }
        "state" => {
            let state = fields.one_of(what, &STATES)?.unwrap_or_default();
            Until::State { link: link(fields, names)?, state }
        }
        "refused" => {
            let reason = fields.one_of(what, &REFUSALS)?.unwrap_or_default();
            Until::Refused { link: link(fields, names)?, reason }
        }
        "incident" => Until::Incident {
            news: fields.one_of(what, &["began", "ended"])?.unwrap_or_default(),
            institution: fields.required("institution")?,
        },
        "dead_letter" => Until::DeadLetter { reason: fields.required(what)?, link: link(fields, names)? },
        _ if fields.switch(what, true)? => Until::Settled,
        _ => return Err(fields.error("`settled` can only be true")),
    };
    let usual = match until {
        Until::Settled | Until::DeadLetter { .. } => REST_WITHIN,
        Until::Notice { .. } | Until::State { .. } | Until::Refused { .. } | Until::Incident { .. } => PATIENCE,
    };
    Ok(Wait { until, within: fields.span("within")?.unwrap_or(usual) })
}
