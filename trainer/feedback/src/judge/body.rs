//! The body of a server's response, made safe to use and to show. Computes only.
//!
//! This is the trust boundary: beyond it, no text of a server contains our key or terminal control characters, so no
//! other code has to handle either.

use serde_json::Value;

use super::secret::Secret;
use crate::printable::printable;

/// A response body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// Parsed as JSON; none if it is not valid JSON.
    pub json: Option<Value>,
    /// As text, for excerpts; for a JSON body, the text that was received.
    pub text: String,
    /// The error of parsing it as JSON, if any.
    pub not_json: Option<String>,
}

impl Body {
    /// Reads a body. Invalid UTF-8 becomes U+FFFD; a byte order mark is skipped.
    ///
    /// `-Infinity`, which Python writes for the logarithm of zero and JSON does not have, is read as the number that
    /// OpenAI uses for it. `NaN` and `Infinity` are read as null.
    pub fn read(bytes: &[u8], secret: Option<&Secret>) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}');
        let clean = |text: &str| printable(&secret.map_or_else(|| text.to_owned(), |s| s.redact(text)));
        let parsed = serde_json::from_str::<Value>(text)
            .or_else(|e| with_numbers(text).and_then(|text| serde_json::from_str(&text).ok()).ok_or(e));
        match parsed {
            Ok(mut value) => {
                each_text(&mut value, &clean);
                Self { json: Some(value), text: clean(text), not_json: None }
            }
            Err(e) => Self { json: None, text: clean(text), not_json: Some(e.to_string()) },
        }
    }

    /// A value of the body; null if it is absent or the body is not JSON.
    pub fn get(&self, key: &str) -> &Value {
        const NULL: &Value = &Value::Null;
        self.json.as_ref().and_then(|json| json.get(key)).unwrap_or(NULL)
    }
}

/// Applies `clean` to every string of a value, including field names.
fn each_text(value: &mut Value, clean: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, clean)),
        Value::Object(fields) => {
            let all = std::mem::take(fields);
            fields.extend(all.into_iter().map(|(name, mut value)| {
                each_text(&mut value, clean);
                (clean(&name), value)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces Python's non-JSON numbers; `None` if there are none outside strings.
fn with_numbers(text: &str) -> Option<String> {
    let (mut out, mut found, mut quoted, mut escaped) = (String::with_capacity(text.len()), false, false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let number = [("-Infinity", "-9999.0"), ("Infinity", "null"), ("NaN", "null")];
        if !quoted && let Some((name, json)) = number.iter().find(|(name, _)| rest.starts_with(name)) {
            out.push_str(json);
            rest = &rest[name.len()..];
            found = true;
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_control_characters_are_removed_wherever_they_are() {
        let secret = Secret::new("sk-secret-1234");
        let body = br#"{"model": "gpt sk-secret-1234", "a": [{"sk\u002dsecret-1234": "x\u001b[31m", "b": "SK-SECRET-1234 \u202e"}]}"#;
        let body = Body::read(body, Some(&secret));
        assert_eq!(
            body.json,
            Some(json!({"model": "gpt [key]", "a": [{"[key]": "x\u{fffd}[31m", "b": "[key] \u{fffd}"}]}))
        );
        let page = Body::read(b"<p>\x1b[2J sk-secret-1234</p>", Some(&secret));
        assert_eq!((page.json, page.text.as_str()), (None, "<p>\u{fffd}[2J [key]</p>"));
    }

    #[test]
    fn non_json_numbers_of_python_are_read_outside_strings_only() {
        let read = |text: &str| Body::read(text.as_bytes(), None).json;
        assert_eq!(
            read(r#"{"a": -Infinity, "b": NaN, "c": [Infinity], "d": "a \" NaN \\"}"#),
            Some(json!({"a": -9999.0, "b": null, "c": [null], "d": "a \" NaN \\"}))
        );
        assert_eq!(read("\u{feff}{\"a\": 1}"), Some(json!({"a": 1})));
        for broken in ["", "NaN NaN", "{\"a\": ", "data: {}"] {
            assert_eq!(read(broken), None, "{broken}");
        }
    }
}
