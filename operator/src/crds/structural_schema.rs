//! Turns the derived schema of a resource into the structural schema that an API server accepts. Computes only.

use serde_json::{Map, Value, json};

/// The longest string where the type states no bound of its own: without one, CEL rules cannot be costed.
const MAX_LENGTH: u64 = 1024;
/// The largest whole number that every JSON reader holds exactly: 2^53 - 1.
pub(super) const MAX_INTEGER: i64 = 9_007_199_254_740_991;
/// How the sentence about the range of a number starts.
pub(super) const RANGE: &str = "Must be ";

/// Makes the schema of a whole resource structural, and bounded throughout.
pub(super) fn root(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for property in properties.values_mut() {
        each(property, &mut |schema| {
            defaults_of_objects(schema);
            lists(schema);
            strings(schema);
            numbers(schema);
            descriptions(schema);
            schema.remove("nullable");
        });
    }
    if let Some(status) = properties.get_mut("status") {
        status_defaults(status);
        each(status, &mut counts);
    }
    if let Some(spec) = properties.get_mut("spec") {
        each(spec, &mut ranges);
    }
    properties.insert("metadata".into(), json!({"type": "object", "properties": {"name": name()}}));
}

/// The name of a resource. The names of its children add up to 11 characters and must stay DNS labels of at most 63.
pub(super) fn name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 52, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"})
}

/// Applies a change to a schema and everything below it.
fn each(schema: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Some(object) = schema.as_object_mut() else { return };
    change(object);
    for child in children(object) {
        each(child, change);
    }
}

fn children(schema: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    schema.iter_mut().flat_map(|(key, value)| match (key.as_str(), value) {
        ("properties", Value::Object(properties)) => properties.values_mut().collect::<Vec<_>>(),
        ("items" | "additionalProperties", value) if value.is_object() => vec![value],
        _ => Vec::new(),
    })
}

/// The API server fills an object's default from those of its fields, so `{}` says it all, once.
fn defaults_of_objects(schema: &mut Map<String, Value>) {
    if schema.get("default").is_some_and(Value::is_object) {
        schema.insert("default".into(), json!({}));
    }
}

/// Lists that are not said to be maps are replaced as a whole by server-side apply.
fn lists(schema: &mut Map<String, Value>) {
    if schema.get("type") == Some(&json!("array")) {
        schema.entry("x-kubernetes-list-type").or_insert(json!("atomic"));
    }
}

fn strings(schema: &mut Map<String, Value>) {
    if schema.get("type") == Some(&json!("string")) && !schema.contains_key("enum") {
        schema.entry("maxLength").or_insert(json!(MAX_LENGTH));
    }
    // An optional enum carries null among its values, where the field is simply left out.
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.retain(|v| !v.is_null());
    }
}

/// The line breaks of a doc comment are not those of a terminal.
fn descriptions(schema: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

/// API servers take an integer for an `int64` anyway; of `double` and `uint*` they only warn. Bounds of integers are printed as integers.
fn numbers(schema: &mut Map<String, Value>) {
    schema.remove("format");
    for key in ["minimum", "maximum"] {
        if let Some(bound) = schema.get_mut(key)
            && let Some(number) = bound.as_f64()
            && number.fract() == 0.0
            && number.abs() < 9.1e15
        {
            *bound = json!(number as i64);
        }
    }
    // An API server compares a number without a fraction with the bound without its fraction: 0 would pass for 0.5.
    if let Some(least) = schema.get("minimum").filter(|least| least.is_f64()) {
        let rule =
            json!({"rule": format!("self >= {least}"), "message": format!("expected at least {least}; raise it")});
        schema.insert("x-kubernetes-validations".into(), json!([rule]));
    }
}

/// Numbers of a status count something where the type states no bounds of its own, up to what JSON holds exactly.
fn counts(schema: &mut Map<String, Value>) {
    if schema.get("type") == Some(&json!("integer")) {
        schema.entry("minimum").or_insert(json!(0));
        schema.entry("maximum").or_insert(json!(MAX_INTEGER));
    }
}

/// `kubectl explain` shows descriptions and no bounds.
fn ranges(schema: &mut Map<String, Value>) {
    let (Some(least), Some(most)) = (schema.get("minimum"), schema.get("maximum")) else { return };
    let range = if most == MAX_INTEGER {
        format!("{RANGE}at least {least}.")
    } else {
        format!("{RANGE}between {least} and {most}.")
    };
    let described = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    schema.insert("description".into(), format!("{described} {range}").trim_start().into());
}

/// The status has one default, the one that kstatus asks for: a generation that no spec has, so that a status that was
/// never written does not pass for a current one.
fn status_defaults(status: &mut Value) {
    each(status, &mut |schema| {
        schema.remove("default");
    });
    let generation = json!(-1);
    if let Some(observed) = status.pointer_mut("/properties/observedGeneration").and_then(Value::as_object_mut) {
        observed.insert("default".into(), generation.clone());
    }
    if let Some(status) = status.as_object_mut() {
        status.insert("default".into(), json!({"observedGeneration": generation}));
    }
}
