//! A judge's question templates, as far as they can be checked without rendering them: their syntax, by the engine that
//! renders them, and the names that they use. Rendering runs whatever the template's author wrote; only the trainer does it,
//! on a sample, before anything is trained or asked. Computes only.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use minijinja::{Environment, Error};
use plumbline_crds::judge::{BUILTIN_TEMPLATES, Judge, JudgeMode, TEMPLATE_SEPARATOR, TEMPLATE_VARIABLES};
use regex::Regex;

use super::problem::{Finding, alternatives, nearest};

/// Operators before a value that may follow each other.
const UNARY: usize = 100;
/// Operators of one tag, and branches of a template's conditions, up to which it is read here. Each may be one more call on
/// the stack of whoever reads it; brackets and blocks the engine bounds itself.
const LINKS: usize = 250;

/// What is wrong with the templates of a judge. `path` is its spec field.
pub(super) fn check(judge: &Judge, path: &str) -> Vec<Finding> {
    let of_mode = || BUILTIN_TEMPLATES.iter().filter(|(_, mode)| *mode == judge.mode).map(|(name, _)| *name);
    let mut found = Vec::new();
    for (i, given) in judge.templates.iter().enumerate() {
        let name = given.trim_start_matches("builtin:");
        if of_mode().all(|known| known != name) {
            let known: Vec<String> = of_mode().map(|known| format!("builtin:{known}")).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let (mode, known) = (mode_name(judge.mode), alternatives(&known));
            let message =
                format!("expected a built-in template of a {mode} judge ({known}), found {given}; write one of them");
            found.push(Finding::new(format!("{path}.templates[{i}]"), message));
        }
    }
    let why = judge.template.as_ref().and_then(|text| own(text, judge.mode).err());
    found.extend(why.map(|why| Finding::new(format!("{path}.template"), why)));
    found
}

/// Why a template that the manifest holds cannot be used.
fn own(text: &str, mode: JudgeMode) -> Result<(), String> {
    if !is_shallow(text)? {
        // The trainer reads it within bounds of its own, before it asks anything.
        return Ok(());
    }
    let environment = Environment::new();
    let (mut used, mut before) = (HashSet::new(), 0);
    // Each part is a template by itself.
    for part in text.splitn(2, TEMPLATE_SEPARATOR) {
        let template = environment.template_from_str(part).map_err(|e| syntax(&e, before))?;
        used.extend(template.undeclared_variables(false));
        before = part.lines().count() + 1;
    }
    let global: BTreeSet<&str> = environment.globals().map(|(name, _)| name).collect();
    let known: Vec<&str> = TEMPLATE_VARIABLES.iter().chain(mode.judged()).copied().collect();
    let unknown = used.iter().filter(|name| !known.contains(&name.as_str()) && !global.contains(name.as_str()));
    let unknown = unknown.filter(|name| !is_guarded(name, text)).min();
    if let Some(name) = unknown {
        let whole = Regex::new(&format!(r"\b{}\b", regex::escape(name)));
        let line = text.lines().position(|line| whole.as_ref().is_ok_and(|w| w.is_match(line))).map_or(1, |i| i + 1);
        let advice = nearest(name, known.iter().copied())
            .map_or_else(|| format!("it knows {}", alternatives(&known)), |near| format!("did you mean `{near}`?"));
        return Err(format!(
            "line {line}: expected a name that a {} template knows, found `{name}`; {advice}",
            mode_name(mode)
        ));
    }
    match mode.judged().iter().find(|name| !used.contains(**name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "expected a template that shows what is judged, found one that does not use `{name}`; use {}",
            mode.judged().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
        )),
    }
}

/// Whether a template asks for a name only where there is one, as with `default` or `is defined`: then it may be unknown.
fn is_guarded(name: &str, text: &str) -> bool {
    let guard = format!(r"\b{}\s*(\|\s*(default|d)\b|is\s+(not\s+)?(un)?defined\b)", regex::escape(name));
    Regex::new(&guard).is_ok_and(|guard| guard.is_match(text))
}

/// Whether a template can be read on any stack.
///
/// # Errors
/// Why it cannot be meant so.
fn is_shallow(text: &str) -> Result<bool, String> {
    let (mut branches, mut shallow) = (0, true);
    for (line, tag) in tags(text) {
        let nesting = nesting(tag);
        if nesting.unary > UNARY {
            return Err(format!(
                "line {line}: expected at most {UNARY} of `not` and `-` in a row, found {}; simplify it",
                nesting.unary
            ));
        }
        branches += usize::from(tag.trim_start_matches('-').trim_start().starts_with("elif"));
        shallow &= nesting.links <= LINKS;
    }
    Ok(shallow && branches <= LINKS)
}

