//! A record's fields, read by name, with errors that state the field and the value found. Computes only.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The fields of an object. A null field counts as absent unless [`Fields::required`] reads it.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Prefix of field names in errors: empty, or `prompt[0].`.
    at: String,
    map: Map<String, Value>,
}

impl Fields {
    /// The fields of a value. `at` is the path of the value, empty for a whole record.
    pub(crate) fn of(at: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self { at: if at.is_empty() { String::new() } else { format!("{at}.") }, map }),
            other if at.is_empty() => Err(format!("expected an object, found {}", kind(&other))),
            other => Err(format!("`{at}` is {}; expected an object", kind(&other))),
        }
    }

    /// The path of a field, for errors.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.at)
    }

    /// Whether a field exists, null or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Takes a field that is not null.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Takes a required field; null is returned as it is.
    pub(crate) fn required(&mut self, name: &str) -> Result<Value, String> {
        let found = self.map.shift_remove(name);
        found.ok_or_else(|| self.missing(&format!("the field `{}`", self.path(name))))
    }

    /// The error of a record without a field, with the names of the fields that were not taken: one may be misspelt.
    pub(crate) fn missing(&self, expected: &str) -> String {
        const SHOWN: usize = 5;
        let found: Vec<String> = self.map.keys().take(SHOWN).map(|name| format!("`{name:.32}`")).collect();
        if found.is_empty() {
            return format!("expected {expected}; add it");
        }
        let more = if self.map.len() > SHOWN { ", ..." } else { "" };
        format!("expected {expected}, found {}{more}; rename the field that contains it, or add it", found.join(", "))
    }

    /// Takes a required string.
    pub(crate) fn text(&mut self, name: &str) -> Result<String, String> {
        match self.required(name)? {
            Value::String(text) => Ok(text),
            other => Err(format!("`{}` is {}; expected a string", self.path(name), kind(&other))),
        }
    }

    /// Takes a number.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, String> {
        let path = self.path(name);
        let wrong = |found: String| format!("`{path}` is {found}; expected a number");
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(n)) => n.as_f64().map(Some).ok_or_else(|| wrong(n.to_string())),
            Some(Value::String(text)) => Err(wrong(format!("the string {:?}", start(&text)))),
            Some(other) => Err(wrong(kind(&other).to_owned())),
        }
    }

    /// Takes a boolean.
    pub(crate) fn switch(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(on)),
            Some(other) => Err(format!("`{}` is {}; expected true or false", self.path(name), kind(&other))),
        }
    }

    /// Takes a list of strings; an absent one is empty.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        let path = self.path(name);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => Err(format!("`{path}` contains {}; expected strings", kind(&other))),
                })
                .collect(),
            Some(other) => Err(format!("`{path}` is {}; expected a list of strings", kind(&other))),
        }
    }

    /// The paths of the remaining fields that carry information, with their values.
    pub(crate) fn left(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().filter(|(_, value)| says_something(value)).map(|(name, value)| (name.as_str(), value))
    }
}

/// Whether ignoring a value would lose information; null and empty values have none.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => map.values().any(says_something),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The type of a value, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(items) if items.is_empty() => "an empty list",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The first characters of a text, for an error.
pub(crate) fn start(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Parses JSON, and rejects duplicate fields in objects: parsers differ in which of the two they use.
pub(crate) fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Strict>(text).map(|strict| strict.0)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Strict(value))) = fields.next_entry::<String, Strict>()? {
            if map.contains_key(&name) {
                return Err(de::Error::custom(format!("duplicate field `{name}`")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_parsed_as_by_the_library_but_without_duplicate_fields() {
        for text in
            [r#"{"a": [1, -2, 3.5e-7, true, null, "é\u0000"], "b": {"c": {}}}"#, "18446744073709551615", "\"x\""]
        {
            assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
        for text in [r#"{"a": 1, "a": 1}"#, r#"[{"b": {"a": 1, "a": 2}}]"#] {
            assert!(parse(text.as_bytes()).unwrap_err().to_string().contains("duplicate field `a`"), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn a_missing_field_is_reported_with_the_fields_that_may_be_meant() {
        let of = |text: &str| Fields::of("", parse(text.as_bytes()).unwrap()).unwrap();
        let mut fields = of(r#"{"txt": "a", "text": "b", "label": 1}"#);
        assert_eq!(fields.required("text").unwrap(), Value::from("b"));
        let expected = "expected the field `text`, found `txt`, `label`; rename the field that contains it, or add it";
        assert_eq!(fields.required("text").unwrap_err(), expected);
        assert_eq!(of("{}").required("text").unwrap_err(), "expected the field `text`; add it");
        let many = of(r#"{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}"#).required("text").unwrap_err();
        assert!(many.contains("found `a`, `b`, `c`, `d`, `e`, ...; "), "{many}");
    }

    #[test]
    fn empty_values_carry_no_information_but_false_and_zero_do() {
        let fields = r#"{"a": null, "b": "", "c": [], "d": {"e": null}, "f": false, "g": 0, "h": [null]}"#;
        let fields = Fields::of("", parse(fields.as_bytes()).unwrap()).unwrap();
        assert_eq!(fields.left().map(|(name, _)| name).collect::<Vec<_>>(), ["f", "g", "h"]);
    }
}
