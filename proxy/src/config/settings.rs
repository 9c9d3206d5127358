//! The values as they were written, wherever that was, and what is wrong with them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_yaml_ng::{Mapping, Value};

use super::ConfigError;
use super::limits::LIMIT_FIELDS;
use crate::args::ProxyArgs;

/// Fields of the file of `--config` beside `limits`.
pub(super) const FIELDS: [&str; 26] = [
    "access-log",
    "admin",
    "advertise",
    "app",
    "certificates",
    "control-plane",
    "detect-timeout",
    "dns",
    "drain-timeout",
    "gateway",
    "gateway-listen",
    "health",
    "inbound",
    "join-token-file",
    "listen",
    "namespace",
    "otlp-endpoint",
    "outbound",
    "outside-roots",
    "persist-identity",
    "sampling",
    "service",
    "service-account",
    "state-dir",
    "workers",
    "zone",
];

/// Every value that was given, by field, and the problems found so far.
#[derive(Debug, Default)]
pub(super) struct Settings {
    given: BTreeMap<String, Given>,
    problems: Vec<String>,
}

/// What was given for one field.
#[derive(Debug)]
struct Given {
    /// The flag or the file's field, for people.
    place: String,
    values: Vec<String>,
}

/// A field as a flag.
pub(super) fn flag(field: &str) -> String {
    format!("--{field}")
}

impl Settings {
    /// Reads the file, if one is named, and puts the flags over it.
    pub(super) fn gather(args: &ProxyArgs) -> Self {
        let mut settings = Self::default();
        if let Some(path) = &args.config {
            settings.read_file(path);
        }
        for (field, values) in args.given() {
            let foreign = field == "otlp-endpoint" && args.otlp_endpoint.is_none();
            let place = if foreign { "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned() } else { flag(field) };
            settings.given.insert(field.to_owned(), Given { place, values });
        }
        settings
    }

    fn read_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.problems.push(format!("--config: {} cannot be read: {error}", path.display()));
            }
        };
        match serde_yaml_ng::from_str::<Value>(&text) {
            Ok(Value::Mapping(fields)) => self.take_fields(&fields, "", path),
            Ok(Value::Null) => {}
            Ok(_) => self.problems.push(format!("{}: must be a mapping of fields to values", path.display())),
            Err(error) => self.problems.push(format!("{}: is not YAML: {error}", path.display())),
        }
    }

    fn take_fields(&mut self, fields: &Mapping, prefix: &str, path: &Path) {
        for (key, value) in fields {
            let written = text(key).unwrap_or_else(|| format!("{key:?}"));
            let field = format!("{prefix}{}", kebab(&written));
            let place = format!("{}: {prefix}{written}", path.display());
            match value {
                Value::Mapping(limits) if field == "limits" => self.take_fields(limits, "limits.", path),
                _ if !is_known(&field) => self.problems.push(format!("{place}: {}", unknown(&field))),
                _ => match values(value) {
                    Some(values) => {
                        if self.given.insert(field, Given { place: place.clone(), values }).is_some() {
                            self.problems.push(format!("{place}: is given twice"));
                        }
                    }
                    None => self.problems.push(format!("{place}: must be a plain value or a list of them")),
                },
            }
        }
    }

    /// The value of a field that may be given once.
    pub(super) fn one<T>(&mut self, field: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let given = self.given.get(field)?;
        let result = match given.values.as_slice() {
            [value] => parse(value).map_err(|problem| format!("{}: {value:?} {problem}", given.place)),
            _ => Err(format!("{}: takes one value", given.place)),
        };
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    /// The values of a field that may be given several times.
    pub(super) fn many<T>(&mut self, field: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(given) = self.given.get(field) else { return Vec::new() };
        let mut parsed = Vec::new();
        for value in &given.values {
            match parse(value) {
                Ok(value) => parsed.push(value),
                Err(problem) => self.problems.push(format!("{}: {value:?} {problem}", given.place)),
            }
        }
        parsed
    }

    /// As [`Settings::one`]; its absence is a problem, which says `what` it is.
    pub(super) fn required(
        &mut self,
        field: &str,
        parse: impl Fn(&str) -> Result<String, String>,
        what: &str,
    ) -> String {
        if !self.was_given(field) {
            self.problem(field, &format!("is required: {what}"));
        }
        self.one(field, parse).unwrap_or_default()
    }

    /// Whether there is a value, good or bad.
    pub(super) fn was_given(&self, field: &str) -> bool {
        self.given.contains_key(field)
    }

    /// Reports a problem with a field, where it was given or else with its flag.
    pub(super) fn problem(&mut self, field: &str, problem: &str) {
        let place = self.given.get(field).map_or_else(|| flag(field), |given| given.place.clone());
        self.problems.push(format!("{place}: {problem}"));
    }

    /// The configuration, if nothing was wrong.
    pub(super) fn finish<T>(self, config: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: self.problems }) }
    }
}

fn is_known(field: &str) -> bool {
    match field.strip_prefix("limits.") {
        Some(limit) => LIMIT_FIELDS.contains(&limit),
        None => FIELDS.contains(&field),
    }
}

fn unknown(field: &str) -> String {
    match field {
        "limits" => "must be a mapping of limits to values".to_owned(),
        "config" => "a file cannot name another; give --config the file that is meant".to_owned(),
        _ if field.starts_with("limits.") => format!("is no limit; there are {}", LIMIT_FIELDS.join(", ")),
        _ => format!("is no field; there are {} and limits", FIELDS.join(", ")),
    }
}

/// `serviceAccount` and `service_account` are `service-account`, too.
fn kebab(written: &str) -> String {
    let mut field = String::with_capacity(written.len() + 4);
    for character in written.chars() {
        match character {
            '_' => field.push('-'),
            upper if upper.is_ascii_uppercase() => {
                field.push('-');
                field.push(upper.to_ascii_lowercase());
            }
            other => field.push(other),
        }
    }
    field
}

/// A value as the flag would have it: `80: 127.0.0.1:9001` in a mapping is `80=127.0.0.1:9001`.
fn values(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Sequence(items) => items.iter().map(text).collect(),
        Value::Mapping(pairs) => {
            pairs.iter().map(|(key, value)| Some(format!("{}={}", text(key)?, text(value)?))).collect()
        }
        plain => text(plain).map(|text| vec![text]),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}
