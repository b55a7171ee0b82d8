//! What a judge is asked: templates, and the questions about each comparison. Computes only.
//!
//! A template is Jinja. What stands before a line `<!-- user -->` is the system message: criteria and rules, the same for
//! every question, so that a server can cache it; the rest is the question itself. Built-in templates enclose what is
//! judged in tags with a code that its text cannot know, because the code is a hash of that text.

use std::collections::HashMap;

use minijinja::{Environment, UndefinedBehavior, context};
use plumbline_crds::judge::{Criterion, Judge, JudgeApi, JudgeExample, JudgeMode, LabelSource, Reasoning};
use plumbline_crds::preference_dataset::Order;
use serde_json::Value;

use super::order::{self, Presentation};
use super::{pairs, wire};
use crate::data::{Content, id};
use crate::{Error, Result};

/// Two responses to a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// What was asked.
    pub prompt: &'a Content,
    /// One response.
    pub response_a: &'a str,
    /// The other.
    pub response_b: &'a str,
}

/// How a judge is asked: what all its questions share.
#[derive(Debug)]
pub struct Form {
    /// Both responses in one question, or one.
    pub mode: JudgeMode,
    /// Chat or completion.
    pub api: JudgeApi,
    /// Where the label is read from.
    pub label: LabelSource,
    /// The answers: names of the first and the second response (Pairwise), good and bad (Pointwise).
    pub answers: [String; 2],
    criteria: Vec<Criterion>,
    examples: Vec<JudgeExample>,
    templates: Vec<Template>,
    jinja: Environment<'static>,
}

/// A question, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Hash of the judge and of everything that is sent.
    pub id: String,
    /// Template and the hash of its text.
    pub template: String,
    /// System message.
    pub system: Option<String>,
    /// User message, or the text to continue.
    pub text: String,
    /// What the question is about, for readers of the journal: a pair in an order, or a response.
    pub about: String,
}

/// The questions about a list of comparisons. Equal questions are there once.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Each question once.
    pub questions: Vec<Question>,
    /// For each comparison, in order: which questions are about it.
    pub uses: Vec<Use>,
}

/// Which questions are about a comparison (indices into [`Plan::questions`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// The responses are equal: there is nothing to ask.
    Equal,
    /// The pair, in one order or both.
    Pairwise(Vec<(Presentation, usize)>),
    /// Each response on its own.
    Pointwise {
        /// About response a.
        a: usize,
        /// About response b.
        b: usize,
    },
}

#[derive(Debug)]
struct Template {
    /// Name and hash: `pairwise-v1@1f2e...`.
    name: String,
    has_system: bool,
}

const USER: &str = "<!-- user -->\n";

/// Built-in templates by name, oldest first; a changed text is a new name.
const BUILTIN: [(&str, JudgeMode, &str); 3] = [
    ("pairwise-v1", JudgeMode::Pairwise, include_str!("../../prompts/pairwise-v1.md")),
    ("pairwise-v2", JudgeMode::Pairwise, include_str!("../../prompts/pairwise-v2.md")),
    ("pointwise-v1", JudgeMode::Pointwise, include_str!("../../prompts/pointwise-v1.md")),
];

impl Form {
    /// The form of a judge. `path` is its spec field for messages (`spec.judges[0]`). Templates are tried once, so that
    /// a wrong one fails before anything is asked.
    pub fn new(judge: &Judge, path: &str) -> Result<Self> {
        let mode = if judge.lexicon.is_some() { JudgeMode::Pointwise } else { judge.mode };
        if judge.reasoning != Reasoning::None || judge.label == LabelSource::Votes {
            return Err(Error::Config(format!(
                "{path}: `reasoning: {:?}` with `label: {:?}` is not built yet; use reasoning None and label LogProbs or Verdict",
                judge.reasoning, judge.label
            )));
        }
        let answers = match (&judge.answers, mode) {
            (Some(given), _) => <[String; 2]>::try_from(given.clone())
                .map_err(|g| Error::Config(format!("{path}.answers: expected 2 answers, found {}", g.len())))?,
            (None, JudgeMode::Pairwise) => ["A".into(), "B".into()],
            (None, JudgeMode::Pointwise) => ["yes".into(), "no".into()],
        };
        if answers[0].trim().is_empty() || answers[1].trim().is_empty() || answers[0].trim() == answers[1].trim() {
            return Err(Error::Config(format!("{path}.answers: expected two different words, found {answers:?}")));
        }
        let criteria = if judge.criteria.is_empty() { vec![default_criterion()] } else { judge.criteria.clone() };
        let mut jinja = Environment::new();
        jinja.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut form = Self {
            mode,
            api: judge.api,
            label: judge.label,
            answers,
            criteria,
            examples: judge.examples.clone(),
            templates: Vec::new(),
            jinja,
        };
        for (field, name, source) in sources(judge, mode, path)? {
            form.add_template(&name, source).map_err(|e| Error::Config(format!("{field}: {e}")))?;
        }
        Ok(form)
    }

