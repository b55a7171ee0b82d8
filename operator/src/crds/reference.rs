//! The reference of the three kinds as Markdown, from the schemas that an API server has. Computes only.

use std::fmt::Write;

use plumbline_crds::Kind;
use plumbline_crds::unsupported::{Cause, Target};
use serde_json::Value;

use super::structural_schema::RANGE;
use super::unsupported_fields::Refused;
use super::{CrdError, SCHEMA, definition};

/// Name of the page that the status has, which is the same for all kinds.
pub const STATUS_PAGE: &str = "status.md";

/// The file name of a kind's page.
pub fn page_name(kind: Kind) -> String {
    format!("{}.md", kind.to_string().to_lowercase())
}

/// The page of a kind: every field of its spec.
///
/// # Errors
/// If the types give no schema.
pub fn page(kind: Kind) -> Result<String, CrdError> {
    let crd = definition(kind)?;
    let names = &crd["spec"]["names"];
    let spec = at(&crd, "spec").ok_or(CrdError::NoSchema { kind })?;
    let about = crd.pointer(&format!("{SCHEMA}/description")).and_then(Value::as_str).unwrap_or_default();
    let short = names["shortNames"][0].as_str().unwrap_or_default();
    let mut text = format!(
        "# {kind}\n\n{GENERATED}\n\n{about} Namespaced; `kubectl get {short}` is short for `kubectl get {}`, and `kubectl get rlaif` \
         lists all three kinds. What comes back: [status]({STATUS_PAGE}).\n\nA field of a type without a default may be left \
         out unless it is required. While a run is under way, an API server refuses changes of what it is made from; \
         `budget`, `compute`, `suspend` and `output.credentialsSecretRef` may change.\n",
        kind.plural()
    );
    let refused = Refused::of(kind, spec);
    section("spec", spec, &refused, &mut text);
    Ok(text)
}

/// The page of the status.
///
/// # Errors
/// If the types give no schema.
pub fn status_page() -> Result<String, CrdError> {
    let kind = Kind::PolicyTuning;
    let crd = definition(kind)?;
    let status = at(&crd, "status").ok_or(CrdError::NoSchema { kind })?;
    let mut text = format!(
        "# Status\n\n{GENERATED}\n\nThe status of a PreferenceDataset, RewardModel or PolicyTuning. Fields that a kind does not have stay \
         unset. What each reason means and what to do: [reasons](../reasons.md). What the numbers are: \
         [artifacts](../artifacts.md#report-and-summary).\n"
    );
    section("status", status, &Refused::default(), &mut text);
    Ok(text)
}

const GENERATED: &str = "<!-- Written by `make generate` from the types in crds/src. Change those, not this. -->";

fn at<'a>(crd: &'a Value, part: &str) -> Option<&'a Value> {
    crd.pointer(&format!("{SCHEMA}/properties/{part}"))
}

/// A table of an object's fields, the rules between them, and after it those of the objects in it.
fn section(path: &str, schema: &Value, refused: &Refused, text: &mut String) {
    let description = schema["description"].as_str().unwrap_or_default();
    let _ =
        write!(text, "\n## {path}\n\n{description}\n\n| field | type | default | description |\n|---|---|---|---|\n");
    let fields = || schema["properties"].as_object().into_iter().flatten();
    for (name, field) in fields() {
        let required = schema["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name));
        let field_path = format!("{path}.{name}");
        let row = [
            format!("`{name}`"),
            format!("{}{}", type_of(field), if required { ", required" } else { "" }),
            default_of(field),
            format!("{}{}", meaning(field, &field_path), refusal(&field_path, refused)),
        ];
        let _ = writeln!(text, "| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | ").replace("|  |", "| |"));
    }
    let rules = rules(schema);
    if !rules.is_empty() {
        let _ = write!(text, "\nRefused at apply:\n\n{}", rules.concat());
    }
    for (name, field) in fields() {
        if let Some((below, object)) = object_of(&format!("{path}.{name}"), field) {
            section(&below, object, refused, text);
        }
    }
}

/// The object that a field is, or a list of which it is.
fn object_of<'a>(path: &str, field: &'a Value) -> Option<(String, &'a Value)> {
    let items = &field["items"];
    let (path, object) = if items.is_object() { (format!("{path}[]"), items) } else { (path.to_owned(), field) };
    object["properties"].is_object().then_some((path, object))
}

fn type_of(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> = values.iter().filter_map(Value::as_str).map(|v| format!("`{v}`")).collect();
        return values.join(", ");
    }
    if field["x-kubernetes-int-or-string"] == true {
        return "quantity".to_owned();
    }
    match field["type"].as_str().unwrap_or_default() {
        "array" => {
            let of = &field["items"];
            let item = if of["properties"].is_object() { "objects".into() } else { format!("of {}", type_of(of)) };
            format!("list {item}, {}", range("", field["minItems"].as_u64(), field["maxItems"].as_u64()).trim())
                .replace("list objects", "list of objects")
        }
        "string" => {
            range("string", None, field["maxLength"].as_u64())
                + if field["maxLength"].is_u64() { " characters" } else { "" }
        }
        "object" if field["additionalProperties"].is_object() => {
            format!("map of {}", type_of(&field["additionalProperties"]))
        }
        number @ ("integer" | "number") => match (&field["minimum"], &field["maximum"]) {
            (Value::Null, _) | (_, Value::Null) => number.to_owned(),
            (least, most) if *most == super::structural_schema::MAX_INTEGER => format!("{number}, at least {least}"),
            (least, most) => format!("{number}, {least} to {most}"),
        },
        other => other.to_owned(),
    }
}

