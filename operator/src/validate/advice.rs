//! What a schema wants and what to write instead of what was found, in words. Computes only.

use plumbline_crds::source::{OBJECT_KEY, OBJECT_NAME};
use plumbline_crds::training::ADAPTER_TARGET;
use serde_json::{Map, Value as Json};

use super::problem::alternatives;
use super::schema::string;
use crate::manifest::yaml::Value;

/// The pattern of an endpoint's URL.
pub(super) const URL: &str = "^https?://[^@?#]+$";

/// What a schema wants, in words.
pub(super) fn describe(schema: &Json) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return alternatives(&values.iter().filter_map(Json::as_str).collect::<Vec<_>>());
    }
    let bounds = || match (&schema["minimum"], &schema["maximum"]) {
        (Json::Null, Json::Null) => String::new(),
        (Json::Null, most) => format!(" of at most {most}"),
        (least, Json::Null) => format!(" of at least {least}"),
        (least, most) => format!(" from {least} to {most}"),
    };
    let items = || match (schema["minItems"].as_u64(), schema["maxItems"].as_u64()) {
        (None, None) => String::new(),
        (None, Some(most)) => format!(" of at most {}", count(most, "item", "items")),
        (Some(least), None) => format!(" of at least {}", count(least, "item", "items")),
        (Some(least), Some(most)) if least == most => format!(" of exactly {}", count(most, "item", "items")),
        (Some(least), Some(most)) => format!(" of {least} to {}", count(most, "item", "items")),
    };
    if schema["x-kubernetes-int-or-string"] == true {
        return "a quantity such as 500m, 8 or 16Gi".into();
    }
    match schema["type"].as_str() {
        Some("integer") => format!("a whole number{}", bounds()),
        Some("number") => format!("a number{}", bounds()),
        Some("boolean") => "true or false".into(),
        Some("array") => format!("a list{}", items()),
        Some("object") if schema["properties"].is_object() => {
            let names: Vec<&str> =
                schema["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
            let shown = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
            format!("a mapping with {shown}{}", if names.len() > 8 { ", ..." } else { "" })
        }
        Some("object") => "a mapping".into(),
        None => "a value".into(),
        Some(_) => match schema["pattern"].as_str() {
            Some(pattern) => describe_pattern(pattern),
            None => "text".into(),
        },
    }
}

/// What a pattern stands for.
pub(super) fn describe_pattern(pattern: &str) -> String {
    match pattern {
        "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" => "a name of lower-case letters, digits and `-`, not at its ends".into(),
        OBJECT_NAME => "a name of lower-case letters, digits, `-` and `.`, with a letter or digit at both ends".into(),
        OBJECT_KEY => "a key of letters, digits, `-`, `_` and `.`".into(),
        URL => "a URL that starts with http:// or https://, without credentials and query".into(),
        "^builtin:[a-z0-9-]+$" => "a built-in template as builtin:NAME".into(),
        ADAPTER_TARGET => "Attention, Mlp, All, or the name of a module in lower case (q_proj)".into(),
        "^[A-Z]{3}$" => "a currency code of three capital letters".into(),
        other => format!("text that matches {other}"),
    }
}

/// So many of something.
pub(super) fn count(n: u64, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}

/// What to do with a list or mapping that has so many more or fewer than it may have.
pub(super) fn add_or_remove(verb: &str, n: u64) -> String {
    if n == 1 { format!("{verb} one") } else { format!("{verb} {n}") }
}

/// What makes a text no URL of an endpoint. The text itself may be a secret, so it is not shown.
pub(super) fn fault_of_url(text: &str) -> String {
    if text.contains(['@', '?', '#']) {
        return "found credentials, a query or a fragment (not shown); remove what begins with @, ? or #".into();
    }
    match text.split_once("://") {
        Some(("http" | "https", "")) => "found no host; write one, as in https://api.openai.com/v1".into(),
        Some((scheme, _)) if !scheme.is_empty() && scheme.len() < 10 && scheme.chars().all(char::is_alphanumeric) => {
            format!("found the scheme {scheme}://; write a URL as https://api.openai.com/v1")
        }
        _ => "found no scheme; write it too, as in https://api.openai.com/v1".into(),
    }
}

/// A value, as it was found.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "an empty value".into(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Integer(i) => format!("the number {i}"),
        Value::Float(f) => format!("the number {f}"),
        Value::String(s) | Value::Ambiguous(s) => format!("the text \"{}\"", short(s)),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a mapping".into(),
    }
}