    /// Whether the judge may call a tie: only in words, where there is no probability that could say it.
    pub fn ties(&self) -> bool {
        self.mode == JudgeMode::Pairwise && self.label == LabelSource::Verdict
    }

    /// Tokens that a reply may have: one word needs few, and one token where only its probability is read.
    pub fn max_tokens(&self) -> i64 {
        match (self.label, self.api) {
            (LabelSource::LogProbs, JudgeApi::Completion) => 1,
            (LabelSource::LogProbs, JudgeApi::Chat) => 4,
            _ => 32,
        }
    }

    /// The questions about comparisons. `identity` says who is asked: it is part of each question's id.
    pub fn plan(&self, identity: &str, items: &[Comparison<'_>], order: &Order) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut known: HashMap<String, usize> = HashMap::new();
        for item in items {
            if item.response_a == item.response_b {
                plan.uses.push(Use::Equal);
                continue;
            }
            let prompt_id = item.prompt.id();
            let (a, b) =
                (pairs::response_id(&prompt_id, item.response_a), pairs::response_id(&prompt_id, item.response_b));
            let prompt = item.prompt.to_text();
            let mut ask = |about: String, chosen_by: &str, first: &str, second: Option<&str>| -> Result<usize> {
                let template =
                    &self.templates[(id::key(&["template", chosen_by]) % self.templates.len() as u64) as usize];
                let (system, text) = self.render(template, &prompt, first, second).map_err(Error::Config)?;
                let body = wire::request(self, "", system.as_deref(), &text);
                let id = id::of(&[identity, &body.to_string()]);
                Ok(*known.entry(id.clone()).or_insert_with(|| {
                    plan.questions.push(Question { id, template: template.name.clone(), system, text, about });
                    plan.questions.len() - 1
                }))
            };
            plan.uses.push(match self.mode {
                JudgeMode::Pairwise => {
                    let pair = pairs::pair_id(&prompt_id, &a, &b);
                    let mut uses = Vec::new();
                    for presentation in order::presentations(order, &pair, a < b) {
                        let (first, second) = presentation.of(item.response_a, item.response_b);
                        let about = format!("{pair}/{}", presentation.of(&a, &b).0);
                        uses.push((presentation, ask(about, &pair, first, Some(second))?));
                    }
                    Use::Pairwise(uses)
                }
                JudgeMode::Pointwise => Use::Pointwise {
                    a: ask(a.clone(), &a, item.response_a, None)?,
                    b: ask(b.clone(), &b, item.response_b, None)?,
                },
            });
        }
        Ok(plan)
    }

    fn add_template(&mut self, name: &str, source: &str) -> Result<(), String> {
        let name = format!("{name}@{}", &id::of(&[source])[..8]);
        let (system, user) = match source.split_once(USER) {
            Some((system, user)) => (Some(system), user),
            None => (None, source),
        };
        let bad = |e: minijinja::Error| explain(&e);
        if let Some(system) = system {
            self.jinja.add_template_owned(format!("{name}/system"), system.to_owned()).map_err(bad)?;
        }
        self.jinja.add_template_owned(format!("{name}/user"), user.to_owned()).map_err(bad)?;
        let template = Template { name, has_system: system.is_some() };
        let second = (self.mode == JudgeMode::Pairwise).then_some("second response");
        let (_, text) = self.render(&template, "a prompt", "first response", second)?;
        for shown in ["first response", "second response"].iter().take(1 + usize::from(second.is_some())) {
            if !text.contains(shown) {
                return Err(format!(
                    "the template does not show {}; use the variable{}",
                    if second.is_some() { "both responses" } else { "the response" },
                    if second.is_some() { "s `response_a` and `response_b`" } else { " `response`" },
                ));
            }
        }
        self.templates.push(template);
        Ok(())
    }

    fn render(
        &self,
        template: &Template,
        prompt: &str,
        first: &str,
        second: Option<&str>,
    ) -> Result<(Option<String>, String), String> {
        let nonce = id::of(&[template.name.as_str(), prompt, first, second.unwrap_or_default()]);
        let shared = context! {
            criteria => self.criteria.iter().map(criterion).collect::<Vec<_>>(),
            examples => self.examples.iter().map(example).collect::<Vec<_>>(),
            first => self.answers[0].trim(),
            second => self.answers[1].trim(),
            ties => self.ties(),
            completion => self.api == JudgeApi::Completion,
            nonce => &nonce[..8],
            prompt => prompt,
        };
        let responses = match second {
            Some(second) => context! { response_a => first, response_b => second },
            None => context! { response => first },
        };
        let context = context! { ..responses, ..shared };
        let render = |part: &str| {
            let template = self.jinja.get_template(&format!("{}/{part}", template.name)).map_err(|e| explain(&e))?;
            template.render(&context).map_err(|e| explain(&e))
        };
        let system = if template.has_system { Some(render("system")?.trim_end().to_owned()) } else { None };
        Ok((system, render("user")?))
    }
}

/// The templates of a judge: (spec field, name, text).
fn sources<'a>(judge: &'a Judge, mode: JudgeMode, path: &str) -> Result<Vec<(String, String, &'a str)>> {
    if judge.lexicon.is_some() {
        return Ok(vec![(format!("{path}.lexicon"), "lexicon".into(), "{{ response }}")]);
    }
    if let Some(text) = &judge.template {
        if !judge.templates.is_empty() {
            return Err(Error::Config(format!("{path}: `template` and `templates` exclude each other; give one")));
        }
        return Ok(vec![(format!("{path}.template"), "own".into(), text.as_str())]);
    }
    let of_mode = || BUILTIN.iter().filter(|(_, m, _)| *m == mode);
    if judge.templates.is_empty() {
        return Ok(of_mode()
            .next_back()
            .map(|(name, _, text)| (path.to_owned(), (*name).to_owned(), *text))
            .into_iter()
            .collect());
    }
    let find = |(i, given): (usize, &String)| {
        let field = format!("{path}.templates[{i}]");
        let name = given.trim_start_matches("builtin:");
        of_mode()
            .find(|(known, _, _)| *known == name)
            .map(|(name, _, text)| (field.clone(), (*name).to_owned(), *text))
            .ok_or_else(|| {
                let known: Vec<String> = of_mode().map(|(n, _, _)| format!("builtin:{n}")).collect();
                Error::Config(format!(
                    "{field}: there is no template {given} for a {mode:?} judge; known: {}",
                    known.join(", ")
                ))
            })
    };
    judge.templates.iter().enumerate().map(find).collect()
}

