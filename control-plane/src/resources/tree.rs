//! Text to a tree of values, for YAML and JSON alike: no key twice, no tag, no number that JSON cannot hold.
//!
//! The usual readers keep the last of two equal keys and say nothing; in a policy that is a rule lost.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Format, depth};

/// What is wrong with a text, and on which of its lines (counted from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: Option<usize>,
    pub(crate) message: String,
}

/// Reads one document.
pub(crate) fn read(text: &str, format: Format) -> Result<Value, SyntaxError> {
    if let (Format::Yaml, Some(line)) = (format, depth::too_deep(text)) {
        let message = format!("nests deeper than {} levels, which no document does", depth::MOST);
        return Err(SyntaxError { line: Some(line), message });
    }
    match format {
        Format::Json => serde_json::from_str::<Tree>(text).map(|tree| tree.0).map_err(|error| {
            let message = error.to_string();
            // The line is told apart from the message, and counts in the whole request.
            let bare = message.rsplit_once(" at line ").map_or(message.as_str(), |(bare, _)| bare);
            SyntaxError {
                line: Some(error.line()).filter(|line| *line > 0),
                message: format!("is not JSON: {bare}"),
            }
        }),
        Format::Yaml => serde_yaml_ng::from_str::<Tree>(text).map(|tree| tree.0).map_err(|error| {
            let message = error.to_string();
            let bare = message.split(" at line ").next().unwrap_or_default();
            let bare = bare.strip_suffix(',').unwrap_or(bare);
            SyntaxError {
                line: error.location().map(|at| at.line()),
                message: format!("is not YAML: {bare}"),
            }
        }),
    }
}

struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, a list, text, a number, true, false or null")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format!("{value} is no number")))?;
        Ok(Tree(Value::Number(number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree(Value::String(value.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut values = Vec::new();
        while let Some(Tree(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Tree(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            let Tree(value) = map.next_value()?;
            object.insert(key, value);
        }
        Ok(Tree(Value::Object(object)))
    }
}
