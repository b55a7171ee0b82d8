//! A judge's question templates, as far as they can be checked without rendering them: their syntax, by the engine that
//! renders them, and the names that they use. Rendering runs whatever the template's author wrote; only the trainer does it,
//! on a sample, before anything is trained or asked. Computes only.

use std::collections::{BTreeSet, HashSet};
use std::thread;

use minijinja::{Environment, Error};
use plumbline_crds::judge::{BUILTIN_TEMPLATES, Judge, JudgeMode, TEMPLATE_SEPARATOR, TEMPLATE_VARIABLES};
use regex::Regex;

use super::problem::{Finding, alternatives, nearest};

/// Bytes of the stack that a template is parsed on: the longest that the schema allows may be one nested expression. What
/// is not used is no memory.
const STACK: usize = 1 << 30;

/// What is wrong with the templates of a judge. `path` is its spec field.
pub(super) fn check(judge: &Judge, path: &str) -> Vec<Finding> {
    if judge.lexicon.is_some() {
        return Vec::new();
    }
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
    let why = judge.template.as_ref().and_then(|text| on_a_stack_of_its_own(|| own(text, judge.mode)).err());
    found.extend(why.map(|why| Finding::new(format!("{path}.template"), why)));
    found
}

fn on_a_stack_of_its_own<T: Send>(check: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, check);
        let thread = thread.map_err(|e| format!("expected room to check the template in, found {e}; try again"))?;
        thread.join().unwrap_or_else(|_| Err("expected a template, found one that cannot be read; simplify it".into()))
    })
}

/// Why a template that the manifest holds cannot be used.
fn own(text: &str, mode: JudgeMode) -> Result<(), String> {
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
    let unknown = used.iter().filter(|name| !known.contains(&name.as_str()) && !global.contains(name.as_str())).min();
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
            "expected a template that shows what is judged, found none of `{name}`; use {}",
            mode.judged().join(" and ")
        )),
    }
}

fn syntax(error: &Error, before: usize) -> String {
    let line = error.line().map(|line| format!("line {}: ", before + line)).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    format!("{line}expected a Jinja template, found a syntax error: {detail}; correct it")
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
            json!({"endpoint": null, "lexicon": {"uri": "l"}, "templates": ["builtin:pairwise-v1"]}),
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
            (json!({"template": "{{ response_a }}"}), "spec.judges[0].template: expected a template that shows what is judged, found none of `response_b`"),
            (json!({"mode": "Pointwise", "template": "{{ prompt }}"}), "spec.judges[0].template: expected a template that shows what is judged, found none of `response`"),
            (json!({"mode": "Pointwise", "template": "{{ response_a }}"}), "spec.judges[0].template: line 1: expected a name that a Pointwise template knows, found `response_a`"),
            (json!({"templates": ["builtin:pairwise-v1", "builtin:pairwise-v9"]}), "spec.judges[0].templates[1]: expected a built-in template of a Pairwise judge (builtin:pairwise-v1 or builtin:pairwise-v2), found builtin:pairwise-v9"),
            (json!({"mode": "Pointwise", "templates": ["builtin:pairwise-v1"]}), "spec.judges[0].templates[0]: expected a built-in template of a Pointwise judge (builtin:pointwise-v1)"),
        ] {
            let found = found(&judge);
            assert!(found.len() == 1 && found[0].starts_with(expected), "expected {expected}, found {found:?}");
        }
    }

    #[test]
    fn the_longest_nested_template_is_answered_and_ends_nothing() {
        for nested in ["-", "not ", "(", "[", "{% if x %}", "{{ x"] {
            let text =
                format!("{{{{ {}1 }}}}{{{{ response_a }}}}{{{{ response_b }}}}", nested.repeat(16_000 / nested.len()));
            let _ = found(&json!({"template": text}));
        }
    }
}
