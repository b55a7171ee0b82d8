//! The input of the model in a request: prompts, messages, stop strings. Computes.

use serde_json::Value;

use super::ApiError;
use super::fields::{Fields, as_integer, kind};
use crate::data::Message;

/// A prompt of the completions API.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, tokenised without adding tokens.
    Text(String),
    /// Token ids.
    Tokens(Vec<i64>),
}

/// Parses `prompt`.
pub(super) fn prompts(value: Option<Value>) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a string, a list of strings, a list of token ids, or a list of such lists";
    match value {
        None => Err(ApiError::invalid("prompt", "`prompt` is missing")),
        Some(Value::String(text)) => Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(items)) => match items.first() {
            None => Err(ApiError::invalid("prompt", format!("`prompt` must be {expected}, found an empty list"))),
            Some(Value::Number(_)) => Ok(vec![Prompt::Tokens(tokens("prompt", &items)?)]),
            Some(_) => items.into_iter().enumerate().map(|(i, item)| prompt(i, item)).collect(),
        },
        Some(other) => Err(ApiError::invalid("prompt", format!("`prompt` must be {expected}, found {}", kind(&other)))),
    }
}

fn prompt(index: usize, item: Value) -> Result<Prompt, ApiError> {
    let path = format!("prompt[{index}]");
    match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) => Ok(Prompt::Tokens(tokens(&path, &ids)?)),
        other => {
            let message = format!("`{path}` must be a string or a list of token ids, found {}", kind(&other));
            Err(ApiError::invalid(path, message))
        }
    }
}

fn tokens(path: &str, ids: &[Value]) -> Result<Vec<i64>, ApiError> {
    ids.iter()
        .enumerate()
        .map(|(i, id)| {
            as_integer(id).filter(|id| *id >= 0).ok_or_else(|| {
                let path = format!("{path}[{i}]");
                let message = format!("`{path}` must be a token id (an integer from 0), found {}", kind(id));
                ApiError::invalid(path, message)
            })
        })
        .collect()
}

/// Parses `stop`. The limits are those of `sampling.stop` in a manifest.
pub(super) fn stop(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = |found: &str| {
        ApiError::invalid(
            "stop",
            format!("`stop` must be a string of 1 to 64 characters or 1 to 16 of them, found {found}"),
        )
    };
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(single) => vec![single],
    };
    if items.len() > 16 {
        return Err(wrong(&format!("{} of them", items.len())));
    }
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) if (1..=64).contains(&text.chars().count()) => Ok(text),
            Value::String(text) => Err(wrong(&format!("one of {} characters", text.chars().count()))),
            other => Err(wrong(kind(&other))),
        })
        .collect()
}

/// Parses `messages`.
pub(super) fn messages(value: Option<Value>) -> Result<Vec<Message>, ApiError> {
    match value {
        None => Err(ApiError::invalid("messages", "`messages` is missing")),
        Some(Value::Array(items)) if !items.is_empty() => {
            items.into_iter().enumerate().map(|(i, item)| message(&format!("messages[{i}]"), item)).collect()
        }
        Some(other) => {
            let found = if other.is_array() { "an empty one" } else { kind(&other) };
            Err(ApiError::invalid("messages", format!("`messages` must be a list of messages, found {found}")))
        }
    }
}

fn message(path: &str, item: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::of_value(path, item)?;
    let role = fields.required_text("role")?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" => role,
        // OpenAI's newer name of the same role.
        "developer" => "system".to_owned(),
        _ => {
            let path = format!("{path}.role");
            let message = format!("`{path}` must be system, developer, user or assistant, found `{role:.32}`");
            return Err(ApiError::invalid(path, message));
        }
    };
    let content = content(&format!("{path}.content"), fields.take("content"))?;
    fields.refuse_rest()?;
    Ok(Message { role, content })
}

fn content(path: &str, value: Option<Value>) -> Result<String, ApiError> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate().map(|(i, part)| {
                let path = format!("{path}[{i}]");
                let mut fields = Fields::of_value(&path, part)?;
                let kind = fields.required_text("type")?;
                if kind != "text" {
                    let message = format!("`{path}.type` is `{kind:.32}`, but this model reads only text");
                    return Err(ApiError::unsupported(format!("{path}.type"), message));
                }
                let text = fields.required_text("text")?;
                fields.refuse_rest()?;
                Ok(text)
            });
            parts.collect()
        }
        None => Err(ApiError::invalid(path, format!("`{path}` is missing"))),
        Some(other) => {
            let message = format!("`{path}` must be a string or a list of text parts, found {}", kind(&other));
            Err(ApiError::invalid(path, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
        prompts(Some(value))
    }

    fn read_messages(value: Value) -> Result<Vec<Message>, ApiError> {
        messages(Some(value))
    }

    /// The field that an error names.
    fn field(error: ApiError) -> String {
        assert_eq!(error.status, 400, "{error:?}");
        error.body.param.expect("names a field")
    }

    #[test]
    fn a_prompt_may_be_token_ids() {
        let tokens = |ids: &[i64]| Prompt::Tokens(ids.to_vec());
        assert_eq!(read_prompts(json!([1, 2])).unwrap(), [tokens(&[1, 2])]);
        assert_eq!(read_prompts(json!([[1], [2, 3]])).unwrap(), [tokens(&[1]), tokens(&[2, 3])]);
        for (bad, path) in [
            (json!([1, -2]), "prompt[1]"),
            (json!([1, "a"]), "prompt[1]"),
            (json!([[1], [2, 0.5]]), "prompt[1][1]"),
            (json!(["a", {}]), "prompt[1]"),
            (json!([]), "prompt"),
            (json!(7), "prompt"),
        ] {
            assert_eq!(field(read_prompts(bad).unwrap_err()), path);
        }
    }

    #[test]
    fn content_may_be_text_parts_only() {
        let parts =
            json!([{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
        let message = Message { role: "system".into(), content: "ab".into() };
        assert_eq!(read_messages(parts).unwrap(), [message]);
        for (bad, path) in [
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
                "messages[0].content[0].type",
            ),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].role"),
            (json!([{"content": "x"}]), "messages[0].role"),
            (json!([{"role": "assistant", "content": null}]), "messages[0].content"),
            (json!([{"role": "user", "content": "x", "name": "bob"}]), "messages[0].name"),
            (json!(["x"]), "messages[0]"),
            (json!([]), "messages"),
            (json!("x"), "messages"),
        ] {
            assert_eq!(field(read_messages(bad).unwrap_err()), path);
        }
    }
}
