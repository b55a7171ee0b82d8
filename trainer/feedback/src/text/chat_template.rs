//! Chat templates: a conversation as the text a model was trained on. Pure: messages in, text out.
//!
//! Templates are Jinja programs written for transformers (`apply_chat_template`), which defines the environment they
//! rely on: whitespace control by `trim_blocks` and `lstrip_blocks`, loop controls, Python's string methods, `tojson`
//! with Python's JSON format, `raise_exception`, `strftime_now` and the special tokens by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use jiff::civil::DateTime;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

use super::jinja::{self, Fault, Jinja, JinjaError};
use crate::data::Message;

/// A compiled chat template.
pub struct ChatTemplate {
    jinja: Jinja,
    special_tokens: BTreeMap<String, String>,
}

/// Why a template renders no text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is not valid Jinja.
    #[error("the chat template cannot be read: {0}")]
    Syntax(JinjaError),
    /// The template rejects the conversation with `raise_exception`.
    #[error("the model's chat template rejects this conversation: {0}")]
    Refused(String),
    /// It fails on the conversation.
    #[error("the chat template fails: {0}")]
    Render(JinjaError),
}

impl TemplateError {
    /// Whether the failure is not the template's fault: another attempt may succeed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Syntax(e) | Self::Render(e) if e.may_pass())
    }
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are the names and texts it may use (`bos_token`, `eos_token`).
    pub fn compile(source: &str, special_tokens: BTreeMap<String, String>) -> Result<Self, TemplateError> {
        let template = (NAME.to_owned(), without_generation_tags(source));
        let jinja = Jinja::compile(environment(), vec![template]).map_err(TemplateError::Syntax)?;
        Ok(Self { jinja, special_tokens })
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the assistant's next turn begins. `now` is what
    /// `strftime_now` formats.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        now: DateTime,
    ) -> Result<String, TemplateError> {
        let names = Value::from_serialize(&self.special_tokens);
        let context = context! {
            messages,
            add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
            strftime_now => clock(now),
            ..names
        };
        let size = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        self.jinja.render(NAME, context, size).map_err(|e| match e {
            JinjaError::Fault(Fault { raised: true, detail, .. }) => TemplateError::Refused(detail.unwrap_or_default()),
            e => TemplateError::Render(e),
        })
    }
}

const NAME: &str = "chat_template";

/// Whether a template reads the time.
pub fn asks_for_time(source: &str) -> bool {
    source.contains("strftime_now")
}

/// The function that returns the time.
fn clock(now: DateTime) -> Value {
    Value::from_function(move |format: &str| {
        jiff::fmt::strtime::format(format, now)
            .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
    })
}

/// The variables and functions of transformers for chat templates.
fn environment() -> Environment<'static> {
    let mut environment = jinja::environment();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", |value: &Value, options: Kwargs| to_json(value, &options));
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(jinja::raised(message))
    });
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.set_formatter(|out, state, value| match python(value) {
        Some(text) => out.write_str(&text).map_err(|_| minijinja::Error::from(ErrorKind::WriteFailure)),
        None => minijinja::escape_formatter(out, state, value),
    });
    environment.add_filter("string", |value: &Value| python(value).unwrap_or_else(|| value.to_string()));
    // As Python has it: a text and a mapping have a length and items, None and a number cannot be iterated over, a truth
    // value is a number.
    let has_items = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String);
    environment.add_test("sequence", move |v: &Value| has_items(v) || v.is_undefined());
    environment
        .add_test("iterable", move |v: &Value| has_items(v) || v.is_undefined() || v.kind() == ValueKind::Iterable);
    environment.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    environment
}

/// A list or a mapping as Python prints it (`['a', 1]`); none for other values, which Jinja prints in the same way.
fn python(value: &Value) -> Option<String> {
    let mut text = String::new();
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map).then(|| write_python(&mut text, value))?;
    Some(text)
}

fn write_python(text: &mut String, value: &Value) {
    let (begin, end) = match (value.kind(), value.as_str()) {
        (_, Some(string)) => return write_quoted(text, string),
        (ValueKind::Seq, _) => ('[', ']'),
        (ValueKind::Map, _) => ('{', '}'),
        _ => return text.push_str(&value.to_string()),
    };
    text.push(begin);
    for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
        text.push_str(if i == 0 { "" } else { ", " });
        write_python(text, &item);
        if begin == '{' {
            text.push_str(": ");
            write_python(text, &value.get_item(&item).unwrap_or_default());
        }
    }
    text.push(end);
}

