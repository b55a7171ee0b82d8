//! YAML as a tree of values that know their line. Computes only.
//!
//! serde alone would stop at the first fault, drop the line and let the last of two equal keys win; this tree keeps
//! all that, and becomes JSON (and then types) once it has been checked.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::json;

/// A value and the line it starts on (from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line, from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// A YAML value, resolved by the core schema of YAML 1.2.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: `null`, `~` or an empty value.
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A decimal number.
    Float(f64),
    /// Text.
    String(String),
    /// `yes`, `no`, `on`, `off` and the like without quotes: text in YAML 1.2, a boolean for Kubernetes.
    Ambiguous(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written, equal keys included.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The key's line, from 1.
    pub line: usize,
    /// The value.
    pub node: Node,
}

/// A fault of the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: usize,
    /// Expected, found, what to do.
    pub message: String,
}

/// More values than a manifest can hold: aliases of aliases grow without bound.
const MAX_NODES: usize = 200_000;
/// More bytes than a manifest can hold, aliases written out: an object of a cluster has 1.5 MB.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Lists and mappings in each other. Our schemas have eight; each takes some of the stack.
const MAX_DEPTH: usize = 64;
/// Documents of one text.
const MAX_DOCUMENTS: usize = 10_000;

/// The documents of a text. A document that cannot be read does not hide the others; an empty one is left out.
pub fn documents(text: &str) -> Vec<Result<Node, SyntaxError>> {
    if let Some((line, _)) = split(text).nth(MAX_DOCUMENTS) {
        let message =
            format!("expected at most {MAX_DOCUMENTS} documents in a file, found more; spread them over several");
        return vec![Err(SyntaxError { line, message })];
    }
    split(text).filter_map(|(first_line, document)| parse(document, first_line).transpose()).collect()
}

impl Node {
    /// The value of a key of a mapping, the last one where a key is repeated.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.node)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().rev().find(|e| e.key == key),
            _ => None,
        }
    }

    /// The text, if this is text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The line of what a path names (`spec.judges[0].name`), or of the last part of it that is there.
    pub fn line_of(&self, path: &str) -> usize {
        let (mut node, mut line) = (self, self.line);
        for part in path.split('.') {
            let (key, indices) = part.split_once('[').map_or((part, ""), |(k, i)| (k, i));
            let Some(entry) = node.entry(key) else { return line };
            (node, line) = (&entry.node, entry.line);
            for index in indices.split(['[', ']']).filter(|i| !i.is_empty()) {
                let Value::List(items) = &node.value else { return line };
                let Some(item) = index.parse::<usize>().ok().and_then(|i| items.get(i)) else { return line };
                (node, line) = (item, item.line);
            }
        }
        line
    }

    /// As JSON. Numbers that JSON does not have (infinite ones) become null.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => json!(b),
            Value::Integer(i) => json!(i),
            Value::Float(f) => json!(f),
            Value::String(s) | Value::Ambiguous(s) => json!(s),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                serde_json::Value::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect())
            }
        }
    }
}

/// The documents of a stream with the line each starts on. `---` at the start of a line begins one, wherever it stands
/// (YAML 1.2.2, section 9.1.2).
fn split(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut starts = vec![(1, 0)];
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if offset > 0 && line.strip_prefix("---").is_some_and(|rest| rest.trim_start().len() < rest.len()) {
            starts.push((index + 1, offset));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|s| s.1).chain([text.len()]).collect();
    starts.into_iter().zip(ends).map(|((line, start), end)| (line, &text[start..end]))
}

fn parse(document: &str, first_line: usize) -> Result<Option<Node>, SyntaxError> {
    let parser = Parser::new_from_str(document);
    let mut builder = Builder { parser, first_line, anchors: HashMap::new(), nodes: 0, bytes: 0, depth: 0 };
    let root = builder.document().map_err(|error| explain(document, first_line, error))?;
    Ok(root.filter(|node| node.value != Value::Null))
}

/// The parser's words, or better ones where a tab is the cause.
fn explain(document: &str, first_line: usize, error: SyntaxError) -> SyntaxError {
    let relative = error.line.saturating_sub(first_line);
    let near = document.lines().enumerate().skip(relative.saturating_sub(1)).take(2);
    for (index, line) in near {
        if line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t') {
            return SyntaxError {
                line: first_line + index,
                message: "expected spaces for indentation, found a tab; replace tabs with spaces".into(),
            };
        }
    }
    error
}

