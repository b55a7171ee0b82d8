//! The permitted content of prompts, responses and conversations: one schema for prompts, preferences and texts.
//! Computes only.

use serde_json::Value;

use super::fields::{Fields, kind};
use super::{Content, Message};

/// Fields that are not supported and that would change what the model sees or does. They are rejected if they carry
/// information; all other unknown fields are ignored.
pub(crate) const REFUSED: &[&str] = &[
    "tools",
    "functions",
    "documents",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
    "chat_template_kwargs",
    "system",
    "system_prompt",
    "history",
];

/// Rejects a record with an unsupported field that would change its meaning.
pub(crate) fn refuse_unread(fields: &Fields) -> Result<(), String> {
    match fields.left().find(|(name, _)| REFUSED.contains(name)) {
        None => Ok(()),
        Some((name @ ("system" | "system_prompt"), _)) => Err(format!(
            "`{name}` is not supported, and ignoring it would change the prompt; make it the first turn of the \
             conversation, with the role system"
        )),
        Some((name, _)) => Err(format!(
            "`{name}` is not supported, and ignoring it would change the record; remove the record, or remove the \
             field if it adds nothing"
        )),
    }
}

/// A string, or a list of turns.
pub(crate) fn content(path: &str, value: Value) -> Result<Content, String> {
    match value {
        Value::String(text) => Ok(Content::Text(text)),
        Value::Array(items) => turns(path, items).map(Content::Messages),
        other => Err(format!("`{path}` is {}; expected a string or a list of turns", kind(&other))),
    }
}

/// A conversation: a list of turns, each with a known role, a text, and nothing else.
pub(crate) fn turns(path: &str, items: Vec<Value>) -> Result<Vec<Message>, String> {
    if items.is_empty() {
        return Err(format!("`{path}` has no turns; a conversation needs at least one"));
    }
    items.into_iter().enumerate().map(|(i, item)| turn(&format!("{path}[{i}]"), item)).collect()
}

fn turn(path: &str, item: Value) -> Result<Message, String> {
    let mut fields = Fields::of(path, item)?;
    let (role, content) = (fields.take("role"), fields.take("content"));
    if let Some((name, _)) = fields.left().next() {
        return Err(format!(
            "`{path}.{name}` is not supported: a turn is its `role` and the text of its `content`, and ignoring \
             `{name}` would change it; remove the record, or remove the field if it adds nothing"
        ));
    }
    let role = match role {
        Some(Value::String(role)) if matches!(role.as_str(), "system" | "user" | "assistant") => role,
        Some(Value::String(role)) => {
            return Err(format!("`{path}` has the role `{role:.32}`; expected system, user or assistant"));
        }
        Some(other) => return Err(format!("`{path}.role` is {}; expected system, user or assistant", kind(&other))),
        None => return Err(format!("missing field `{path}.role`; expected system, user or assistant")),
    };
    let content = match content {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate().map(|(i, p)| part(&format!("{path}.content[{i}]"), p));
            parts.collect::<Result<String, String>>()?
        }
        Some(other) => return Err(format!("`{path}.content` is {}; expected a string", kind(&other))),
        None => return Err(format!("`{path}.content` is null or missing; expected a string")),
    };
    Ok(Message { role, content })
}

/// The text of a part of a turn. Parts are concatenated without a separator, as the server does.
fn part(path: &str, item: Value) -> Result<String, String> {
    let mut fields = Fields::of(path, item)?;
    let kind = fields.text("type")?;
    if kind != "text" {
        return Err(format!("`{path}.type` is `{kind:.32}`; only text is supported"));
    }
    let text = fields.text("text")?;
    match fields.left().next() {
        Some((name, _)) => Err(format!("`{path}.{name}` is not supported; a part of a turn has a `type` and a `text`")),
        None => Ok(text),
    }
}