/// What stands between the delimiters of a template, each with its line.
fn tags(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find('{').filter(|at| rest.len() > at + 1)?;
            let line = 1 + text[..text.len() - rest.len() + start].matches('\n').count();
            let inside = &rest[start + 1..];
            let end = match inside.as_bytes()[0] {
                b'{' => "}}",
                b'%' => "%}",
                b'#' => {
                    rest = inside.split_once("#}").map_or("", |(_, after)| after);
                    continue;
                }
                _ => {
                    rest = inside;
                    continue;
                }
            };
            let inside = &inside[1..];
            let length = closed_by(inside, end);
            rest = &inside[length..];
            return Some((line, &inside[..length]));
        }
    })
}

/// Bytes up to a closing delimiter that is in no text.
fn closed_by(inside: &str, end: &str) -> usize {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in inside.char_indices() {
        match quote {
            None if inside[at..].starts_with(end) => return at,
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    inside.len()
}

/// How deep the expressions of a tag may be.
#[derive(Default)]
struct Nesting {
    /// Most operators before one value.
    unary: usize,
    /// Operators and brackets in all.
    links: usize,
}

fn nesting(tag: &str) -> Nesting {
    static TOKENS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"(?s)"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|\w+|[^\s]"#).ok());
    let (mut found, mut row) = (Nesting::default(), 0);
    for token in TOKENS.iter().flat_map(|tokens| tokens.find_iter(tag)) {
        match token.as_str() {
            "not" | "-" => row += 1,
            "(" | "[" | "{" => found.links += 1,
            "and" | "or" | "in" | "is" | "if" => (row, found.links) = (0, found.links + 1),
            "," | ":" | ")" | "]" | "}" => row = 0,
            other => {
                row = 0;
                let is_operand = other.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '\''));
                found.links += usize::from(!is_operand);
            }
        }
        found.links += usize::from(matches!(token.as_str(), "not" | "-"));
        found.unary = found.unary.max(row);
    }
    found
}

fn syntax(error: &Error, before: usize) -> String {
    let line = error.line().map(|line| format!("line {}: ", before + line)).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    format!("{line}expected a Jinja template, found a syntax error: {detail}; see the template language of Jinja")
}