struct Builder<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    first_line: usize,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Option<Node>, SyntaxError> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
                (event, span) => {
                    let root = self.node(event, span)?;
                    // What follows in this document must be well-formed too.
                    while !matches!(self.next()?.0, Event::StreamEnd) {}
                    return Ok(Some(root));
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(SyntaxError {
                line: self.first_line + error.marker().line().saturating_sub(1),
                message: format!("expected YAML, found a fault: {}; correct the text at this line", error.info()),
            }),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, SyntaxError> {
        let line = self.line(span);
        if self.depth > MAX_DEPTH {
            let message =
                format!("expected at most {MAX_DEPTH} lists and mappings in each other, found more; remove some");
            return Err(SyntaxError { line, message });
        }
        let length = if let Event::Scalar(text, ..) = &event { text.len() } else { 0 };
        self.count(line, 1, length)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                (anchor, if plain { resolve(&text) } else { Value::String(text.into_owned()) })
            }
            Event::SequenceStart(anchor, _) => (anchor, Value::List(self.below(Self::list)?)),
            Event::MappingStart(anchor, _) => (anchor, Value::Map(self.below(Self::map)?)),
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor) else {
                    return Err(SyntaxError {
                        line,
                        message: "expected an alias of a value above, found an unknown anchor; write the value out"
                            .into(),
                    });
                };
                let (nodes, bytes, depth) = size(target);
                let value = target.value.clone();
                self.count(line, nodes, bytes)?;
                if self.depth + depth > MAX_DEPTH {
                    let message = format!(
                        "expected at most {MAX_DEPTH} lists and mappings in each other, found more; write aliases out"
                    );
                    return Err(SyntaxError { line, message });
                }
                return Ok(Node { line, value });
            }
            _ => (0, Value::Null),
        };
        let node = Node { line, value };
        if anchor > 0 {
            let (nodes, bytes, _) = size(&node);
            self.count(line, nodes, bytes)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Counts what a value holds, before it is kept.
    fn count(&mut self, line: usize, nodes: usize, bytes: usize) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > MAX_NODES || self.bytes > MAX_BYTES {
            let message = format!(
                "expected at most {MAX_NODES} values and {MAX_BYTES} bytes, found more; shorten it, and write aliases out"
            );
            return Err(SyntaxError { line, message });
        }
        Ok(())
    }

    /// What is in a list or mapping.
    fn below<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, SyntaxError>) -> Result<T, SyntaxError> {
        self.depth += 1;
        let found = read(self);
        self.depth -= 1;
        found
    }

    fn list(&mut self) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = self.line(span);
            let key = match event {
                Event::MappingEnd | Event::StreamEnd => return Ok(entries),
                Event::Scalar(text, ..) => {
                    self.count(line, 0, text.len())?;
                    text.into_owned()
                }
                _ => {
                    return Err(SyntaxError {
                        line,
                        message: "expected a field name, found a list or mapping as a key; put the name in quotes"
                            .into(),
                    });
                }
            };
            let (event, span) = self.next()?;
            entries.push(Entry { key, line, node: self.node(event, span)? });
        }
    }

    fn line(&self, span: Span) -> usize {
        self.first_line + span.start.line().saturating_sub(1)
    }
}

/// How many values a node holds, of how many bytes, and how many of them in each other.
fn size(node: &Node) -> (usize, usize, usize) {
    let add = |a: (usize, usize, usize), b: (usize, usize, usize)| (a.0 + b.0, a.1 + b.1, a.2.max(b.2 + 1));
    match &node.value {
        Value::List(items) => items.iter().map(size).fold((1, 0, 1), add),
        Value::Map(entries) => {
            entries.iter().map(|e| (size(&e.node), e.key.len())).fold((1, 0, 1), |sum, (below, key)| {
                let (nodes, bytes, depth) = add(sum, below);
                (nodes, bytes + key, depth)
            })
        }
        Value::String(text) | Value::Ambiguous(text) => (1, text.len(), 0),
        _ => (1, 0, 0),
    }
}

