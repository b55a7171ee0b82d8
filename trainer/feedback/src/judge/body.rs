//! The body of a server's response as it may be used and shown. Computes only.
//!
//! This is the border: whatever a server said is past it without our key and without characters that act on a terminal. So
//! nothing behind it has to think of either, wherever it puts a server's words.

use serde_json::Value;

use super::secret::Secret;
use crate::printable::printable;

/// A body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// As JSON, where it is that.
    pub json: Option<Value>,
    /// As text: of a JSON body what was sent, for excerpts.
    pub text: String,
    /// Why it is no JSON.
    pub not_json: Option<String>,
}

impl Body {
    /// Reads a body. Bytes that are no UTF-8 become U+FFFD; a byte order mark is skipped.
    ///
    /// `-Infinity`, which Python writes for the logarithm of nothing and JSON does not have, is read as the number that
    /// OpenAI writes for it. `NaN` and `Infinity` are read as null.
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

    /// A value of the body; null where it has none, or is no JSON.
    pub fn get(&self, key: &str) -> &Value {
        const NULL: &Value = &Value::Null;
        self.json.as_ref().and_then(|json| json.get(key)).unwrap_or(NULL)
    }
}

/// Changes every text of a value, the names of fields included.
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

/// The text with JSON in place of the numbers that only Python's JSON has; `None` without one outside of strings.
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
    fn a_key_and_control_characters_end_here_wherever_they_are_and_however_they_are_escaped() {
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
    fn numbers_that_only_python_writes_are_read_and_words_in_texts_are_left_alone() {
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
