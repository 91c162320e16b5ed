//! Reads the webhooks of Belvo's status page ("Institution status webhook"). Atlassian's Statuspage sends them ("Enable webhook
//! notifications"): one about an incident, which lists the affected components, and one about a single component.
//!
//! The reader is tolerant: it needs the name and the status of each component, and ignores the rest. A component with an unknown status
//! stops nothing, but is reported.

use serde_json::{Map, Value};

use super::fields;
use super::undecodable::Undecodable;
use crate::institution::PageStatus;
use crate::link::Timestamp;
use crate::printable::shortened;

/// The most components in one webhook. Belvo has some hundreds of institutions.
pub const COMPONENTS_MAX: usize = 300;

/// The longest name of a component, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// The most characters of a text of the page that an operator sees.
pub const SHOWN_CHARS_MAX: usize = 60;

/// A webhook of the status page.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusReport {
    /// When the page was changed. Webhooks may arrive in another order.
    pub updated_at: Timestamp,
    /// The components, by name.
    pub components: Vec<ComponentStatus>,
    /// The components with a status that is not known, as clauses for an operator.
    pub unreadable: Vec<String>,
}

/// The status of one component.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentStatus {
    /// The name on the page.
    pub name: String,
    /// Its status.
    pub status: PageStatus,
}

/// Reads a body that was received at `received_at`.
pub(super) fn parse(body: &Value, received_at: Timestamp) -> Result<StatusReport, Undecodable> {
    let body = body.as_object().ok_or_else(|| Undecodable::shape("$", "expected an object"))?;
    let incident = body.get("incident").and_then(Value::as_object);
    let single = body.get("component").filter(|component| component.is_object());
    // Belvo's page shows the components beside the incident, Atlassian's inside it.
    let lists = [
        ("$.incident.components", incident.and_then(|incident| incident.get("components"))),
        ("$.components", body.get("components")),
    ];
    let mut listed = Vec::<&Value>::new();
    for (path, list) in lists {
        match list {
            Some(Value::Array(components)) => listed.extend(components),
            // An incident may name no component. Everything else is a new form, and to ignore it would lose an outage.
            None | Some(Value::Null) => {}
            Some(_) => return Err(Undecodable::shape(path, "expected a list of components")),
        }
    }
    if incident.is_none() && single.is_none() && listed.is_empty() {
        return Err(Undecodable::shape("$", "expected `incident`, `components` or `component`"));
    }
    if listed.len() > COMPONENTS_MAX {
        return Err(Undecodable::shape("$.incident.components", format!("more than {COMPONENTS_MAX} components")));
    }
    // When an incident is over, Belvo may not have changed the status of its components yet.
    let is_over = incident.and_then(|incident| fields::text(incident, "status")).is_some_and(|status| {
        ["resolved", "postmortem", "completed"].iter().any(|over| status.eq_ignore_ascii_case(over))
    });
    let all: Vec<&Value> = listed.into_iter().chain(single).collect();
    let (mut components, mut unreadable) = (Vec::new(), Vec::new());
    for component in all {
        match component_of(component, is_over) {
            Ok(read) => components.push(read),
            Err(why) => unreadable.push(why),
        }
    }
    let updates =
        [incident, single.and_then(Value::as_object), body.get("component_update").and_then(Value::as_object)];
    let updated_at = updates.into_iter().flatten().filter_map(updated_at).max();
    // A clock that is ahead must not hide the next reports.
    let updated_at = updated_at.map_or(received_at, |at| at.min(received_at));
    Ok(StatusReport { updated_at, components, unreadable })
}

