//! The shape of documents: one JSON schema per kind, generated from its Rust type, and the check against it.
//!
//! The same schema is published in the OpenAPI document and decides here what is an unknown field, a wrong type or
//! a value out of range. The check knows the keywords that the generator uses, which a test holds it to.

use std::sync::OnceLock;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::duration::{self, Period};
use super::problem::{FieldPath, Problems};
use super::{Kind, metadata};

/// The JSON schema (2020-12) of a kind's documents.
pub(crate) fn of(kind: Kind) -> &'static Value {
    static SCHEMAS: [OnceLock<Value>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
    SCHEMAS[kind as usize].get_or_init(|| generate(kind))
}

fn generate(kind: Kind) -> Value {
    let mut generator = SchemaGenerator::default();
    let spec = (kind.entry().spec_schema)(&mut generator);
    json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "enum": kind.api_versions() },
            "kind": { "const": kind.name() },
            "metadata": metadata::schema(),
            "spec": spec,
            "status": { "description": "Kept by the control plane; ignored when written." },
        },
        "$defs": generator.take_definitions(false),
    })
}

/// Reports where `document` is not of the kind's shape. Fields that are unknown are taken out, so that the rest
/// can be read and checked further; `null` counts as absent, as at an API server.
pub(crate) fn check(kind: Kind, document: &mut Value, problems: &mut Problems) {
    drop_nulls(document);
    let root = of(kind);
    Checker { root, problems }.check(root, document, &FieldPath::root());
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

struct Checker<'a> {
    root: &'a Value,
    problems: &'a mut Problems,
}

impl Checker<'_> {
    fn check(&mut self, schema: &Value, value: &mut Value, path: &FieldPath) {
        if let Some(target) = schema["$ref"].as_str().and_then(|target| target.strip_prefix('#')) {
            let root = self.root;
            if let Some(schema) = root.pointer(target) {
                self.check(schema, value, path);
            }
            return;
        }
        if schema["x-kubernetes-int-or-string"] == true && !(value.is_i64() || value.is_string()) {
            return self
                .problems
                .error(path, format!("must be a whole number or text, not {}", name_of(value)));
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(alternatives) = schema[keyword].as_array() {
                return self.check_alternatives(alternatives, value, path);
            }
        }
        if let Some(allowed) = allowed_values(schema) {
            return self.check_allowed(&allowed, value, path);
        }
        if !has_type(&schema["type"], value) {
            let wanted = wanted_types(&schema["type"]);
            return self.problems.error(path, format!("must be {wanted}, not {}", name_of(value)));
        }
        match value {
            Value::Object(_) => self.check_object(schema, value, path),
            Value::Array(_) => self.check_list(schema, value, path),
            Value::Number(_) => self.check_number(schema, value, path),
            Value::String(text) => self.check_text(schema, text, path),
            Value::Bool(_) | Value::Null => {}
        }
    }

    /// Optional references come as "that or null"; enums with documented values as a choice of constants.
    fn check_alternatives(&mut self, alternatives: &[Value], value: &mut Value, path: &FieldPath) {
        let real: Vec<&Value> = alternatives.iter().filter(|schema| schema["type"] != "null").collect();
        if let [only] = real.as_slice() {
            return self.check(only, value, path);
        }
        let allowed: Vec<Value> = real.iter().filter_map(|schema| allowed_values(schema)).flatten().collect();
        self.check_allowed(&allowed, value, path);
    }

    fn check_allowed(&mut self, allowed: &[Value], value: &Value, path: &FieldPath) {
        if allowed.contains(value) {
            return;
        }
        let shown: Vec<String> = allowed
            .iter()
            .filter(|value| !value.is_null())
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect();
        let value =
            if value.is_object() || value.is_array() { name_of(value).to_owned() } else { value.to_string() };
        self.problems.error(path, format!("{value} is not supported; expected {}", shown.join(", ")));
    }

    fn check_object(&mut self, schema: &Value, value: &mut Value, path: &FieldPath) {
        let Value::Object(object) = value else { return };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                self.problems.error(&path.field(name), "is required");
            }
        }
        let Some(properties) = schema["properties"].as_object() else {
            let values = &schema["additionalProperties"];
            if values.is_object() {
                for (name, value) in object.iter_mut() {
                    self.check(values, value, &path.field(name));
                }
            }
            return;
        };
        object.retain(|name, value| {
            match properties.get(name) {
                Some(schema) => self.check(schema, value, &path.field(name)),
                None => self.problems.error(&path.field(name), unknown_field(name, properties.keys())),
            }
            properties.contains_key(name)
        });
    }

    fn check_list(&mut self, schema: &Value, value: &mut Value, path: &FieldPath) {
        let Value::Array(list) = value else { return };
        let count = list.len() as u64;
        if let Some(least) = schema["minItems"].as_u64()
            && count < least
        {
            self.problems.error(
                path,
                format!("must have {least} entr{} or more", if least == 1 { "y" } else { "ies" }),
            );
        }
        if let Some(most) = schema["maxItems"].as_u64()
            && count > most
        {
            // The entries are not looked at: a list that is a million too long is one mistake.
            return self.problems.error(path, format!("must not have more than {most} entries, not {count}"));
        }
        for (index, value) in list.iter_mut().enumerate() {
            self.check(&schema["items"], value, &path.index(index));
        }
    }

    fn check_number(&mut self, schema: &Value, value: &Value, path: &FieldPath) {
        let Some(number) = value.as_f64() else { return };
        let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("{least} or more"),
                (None, most) => format!("{} or less", most.unwrap_or_default()),
            };
            self.problems.error(path, format!("{value} is out of range, {range}"));
        }
    }

    fn check_text(&mut self, schema: &Value, text: &str, path: &FieldPath) {
        // The one pattern that our kinds have; its own parser explains it better than a pattern does.
        if schema["pattern"] == duration::PATTERN
            && let Err(error) = text.parse::<Period>()
        {
            self.problems.error(path, error.to_string());
        }
    }
}

