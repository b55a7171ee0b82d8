//! Checks a value against a structural schema, the one that the CRD publishes, and reports all that is wrong at once.
//! Computes only.
//!
//! It knows the part of JSON Schema that our CRDs use: type, properties, required, additionalProperties, items, enum,
//! bounds of numbers, strings, lists and maps, pattern, and the keys of map lists. An API server drops unknown fields
//! in silence; here they are errors.

use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Value as Json};

use super::advice::{
    URL, add_or_remove, count, describe, describe_pattern, fault_of_url, found, is_within, remedy, short,
};
use super::problem::{Finding, alternatives, nearest};
use crate::manifest::yaml::{Entry, Node, Value};

/// Checks `node` at `path`. Returns the value as JSON without the parts that are wrong, so that rules over several
/// fields can be checked in the same pass, and pushes what is wrong to `findings`.
pub fn check(schema: &Json, node: &Node, path: &str, findings: &mut Vec<Located>) -> Option<Json> {
    let wrong = |findings: &mut Vec<Located>, message: String| {
        findings.push(Located { line: node.line, finding: Finding::new(path, message) });
        None
    };
    if let Value::Ambiguous(text) = &node.value {
        let (expected, remedy) = (describe(schema), remedy(schema, &node.value));
        let message = format!(
            "expected {expected}, found `{text}` without quotes, which Kubernetes takes for a boolean; {remedy}"
        );
        return wrong(findings, message);
    }
    match (schema["type"].as_str(), &node.value) {
        (Some("object"), Value::Map(entries)) => Some(object(schema, node.line, entries, path, findings)),
        (Some("array"), Value::List(items)) => list(schema, node, items, path, findings),
        (Some("string"), Value::String(text)) => match string(schema, text) {
            Ok(()) => Some(Json::from(text.as_str())),
            Err(message) => wrong(findings, message),
        },
        (Some("integer" | "number"), Value::Integer(_) | Value::Float(_)) => match number(schema, &node.value) {
            Ok(()) => Some(node.to_json()),
            Err(message) => wrong(findings, message),
        },
        (Some("boolean"), Value::Bool(b)) => Some(Json::from(*b)),
        (None, Value::Integer(_)) if schema["x-kubernetes-int-or-string"] == true => Some(node.to_json()),
        (None, Value::String(text)) if schema["x-kubernetes-int-or-string"] == true => match string(schema, text) {
            Ok(()) => Some(node.to_json()),
            Err(message) => wrong(findings, message),
        },
        (None, _) if schema["x-kubernetes-int-or-string"] != true => Some(node.to_json()),
        (_, value) => {
            wrong(findings, format!("expected {}, found {}; {}", describe(schema), found(value), remedy(schema, value)))
        }
    }
}

/// A finding and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Line, from 1.
    pub line: usize,
    /// What.
    pub finding: Finding,
}

fn object(schema: &Json, line: usize, entries: &[Entry], path: &str, findings: &mut Vec<Located>) -> Json {
    let mut push = |line, path: String, message: String| {
        findings.push(Located { line, finding: Finding::new(path, message) });
    };
    let mut first_lines: HashMap<&str, usize> = HashMap::new();
    for entry in entries {
        if let Some(first) = first_lines.insert(&entry.key, entry.line) {
            let message = format!("expected each key once, found it again after line {first}; remove one of the two");
            push(entry.line, join(path, &entry.key), message);
        }
    }
    if let Some(most) = schema["maxProperties"].as_u64()
        && entries.len() as u64 > most
    {
        let length = entries.len() as u64;
        let (most, remove) = (count(most, "entry", "entries"), add_or_remove("remove", length - most));
        push(line, path.to_owned(), format!("expected at most {most}, found {length}; {remove}"));
    }
    let properties = schema["properties"].as_object();
    let mut meant: HashMap<&str, &Node> = HashMap::new();
    for entry in entries {
        if let Some(name) = meant_by(&entry.key, schema).filter(|name| !first_lines.contains_key(name)) {
            meant.entry(name).or_insert(&entry.node);
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
        if !first_lines.contains_key(name) && !meant.contains_key(name) {
            let expected = describe(&schema["properties"][name]);
            push(line, join(path, name), format!("expected {expected}, found nothing; add `{name}`"));
        }
    }
    let mut kept = Map::new();
    for entry in entries {
        let at = join(path, &entry.key);
        match properties.and_then(|p| p.get(&entry.key)).or_else(|| schema.get("additionalProperties")) {
            Some(schema) => {
                if let Some(value) = check(schema, &entry.node, &at, findings) {
                    kept.insert(entry.key.clone(), value);
                }
            }
            None => findings
                .push(Located { line: entry.line, finding: Finding::new(at, unknown_field(&entry.key, properties)) }),
        }
    }
    // What follows from a misspelt name is no fault of its own: rules see the value where it was meant to be.
    for (name, node) in meant {
        let value = check(&schema["properties"][name], node, path, &mut Vec::new());
        kept.extend(value.map(|value| (name.to_owned(), value)));
    }
    Json::Object(kept)
}

/// The field that an unknown one was probably meant to be.
fn meant_by<'a>(key: &str, schema: &'a Json) -> Option<&'a str> {
    let properties = schema["properties"].as_object()?;
    let is_known = properties.contains_key(key) || !schema["additionalProperties"].is_null();
    if is_known { None } else { nearest(key, properties.keys().map(String::as_str)) }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn unknown_field(key: &str, properties: Option<&Map<String, Json>>) -> String {
    let known: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
    match nearest(key, known.iter().copied()) {
        Some(name) => format!("expected a known field, found `{key}`; did you mean `{name}`?"),
        None => format!("expected a known field, found `{key}`; the fields here are {}", known.join(", ")),
    }
}

