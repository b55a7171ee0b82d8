//! Chat templates: a conversation as the text a model was trained on. Pure: messages in, text out.
//!
//! Templates are Jinja programs written for transformers (`apply_chat_template`), which defines the environment they may
//! count on: whitespace control by `trim_blocks` and `lstrip_blocks`, loop controls, Python's string methods, `tojson` as
//! Python writes JSON, `raise_exception`, `strftime_now` and the special tokens by name.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;

use jiff::civil::DateTime;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

use crate::data::Message;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

/// Why a template gives no text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is not valid Jinja.
    #[error("the chat template cannot be read: {0}")]
    Syntax(String),
    /// The template itself refuses the conversation, through `raise_exception`.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// It fails on the conversation.
    #[error("the chat template fails: {0}")]
    Render(String),
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are the names and texts it may use (`bos_token`, `eos_token`); `now` is what
    /// `strftime_now` formats.
    pub fn compile(
        source: &str,
        special_tokens: BTreeMap<String, String>,
        now: DateTime,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", |value: &Value, options: Kwargs| to_json(value, &options));
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Refusal))
        });
        environment.add_function("strftime_now", move |format: &str| {
            jiff::fmt::strtime::format(format, now)
                .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| TemplateError::Syntax(describe(&e)))?;
        Ok(Self { environment, special_tokens })
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the assistant's next turn begins.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME).map_err(|e| TemplateError::Syntax(describe(&e)))?;
        let names = Value::from_serialize(&self.special_tokens);
        let context = context! {
            messages,
            add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
            ..names
        };
        template.render(context).map_err(|e| match e.source() {
            Some(source) if source.is::<Refusal>() => TemplateError::Refused(e.detail().unwrap_or_default().to_owned()),
            _ => TemplateError::Render(describe(&e)),
        })
    }
}

const NAME: &str = "chat_template";

/// Marks the errors that a template raises itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Refusal;

fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map(|n| format!(" (line {n} of the template)")).unwrap_or_default();
    format!("{}{line}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
}

/// `{% generation %} ... {% endgeneration %}` marks the assistant's tokens for transformers and writes nothing. Conditions
/// that always hold take its place, so that whitespace control (`{%-`) keeps working.
fn without_generation_tags(source: &str) -> String {
    let mut rest = source;
    let mut text = String::with_capacity(source.len());
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (tag, after) = (&rest[start + 2..start + length], &rest[start + length..]);
        text.push_str(&rest[..start + 2]);
        let name = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => text.push_str(&tag.replace(name, "if true")),
            "endgeneration" => text.push_str(&tag.replace(name, "endif")),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// The filter `tojson` as transformers defines it: `json.dumps(value, ensure_ascii=False, indent=...)`. Jinja's own would
/// escape `<`, `>`, `&` and `'` for HTML.
fn to_json(value: &Value, options: &Kwargs) -> Result<Value, minijinja::Error> {
    let failed = |e: &dyn std::fmt::Display| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    if let Some(width) = indent {
        let spaces = " ".repeat(width);
        let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, pretty)).map_err(|e| failed(&e))?;
    } else {
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, OneLine)).map_err(|e| failed(&e))?;
    }
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|e| failed(&e))
}

/// JSON on one line with a space after `,` and `:`, Python's default.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    fn render(source: &str, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let tokens =
            BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]);
        ChatTemplate::compile(source, tokens, jiff::civil::datetime(2026, 2, 3, 4, 5, 6, 0))?
            .render(messages, add_generation_prompt)
    }

    #[test]
    fn a_turn_based_template_opens_the_assistants_turn_only_when_asked() {
        let source = "{{ bos_token }}{% for message in messages %}\n    [{{ message['role'] | upper }}] {{ message.content.strip() }}{{ eos_token }}\n{% endfor %}\n{% if add_generation_prompt %}\n[ASSISTANT]{% endif %}";
        let messages = [message("user", " hi <b>&'x' "), message("assistant", "yes")];
        assert_eq!(
            render(source, &messages, true).unwrap(),
            "<s>    [USER] hi <b>&'x'</s>\n    [ASSISTANT] yes</s>\n[ASSISTANT]"
        );
        assert!(!render(source, &messages, false).unwrap().ends_with("[ASSISTANT]"));
    }

    #[test]
    fn what_templates_of_known_models_use_works() {
        let user = [message("user", "a,b"), message("assistant", "c")];
        for (source, expected) in [
            (
                "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
                "a,b",
            ),
            ("{{ messages[::-1][0].content }}{{ messages[1:] | length }}", "c1"),
            ("{{ messages[0].content.split(',')[-1] }}{{ 'x'.startswith('x') }}", "bTrue"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            ("{% if tools is none and documents is none and date_string is not defined %}plain{% endif %}", "plain"),
            ("{% if not tools %}no tools{% endif %}", "no tools"),
            ("{{ strftime_now('%d %b %Y') }}", "03 Feb 2026"),
            ("{% macro turn(m) %}<{{ m.role }}>{% endmacro %}{{ turn(messages[0]) }}", "<user>"),
        ] {
            assert_eq!(render(source, &user, false).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let messages = [message("user", "<é> & 'q' \"d\"")];
        assert_eq!(
            render("{{ messages | tojson }}", &messages, false).unwrap(),
            r#"[{"role": "user", "content": "<é> & 'q' \"d\""}]"#
        );
        assert_eq!(
            render("{{ {'a': [1, 2.5, none, true]} | tojson(indent=2) }}", &messages, false).unwrap(),
            "{\n  \"a\": [\n    1,\n    2.5,\n    null,\n    true\n  ]\n}"
        );
    }

    #[test]
    fn generation_tags_write_nothing_and_keep_their_whitespace_control() {
        let source =
            "a {%- generation -%} {{ messages[0].content }} {%- endgeneration %} b{% generation %}c{% endgeneration %}";
        assert_eq!(render(source, &[message("assistant", "x")], false).unwrap(), "ax bc");
    }

    #[test]
    fn a_template_that_refuses_a_conversation_says_why() {
        let source =
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
        let error = render(source, &[message("system", "x")], false).unwrap_err();
        assert!(matches!(&error, TemplateError::Refused(why) if why == "System role not supported"), "{error}");
        let broken = render("{% for %}", &[], false).unwrap_err();
        assert!(matches!(&broken, TemplateError::Syntax(why) if why.contains("line 1")), "{broken}");
        assert!(matches!(render("{{ messages[0].content }}", &[], false), Err(TemplateError::Render(_))));
    }
}