fn default_criterion() -> Criterion {
    Criterion {
        name: "overall quality".into(),
        description: "The response is helpful, honest and harmless: it does what was asked, says nothing false, and \
                      does no harm."
            .into(),
        weight: 1.0,
        levels: Vec::new(),
    }
}

/// A criterion with every field a template may ask for.
fn criterion(c: &Criterion) -> Value {
    serde_json::json!({"name": c.name, "description": c.description, "weight": c.weight, "levels": c.levels})
}

/// An example with every field a template may ask for.
fn example(example: &JudgeExample) -> Value {
    serde_json::json!({
        "prompt": example.prompt,
        "response": example.response,
        "responseA": example.response_a,
        "responseB": example.response_b,
        "response_a": example.response_a,
        "response_b": example.response_b,
        "answer": example.answer,
    })
}

fn explain(error: &minijinja::Error) -> String {
    let line = error.line().map(|l| format!("line {l}: ")).unwrap_or_default();
    let detail = error.detail().map(|d| format!(": {d}")).unwrap_or_default();
    format!(
        "{line}{}{detail}; a template knows prompt, response (Pointwise) or response_a and response_b (Pairwise), \
         criteria, examples, first, second, nonce",
        error.kind()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(extra: Value) -> Result<Form> {
        let mut judge = json!({"name": "j", "endpoint": {"url": "http://x/v1", "model": "m"}});
        for (key, value) in extra.as_object().unwrap() {
            judge[key] = value.clone();
        }
        Form::new(&serde_json::from_value(judge).unwrap(), "spec.judges[0]")
    }

    fn plan(form: &Form, pairs: &[(&str, &str, &str)]) -> Plan {
        let prompts: Vec<Content> = pairs.iter().map(|(p, ..)| Content::Text((*p).into())).collect();
        let items: Vec<_> = pairs
            .iter()
            .zip(&prompts)
            .map(|((_, a, b), prompt)| Comparison { prompt, response_a: a, response_b: b })
            .collect();
        form.plan("endpoint m", &items, &Order::default()).unwrap()
    }

    #[test]
    fn the_built_in_question_reads_exactly_so() {
        let form = form(json!({
            "templates": ["builtin:pairwise-v1"],
            "criteria": [{"name": "accuracy", "description": "True.", "weight": 2, "levels": ["False", "True"]}, {"name": "safety"}],
        }))
        .unwrap();
        let question = &plan(&form, &[("2 + 2?", "4", "5\n  indented {{ not_jinja }}")]).questions[0];
        let code =
            question.text.lines().next().unwrap().trim_start_matches("<prompt ").trim_end_matches('>').to_owned();
        assert_eq!(code.len(), 8);
        assert_eq!(
            question.text.replace(&code, "CODE"),
            "<prompt CODE>\n2 + 2?\n</prompt CODE>\n\n<response_A CODE>\n4\n</response_A CODE>\n\n<response_B CODE>\n5\n  \
             indented {{ not_jinja }}\n</response_B CODE>\n\nWhich response is better by the criteria? Reply with A or B, \
             and nothing else."
        );
        assert_eq!(
            question.system.as_deref().unwrap().lines().skip(2).take(6).collect::<Vec<_>>(),
            [
                "Criteria, with their weight where they differ:",
                "",
                "- accuracy (weight 2.0): True.",
                "  Level 1: False",
                "  Level 2: True",
                "- safety",
            ]
        );
        assert!(question.system.as_deref().unwrap().ends_with("about the verdict."));
    }

    #[test]
    fn every_built_in_template_renders_for_chat_and_completion_with_and_without_examples() {
        for (name, mode, _) in BUILTIN {
            for api in ["Chat", "Completion"] {
                for label in ["LogProbs", "Verdict"] {
                    let example = json!({"responseA": "x", "responseB": "y", "response": "x", "answer": " A"});
                    for examples in [json!([]), json!([example])] {
                        let form = form(json!({"mode": mode, "api": api, "label": label, "examples": examples,
                            "templates": [format!("builtin:{name}")]}));
                        let plan = plan(&form.unwrap(), &[("p", "r1", "r2")]);
                        let question = &plan.questions[0];
                        assert!(question.template.starts_with(&format!("{name}@")));
                        assert_eq!(question.text.contains("tie"), label == "Verdict" && mode == JudgeMode::Pairwise);
                        assert_eq!(question.text.ends_with(':'), api == "Completion", "{}", question.text);
                        assert!(!question.text.contains("\n\n\n"), "{}", question.text);
                    }
                }
            }
        }
    }

    #[test]
    fn a_template_of_ones_own_may_be_few_shot_text_to_continue() {
        let form = form(json!({
            "mode": "Pointwise", "api": "Completion", "answers": [" positive", " negative"],
            "template": "{% for e in examples %}Review: {{ e.response }}\nSentiment:{{ e.answer }}\n\n{% endfor %}Review: {{ prompt }}{{ response }}\nSentiment:\n",
            "examples": [{"response": "Boring.", "answer": " negative"}],
        }))
        .unwrap();
        let question = &plan(&form, &[("I saw it", " and loved it.", " and left.")]).questions[0];
        assert_eq!(question.text, "Review: Boring.\nSentiment: negative\n\nReview: I saw it and loved it.\nSentiment:");
        assert_eq!(question.system, None);
        assert_eq!(form.max_tokens(), 1);
    }

    #[test]
    fn wrong_templates_and_answers_fail_before_anything_is_asked() {
        for (extra, expected) in [
            (
                json!({"template": "{{ response_a }} {{ respons_b }}"}),
                "spec.judges[0].template: line 1: undefined value",
            ),
            (json!({"template": "{{ response_a }} {% if %}"}), "spec.judges[0].template: line 1: syntax error"),
            (json!({"template": "{{ response_a }}"}), "does not show both responses"),
            (json!({"mode": "Pointwise", "template": "{{ prompt }}"}), "does not show the response"),
            (json!({"template": "x", "templates": ["builtin:pairwise-v1"]}), "exclude each other"),
            (
                json!({"templates": ["builtin:pairwise-v9"]}),
                "spec.judges[0].templates[0]: there is no template builtin:pairwise-v9",
            ),
            (json!({"templates": ["builtin:pointwise-v1"]}), "known: builtin:pairwise-v1, builtin:pairwise-v2"),
            (json!({"answers": ["A", "A "]}), "two different words"),
            (json!({"answers": ["A"]}), "expected 2 answers, found 1"),
            (json!({"label": "Votes"}), "is not built yet"),
        ] {
            let error = form(extra.clone()).unwrap_err();
            assert!(matches!(error, Error::Config(_)));
            assert!(error.to_string().contains(expected), "{extra}: {error}");
        }
    }

    #[test]
    fn a_pair_is_asked_in_both_orders_with_one_template_and_one_response_is_asked_once() {
        let pairwise = form(json!({"templates": ["builtin:pairwise-v1", "builtin:pairwise-v2"]})).unwrap();
        let many: Vec<(String, String)> = (0..60).map(|i| (format!("good {i}"), format!("bad {i}"))).collect();
        let pairs: Vec<_> = many.iter().map(|(a, b)| ("p", a.as_str(), b.as_str())).collect();
        let plan_of_pairs = plan(&pairwise, &pairs);
        assert_eq!(plan_of_pairs.questions.len(), 120);
        let mut by_template = HashMap::<&str, usize>::new();
        for used in &plan_of_pairs.uses {
            let Use::Pairwise(orders) = used else { panic!() };
            let [(Presentation::AB, x), (Presentation::BA, y)] = orders.as_slice() else { panic!() };
            let (x, y) = (&plan_of_pairs.questions[*x], &plan_of_pairs.questions[*y]);
            assert_eq!(x.template, y.template);
            assert_ne!(x.id, y.id);
            *by_template.entry(&x.template).or_default() += 1;
        }
        assert!(by_template.len() == 2 && by_template.values().all(|n| *n > 15), "{by_template:?}");
        let pointwise = form(json!({"mode": "Pointwise"})).unwrap();
        let shared =
            plan(&pointwise, &[("p", "x", "y"), ("p", "y", "z"), ("p", "z", "x"), ("q", "x", "y"), ("p", "x", "x")]);
        assert_eq!(shared.questions.len(), 5, "three responses to p and two to q");
        assert_eq!(shared.uses[4], Use::Equal);
    }

    #[test]
    fn changing_names_of_a_and_b_asks_the_same_questions() {
        let form = form(json!({"templates": ["builtin:pairwise-v1", "builtin:pairwise-v2"]})).unwrap();
        let ids = |p: &Plan| p.questions.iter().map(|q| q.id.clone()).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(ids(&plan(&form, &[("p", "x", "y")])), ids(&plan(&form, &[("p", "y", "x")])));
    }

    #[test]
    fn the_id_of_a_question_depends_on_who_is_asked_and_on_all_that_is_sent() {
        let ids: Vec<String> = [
            json!({}),
            json!({"label": "Verdict"}),
            json!({"api": "Completion"}),
            json!({"criteria": [{"name": "c"}]}),
            json!({"templates": ["builtin:pairwise-v1"]}),
        ]
        .into_iter()
        .map(|extra| plan(&form(extra).unwrap(), &[("p", "x", "y")]).questions[0].id.clone())
        .collect();
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        let item_prompt = Content::Text("p".into());
        let item = [Comparison { prompt: &item_prompt, response_a: "x", response_b: "y" }];
        let other = form(json!({})).unwrap().plan("endpoint other", &item, &Order::default()).unwrap();
        assert_ne!(other.questions[0].id, ids[0]);
    }
}