fn list(schema: &Json, node: &Node, items: &[Node], path: &str, findings: &mut Vec<Located>) -> Option<Json> {
    let length = items.len() as u64;
    let (least, most) = (schema["minItems"].as_u64().unwrap_or(0), schema["maxItems"].as_u64().unwrap_or(u64::MAX));
    if !(least..=most).contains(&length) {
        let message = format!(
            "expected {}, found {length}; {}",
            describe(schema),
            if length < least { add_or_remove("add", least - length) } else { add_or_remove("remove", length - most) }
        );
        findings.push(Located { line: node.line, finding: Finding::new(path, message) });
    }
    let before = findings.len();
    let kept: Vec<Json> = items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| check(&schema["items"], item, &format!("{path}[{i}]"), findings))
        .collect();
    for key in schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Json::as_str) {
        unique(items, key, path, findings);
    }
    if schema["x-kubernetes-list-type"] == "set" {
        distinct(items, path, findings);
    }
    // A list without some of its items would say something else: rules must not see it.
    (findings.len() == before && (least..=most).contains(&length)).then_some(Json::Array(kept))
}

fn unique(items: &[Node], key: &str, path: &str, findings: &mut Vec<Located>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let Some(name) = item.get(key).and_then(Node::text) else { continue };
        if let Some(first) = seen.insert(name, i) {
            let message = format!(
                "expected each `{key}` once, found \"{name}\" here and at {path}[{first}]; rename one of the two"
            );
            findings.push(Located { line: item.line, finding: Finding::new(format!("{path}[{i}].{key}"), message) });
        }
    }
}

fn distinct(items: &[Node], path: &str, findings: &mut Vec<Located>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let Some(text) = item.text() else { continue };
        if let Some(first) = seen.insert(text, i) {
            let message =
                format!("expected each item once, found \"{text}\" here and at {path}[{first}]; remove one of the two");
            findings.push(Located { line: item.line, finding: Finding::new(format!("{path}[{i}]"), message) });
        }
    }
}

fn characters(n: u64) -> String {
    count(n, "character", "characters")
}

pub(super) fn string(schema: &Json, text: &str) -> Result<(), String> {
    if let Some(values) = schema["enum"].as_array() {
        let known: Vec<&str> = values.iter().filter_map(Json::as_str).collect();
        if known.contains(&text) {
            return Ok(());
        }
        let advice = nearest(text, known.iter().copied())
            .map_or_else(|| "write one of these".into(), |name| format!("did you mean {name}?"));
        return Err(format!("expected {}, found \"{}\"; {advice}", alternatives(&known), short(text)));
    }
    let length = text.chars().count() as u64;
    let (least, most) = (schema["minLength"].as_u64().unwrap_or(0), schema["maxLength"].as_u64().unwrap_or(u64::MAX));
    if length > most {
        return Err(format!("expected at most {}, found {length}; shorten it", characters(most)));
    }
    if length < least {
        return Err(format!(
            "expected at least {}, found {length}; write it out or remove the field",
            characters(least)
        ));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        // A pattern that does not compile is a fault of the schema, which its own test finds.
        if !Regex::new(pattern).is_ok_and(|regex| regex.is_match(text)) {
            let fault = if pattern == URL {
                fault_of_url(text)
            } else {
                format!("found \"{}\"; write such a value", short(text))
            };
            return Err(format!("expected {}, {fault}", describe_pattern(pattern)));
        }
    }
    Ok(())
}