/// Checks that a prompt can be followed by a response.
pub(crate) fn check_prompt(path: &str, prompt: &Content) -> Result<(), String> {
    match prompt {
        Content::Text(text) if text.trim().is_empty() => Err(format!("`{path}` is empty")),
        Content::Text(_) => Ok(()),
        Content::Messages(turns) => match turns.last() {
            None => Err(format!("`{path}` has no turns; a conversation needs at least one")),
            Some(last) if last.role != "user" => Err(format!(
                "`{path}` must end with a turn of the user, which the response answers; it ends with a turn of the {}",
                last.role
            )),
            Some(last) if last.content.trim().is_empty() => {
                Err(format!("`{path}` ends with an empty turn of the user"))
            }
            Some(_) => Ok(()),
        },
    }
}

/// Checks that all prompts of a set have the same form, text or conversation.
#[derive(Debug, Default)]
pub(crate) struct OneForm {
    conversations: Option<bool>,
}

impl OneForm {
    /// Rejects a prompt whose form differs from the first one's.
    pub(crate) fn check(&mut self, prompt: &Content) -> Result<(), String> {
        let conversation = matches!(prompt, Content::Messages(_));
        if *self.conversations.get_or_insert(conversation) == conversation {
            return Ok(());
        }
        let (found, others) = if conversation { ("a conversation", "texts") } else { ("a text", "conversations") };
        Err(format!("{found} among {others}; write all prompts as texts, or all as lists of turns"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_turn_is_a_role_and_a_text_without_other_fields() {
        let said = |turn: Value| content("prompt", json!([turn]));
        let plain = |text: &str| Content::Messages(vec![Message { role: "user".into(), content: text.into() }]);
        for good in [
            json!({"role": "user", "content": "ab"}),
            json!({"role": "user", "content": "ab", "tool_calls": null, "name": "", "images": [], "extra": {"a": null}}),
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        ] {
            assert_eq!(said(good.clone()).unwrap(), plain("ab"), "{good}");
        }
        for (bad, expected) in [
            (
                json!({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}),
                "`prompt[0].tool_calls` is not supported",
            ),
            (json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}), "`prompt[0].tool_calls`"),
            (json!({"role": "assistant", "content": "a", "reasoning_content": "b"}), "`prompt[0].reasoning_content`"),
            (json!({"role": "user", "content": "a", "name": "Ann"}), "`prompt[0].name`"),
            (json!({"role": "user", "content": "a", "weight": 0}), "`prompt[0].weight`"),
            (json!({"role": "user", "content": null}), "`prompt[0].content` is null or missing; expected a string"),
            (json!({"role": "user", "content": 5}), "`prompt[0].content` is a number; expected a string"),
            (json!({"role": "user"}), "`prompt[0].content` is null or missing"),
            (json!({"role": "tool", "content": "a"}), "the role `tool`; expected system, user or assistant"),
            (json!({"role": null, "content": "a"}), "missing field `prompt[0].role`"),
            (json!({"from": "human", "value": "a"}), "`prompt[0].from` is not supported"),
            (json!("a"), "`prompt[0]` is a string; expected an object"),
            (
                json!({"role": "user", "content": [{"type": "image", "image": "x"}]}),
                "`prompt[0].content[0].type` is `image`",
            ),
            (
                json!({"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]}),
                "content[0].cache` is not supported",
            ),
            (json!({"role": "user", "content": ["a"]}), "`prompt[0].content[0]` is a string"),
        ] {
            let error = said(bad.clone()).unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn only_fields_that_change_a_record_are_rejected() {
        let check = |record: Value| refuse_unread(&Fields::of("", record).unwrap());
        check(json!({"source": "x", "tools": [], "images": null, "score_chosen": 8.0, "system": ""})).unwrap();
        for (record, expected) in [
            (json!({"tools": [{"name": "weather"}]}), "`tools` is not supported"),
            (json!({"images": ["a.png"]}), "`images` is not supported"),
            (json!({"chat_template_kwargs": {"enable_thinking": false}}), "`chat_template_kwargs` is not supported"),
            (json!({"system": "Be kind."}), "with the role system"),
        ] {
            let error = check(record).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_set_of_prompts_has_one_form() {
        let (text, turns) = (Content::Text("a".into()), Content::Messages(Vec::new()));
        let mut form = OneForm::default();
        assert!(form.check(&text).is_ok() && form.check(&text).is_ok());
        assert!(form.check(&turns).unwrap_err().contains("a conversation among texts"));
    }
}