/// What to write instead: what is accepted then, not only what is another fault.
pub(super) fn remedy(schema: &Json, value: &Value) -> String {
    let known: Vec<&str> = schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    match (schema["type"].as_str(), value) {
        (_, Value::Null) => "give it a value or remove the field".into(),
        (None, Value::Float(_)) => "write it in quotes, or as a quantity such as 500m".into(),
        (Some("string"), Value::List(_) | Value::Map(_)) if !known.is_empty() => "write one of these".into(),
        (Some("string"), _) if !known.is_empty() => {
            let text = scalar(value);
            match known.iter().find(|name| **name == text).or_else(|| meant(&known, truth(value))) {
                Some(name)
                    if ["y", "n", "yes", "no", "on", "off", "true", "false"]
                        .contains(&name.to_lowercase().as_str()) =>
                {
                    format!("write \"{name}\"")
                }
                Some(name) => format!("write {name}"),
                None => "write one of these".into(),
            }
        }
        (Some("string"), Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Ambiguous(_)) => {
            let text = scalar(value);
            if string(schema, &text).is_ok() {
                format!("write \"{text}\"")
            } else {
                "write such a text, in quotes".into()
            }
        }
        (Some("boolean"), _) => {
            truth(value).map_or_else(|| "write one of the two".into(), |truth| format!("write {truth}"))
        }
        (Some("integer" | "number"), Value::String(text)) => match text.trim().parse::<f64>() {
            Ok(number) if !is_within(schema, number) => "choose one within these bounds, without quotes".into(),
            Ok(number) if schema["type"] == "integer" && number.fract() != 0.0 => {
                "write a whole number, without quotes".into()
            }
            Ok(number) if schema["type"] == "integer" => format!("write {number}, without quotes"),
            Ok(_) => format!("write {}, without quotes", text.trim()),
            Err(_) => format!("write {}", number_such_as(schema, text)),
        },
        (Some("integer" | "number"), _) => format!("write {}", number_such_as(schema, "")),
        (Some("array"), _) => "write each item on its own line after `- `".into(),
        (Some("object"), _) => "write its fields below it, indented".into(),
        _ => "change it".into(),
    }
}

/// A number that a schema accepts: the one that a percentage stands for, or an example.
fn number_such_as(schema: &Json, text: &str) -> String {
    let whole = schema["type"] == "integer";
    let percent = text.trim().strip_suffix('%').and_then(|part| part.trim().parse::<f64>().ok());
    if let Some(fraction) = percent.map(|percent| percent / 100.0).filter(|n| !whole && is_within(schema, *n)) {
        return fraction.to_string();
    }
    let usual = [schema["default"].as_f64(), (!whole).then_some(0.5), Some(1.0), schema["minimum"].as_f64()];
    let example = usual.into_iter().flatten().find(|n| is_within(schema, *n)).unwrap_or_default();
    format!("a {} such as {example}", if whole { "whole number" } else { "number" })
}

/// A value that is no list or mapping, as text.
fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Integer(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::String(text) | Value::Ambiguous(text) => text.clone(),
        Value::Null | Value::List(_) | Value::Map(_) => String::new(),
    }
}

/// What people mean by a value where they want true or false.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::Integer(n @ (0 | 1)) => Some(*n == 1),
        Value::String(text) | Value::Ambiguous(text) => match text.trim().to_lowercase().as_str() {
            "y" | "yes" | "on" | "true" | "1" | "enabled" => Some(true),
            "n" | "no" | "off" | "false" | "0" | "disabled" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The name of a closed list that stands for true or false, if one does.
fn meant<'a>(known: &'a [&'a str], truth: Option<bool>) -> Option<&'a &'a str> {
    let names: &[&str] = if truth? { &["Enabled", "Always"] } else { &["Disabled", "None", "Never"] };
    known.iter().find(|name| names.contains(name))
}

/// A text in one line, cut where it is long.
pub(super) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short.replace('\n', " ")
}

/// Whether a number is within the bounds of a schema.
pub(super) fn is_within(schema: &Json, number: f64) -> bool {
    !number.is_nan()
        && schema["minimum"].as_f64().is_none_or(|least| number >= least)
        && schema["maximum"].as_f64().is_none_or(|most| number <= most)
}