fn number(schema: &Json, value: &Value) -> Result<(), String> {
    let (number, whole) = match value {
        Value::Integer(i) => (*i as f64, true),
        Value::Float(f) => (*f, false),
        _ => return Ok(()),
    };
    let advice = if !is_within(schema, number) {
        "choose one within these bounds".to_owned()
    } else if schema["type"] != "integer" || whole {
        return Ok(());
    } else if number.fract() == 0.0 {
        format!("write {number}")
    } else {
        format!(
            "write a whole number, as {}",
            if is_within(schema, number.floor()) { number.floor() } else { number.ceil() }
        )
    };
    Err(format!("expected {}, found {number}; {advice}", describe(schema)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::yaml::documents;
    use serde_json::json;

    fn schema() -> Json {
        json!({"type": "object", "required": ["method"], "properties": {
            "method": {"type": "string", "enum": ["SFT", "DPO", "PPO"]},
            "epochs": {"type": "integer", "minimum": 1, "maximum": 1000},
            "rate": {"type": "number", "minimum": 0.0, "maximum": 1.0},
            "suspend": {"type": "boolean"},
            "save": {"type": "string", "enum": ["Enabled", "Disabled"]},
            "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
            "labels": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}},
            "answers": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}},
            "judge": {"type": "object", "properties": {"url": {"type": "string", "pattern": URL}}},
            "targets": {"type": "array", "maxItems": 4, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "judges": {"type": "array", "maxItems": 4, "x-kubernetes-list-map-keys": ["name"],
                       "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        }})
    }

    fn faults(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&schema(), &documents(text).remove(0).unwrap(), "spec", &mut findings);
        findings.into_iter().map(|f| format!("{}: {}: {}", f.line, f.finding.path, f.finding.message)).collect()
    }

    #[test]
    fn a_good_value_has_no_findings_and_comes_back_whole() {
        let text =
            "method: PPO\nepochs: 2\nrate: 1e-5\nlabels: {a: b}\nanswers: [x, z]\njudges: [{name: a}, {name: b}]\n";
        let node = documents(text).remove(0).unwrap();
        let mut findings = Vec::new();
        assert_eq!(check(&schema(), &node, "spec", &mut findings), Some(node.to_json()));
        assert_eq!(findings, []);
    }

    #[test]
    #[rustfmt::skip] // one case a line
    fn each_fault_says_what_was_expected_found_and_what_to_do() {
        let cases = [
            ("epochs: 1", "1: spec.method: expected SFT, DPO or PPO, found nothing; add `method`"),
            ("method: ppo", "1: spec.method: expected SFT, DPO or PPO, found \"ppo\"; did you mean PPO?"),
            ("method: XYZW", "1: spec.method: expected SFT, DPO or PPO, found \"XYZW\"; write one of these"),
            ("methode: PPO", "1: spec.methode: expected a known field, found `methode`; did you mean `method`?"),
            ("method: PPO\nepoch: 1", "2: spec.epoch: expected a known field, found `epoch`; did you mean `epochs`?"),
            ("method: PPO\nmethod: DPO", "2: spec.method: expected each key once, found it again after line 1; remove one of the two"),
            ("method: PPO\nepochs: 0", "2: spec.epochs: expected a whole number from 1 to 1000, found 0; choose one within these bounds"),
            ("method: PPO\nepochs: 1.5", "2: spec.epochs: expected a whole number from 1 to 1000, found 1.5; write a whole number, as 1"),
            ("method: PPO\nepochs: '3'", "2: spec.epochs: expected a whole number from 1 to 1000, found the text \"3\"; write 3, without quotes"),
            ("method: true", "1: spec.method: expected SFT, DPO or PPO, found the boolean true; write one of these"),
            ("method: 1", "1: spec.method: expected SFT, DPO or PPO, found the number 1; write one of these"),
            ("method: no", "1: spec.method: expected SFT, DPO or PPO, found `no` without quotes, which Kubernetes takes for a boolean; write one of these"),
            ("method: PPO\nsave: true", "2: spec.save: expected Enabled or Disabled, found the boolean true; write Enabled"),
            ("method: PPO\nsave: off", "2: spec.save: expected Enabled or Disabled, found `off` without quotes, which Kubernetes takes for a boolean; write Disabled"),
            ("method: PPO\nsave: enabled", "2: spec.save: expected Enabled or Disabled, found \"enabled\"; did you mean Enabled?"),
            ("method: PPO\nsuspend: yes", "2: spec.suspend: expected true or false, found `yes` without quotes, which Kubernetes takes for a boolean; write true"),
            ("method: PPO\nsuspend: 'False'", "2: spec.suspend: expected true or false, found the text \"False\"; write false"),
            ("method: PPO\nsuspend: 1", "2: spec.suspend: expected true or false, found the number 1; write true"),
            ("method: PPO\nsuspend: maybe", "2: spec.suspend: expected true or false, found the text \"maybe\"; write one of the two"),
            ("method: PPO\nrate: '1e-5'", "2: spec.rate: expected a number from 0.0 to 1.0, found the text \"1e-5\"; write 1e-5, without quotes"),
            ("method: PPO\nrate: true", "2: spec.rate: expected a number from 0.0 to 1.0, found the boolean true; write a number such as 0.5"),
            ("method: PPO\nrate: '7'", "2: spec.rate: expected a number from 0.0 to 1.0, found the text \"7\"; choose one within these bounds, without quotes"),
            ("method: PPO\nepochs: 2.0", "2: spec.epochs: expected a whole number from 1 to 1000, found 2; write 2"),
            ("method: PPO\nepochs: 1e9", "2: spec.epochs: expected a whole number from 1 to 1000, found 1000000000; choose one within these bounds"),
            ("method: PPO\nepochs: 10 k", "2: spec.epochs: expected a whole number from 1 to 1000, found the text \"10 k\"; write a whole number such as 1"),
            ("method: PPO\nrate: 65%", "2: spec.rate: expected a number from 0.0 to 1.0, found the text \"65%\"; write 0.65"),
            ("method: PPO\nrate: fast", "2: spec.rate: expected a number from 0.0 to 1.0, found the text \"fast\"; write a number such as 0.5"),
            ("method: PPO\nanswers: [x, z, w, v]", "2: spec.answers: expected a list of exactly 2 items, found 4; remove 2"),
            ("method: PPO\ntargets: [a, b, c, d, e]", "2: spec.targets: expected a list of at most 4 items, found 5; remove one"),
            ("method: PPO\njudge: {url: api.example.com}", "2: spec.judge.url: expected a URL that starts with http:// or https://, without credentials and query, found no scheme; write it too, as in https://api.openai.com/v1"),
            ("method: PPO\njudge: {url: 'https://me:secret@host/v1'}", "2: spec.judge.url: expected a URL that starts with http:// or https://, without credentials and query, found credentials, a query or a fragment (not shown); remove what begins with @, ? or #"),
            ("method: PPO\njudge: {url: 'wss://host'}", "2: spec.judge.url: expected a URL that starts with http:// or https://, without credentials and query, found the scheme wss://; write a URL as https://api.openai.com/v1"),
            ("method: PPO\nname: -7", "2: spec.name: expected a name of lower-case letters, digits and `-`, not at its ends, found the number -7; write such a text, in quotes"),
            ("method: PPO\nrate: .nan", "2: spec.rate: expected a number from 0.0 to 1.0, found NaN; choose one within these bounds"),
            ("method: PPO\nname: 7", "2: spec.name: expected a name of lower-case letters, digits and `-`, not at its ends, found the number 7; write \"7\""),
            ("method: PPO\nname: abcdef", "2: spec.name: expected at most 5 characters, found 6; shorten it"),
            ("method: PPO\nname: A_b", "2: spec.name: expected a name of lower-case letters, digits and `-`, not at its ends, found \"A_b\"; write such a value"),
            ("method: PPO\nsuspend:", "2: spec.suspend: expected true or false, found an empty value; give it a value or remove the field"),
            ("method: PPO\nanswers: [yes, \"no\"]", "2: spec.answers[0]: expected text, found `yes` without quotes, which Kubernetes takes for a boolean; write \"yes\""),
            ("method: PPO\nanswers: [x]", "2: spec.answers: expected a list of exactly 2 items, found 1; add one"),
            ("method: PPO\nlabels: {a: b, c: d}", "2: spec.labels: expected at most 1 entry, found 2; remove one"),
            ("method: PPO\ntargets: [x, z, x]", "2: spec.targets[2]: expected each item once, found \"x\" here and at spec.targets[0]; remove one of the two"),
            ("method: PPO\njudges:\n- name: a\n- name: a", "4: spec.judges[1].name: expected each `name` once, found \"a\" here and at spec.judges[0]; rename one of the two"),
        ];
        for (text, expected) in cases {
            assert_eq!(faults(text), [expected], "{text}");
        }
    }

    #[test]
    fn advice_that_names_a_value_names_one_that_is_accepted() {
        fn leaves<'a>(schema: &'a Json, found: &mut Vec<&'a Json>) {
            for property in schema["properties"].as_object().into_iter().flat_map(Map::values) {
                leaves(property, found);
            }
            for key in ["items", "additionalProperties"] {
                schema.get(key).into_iter().for_each(|below| leaves(below, found));
            }
            if !matches!(schema["type"].as_str(), Some("object" | "array")) {
                found.push(schema);
            }
        }
        let faults = |schema: &Json, text: &str| {
            let mut findings = Vec::new();
            let node = documents(&format!("x: {text}")).remove(0).unwrap();
            check(schema, node.get("x").unwrap(), "x", &mut findings);
            findings.into_iter().map(|f| f.finding.message).collect::<Vec<_>>()
        };
        let wrong = [
            "true", "False", "yes", "Off", "'true'", "'no'", "1", "0", "-1", "1.0", "1.5", "'1'", "'1.5'", "'1e-5'",
            "1e3", "'1e3'", "1e300", "' 7 '", ".nan", ".inf", "auto", "none", "ENABLED", "1_000", "'-0'", "[1]",
            "{a: 1}",
        ];
        let mut followed = 0;
        for kind in plumbline_crds::Kind::ALL {
            let schema = crate::crds::spec_schema(kind).unwrap();
            let mut found = Vec::new();
            leaves(&schema, &mut found);
            for (schema, text) in found.into_iter().flat_map(|schema| wrong.map(|text| (schema, text))) {
                for message in faults(schema, text) {
                    let advice = message.rsplit_once("; ").unwrap().1;
                    let named = advice.strip_prefix("write ").or(advice.strip_prefix("did you mean "));
                    let named = named.map(|named| named.trim_end_matches('?').trim_end_matches(", without quotes"));
                    let Some(named) = named.filter(|named| !named.contains(' ')) else { continue };
                    assert_eq!(faults(schema, named), [""; 0], "{text}: {message}");
                    followed += 1;
                }
            }
        }
        assert!(followed > 500, "{followed}");
    }

    #[test]
    fn all_faults_are_reported_at_once_and_only_what_is_right_comes_back() {
        let text = "method: PPO\nepochs: 0\nunknown: 1\nanswers: [a, 2]\n";
        assert_eq!(faults(text).len(), 3);
        let mut findings = Vec::new();
        let kept = check(&schema(), &documents(text).remove(0).unwrap(), "spec", &mut findings);
        assert_eq!(kept, Some(json!({"method": "PPO"})), "half a list must not come back");
    }

    #[test]
    fn every_pattern_of_the_crds_compiles() {
        fn patterns(value: &Json, found: &mut Vec<String>) {
            match value {
                Json::Object(map) => {
                    found.extend(map.get("pattern").and_then(Json::as_str).map(str::to_owned));
                    map.values().for_each(|v| patterns(v, found));
                }
                Json::Array(items) => items.iter().for_each(|v| patterns(v, found)),
                _ => {}
            }
        }
        for kind in plumbline_crds::Kind::ALL {
            let mut found = Vec::new();
            patterns(&crate::crds::spec_schema(kind).unwrap(), &mut found);
            assert!(!found.is_empty());
            for pattern in found {
                Regex::new(&pattern).unwrap();
            }
        }
    }
}
