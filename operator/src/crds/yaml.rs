//! YAML with one line a field: a CRD nests so deep that the usual layout is half indentation. Computes only.

use std::fmt::Write;

use serde_json::{Map, Value};

/// A mapping that holds further mappings stands on one line when it is no longer than this.
const LINE: usize = 400;

/// A value as YAML: a mapping that holds no further mapping, or a short one, stands on one line, in flow style.
pub(super) fn print(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) => block(map, 0, &mut text),
        other => text.push_str(&flow(other)),
    }
    text
}

fn block(map: &Map<String, Value>, indent: usize, text: &mut String) {
    for (key, value) in map {
        let _ = write!(text, "{:indent$}{}:", "", scalar(key));
        entry(value, indent, text);
    }
}

/// What follows a `key:` or a `-`.
fn entry(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !is_leaf(value) && flow(value).len() > LINE => {
            text.push('\n');
            block(map, indent + 1, text);
        }
        Value::Array(items) if !is_leaf(value) => {
            text.push('\n');
            for item in items {
                let _ = write!(text, "{:indent$}-", "", indent = indent + 1);
                entry(item, indent + 1, text);
            }
        }
        leaf => {
            let _ = writeln!(text, " {}", flow(leaf));
        }
    }
}

fn is_leaf(value: &Value) -> bool {
    let nested = |v: &Value| v.is_object();
    match value {
        Value::Object(map) => !map.values().any(|v| nested(v) && v.as_object().is_some_and(|m| !m.is_empty())),
        Value::Array(items) => !items.iter().any(nested),
        _ => true,
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(k, v)| format!("{}: {}", scalar(k), flow(v))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A string, quoted as JSON (which YAML reads) unless it cannot be taken for anything else, in a list or mapping on one
/// line either.
fn scalar(text: &str) -> String {
    let plain = text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " -./()'`+=;".contains(c))
        && !text.ends_with(' ')
        && !["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_printed_reads_back_as_the_same_value() {
        let value = json!({
            "ab": {"leaf": 1, "text": "a: b # c", "no": "no", "list": ["x", 1.5, null], "empty": {}},
            "list of maps": [{"deep": {"k": "v"}}, {"k": true}, [1, [2]], "plain"],
            "number-like": "1e3",
        });
        let text = print(&value);
        assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap(), value, "{text}");
        assert!(text.starts_with("ab: {leaf: 1, "), "a mapping without mappings stands on one line: {text}");
    }
}