/// The component, or why it cannot be read, as a clause for an operator.
fn component_of(component: &Value, is_over: bool) -> Result<ComponentStatus, String> {
    let text = |field: &str| component.as_object().and_then(|component| fields::text(component, field));
    let name = text("name").ok_or_else(|| "a component has no name".to_owned())?;
    let shown = || shortened(&name, SHOWN_CHARS_MAX);
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("the name of the component `{}` is too long", shown()));
    }
    let word = text("status").unwrap_or_default().to_ascii_lowercase();
    let status = match word.as_str() {
        _any if is_over => PageStatus::Operational,
        "operational" => PageStatus::Operational,
        // Belvo documents `partial_outage`; the other two are words of Statuspage.
        "partial_outage" | "degraded_performance" | "under_maintenance" => PageStatus::Partial,
        "major_outage" => PageStatus::Major,
        "" => return Err(format!("the component `{}` has no status", shown())),
        unknown => {
            let unknown = shortened(unknown, SHOWN_CHARS_MAX);
            return Err(format!("the component `{}` has the status `{unknown}`, which relink does not know", shown()));
        }
    };
    Ok(ComponentStatus { name, status })
}

fn updated_at(object: &Map<String, Value>) -> Option<Timestamp> {
    ["updated_at", "created_at"].iter().find_map(|field| fields::text(object, field)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::InstitutionStatus;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn read(body: &Value) -> Vec<(String, PageStatus)> {
        let report = parse(body, NOW).unwrap();
        report.components.into_iter().map(|component| (component.name, component.status)).collect()
    }

    fn incident(status: &str, component: &str) -> Value {
        json!({"incident": {"status": status, "components": [{"name": "Erebor", "status": component}]}})
    }

    #[test]
    fn each_status_has_a_meaning() {
        use PageStatus::{Major, Operational, Partial};
        for (status, component, expected) in [
            ("investigating", "major_outage", Some(Major)),
            ("identified", "MAJOR_OUTAGE", Some(Major)),
            ("monitoring", "partial_outage", Some(Partial)),
            ("monitoring", "degraded_performance", Some(Partial)),
            ("in_progress", "under_maintenance", Some(Partial)),
            ("investigating", "operational", Some(Operational)),
            ("resolved", "major_outage", Some(Operational)),
            ("something new", "major_outage", Some(Major)),
            ("investigating", "something new", None),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|status| ("Erebor".to_owned(), status)).collect();
            assert_eq!(read(&incident(status, component)), expected, "{status} {component}");
        }
        let unknown = parse(&incident("investigating", "?"), NOW).unwrap();
        let words = "the component `Erebor` has the status `?`, which relink does not know".to_owned();
        assert_eq!((unknown.unreadable, unknown.updated_at), (vec![words], NOW));
    }

    #[test]
    fn a_component_may_be_listed_beside_the_incident_or_alone() {
        let major = vec![("Erebor".to_owned(), PageStatus::Major)];
        let component = json!({"name": " Erebor ", "status": "major_outage"});
        assert_eq!(read(&json!({"incident": {"status": "identified"}, "components": [component]})), major);
        assert_eq!(read(&json!({"component": component, "component_update": {"new_status": "major_outage"}})), major);
        assert_eq!(read(&json!({"incident": {"status": "identified"}})), [], "an incident without components");
        assert_eq!(read(&InstitutionStatus::example()).len(), 1);
    }

    #[test]
    fn the_time_of_the_page_counts_unless_it_is_in_the_future() {
        for (text, expected) in
            [("2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z".parse().unwrap()), ("2099-01-01T00:00:00Z", NOW)]
        {
            let mut body = incident("identified", "major_outage");
            body["incident"]["updated_at"] = json!(text);
            assert_eq!(parse(&body, NOW).unwrap().updated_at, expected);
        }
    }

    #[test]
    fn another_body_is_undecodable() {
        let many: Vec<_> =
            (0..=COMPONENTS_MAX).map(|n| json!({"name": format!("{n}"), "status": "operational"})).collect();
        for body in [json!([]), json!({}), json!({"incident": 7}), json!({"components": many})] {
            assert!(parse(&body, NOW).is_err());
        }
    }
}