/// A plain scalar by the core schema (YAML 1.2.2, section 10.3.2).
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if ["y", "n", "yes", "no", "on", "off"].contains(&text.to_lowercase().as_str()) {
        return Value::Ambiguous(text.to_owned());
    }
    let radix = |prefix, radix| text.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok());
    if let Some(number) = text.parse().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8)) {
        return Value::Integer(number);
    }
    // `f64::from_str` also takes words like `infinity`, which are text here.
    let numeric =
        text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c)) && text.contains(|c: char| c.is_ascii_digit());
    match text.parse() {
        Ok(number) if numeric => Value::Float(number),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        documents(text).remove(0).unwrap()
    }

    #[test]
    fn values_are_resolved_by_the_core_schema_and_quotes_make_text() {
        let node = one("a: 1\nb: 1e-5\nc: '1'\nd: true\ne:\nf: yes\ng: 0x10\nh: 1.2.3\ni: infinity\nj: .5\n");
        let value = |key: &str| node.get(key).unwrap().value.clone();
        assert_eq!(value("a"), Value::Integer(1));
        assert_eq!(value("b"), Value::Float(1e-5));
        assert_eq!(value("c"), Value::String("1".into()));
        assert_eq!(value("d"), Value::Bool(true));
        assert_eq!(value("e"), Value::Null);
        assert_eq!(value("f"), Value::Ambiguous("yes".into()));
        assert_eq!(value("g"), Value::Integer(16));
        assert_eq!(value("h"), Value::String("1.2.3".into()));
        assert_eq!(value("i"), Value::String("infinity".into()));
        assert_eq!(value("j"), Value::Float(0.5));
    }

    #[test]
    fn every_document_is_read_with_its_own_lines_and_a_broken_one_hides_no_other() {
        let read = documents("a: 1\n---\nb: [1\n---\n# nothing\n--- \nc:\n  d: 2\n");
        assert_eq!(read.len(), 3, "{read:?}");
        assert_eq!(read[0].as_ref().unwrap().line_of("a"), 1);
        assert!(read[1].is_err());
        assert_eq!(read[2].as_ref().unwrap().line_of("c.d"), 8);
    }

    #[test]
    fn lines_are_found_by_path_and_fall_back_to_what_is_there() {
        let node = one("spec:\n  judges:\n    - name: a\n    - name: b\n      mode: Pairwise\n");
        assert_eq!(node.line_of("spec.judges[1].mode"), 5);
        assert_eq!(node.line_of("spec.judges[1].answers"), 4);
        assert_eq!(node.line_of("spec.judges[7].name"), 2);
        assert_eq!(node.line_of("metadata.name"), 1);
    }

    #[test]
    fn equal_keys_are_all_kept() {
        let Value::Map(entries) = one("a: 1\na: 2\n").value else { panic!() };
        assert_eq!(entries.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_tab_is_named_as_the_fault() {
        let error = documents("spec:\n\tmethod: PPO\n").remove(0).unwrap_err();
        assert_eq!((error.line, error.message.contains("found a tab")), (2, true), "{error:?}");
    }

    #[test]
    fn aliases_are_followed_but_not_without_end() {
        assert_eq!(one("a: &x {b: 1}\nc: *x\n").get("c").unwrap().to_json(), json!({"b": 1}));
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for i in 1..9 {
            let aliases = [format!("*a{}", i - 1).as_str(); 10].join(", ");
            bomb = format!("{bomb}a{i}: &a{i} [{aliases}]\n");
        }
        assert!(documents(&bomb)[0].as_ref().unwrap_err().message.contains("at most"));
    }

    #[test]
    fn what_is_nested_too_deep_or_grows_by_aliases_is_refused_with_its_line_and_ends_nothing() {
        let error = |text: &str| documents(text).remove(0).unwrap_err();
        let blocks = error(&format!("a: 1\nb:\n {}1", "- ".repeat(20_000)));
        assert_eq!(blocks.line, 3, "{blocks:?}");
        assert!(blocks.message.contains("in each other"), "{blocks:?}");
        for deep in ["? ", "[", "{a: ", "- - ? "] {
            error(&deep.repeat(20_000));
        }
        let long = "x".repeat(1 << 20);
        let bytes = error(&format!("a: &a {long}\nb: [{}]", vec!["*a"; 20_000].join(", ")));
        assert_eq!((bytes.line, bytes.message.contains("bytes")), (2, true), "{}", bytes.message);
        let mut nested = String::from("a0: &a0 [1]\n");
        for i in 1..100 {
            nested = format!("{nested}a{i}: &a{i} [*a{}]\n", i - 1);
        }
        assert!(error(&nested).message.contains("in each other"));
        let anchors = (0..60).map(|i| format!("{}- &a{i}\n", " ".repeat(i))).chain([long]).collect::<Vec<_>>().concat();
        assert!(!documents(&anchors).is_empty());
        let many = "---\na: 1\n".repeat(MAX_DOCUMENTS + 1);
        assert!(error(&many).message.contains("documents"));
    }
}