/// A quoted string: in single quotes, unless only double quotes need no escape.
fn write_quoted(text: &mut String, string: &str) {
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for c in string.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            c if c == quote => text.extend(['\\', c]),
            c if is_printable(c) => text.push(c),
            // A String takes all that is written.
            c => drop(match u32::from(c) {
                code @ ..0x100 => write!(text, "\\x{code:02x}"),
                code @ ..0x1_0000 => write!(text, "\\u{code:04x}"),
                code => write!(text, "\\U{code:08x}"),
            }),
        }
    }
    text.push(quote);
}

/// Python's `str.isprintable`: whether a character has a general category other than control, format, surrogate, private use,
/// unassigned and separator, but for the space. Rust escapes the others, also where a character before it takes a mark.
fn is_printable(c: char) -> bool {
    c == ' '
        || c.is_ascii_graphic()
        || (!c.is_ascii() && ['a', c].iter().collect::<String>().escape_debug().count() == 2)
}

/// `{% generation %} ... {% endgeneration %}` marks the assistant's tokens for transformers and writes nothing. Conditions
/// that always hold take its place, so that whitespace control (`{%-`) keeps working.
fn without_generation_tags(source: &str) -> String {
    let mut rest = source;
    let mut text = String::with_capacity(source.len());
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        let Some(length) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(length);
        text.push_str(before);
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

    const NOW: DateTime = jiff::civil::datetime(2026, 2, 3, 4, 5, 6, 0);

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    fn render(source: &str, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let tokens =
            BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]);
        ChatTemplate::compile(source, tokens)?.render(messages, add_generation_prompt, NOW)
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
            ("{% macro today() %}{{ strftime_now('%Y') }}{% endmacro %}{{ today() }}", "2026"),
            ("{% if strftime_now is defined %}{{ strftime_now('%H') }}{% endif %}", "04"),
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
        assert!(matches!(&broken, TemplateError::Syntax(why) if why.to_string().contains("line 1")), "{broken}");
        assert!(matches!(render("{{ messages[0].content }}", &[], false), Err(TemplateError::Render(_))));
    }

    #[test]
    fn what_is_iterable_a_sequence_or_a_number_is_what_python_says() {
        let of = |value: &str| {
            let tests = ["iterable", "sequence", "mapping", "string", "number", "integer", "none", "defined"];
            let source: Vec<String> = tests.iter().map(|t| format!("{{{{ 1 if {value} is {t} else 0 }}}}")).collect();
            render(&source.concat(), &[message("user", "x")], false).unwrap()
        };
        // By Jinja2 3.1.
        for (value, expected) in [
            ("none", "00000011"),
            ("nothing", "11000000"),
            ("'x'", "11010001"),
            ("[1]", "11000001"),
            ("{'a': 1}", "11100001"),
            ("3", "00001101"),
            ("1.5", "00001001"),
            ("true", "00001001"),
            ("messages", "11000001"),
            ("messages[0]", "11100001"),
            ("tools", "00000011"),
        ] {
            assert_eq!(of(value), expected, "{value}");
        }
        let source = "{% if tools is iterable and tools | length > 0 %}tools{% else %}none{% endif %}";
        assert_eq!(render(source, &[], false).unwrap(), "none");
    }

    // The golden file is made by Jinja2 as transformers sets it up (tests/parity/golden_jinja.py).
    #[test]
    fn an_expression_gives_what_jinja2_gives_or_an_error_and_no_other_text() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../../tests/golden/jinja.json")).unwrap();
        let messages = [message("user", "hi"), message("assistant", "yo")];
        let (mut same, mut errors, mut others) = (0, Vec::new(), Vec::new());
        for entry in golden["expressions"].as_array().unwrap() {
            let (expression, expected) = (entry["expression"].as_str().unwrap(), entry["text"].as_str().unwrap());
            match render(&format!("{{{{ {expression} }}}}"), &messages, false) {
                Ok(text) if text == expected => same += 1,
                Ok(text) => others.push(format!("{expression}: {text:?} is not {expected:?}")),
                Err(error) => errors.push(format!("{expression}: {error}")),
            }
        }
        assert!(others.is_empty(), "{}", others.join("\n"));
        assert!(same > 10 * errors.len(), "{same} alike, {}", errors.join("\n"));
    }

    #[test]
    fn a_template_without_end_is_refused_soon_and_ends_nothing_else() {
        let nested = "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}{% endfor %}{% endfor %}{% endfor %}";
        let doubled = |step: &str| {
            format!("{{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}}{{% for i in range(60) %}}{step}{{% endfor %}}")
        };
        let refused = |name: &str, source: &str| {
            let begun = std::time::Instant::now();
            let found = render(source, &[message("user", "hi")], false);
            assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{name}: {:?}", begun.elapsed());
            match found {
                Err(TemplateError::Syntax(e) | TemplateError::Render(e)) => e.to_string(),
                other => panic!("{name}: {:?}", other.map(|text| text.len())),
            }
        };
        assert!(refused("loops", nested).contains("more than 5000000 instructions"));
        for (name, source) in [
            ("concatenation", doubled("{% set ns.x = ns.x ~ ns.x %}")),
            ("addition", doubled("{% set ns.x = ns.x + ns.x %}")),
            ("capture", doubled("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}")),
            ("macro", "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}".to_owned() + &doubled("{% set ns.x = f(ns.x) %}")),
            ("list", doubled("{% set ns.x = (ns.x ~ '') | list %}{% set ns.x = (ns.x + ns.x + ns.x) | join %}")),
            ("indent", "{{ messages | tojson(indent=100000000000) }}".to_owned()),
            ("indent of a text", "{{ 'x\ny' | indent(width=10000000000) }}".to_owned()),
            ("replace", "{{ ('a' * 100000).replace('a', 'b' * 100000) }}".to_owned()),
            ("join", "{{ range(100000) | list | join('x' * 100000) }}".to_owned()),
            ("format", "{{ '%1000000000d' | format(1) }}".to_owned()),
            ("output", "{% for i in range(100000) %}".to_owned() + &"a".repeat(10_000) + "{% endfor %}"),
            ("constants", "{{ ".to_owned() + &"('a' * 90000000) ~ ".repeat(20) + "'a' }}"),
            ("source", "{# ".to_owned() + &"x".repeat(300_000) + " #}"),
        ] {
            refused(name, &source);
        }
        let error = refused("maximum", "{{ messages | tojson(indent=9223372036854775807) }}");
        assert!(error.contains("capacity") || error.contains("memory"), "{error}");
    }

    #[test]
    fn a_template_that_took_more_than_it_may_writes_nothing_any_more() {
        let source = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for m in messages %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
        let template = ChatTemplate::compile(source, BTreeMap::new()).unwrap();
        let render = |turns: usize| template.render(&vec![message("user", "hi"); turns], true, NOW);
        assert_eq!(render(2).unwrap(), "a".repeat(64));
        let too_much = render(60).unwrap_err().to_string();
        assert!(too_much.contains("MiB of memory"), "{too_much}");
        assert_eq!(render(2).unwrap_err().to_string(), too_much, "each time would leave memory behind");
    }

    #[test]
    fn a_template_nested_without_end_is_read_or_refused_and_ends_nothing_else() {
        for source in [
            "{{ ".to_owned() + &"not ".repeat(20_000) + "1 }}",
            "{{ ".to_owned() + &"-".repeat(50_000) + "1 }}",
            "{{ ".to_owned() + &"(".repeat(20_000) + "1" + &")".repeat(20_000) + " }}",
            "{{ ".to_owned() + &"[".repeat(20_000) + &"]".repeat(20_000) + " }}",
            "{{ 1".to_owned() + &"~x".repeat(20_000) + " }}",
            "{{ x".to_owned() + &".a".repeat(20_000) + " }}",
            "{{ x".to_owned() + &"|string".repeat(20_000) + " }}",
            "{{ ".to_owned() + &"1 if 0 else ".repeat(20_000) + "1 }}",
            "{% if 0 %}".to_owned() + &"{% elif 0 %}".repeat(20_000) + "{% endif %}",
            "{% if 1 %}".repeat(10_000) + &"{% endif %}".repeat(10_000),
            "{% set ns = namespace(x=0) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".to_owned(),
            "{% set ns = namespace(x=0) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x | tojson }}".to_owned(),
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned(),
        ] {
            let found = render(&source, &[message("user", "hi")], false);
            assert!(!matches!(found, Err(TemplateError::Refused(_))));
        }
    }
}