fn mode_name(mode: JudgeMode) -> &'static str {
    match mode {
        JudgeMode::Pairwise => "Pairwise",
        JudgeMode::Pointwise => "Pointwise",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn found(change: &Value) -> Vec<String> {
        let mut judge = json!({"name": "j", "endpoint": {"url": "http://h/v1", "model": "m"}});
        judge.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let judge: Judge = serde_json::from_value(judge).unwrap();
        check(&judge, "spec.judges[0]").into_iter().map(|f| format!("{}: {}", f.path, f.message)).collect()
    }

    #[test]
    fn a_template_that_can_be_rendered_has_no_findings() {
        for judge in [
            json!({}),
            json!({"templates": ["builtin:pairwise-v1", "builtin:pairwise-v2"]}),
            json!({"mode": "Pointwise", "templates": ["builtin:pointwise-v1"]}),
            json!({"template": "{% for c in criteria %}{{ loop.index }}. {{ c.name }}{% endfor %}\n<!-- user -->\n{{ prompt }} {{ nonce }} {{ response_a }} {{ response_b }} {{ first }} {{ second }}{{ ties }}{{ completion }}"}),
            json!({"mode": "Pointwise", "template": "{% set n = namespace(x=0) %}{% for e in examples %}{% set n.x = n.x + 1 %}{{ e.response }}{% endfor %}{{ range(n.x) | join }}{{ prompt }}{{ response | length / 20 - 3 }}"}),
            json!({"template": "{% if system is defined %}{{ system }}{% endif %}{{ rubric | default('none') }}{{ response_a }}{{ response_b }}{{ other|d('') }}"}),
            json!({"template": "{{ response_a ~ '- - - ' ~ response_b }}\n{# - - - #}\n-----------------------------------------------------------------------------------------------------------------------"}),
        ] {
            assert_eq!(found(&judge), [""; 0], "{judge}");
        }
    }

    #[test]
    #[rustfmt::skip] // one case a line
    fn what_the_trainer_would_refuse_is_said_with_its_line_in_the_template() {
        for (judge, expected) in [
            (json!({"template": "{{ response_a }}\n{{ respons_b }}"}), "spec.judges[0].template: line 2: expected a name that a Pairwise template knows, found `respons_b`; did you mean `response_b`?"),
            (json!({"template": "{{ response_a }}\n\n{% if %}"}), "spec.judges[0].template: line 3: expected a Jinja template, found a syntax error: "),
            (json!({"template": "{% if ties %}\n<!-- user -->\n{% endif %}{{ response_a }}{{ response_b }}"}), "spec.judges[0].template: line"),
            (json!({"template": "1\n<!-- user -->\n{{ response_a }}{{ response_b }}\n{{ }}"}), "spec.judges[0].template: line 4: expected a Jinja template"),
            (json!({"template": "{{ response_a }}"}), "spec.judges[0].template: expected a template that shows what is judged, found one that does not use `response_b`; use `response_a` and `response_b`"),
            (json!({"mode": "Pointwise", "template": "{{ prompt }}"}), "spec.judges[0].template: expected a template that shows what is judged, found one that does not use `response`; use `response`"),
            (json!({"mode": "Pointwise", "template": "{{ response_a }}"}), "spec.judges[0].template: line 1: expected a name that a Pointwise template knows, found `response_a`"),
            (json!({"template": "{{ system | upper }}{{ response_a }}{{ response_b }}"}), "spec.judges[0].template: line 1: expected a name that a Pairwise template knows, found `system`; it knows prompt, "),
            (json!({"template": "{{ response_a }}\n{% if not not 1 %}{% endif %}{{ NESTED 1 }}{{ response_b }}".replace("NESTED", &["not "; 102].concat()).replace("  1", " 1")}), "spec.judges[0].template: line 2: expected at most 100 of `not` and `-` in a row, found 102; simplify it"),
            (json!({"templates": ["builtin:pairwise-v1", "builtin:pairwise-v9"]}), "spec.judges[0].templates[1]: expected a built-in template of a Pairwise judge (builtin:pairwise-v1 or builtin:pairwise-v2), found builtin:pairwise-v9"),
            (json!({"mode": "Pointwise", "templates": ["builtin:pairwise-v1"]}), "spec.judges[0].templates[0]: expected a built-in template of a Pointwise judge (builtin:pointwise-v1)"),
        ] {
            let found = found(&judge);
            assert!(found.len() == 1 && found[0].starts_with(expected), "expected {expected}, found {found:?}");
        }
    }

    #[test]
    fn a_template_is_checked_on_the_stack_of_its_caller_however_it_is_nested() {
        // As deep as what is checked goes, and as long as a template may be: on the stack of a worker of the operator.
        let links = |link: &str| link.repeat(LINKS / 2);
        let long = |link: &str| link.repeat(16_000 / link.len());
        let chains = [
            " + 1",
            " ~ x",
            ".x",
            "|e",
            "()",
            "[0]",
            " or x",
            " is defined and x",
            " if x else y",
            " in x",
            " < 1",
            " ** 2",
        ];
        let opened = ["- ", "not ", "(", "[", "{'a': ", "- (", "not [", "x[", "x(", "x|f("];
        for text in chains
            .iter()
            .flat_map(|link| [format!("{{{{ x{} }}}}", links(link)), format!("{{{{ x{} }}}}", long(link))])
            .chain(
                opened
                    .iter()
                    .flat_map(|open| [format!("{{{{ {}1 }}}}", open.repeat(99)), format!("{{{{ {}1 }}}}", long(open))]),
            )
            .chain(
                [
                    "{% if x %}",
                    "{% for x in y %}",
                    "{% if x %}{% elif x %}",
                    "{% elif x %}",
                    "{% filter e %}",
                    "{% macro x() %}",
                    "{{ x",
                    "{% set x %}",
                ]
                .map(long),
            )
            .chain([
                format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(1_300)),
                format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(LINKS)),
            ])
            // Each open bracket with a chain of its own.
            .chain([format!("{{{{ {}1{} }}}}", "1 + - not (".repeat(80), ")".repeat(80))])
        {
            let whole = format!("{text}{{{{ response_a }}}}{{{{ response_b }}}}");
            let small = std::thread::Builder::new().stack_size(2 << 20);
            let found = small.spawn(move || found(&json!({"template": whole}))).unwrap().join();
            assert!(found.is_ok(), "{}", &text[..40]);
        }
    }
}
