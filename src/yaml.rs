//! YAML and JSON: text into trees that know where each value stands, and values into text. The only file that names the YAML crate.
//!
//! Text comes from users and from the network, so it is bounded before anything is built from it: its length, its depth, and
//! the number of values after aliases are followed (a few lines of aliases of aliases stand for billions).

mod scalar;

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Tag};

use self::scalar::Scalar;

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

/// A finished value with its size (itself and all below) and its height (0 for a scalar).
#[derive(Clone)]
struct Built {
    node: Node,
    size: usize,
    height: usize,
}

enum Open {
    List {
        span: Span,
        anchor: usize,
        items: Vec<Built>,
    },
    Map {
        span: Span,
        anchor: usize,
        entries: Vec<(String, Span, Built)>,
        key: Option<(String, Span)>,
        merges: Vec<Built>,
    },
}

/// Events into trees, with the open lists and maps on a stack of its own (no recursion on what the user wrote).
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Built>,
    root: Option<Node>,
    duplicates: Vec<Duplicate>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Document>, Error> {
        match event {
            Event::DocumentStart(..) => self.abandon(),
            Event::DocumentEnd => {
                let root = self.root.take().unwrap_or(Node { span, data: Data::Null });
                let duplicates = std::mem::take(&mut self.duplicates);
                return Ok(Some(Document { root, duplicates }));
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), span)?,
            Event::Alias(id) => {
                let Some(built) = self.anchors.get(&id).cloned() else {
                    return Err(Error { span, message: "an alias that stands for itself".to_owned() });
                };
                // A merged or repeated value is counted in full: this is what bounds a bomb of aliases.
                self.count(built.size, span)?;
                self.place(built, span)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection(tag.as_deref(), "seq", span)?;
                self.open.push(Open::List { span, anchor, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection(tag.as_deref(), "map", span)?;
                self.open.push(Open::Map { span, anchor, entries: Vec::new(), key: None, merges: Vec::new() });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::StreamStart | Event::StreamEnd => {}
            _ => return Err(Error { span, message: "something that is no value".to_owned() }),
        }
        Ok(None)
    }

    /// Forgets the document that is being built.
    fn abandon(&mut self) {
        self.open.clear();
        self.anchors.clear();
        self.duplicates.clear();
        self.root = None;
    }

    fn count(&mut self, size: usize, span: Span) -> Result<(), Error> {
        self.nodes = self.nodes.saturating_add(size);
        if self.nodes > MAX_NODES {
            return Err(Error { span, message: format!("more than {MAX_NODES} values") });
        }
        Ok(())
    }

    fn collection(&mut self, tag: Option<&Tag>, kind: &str, span: Span) -> Result<(), Error> {
        self.count(1, span)?;
        if tag.is_some_and(|tag| tag.core_suffix() != Some(kind)) {
            return Err(Error { span, message: "a tag that is not known here".to_owned() });
        }
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return Err(Error { span, message: "a list or map as a key".to_owned() });
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<(), Error> {
        self.count(1, span)?;
        if let Some(Open::Map { key: key @ None, .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), span));
            // `<<` in quotes is a key like any other; told apart by its width.
            if anchor != 0 {
                let node = Node { span, data: Data::Text(text.to_owned()) };
                self.anchors.insert(anchor, Built { node, size: 1, height: 0 });
            }
            return Ok(());
        }
        let data = match tag {
            None if style == ScalarStyle::Plain => match scalar::resolve(text) {
                Scalar::Null => Data::Null,
                Scalar::Bool(value) => Data::Bool(value),
                Scalar::Number(value) => Data::Number(value),
                Scalar::Text => Data::Text(text.to_owned()),
            },
            None => Data::Text(text.to_owned()),
            Some(tag) => tagged(text, tag).ok_or_else(|| Error {
                span,
                message: format!("{text:?} does not fit its tag {}, or the tag is not known here", tag.original()),
            })?,
        };
        let built = Built { node: Node { span, data }, size: 1, height: 0 };
        if anchor != 0 {
            self.anchors.insert(anchor, built.clone());
        }
        self.place(built, span)
    }

    fn close(&mut self) -> Result<(), Error> {
        let (anchor, built) = match self.open.pop() {
            None => return Ok(()),
            Some(Open::List { span, anchor, items }) => {
                let (size, height) = measure(items.iter());
                let data = Data::List(items.into_iter().map(|b| b.node).collect());
                (anchor, Built { node: Node { span, data }, size, height })
            }
            Some(Open::Map { span, anchor, entries, merges, .. }) => {
                let (size, height) = measure(entries.iter().map(|(_, _, b)| b).chain(&merges));
                let mut data: Vec<Entry> =
                    entries.into_iter().map(|(key, span, b)| Entry { key, span, value: b.node }).collect();
                for merge in merges {
                    merge_into(&mut data, merge.node)?;
                }
                (anchor, Built { node: Node { span, data: Data::Map(data) }, size, height })
            }
        };
        if anchor != 0 {
            self.anchors.insert(anchor, built.clone());
        }
        let span = built.node.span;
        self.place(built, span)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, built: Built, span: Span) -> Result<(), Error> {
        if self.open.len() + built.height > MAX_DEPTH {
            return Err(Error { span, message: format!("more than {MAX_DEPTH} levels of nesting") });
        }
        match self.open.last_mut() {
            None => self.root = Some(built.node),
            Some(Open::List { items, .. }) => items.push(built),
            Some(Open::Map { entries, key, merges, .. }) => match key.take() {
                // An alias as a key.
                None => match built.node.data {
                    Data::Text(text) => *key = Some((text, span)),
                    _ => return Err(Error { span, message: "a key that is no text".to_owned() }),
                },
                Some((name, key_span)) if name == "<<" && key_span.width == 2 => merges.push(built),
                Some((name, key_span)) => match entries.iter().find(|(known, ..)| *known == name) {
                    None => entries.push((name, key_span, built)),
                    Some((_, first, _)) => {
                        self.duplicates.push(Duplicate { key: name, first: *first, again: key_span });
                    }
                },
            },
        }
        Ok(())
    }
}

fn measure<'a>(parts: impl Iterator<Item = &'a Built>) -> (usize, usize) {
    let (size, height) =
        parts.fold((1_usize, 0), |(size, height), b| (size.saturating_add(b.size), b.height.max(height)));
    (size, height + 1)
}

/// YAML 1.1's merge key: adds the entries of a map (or of each map of a list) that are not there yet.
fn merge_into(entries: &mut Vec<Entry>, from: Node) -> Result<(), Error> {
    match from.data {
        Data::Map(more) => {
            for entry in more {
                if !entries.iter().any(|e| e.key == entry.key) {
                    entries.push(entry);
                }
            }
            Ok(())
        }
        Data::List(maps) if maps.iter().all(|n| matches!(n.data, Data::Map(_))) => {
            maps.into_iter().try_for_each(|map| merge_into(entries, map))
        }
        _ => Err(Error { span: from.span, message: "only a map, or a list of maps, can be merged with <<".to_owned() }),
    }
}

fn tagged(text: &str, tag: &Tag) -> Option<Data> {
    match tag.core_suffix()? {
        "str" => Some(Data::Text(text.to_owned())),
        "null" => matches!(scalar::resolve(text), Scalar::Null).then_some(Data::Null),
        "bool" => match scalar::resolve(text) {
            Scalar::Bool(value) => Some(Data::Bool(value)),
            _ => None,
        },
        "int" | "float" => scalar::number(text).map(Data::Number),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
