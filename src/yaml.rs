//! YAML and JSON: text into trees that know where each value stands, and values into text. This file and those below it
//! are the only ones that name the YAML crate.
//!
//! Text comes from users and from the network, so it is bounded before anything is built from it: its length, its depth, and
//! the number of values after aliases are followed (a few lines of aliases of aliases stand for billions).

mod build;
mod scalar;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{self, Parser};

use self::build::Builder;

/// Longest text that is read, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 64;
/// Most values in one text, each alias counted with all that it stands for.
pub const MAX_NODES: usize = 500_000;

/// Where something stands in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters on that line; at least 1.
    pub width: usize,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands; behind an alias: where the anchored value stands.
    pub span: Span,
    /// What it is.
    pub data: Data,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `no` …
    Bool(bool),
    /// Any number that JSON can hold.
    Number(Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the text's order; of keys that come twice, the first.
    Map(Vec<Entry>),
}

/// One key of a map with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as text.
    pub key: String,
    /// Where the key stands.
    pub span: Span,
    /// What it holds.
    pub value: Node,
}

/// A key that a map has twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The key.
    pub key: String,
    /// Where it stands first.
    pub first: Span,
    /// Where it stands again.
    pub again: Span,
}

/// One document of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its value; [`Data::Null`] when it is empty.
    pub root: Node,
    /// Keys that come twice in one map.
    pub duplicates: Vec<Duplicate>,
}

/// Text that is no YAML, or more of it than is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at line {}, column {}", span.line, span.column)]
pub struct Error {
    /// Where.
    pub span: Span,
    /// What is wrong.
    pub message: String,
}

/// Everything that could be read of a text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// The documents that are right.
    pub documents: Vec<Document>,
    /// One error for each document that is not.
    pub errors: Vec<Error>,
}

impl Node {
    /// The value without places.
    pub fn to_value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(value) => Value::Number(value.clone()),
            Data::Text(value) => Value::String(value.clone()),
            Data::List(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Data::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_value())).collect::<Map<_, _>>())
            }
        }
    }

    /// The entry of a map.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }

    /// The value of a map's key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.value)
    }

    /// The item of a list.
    pub fn item(&self, index: usize) -> Option<&Node> {
        match &self.data {
            Data::List(items) => items.get(index),
            _ => None,
        }
    }

    /// The text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads all documents of a text (YAML or JSON). Never fails as a whole: a document that cannot be read is an entry in `errors`.
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    if text.len() > MAX_BYTES {
        let message = format!("more than {} MiB of text", MAX_BYTES >> 20);
        parsed.errors.push(Error { span: Span { line: 1, column: 1, width: 1 }, message });
        return parsed;
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::default();
    loop {
        let error = match parser.next_event() {
            None => return parsed,
            Some(Err(error)) => scan_error(&error),
            Some(Ok((event, span))) => match builder.event(event, spot(text, &span)) {
                Ok(Some(document)) => {
                    parsed.documents.push(document);
                    continue;
                }
                Ok(None) => continue,
                Err(error) => error,
            },
        };
        parsed.errors.push(error);
        builder.abandon();
        // Each error ends one document; the next one may be right.
        if builder.nodes > MAX_NODES || !matches!(parser.proceed_next_document(), Ok(true)) {
            return parsed;
        }
    }
}

/// Reads all documents of a text as values; empty documents are left out.
///
/// # Errors
/// The first thing that is wrong; a key that comes twice is wrong.
pub fn values(text: &str) -> Result<Vec<Value>, Error> {
    let parsed = parse(text);
    if let Some(error) = parsed.errors.into_iter().next() {
        return Err(error);
    }
    let mut values = Vec::new();
    for document in parsed.documents {
        if let Some(twice) = document.duplicates.first() {
            return Err(Error { span: twice.again, message: format!("key {} comes twice", twice.key) });
        }
        if document.root.data != Data::Null {
            values.push(document.root.to_value());
        }
    }
    Ok(values)
}

/// Reads the only document of a text.
///
/// # Errors
/// No document or several, text that is no YAML, or a value of another shape than asked for.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let start = Span { line: 1, column: 1, width: 1 };
    let mut values = values(text)?;
    let value = values.pop().ok_or_else(|| Error { span: start, message: "no document".to_owned() })?;
    if !values.is_empty() {
        return Err(Error { span: start, message: "more than one document".to_owned() });
    }
    serde_json::from_value(value).map_err(|error| Error { span: start, message: error.to_string() })
}

/// A value that cannot be written as YAML: a map whose keys are no scalars, or a value whose own code fails.
#[derive(Debug, thiserror::Error)]
#[error("cannot write YAML: {0}")]
pub struct WriteError(String);

/// Writes a value as one YAML document. Text that YAML 1.1 would read as something else (`no`, `1e3`, `0644`) is quoted.
///
/// # Errors
/// [`WriteError`].
pub fn to_string<T: Serialize>(value: &T) -> Result<String, WriteError> {
    // Folding long lines would only make them harder to search for.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: MAX_BYTES };
    let mut text =
        serde_saphyr::to_string_with_options(value, options).map_err(|error| WriteError(error.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Writes values as the documents of one text.
///
/// # Errors
/// [`WriteError`].
pub fn to_documents<T: Serialize>(values: &[T]) -> Result<String, WriteError> {
    let mut text = String::new();
    for value in values {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&to_string(value)?);
    }
    Ok(text)
}

fn scan_error(error: &granit_parser::ScanError) -> Error {
    let mark = error.marker();
    Error { span: Span { line: mark.line().max(1), column: mark.col() + 1, width: 1 }, message: error.info() }
}

fn spot(text: &str, span: &granit_parser::Span) -> Span {
    let source = span.slice(text).unwrap_or_default();
    let width = source.lines().next().unwrap_or_default().trim_end().chars().count();
    Span { line: span.start.line().max(1), column: span.start.col() + 1, width: width.max(1) }
}

#[cfg(test)]
mod tests;
