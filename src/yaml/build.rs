//! The parser's events into trees.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, ScalarStyle, Tag};

use super::scalar::{self, Scalar};
use super::{Data, Document, Duplicate, Entry, Error, MAX_DEPTH, MAX_NODES, Node, Span};

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
pub(super) struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Built>,
    root: Option<Node>,
    duplicates: Vec<Duplicate>,
    /// Values so far, in all documents.
    pub(super) nodes: usize,
}

impl Builder {
    pub(super) fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Document>, Error> {
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
    pub(super) fn abandon(&mut self) {
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
