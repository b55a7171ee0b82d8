//! Reads the fields of a JSON object one by one, with errors that name the field, and rejects the fields that remain.
//! Computes.

use serde_json::{Map, Value};

use super::ApiError;

/// The fields of a request that have not been read yet. A null field counts as absent.
pub struct Fields {
    path: String,
    map: Map<String, Value>,
}

/// Maximum number of JSON values per request. Each token id is a value; this is enough for twice today's longest
/// contexts.
pub(super) const MOST_VALUES: usize = 1 << 18;

impl Fields {
    /// Parses a request's body.
    pub fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        // A parsed value takes many times the two bytes of its shortest text.
        if values(body) > MOST_VALUES {
            return Err(ApiError::too_many_values(MOST_VALUES));
        }
        let value: Value =
            serde_json::from_slice(body).map_err(|e| ApiError::malformed(format!("the body is not JSON: {e}")))?;
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map }),
            other => Err(ApiError::malformed(format!("the body must be a JSON object, found {}", kind(&other)))),
        }
    }

    /// The fields of a nested object; `path` is its location: `messages[2]`.
    pub fn of_value(path: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { path: format!("{path}."), map }),
            other => Err(ApiError::invalid(path, format!("`{path}` must be an object, found {}", kind(&other)))),
        }
    }

    fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    fn wrong(&self, field: &str, expected: &str, found: &Value) -> ApiError {
        let name = self.name(field);
        let message = format!("`{name}` must be {expected}, found {}", shown(found));
        ApiError::invalid(name, message)
    }

    /// Takes a field.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|v| !v.is_null())
    }

    /// Takes a string.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, "a string", &other)),
        }
    }

    /// Takes a required string.
    pub fn required_text(&mut self, field: &str) -> Result<String, ApiError> {
        let name = self.name(field);
        self.text(field)?.ok_or_else(|| ApiError::invalid(&name, format!("`{name}` is missing")))
    }

    /// Takes a boolean; absent means false.
    pub fn flag(&mut self, field: &str) -> Result<bool, ApiError> {
        match self.take(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.wrong(field, "true or false", &other)),
        }
    }

    /// Takes a number in the range `least..=most`.
    pub fn number(&mut self, field: &str, least: f64, most: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(field, &format!("a number from {least} to {most}"), &value)),
        }
    }

    /// Takes an integer in the range `least..=most`; 3.0 is accepted.
    pub fn integer(&mut self, field: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match as_integer(&value) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(field, &format!("an integer from {least} to {most}"), &value)),
        }
    }

    /// Takes a field that is supported only with values that do not change the meaning of the request; any other value
    /// is rejected by name.
    pub fn neutral(&mut self, field: &str, accepted: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.take(field) {
            Some(value) if !accepted(&value) => {
                let name = self.name(field);
                let message = format!("`{name}` is not supported by this server; leave it out");
                Err(ApiError::unsupported(name, message))
            }
            _ => Ok(()),
        }
    }

    /// Drops fields that do not affect the reply.
    pub fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.map.remove(*field);
        }
    }

    /// Rejects the first remaining field.
    pub fn refuse_rest(self) -> Result<(), ApiError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, _)) => {
                let name = self.name(&format!("{field:.64}"));
                let message = format!("`{name}` is not a field that this server knows or supports; leave it out");
                Err(ApiError::unsupported(name, message))
            }
        }
    }
}

/// An upper bound of the number of values in a JSON text: one, plus one for each comma and opening bracket outside
/// strings.
fn values(json: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// An integer, also if it is written with a zero fraction.
pub fn as_integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        // Up to 2^53 every whole f64 is exactly one integer.
        value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0).map(|n| n as i64)
    })
}

/// The type of a JSON value, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value in an error: numbers verbatim, others by type, so that a prompt never appears in a message.
fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        other => kind(other).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (json, most) in
            [("1", 1), ("[1, 2]", 3), (r#"{"a,[{": [[], "b\\", {}]}"#, 7), (r#""\",,,""#, 1), (r#"["\\", 1]"#, 3)]
        {
            assert_eq!(values(json.as_bytes()), most, "{json}");
        }
    }

    #[test]
    fn a_body_of_too_many_values_is_rejected_before_parsing() {
        for (open, value, close) in [("[", "0,", "0]"), ("[", "[],", "0]"), ("{\"a\":0,", "\"a\":0,", "\"a\":0}")] {
            let body = |values: usize| format!("{open}{}{close}", value.repeat(values));
            assert_eq!(Fields::of_body(body(MOST_VALUES).as_bytes()).err().unwrap().status, 413, "{value}");
            let fits = Fields::of_body(body(MOST_VALUES / 3).as_bytes());
            assert!(fits.is_ok() || fits.is_err_and(|e| e.status == 400), "{value}");
        }
    }
}
