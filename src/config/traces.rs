//! The settings of traces: `[traces]`, `RELINK_TRACES_*`. Without an endpoint no span is recorded.

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use toml::Value;

use super::is_http;
use super::layers::Raw;
use super::reader::{Reader, text};
use crate::contract::SampleRatio;
use crate::trace::Settings;

/// The path that OTLP over HTTP has for traces.
const PATH: &str = "/v1/traces";

/// `None` without an endpoint, or if a problem was noted.
pub(super) fn read(reader: &mut Reader) -> Option<Settings> {
    let endpoint = read_endpoint(reader);
    let headers = reader.secrets("traces.headers").iter().map(header).collect::<Option<Vec<_>>>();
    if headers.is_none() {
        reader.reject("traces.headers", "must be headers of the form name=value, with commas between them");
    }
    let ratio = reader.read("traces.sample_ratio", |raw| {
        let number = match raw {
            Raw::Toml(Value::Float(number)) => Some(*number),
            Raw::Toml(Value::Integer(0)) => Some(0.0),
            Raw::Toml(Value::Integer(1)) => Some(1.0),
            raw => text(raw)?.parse().ok(),
        };
        number.and_then(SampleRatio::new).ok_or_else(|| "must be a number from 0 to 1, such as 0.1".to_owned())
    });
    if !reader.is_set("traces.endpoint") && reader.is_set("traces.headers") {
        reader.reject("traces.headers", "also needs traces.endpoint (RELINK_TRACES_ENDPOINT)");
    }
    Some(Settings { endpoint: endpoint?, headers: headers?, ratio: ratio? })
}

/// The address of the collector, with the path for traces.
fn read_endpoint(reader: &mut Reader) -> Option<String> {
    let url = reader.text("traces.endpoint")?;
    let parsed = Url::parse(&url).ok().filter(|parsed| {
        is_http(&url) && parsed.password().is_none() && parsed.query().is_none() && parsed.fragment().is_none()
    });
    let Some(parsed) = parsed else {
        let wanted = "must be an address without user, query and fragment, such as http://127.0.0.1:4318";
        reader.reject("traces.endpoint", wanted);
        return None;
    };
    let base = parsed.as_str().trim_end_matches('/');
    Some(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") })
}

fn header(text: &SecretString) -> Option<(String, SecretString)> {
    let (name, value) = text.expose_secret().split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_valid = HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok();
    is_valid.then(|| (name.to_owned(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Sources};
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let loaded = Config::load(&Sources { environment, ..Sources::default() });
        loaded.map(|loaded| loaded.config.traces).map_err(|error| error.to_string())
    }

    #[test]
    fn the_address_is_that_of_the_collector_or_of_its_traces() {
        assert!(load(&[]).unwrap().is_none());
        for (given, endpoint) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otlp.example.com/relink/", "https://otlp.example.com/relink/v1/traces"),
            ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ] {
            let settings = load(&[("RELINK_TRACES_ENDPOINT", given)]).unwrap().unwrap();
            assert_eq!((settings.endpoint.as_str(), settings.ratio), (endpoint, SampleRatio::ALL));
        }
        let (endpoint, headers) = (("RELINK_TRACES_ENDPOINT", "http://[::1]:4318"), "a=1, authorization=Basic eA==");
        let settings = [endpoint, ("RELINK_TRACES_HEADERS", headers), ("RELINK_TRACES_SAMPLE_RATIO", "0.25")];
        let settings = load(&settings).unwrap().unwrap();
        assert_eq!(Some(settings.ratio), SampleRatio::new(0.25));
        let headers: Vec<_> =
            settings.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
        assert_eq!(headers, [("a", "1"), ("authorization", "Basic eA==")]);
    }

    #[test]
    fn wrong_values_are_refused_and_no_header_is_quoted() {
        let endpoint = ("RELINK_TRACES_ENDPOINT", "http://127.0.0.1:4318");
        for (settings, problem) in [
            (&[("RELINK_TRACES_ENDPOINT", "127.0.0.1:4318")][..], "must be an address"),
            (&[("RELINK_TRACES_ENDPOINT", "http://user@collector:4318")], "must be an address"),
            (&[("RELINK_TRACES_ENDPOINT", "http://collector:4318/?key=1")], "must be an address"),
            (&[("RELINK_TRACES_HEADERS", "a=planted")], "also needs traces.endpoint"),
            (&[endpoint, ("RELINK_TRACES_HEADERS", "planted")], "must be headers of the form name=value"),
            (&[endpoint, ("RELINK_TRACES_HEADERS", "a b=planted")], "must be headers of the form name=value"),
            (&[endpoint, ("RELINK_TRACES_SAMPLE_RATIO", "10")], "must be a number from 0 to 1"),
            (&[endpoint, ("RELINK_TRACES_SAMPLE_RATIO", "NaN")], "must be a number from 0 to 1"),
        ] {
            let found = load(settings).unwrap_err();
            assert!(found.contains(problem) && !found.contains("planted"), "{settings:?}: {found}");
        }
    }
}
