//! The line on which a field of a document stands, so that an error leads the eye to it.
//!
//! Neither YAML nor JSON reader keeps positions in what it returns, but both put one into their errors. So the
//! text is read once more, and the visit of the field that is looked for fails on purpose.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Format;
use super::problem::{FieldPath, Step};

/// The line of the field in `text`, counted from 1; of what would hold the field where it is absent.
pub(crate) fn line_of(text: &str, format: Format, path: &FieldPath) -> Option<usize> {
    let mut steps = path.steps();
    loop {
        let seek = Seek { steps };
        let found = match format {
            Format::Yaml => {
                let error = seek.deserialize(serde_yaml_ng::Deserializer::from_str(text)).err();
                error.and_then(|error| error.location()).map(|at| at.line())
            }
            Format::Json => {
                let error = seek.deserialize(&mut serde_json::Deserializer::from_str(text)).err();
                error.map(|error| error.line())
            }
        };
        match steps.split_last() {
            None => return found,
            Some(_) if found.is_some() => return found,
            Some((_, parent)) => steps = parent,
        }
    }
}

/// Fails at the value that the steps lead to; succeeds where there is none.
struct Seek<'a> {
    steps: &'a [Step],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seek<'_> {
    /// A scalar: here if it is the end of the path, and otherwise nothing is inside it.
    fn scalar<E: Error>(self) -> Result<(), E> {
        if self.steps.is_empty() { Err(E::custom("here")) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else { return Err(A::Error::custom("here")) };
        let mut position = 0;
        loop {
            let more = match step {
                Step::Index(index) if *index == position => {
                    list.next_element_seed(Seek { steps: rest })?.is_some()
                }
                _ => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            position += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(key) = map.next_key::<String>()? {
            match step {
                Step::Field(name) if *name == key => map.next_value_seed(Seek { steps: rest })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "kind: A\nspec:\n  rules:\n  - name: x\n  - name: y\n    port: 1\n";

    fn path(steps: &[&str]) -> FieldPath {
        steps.iter().fold(FieldPath::root(), |path, step| match step.parse() {
            Ok(index) => path.index(index),
            Err(_) => path.field(step),
        })
    }

    #[test]
    fn a_field_is_found_on_its_line_in_both_formats() {
        assert_eq!(line_of(YAML, Format::Yaml, &path(&["spec", "rules", "1", "port"])), Some(6));
        let json = "{\"kind\": \"A\",\n \"spec\": {\"rules\": [\n  {\"name\": \"x\"},\n  {\"port\": 1}]}}";
        assert_eq!(line_of(json, Format::Json, &path(&["spec", "rules", "1", "port"])), Some(4));
    }

    #[test]
    fn an_absent_field_is_located_at_what_would_hold_it() {
        assert_eq!(line_of(YAML, Format::Yaml, &path(&["spec", "rules", "1", "weight"])), Some(5));
        assert_eq!(line_of(YAML, Format::Yaml, &path(&["spec", "rules", "7", "weight"])), Some(4));
        assert_eq!(line_of(YAML, Format::Yaml, &path(&["nothing"])), Some(1));
    }
}