fn range(of: &str, least: Option<u64>, most: Option<u64>) -> String {
    match (least, most) {
        (Some(least), Some(most)) if least == most => format!("{of} exactly {most}"),
        (Some(least), Some(most)) => format!("{of} {least} to {most}"),
        (None, Some(most)) => format!("{of}, at most {most}").trim_start_matches(", ").to_owned(),
        _ => of.to_owned(),
    }
}

fn default_of(field: &Value) -> String {
    match &field["default"] {
        Value::Null => String::new(),
        Value::Object(_) => "`{}`".into(),
        Value::Array(items) => {
            items.iter().filter_map(Value::as_str).map(|i| format!("`{i}`")).collect::<Vec<_>>().join(", ")
        }
        other => format!("`{}`", plain(other)),
    }
}

/// A value as people write it: 1 for 1.0, 1e-5 for 0.00001.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.as_f64().is_some_and(|n| n > 0.0 && n < 0.001) => {
            number.as_f64().map(|n| format!("{n:e}")).unwrap_or_default()
        }
        Value::Number(number) => number.to_string().trim_end_matches(".0").to_owned(),
        other => other.to_string(),
    }
}

/// The description without what the other columns say, and a link to the fields of an object.
fn meaning(field: &Value, path: &str) -> String {
    let mut text = field["description"].as_str().unwrap_or_default().to_owned();
    if let Some(start) = text.rfind(&format!(" {RANGE}"))
        && field["minimum"].is_number()
    {
        text.truncate(start);
    }
    if !field["default"].is_null() {
        text = text.replace(&format!(" Defaults to {}.", plain(&field["default"])), "");
    }
    match object_of(path, field) {
        Some((below, _)) => format!("{text} [Fields](#{})", anchor(&below)),
        None => text,
    }
}

/// What a heading's link is.
fn anchor(heading: &str) -> String {
    heading.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

fn refusal(path: &str, refused: &Refused) -> String {
    let mut text = String::new();
    for (values, target, cause, instead) in refused.at(path) {
        let what = if values.is_empty() { "Refused".into() } else { format!("{} refused", values.join(", ")) };
        let by = match (target, cause) {
            (_, Cause::Without(what)) => what,
            (Some(Target::Local), _) => "by `plumbline run`",
            (Some(Target::Cluster), _) => "on a cluster",
            (None, _) => "so far",
        };
        let _ = write!(text, " **{what} {by}:** {instead}.");
    }
    text
}

/// The messages of the rules of one state that hang on an object or on a field of it.
fn rules(schema: &Value) -> Vec<String> {
    let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, field)| (name.as_str(), field));
    let places = [("", schema)].into_iter().chain(fields.filter(|(_, field)| !field["properties"].is_object()));
    let mut found = Vec::new();
    for (name, place) in places {
        for rule in place["x-kubernetes-validations"].as_array().into_iter().flatten() {
            // Of a change, the page says it once; the least value of a number is in its type.
            if rule["rule"].as_str().is_some_and(|r| r.contains("oldSelf") || r.starts_with("self >= ")) {
                continue;
            }
            let field = format!("{name}{}", rule["fieldPath"].as_str().unwrap_or_default());
            let field = field.trim_start_matches('.');
            let of = if field.is_empty() { String::new() } else { format!("`{field}`: ") };
            found.push(format!("- {of}{}\n", rule["message"].as_str().unwrap_or_default()));
        }
    }
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_reference_is_what_the_types_say() {
        let pages = Kind::ALL.map(|kind| (page_name(kind), page(kind).unwrap()));
        for (name, text) in pages.into_iter().chain([(STATUS_PAGE.to_owned(), status_page().unwrap())]) {
            let path = format!("{}/../docs/reference/{name}", env!("CARGO_MANIFEST_DIR"));
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == text, "{path} is out of date: run `make generate`");
        }
    }

    #[test]
    fn every_field_has_a_row_with_words() {
        fn check(path: &str, schema: &Value, text: &str) {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let section =
                    text.split(&format!("\n## {path}\n")).nth(1).unwrap_or_else(|| panic!("no section {path}"));
                let section = section.split("\n## ").next().unwrap();
                let row = section.lines().find(|l| l.starts_with(&format!("| `{name}` |")));
                let row = row.unwrap_or_else(|| panic!("{path} has no row of {name}"));
                assert!(!row.ends_with("| |"), "{path}: {row}");
                if let Some((below, object)) = object_of(&format!("{path}.{name}"), field) {
                    check(&below, object, text);
                }
            }
        }
        for kind in Kind::ALL {
            check("spec", at(&definition(kind).unwrap(), "spec").unwrap(), &page(kind).unwrap());
        }
    }

    #[test]
    fn columns_say_once_what_a_field_is() {
        let text = page(Kind::PreferenceDataset).unwrap();
        let row = |start: &str| text.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("no row {start}"));
        assert_eq!(
            row("| `responsesPerPrompt`"),
            "| `responsesPerPrompt` | integer, 2 to 64 | `4` | Responses generated per prompt. |"
        );
        assert!(
            row("| `judges`").contains("list of objects, 1 to 16, required | | Judges that compare"),
            "{}",
            row("| `judges`")
        );
        assert!(row("| `mode`").contains("| `Pairwise`, `Pointwise` | `Pairwise` |"));
        let reasoning = row("| `reasoning`");
        assert!(reasoning.contains("**`ChainOfThought`, `TwoPass` refused so far:** use None."), "{reasoning}");
        assert!(row("| `configMapRef`").contains("**Refused by `plumbline run`:**"));
        assert!(
            text.contains("- expected exactly one of `generator` or `responses`") || text.contains("exactly one of")
        );
    }
}
