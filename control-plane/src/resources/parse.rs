//! A request's text to documents: several YAML documents, one JSON object, a JSON array, a `List`.
//!
//! All or nothing: one document that is wrong refuses the whole text, with the problems of all of them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::kind::Scope;
use super::problem::{DocumentProblem, FieldPath, Problem, Problems};
use super::{DEFAULT_NAMESPACE, Kind, Resource, ResourceKey, locate, schema, tree};

/// Some editors write it before a text; it may stand before each document of a stream (YAML 1.2.2 section 5.2).
const BYTE_ORDER_MARK: char = '\u{feff}';
/// How many problems of one text are listed.
const MOST_PROBLEMS: usize = 500;
/// Finding the line of a field costs a reading of the text that it is in. So many bytes are spent on that; what is
/// wrong beyond is told by its field alone.
const LOCATE_BUDGET_BYTES: usize = 32 * 1024 * 1024;

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2, in one document or several. JSON is read too, being YAML.
    Yaml,
    /// JSON: one document, or an array of documents.
    Json,
}

/// The documents of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// In the order of the text.
    pub documents: Vec<ParsedDocument>,
}

/// One document: read, defaults filled in, valid.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedDocument {
    /// The document.
    pub resource: Resource,
    /// What is accepted, and most likely not what was meant.
    pub warnings: Vec<DocumentProblem>,
    origin: Origin,
}

/// A text that is not taken, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Never empty, in the order of the text.
    pub problems: Vec<DocumentProblem>,
    /// It is not even YAML or JSON, or holds nothing.
    pub malformed: bool,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}

/// Reads every document of a text.
///
/// # Errors
/// Every problem of every document, with the number of the document, the line and the field.
pub fn parse(text: &str, format: Format) -> Result<Parsed, Rejected> {
    parse_in(text, format, DEFAULT_NAMESPACE)
}

/// Reads every document of a text; those that name no namespace are in the one given.
///
/// # Errors
/// As [`parse`].
pub fn parse_in(text: &str, format: Format, namespace: &str) -> Result<Parsed, Rejected> {
    let mut reader = Reader {
        namespace,
        documents: Vec::new(),
        keys: BTreeSet::new(),
        problems: Vec::new(),
        count: 0,
        malformed: false,
        locate_budget: LOCATE_BUDGET_BYTES,
    };
    match format {
        Format::Json => reader.read_text(text, 0, Format::Json),
        Format::Yaml => {
            for (first_line, chunk) in yaml_documents(text) {
                reader.read_text(chunk, first_line, Format::Yaml);
            }
        }
    }
    if reader.count == 0 && reader.problems.is_empty() {
        reader.problems.push(whole_text("there is no document in the input"));
        reader.malformed = true;
    }
    match reader.problems.is_empty() {
        true => Ok(Parsed { documents: reader.documents }),
        false => Err(Rejected { problems: reader.problems, malformed: reader.malformed }),
    }
}

fn whole_text(message: &str) -> DocumentProblem {
    DocumentProblem {
        document: None,
        line: None,
        resource: None,
        field: String::new(),
        message: message.to_owned(),
    }
}

/// The documents of a YAML stream that hold more than comments and directives, each with the lines before it. A line that starts
/// with `---` always starts a document (YAML 1.2.2 section 9.1.4), in whatever it stands.
fn yaml_documents(text: &str) -> Vec<(usize, &str)> {
    let mut starts = vec![(0, 0)];
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .trim_start_matches(BYTE_ORDER_MARK)
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > 0 {
            starts.push((number, offset));
        }
        offset += line.len();
    }
    let ends = starts.iter().skip(1).map(|(_, offset)| *offset).chain([text.len()]);
    let chunks = starts.iter().zip(ends).map(|((number, start), end)| (*number, &text[*start..end]));
    chunks.filter(|(_, chunk)| chunk.lines().any(is_content)).collect()
}

fn is_content(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim_start_matches(BYTE_ORDER_MARK).trim_start();
    !line.is_empty() && !line.starts_with(['#', '%']) && line.trim_end() != "..."
}

/// What was read so far.
struct Reader<'a> {
    /// Of documents that name none.
    namespace: &'a str,
    documents: Vec<ParsedDocument>,
    /// Of the documents read.
    keys: BTreeSet<ResourceKey>,
    problems: Vec<DocumentProblem>,
    /// Documents met, read or not.
    count: usize,
    malformed: bool,
    /// Bytes that may still be read to find lines.
    locate_budget: usize,
}

/// Where a document comes from.
#[derive(Clone, Debug, PartialEq)]
struct Origin {
    /// With the others of one list, where it is in one.
    text: Arc<str>,
    format: Format,
    lines_before: usize,
    /// Where in the text's tree the document is.
    inside: FieldPath,
    /// Counted from 1.
    number: usize,
}

impl Parsed {
    /// Problems that were found when the documents were looked at together, with their places in the text.
    pub(crate) fn placed<'p>(
        &self,
        problems: impl IntoIterator<Item = (&'p ResourceKey, &'p Problem)>,
    ) -> Vec<DocumentProblem> {
        let mut budget = LOCATE_BUDGET_BYTES;
        let mut placed = Vec::new();
        for (key, problem) in problems {
            let Some(document) = self.documents.iter().find(|one| one.resource.key() == *key) else {
                continue;
            };
            placed.push(document.origin.place(Some(key.to_string()), problem, &mut budget));
        }
        placed.sort_by_key(|problem| (problem.document, problem.line));
        placed
    }
}