/// The values that an `enum` or a `const` allows.
fn allowed_values(schema: &Value) -> Option<Vec<Value>> {
    match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(values)), _) => Some(values.clone()),
        (_, Some(value)) => Some(vec![value.clone()]),
        _ => None,
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    let types = types(schema);
    types.is_empty()
        || types.iter().any(|name| match *name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "null" => value.is_null(),
            _ => false,
        })
}

fn wanted_types(schema: &Value) -> String {
    let names = types(schema).into_iter().filter(|name| *name != "null").map(|name| match name {
        "object" => "an object",
        "array" => "a list",
        "string" => "text (quote it where it looks like something else)",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    });
    names.collect::<Vec<_>>().join(" or ")
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn unknown_field<'a>(name: &str, known: impl Iterator<Item = &'a String> + Clone) -> String {
    let near = known.clone().map(|candidate| (distance(name, candidate), candidate)).min();
    match near {
        Some((distance, candidate)) if distance * 3 <= name.len() => {
            format!("is not a field here; did you mean {candidate:?}?")
        }
        _ => {
            let names: Vec<&str> = known.map(String::as_str).collect();
            format!("is not a field here; there are {}", names.join(", "))
        }
    }
}

/// How many letters have to be put in, taken out or changed to make one name of the other, capitals apart.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_ascii_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // A name longer than any field is none that was mistyped.
    for (line, letter) in a.to_ascii_lowercase().chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = line + 1;
        for (column, other) in b.iter().enumerate() {
            let change = corner + usize::from(letter != *other);
            corner = row[column + 1];
            row[column + 1] = change.min(corner + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(kind: Kind, mut document: Value) -> Vec<String> {
        let mut problems = Problems::default();
        check(kind, &mut document, &mut problems);
        problems
            .finish()
            .0
            .iter()
            .map(|problem| format!("{}: {}", problem.field(), problem.message()))
            .collect()
    }

    /// A keyword that the check does not know would be a rule that is published and not kept.
    #[test]
    fn every_keyword_of_every_schema_is_known_to_the_check() {
        fn collect(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(object) => {
                    for (keyword, inner) in object {
                        match keyword.as_str() {
                            "properties" | "$defs" => {
                                inner.as_object().unwrap().values().for_each(|inner| collect(inner, found));
                            }
                            "enum" | "const" | "default" => {}
                            _ => {
                                found.push(keyword.clone());
                                collect(inner, found);
                            }
                        }
                    }
                }
                Value::Array(list) => list.iter().for_each(|inner| collect(inner, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        Kind::ALL.into_iter().for_each(|kind| collect(of(kind), &mut found));
        let known = [
            "$ref",
            "additionalProperties",
            "anyOf",
            "description",
            "format",
            "items",
            "maximum",
            "maxItems",
            "minItems",
            "minimum",
            "oneOf",
            "pattern",
            "required",
            "type",
            "x-kubernetes-int-or-string",
        ];
        found.retain(|keyword| !known.contains(&keyword.as_str()));
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn every_alternative_of_every_schema_is_one_type_or_null_or_a_choice_of_constants() {
        fn visit(schema: &Value) {
            for keyword in ["anyOf", "oneOf"] {
                let Some(alternatives) = schema[keyword].as_array() else { continue };
                let real: Vec<_> = alternatives.iter().filter(|schema| schema["type"] != "null").collect();
                assert!(
                    real.len() == 1 || real.iter().all(|schema| allowed_values(schema).is_some()),
                    "{schema}"
                );
            }
            match schema {
                Value::Object(object) => object.values().for_each(visit),
                Value::Array(list) => list.iter().for_each(visit),
                _ => {}
            }
        }
        Kind::ALL.into_iter().for_each(|kind| visit(of(kind)));
    }

    #[test]
    fn unknown_fields_wrong_types_and_values_out_of_range_are_all_named() {
        let found = problems(
            Kind::ServicePolicy,
            json!({
                "apiVersion": "outrigger.dev/v1alpha1", "kind": "ServicePolicy", "metadata": { "name": "a" },
                "spec": {
                    "targetRefs": [{ "name": "web", "colour": "red" }],
                    "loadBalancer": { "type": "Random" },
                    "circuitBraker": {},
                    "limits": { "maxConnections": 0 },
                    "connection": { "connectTimeout": "soon" },
                    "retryBudget": { "percent": "20" },
                },
            }),
        );
        let starts = [
            r#"spec.circuitBraker: is not a field here; did you mean "circuitBreaker"?"#,
            r#"spec.connection.connectTimeout: "soon" is not a duration"#,
            "spec.limits.maxConnections: 0 is out of range, 1 to 1000000",
            r#"spec.loadBalancer.type: "Random" is not supported; expected PeakEwma, LeastRequest, RoundRobin"#,
            "spec.retryBudget.percent: must be a whole number, not text",
            "spec.targetRefs[0].colour: is not a field here; there are group, kind, name",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start), "{found}");
        }
    }
}