impl Origin {
    /// A problem with its place in the whole text.
    fn place(&self, resource: Option<String>, problem: &Problem, budget: &mut usize) -> DocumentProblem {
        let mut line = None;
        if let Some(left) = budget.checked_sub(self.text.len()) {
            *budget = left;
            line = locate::line_of(&self.text, self.format, &self.inside.join(&problem.path));
        }
        DocumentProblem {
            document: Some(self.number),
            line: line.map(|line| self.lines_before + line),
            resource,
            field: problem.field(),
            message: problem.message.clone(),
        }
    }
}

impl Reader<'_> {
    fn read_text(&mut self, text: &str, lines_before: usize, format: Format) {
        let text = text.trim_start_matches(BYTE_ORDER_MARK);
        let (text, format, read) = match json_in_yaml(text).filter(|_| format == Format::Yaml) {
            Some((json, value)) => (json, Format::Json, Ok(value)),
            None => (text, format, tree::read(text, format)),
        };
        match read {
            Ok(value) => {
                let number = self.count + 1;
                let (text, inside) = (Arc::from(text), FieldPath::root());
                let origin = Origin { text, format, lines_before, inside, number };
                self.read_tree(value, origin);
            }
            Err(error) => {
                self.count += 1;
                self.malformed = true;
                if self.problems.len() < MOST_PROBLEMS {
                    self.problems.push(DocumentProblem {
                        document: Some(self.count),
                        line: error.line.map(|line| lines_before + line),
                        ..whole_text(&error.message)
                    });
                }
            }
        }
    }

    /// Takes lists apart.
    fn read_tree(&mut self, value: Value, origin: Origin) {
        let (items, inside) = match value {
            Value::Array(items) => (items, FieldPath::root()),
            Value::Object(mut object) if is_list(&object) => match object.remove("items") {
                Some(Value::Array(items)) => (items, FieldPath::root().field("items")),
                _ => {
                    self.count += 1;
                    let path = FieldPath::root().field("items");
                    let problem = Problem { path, message: "must be a list of documents".to_owned() };
                    return self.report(None, &problem, &origin);
                }
            },
            Value::Null => return, // an empty document of a stream
            value => return self.read_document(value, &origin),
        };
        for (index, item) in items.into_iter().enumerate() {
            let number = self.count + 1;
            let origin = Origin { inside: inside.index(index), number, ..origin.clone() };
            self.read_document(item, &origin);
        }
    }

    fn read_document(&mut self, value: Value, origin: &Origin) {
        self.count += 1;
        let name = describe(&value);
        let mut problems = Problems::default();
        let resource = read_resource(value, self.namespace, &mut problems);
        let (errors, warnings) = problems.finish();
        for error in &errors {
            self.report(name.clone(), error, origin);
        }
        let Some(resource) = resource.filter(|_| errors.is_empty()) else { return };
        if !self.keys.insert(resource.key()) {
            let message = format!("{} is there a second time", resource.key());
            return self.report(name, &Problem { path: FieldPath::root(), message }, origin);
        }
        let budget = &mut self.locate_budget;
        let warnings = warnings.iter().map(|warning| origin.place(name.clone(), warning, budget)).collect();
        self.documents.push(ParsedDocument { resource, warnings, origin: origin.clone() });
    }

    fn report(&mut self, resource: Option<String>, problem: &Problem, origin: &Origin) {
        if self.problems.len() < MOST_PROBLEMS {
            let problem = origin.place(resource, problem, &mut self.locate_budget);
            self.problems.push(problem);
        }
    }
}

/// JSON is YAML but for a few corners, tabs for one; where a document looks like JSON and is, it is read as such.
fn json_in_yaml(text: &str) -> Option<(&str, Value)> {
    let json = text.strip_prefix("---").unwrap_or(text);
    if !json.trim_start().starts_with(['{', '[']) {
        return None;
    }
    Some((json, tree::read(json, Format::Json).ok()?))
}

/// `List`, or the list of one kind, as `get` prints it.
fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    kind == "List" || Kind::ALL.iter().any(|known| kind.strip_suffix("List") == Some(known.name()))
}

/// What can be said of a document before it is read: `HTTPRoute shop/web`.
fn describe(value: &Value) -> Option<String> {
    let kind = value["kind"].as_str()?;
    let name = value["metadata"]["name"].as_str()?;
    Some(match value["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    })
}

fn read_resource(mut value: Value, namespace: &str, problems: &mut Problems) -> Option<Resource> {
    let kind = kind_of(&value, problems)?;
    if kind.scope() == Scope::Namespaced
        && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("namespace").is_none_or(|written| written.is_null() || written == "")
    {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    schema::check(kind, &mut value, problems);
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".to_owned(), kind.api_version().into());
        object.remove("status");
    }
    let has_all_parts = value["metadata"]["name"].is_string() && value["spec"].is_object();
    let mut deeper = Problems::default();
    let resource = (kind.entry().read)(value, &mut deeper);
    // A tree of the wrong shape fails to be read for reasons that were told already, field by field; one without a
    // part has further problems that are none but for that.
    if problems.is_clean() || (resource.is_some() && has_all_parts) {
        problems.append(deeper);
    }
    resource
}

fn kind_of(value: &Value, problems: &mut Problems) -> Option<Kind> {
    let Some(object) = value.as_object() else {
        problems.error(&FieldPath::root(), "must be an object with apiVersion, kind, metadata and spec");
        return None;
    };
    let path = FieldPath::root().field("kind");
    match object.get("kind") {
        None => problems.error(&path, "is required"),
        Some(Value::String(name)) => match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
            Some(kind) => return Some(kind),
            None => problems.error(&path, super::UnknownKind(name.clone()).to_string()),
        },
        Some(_) => problems.error(&path, "must be text"),
    }
    None
}
