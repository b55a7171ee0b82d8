//! Plans the questions about comparisons: which are asked, in which order, and about what. Computes only.
//!
//! A plan contains the identity of each question, not its text, which is rendered when the question is sent.

use std::collections::HashMap;

use plumbline_crds::judge::JudgeMode;
use plumbline_crds::preference_dataset::Order;

use super::order::{self, Presentation};
use super::pairs;
use super::prompt::JudgePrompt;
use super::turn::Question;
use super::wire;
use crate::data::{Content, id};
use crate::{Error, Result};

/// Two responses to a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// The prompt that both responses answer.
    pub prompt: &'a Content,
    /// One response.
    pub response_a: &'a str,
    /// The other response.
    pub response_b: &'a str,
}

/// A planned question, which can be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Id of its first turn: a hash of the judge and of the complete request.
    pub id: String,
    /// Index of its template among the judge's templates.
    pub(super) template: u16,
    /// Index of the first comparison that it is about.
    item: u32,
    shown: Shown,
}

/// The part of a comparison that a question shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Pair(Presentation),
    A,
    B,
}

/// The questions about a list of comparisons, without duplicates.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The distinct questions.
    pub questions: Vec<Planned>,
    /// For each comparison, in order: the questions about it.
    pub refs: Vec<QuestionRefs>,
}

/// The questions about a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuestionRefs {
    /// None, as the responses are equal.
    Equal,
    /// About the pair, in one order or both.
    Pairwise(Vec<Asked>),
    /// About each response separately (indices into [`Plan::questions`]).
    Pointwise {
        /// About response a.
        a: usize,
        /// About response b.
        b: usize,
    },
}

#[cfg(test)]
impl QuestionRefs {
    /// A pair in both orders, by this question and the next one.
    pub(super) fn both_orders(first: usize) -> Self {
        let asked = |presentation, question| Asked { presentation, question };
        Self::Pairwise(vec![asked(Presentation::AB, first), asked(Presentation::BA, first + 1)])
    }

    /// A pair in the order AB.
    pub(super) fn one_order(question: usize) -> Self {
        Self::Pairwise(vec![Asked { presentation: Presentation::AB, question }])
    }
}

/// A question about a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The response that it shows first.
    pub presentation: Presentation,
    /// Index into [`Plan::questions`].
    pub question: usize,
}

impl JudgePrompt {
    /// Plans the questions about comparisons. `identity`: identifies the judge, as part of each question's id.
    ///
    /// # Errors
    /// `Config` if a template cannot be rendered for one of them.
    pub fn plan(&self, identity: &str, items: &[Comparison<'_>], order: &Order) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            if item.response_a == item.response_b {
                plan.refs.push(QuestionRefs::Equal);
                continue;
            }
            let ids = Ids::of(item);
            let mut ask = |shown: Shown| -> Result<usize> {
                let template = self.template_for(ids.chosen_by(shown));
                let mut planned = Planned { id: String::new(), template, item: index as u32, shown };
                let question = self.question(&planned, items)?;
                let turn = (self.turns)(self, &question, &[]);
                let turn = turn.ok_or_else(|| Error::Failed("a question without a turn".into()))?;
                let id = wire::request_id(&turn, identity, self.api);
                Ok(*known.entry(id.clone()).or_insert_with(|| {
                    planned.id = id;
                    plan.questions.push(planned);
                    plan.questions.len() - 1
                }))
            };
            plan.refs.push(match self.mode {
                JudgeMode::Pairwise => {
                    let mut asked = Vec::new();
                    for presentation in order::presentations(order, &ids.pair, ids.a < ids.b) {
                        asked.push(Asked { presentation, question: ask(Shown::Pair(presentation))? });
                    }
                    QuestionRefs::Pairwise(asked)
                }
                JudgeMode::Pointwise => QuestionRefs::Pointwise { a: ask(Shown::A)?, b: ask(Shown::B)? },
            });
        }
        Ok(plan)
    }

    /// Renders a planned question.
    ///
    /// # Errors
    /// Those of [`JudgePrompt::plan`].
    pub fn question(&self, planned: &Planned, items: &[Comparison<'_>]) -> Result<Question> {
        let item = &items[planned.item as usize];
        let (first, second) = match planned.shown {
            Shown::Pair(presentation) => {
                let (first, second) = presentation.of(item.response_a, item.response_b);
                (first, Some(second))
            }
            Shown::A => (item.response_a, None),
            Shown::B => (item.response_b, None),
        };
        let template = &self.templates[usize::from(planned.template)];
        let (system, text) = self.render(template, &item.prompt.to_text(), first, second)?;
        Ok(Question { template: template.name.clone(), system, text, about: Ids::of(item).about(planned.shown) })
    }

    /// Name of a question's template, with the hash of its text.
    pub fn template_name(&self, planned: &Planned) -> &str {
        &self.templates[usize::from(planned.template)].name
    }

    /// The template of a question, chosen by a hash of `chosen_by`.
    fn template_for(&self, chosen_by: &str) -> u16 {
        (id::key(&["template", chosen_by]) % self.templates.len() as u64) as u16
    }
}

/// Ids of a comparison.
struct Ids {
    a: String,
    b: String,
    pair: String,
}

impl Ids {
    fn of(item: &Comparison<'_>) -> Self {
        let prompt = item.prompt.id();
        let (a, b) = (pairs::response_id(&prompt, item.response_a), pairs::response_id(&prompt, item.response_b));
        Self { pair: pairs::pair_id(&prompt, &a, &b), a, b }
    }

    /// The id that determines the template: both orders of a pair use the same one.
    fn chosen_by(&self, shown: Shown) -> &str {
        match shown {
            Shown::Pair(_) => &self.pair,
            Shown::A => &self.a,
            Shown::B => &self.b,
        }
    }

    fn about(&self, shown: Shown) -> String {
        match shown {
            Shown::Pair(presentation) => format!("{}/{}", self.pair, presentation.of(&self.a, &self.b).0),
            Shown::A | Shown::B => self.chosen_by(shown).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use plumbline_crds::judge::{BUILTIN_TEMPLATES, TEMPLATE_VARIABLES};
    use serde_json::json;

    use super::super::prompt::BUILTIN;
    use super::super::prompt::tests::prompt;
    use super::*;

    fn plan(prompt: &JudgePrompt, pairs: &[(&str, &str, &str)]) -> Plan {
        planned(prompt, pairs).0
    }

    /// The first question about a pair.
    fn first(prompt: &JudgePrompt, pair: (&str, &str, &str)) -> Question {
        planned(prompt, &[pair]).1.remove(0)
    }

    fn planned(prompt: &JudgePrompt, pairs: &[(&str, &str, &str)]) -> (Plan, Vec<Question>) {
        let prompts: Vec<Content> = pairs.iter().map(|(p, ..)| Content::Text((*p).into())).collect();
        let items: Vec<_> = pairs
            .iter()
            .zip(&prompts)
            .map(|((_, a, b), prompt)| Comparison { prompt, response_a: a, response_b: b })
            .collect();
        let plan = prompt.plan("endpoint m", &items, &Order::default()).unwrap();
        let questions = plan.questions.iter().map(|planned| prompt.question(planned, &items).unwrap()).collect();
        (plan, questions)
    }

    #[test]
    fn the_built_in_question_has_exactly_this_text() {
        let prompt = prompt(&json!({
            "templates": ["builtin:pairwise-v1"],
            "criteria": [{"name": "accuracy", "description": "True.", "weight": 2, "levels": ["False", "True"]}, {"name": "safety"}],
        }))
        .unwrap();
        let question = first(&prompt, ("2 + 2?", "4", "5\n  indented {{ not_jinja }}"));
        let code =
            question.text.lines().next().unwrap().trim_start_matches("<prompt ").trim_end_matches('>').to_owned();
        assert_eq!(code.len(), 16);
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
                        let prompt =
                            prompt(&json!({"mode": mode, "api": api, "labelSource": label, "examples": examples,
                            "templates": [format!("builtin:{name}")]}));
                        let question = first(&prompt.unwrap(), ("p", "r1", "r2"));
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
    fn templates_and_variables_match_those_of_validation() {
        assert_eq!(BUILTIN.map(|(name, mode, _)| (name, mode)), BUILTIN_TEMPLATES);
        for mode in [JudgeMode::Pairwise, JudgeMode::Pointwise] {
            let names = TEMPLATE_VARIABLES.iter().chain(mode.judged());
            let shown: Vec<String> = names.map(|name| format!("{{{{ {name} }}}}")).collect();
            prompt(&json!({"mode": mode, "template": shown.join(" ")})).unwrap();
        }
    }

    #[test]
    fn a_custom_template_may_be_few_shot_text_to_continue() {
        let prompt = prompt(&json!({
            "mode": "Pointwise", "api": "Completion", "answers": [" positive", " negative"],
            "template": "{% for e in examples %}Review: {{ e.response }}\nSentiment:{{ e.answer }}\n\n{% endfor %}Review: {{ prompt }}{{ response }}\nSentiment:\n",
            "examples": [{"response": "Boring.", "answer": " negative"}],
        }))
        .unwrap();
        let question = first(&prompt, ("I saw it", " and loved it.", " and left."));
        assert_eq!(question.text, "Review: Boring.\nSentiment: negative\n\nReview: I saw it and loved it.\nSentiment:");
        assert_eq!(question.system, None);
        assert_eq!(prompt.max_tokens(), 1);
    }

    #[test]
    fn both_orders_of_a_pair_use_one_template() {
        let pairwise = prompt(&json!({"templates": ["builtin:pairwise-v1", "builtin:pairwise-v2"]})).unwrap();
        let many: Vec<(String, String)> = (0..60).map(|i| (format!("good {i}"), format!("bad {i}"))).collect();
        let pairs: Vec<_> = many.iter().map(|(a, b)| ("p", a.as_str(), b.as_str())).collect();
        let plan_of_pairs = plan(&pairwise, &pairs);
        assert_eq!(plan_of_pairs.questions.len(), 120);
        let mut by_template = HashMap::<&str, usize>::new();
        for used in &plan_of_pairs.refs {
            let QuestionRefs::Pairwise(orders) = used else { panic!() };
            let [x, y] = orders.as_slice() else { panic!() };
            assert_eq!((x.presentation, y.presentation), (Presentation::AB, Presentation::BA));
            let (x, y) = (&plan_of_pairs.questions[x.question], &plan_of_pairs.questions[y.question]);
            assert_eq!(x.template, y.template);
            assert_ne!(x.id, y.id);
            *by_template.entry(pairwise.template_name(x)).or_default() += 1;
        }
        assert!(by_template.len() == 2 && by_template.values().all(|n| *n > 15), "{by_template:?}");
        let pointwise = prompt(&json!({"mode": "Pointwise"})).unwrap();
        let shared =
            plan(&pointwise, &[("p", "x", "y"), ("p", "y", "z"), ("p", "z", "x"), ("q", "x", "y"), ("p", "x", "x")]);
        assert_eq!(shared.questions.len(), 5, "three responses to p and two to q");
        assert_eq!(shared.refs[4], QuestionRefs::Equal);
    }

    #[test]
    fn swapping_a_and_b_gives_the_same_questions() {
        let prompt = prompt(&json!({"templates": ["builtin:pairwise-v1", "builtin:pairwise-v2"]})).unwrap();
        let ids = |p: &Plan| p.questions.iter().map(|q| q.id.clone()).collect::<BTreeSet<_>>();
        assert_eq!(ids(&plan(&prompt, &[("p", "x", "y")])), ids(&plan(&prompt, &[("p", "y", "x")])));
    }

    #[test]
    fn a_questions_id_depends_on_the_judge_and_the_whole_request() {
        let ids: Vec<String> = [
            json!({}),
            json!({"labelSource": "Verdict"}),
            json!({"api": "Completion"}),
            json!({"criteria": [{"name": "c"}]}),
            json!({"templates": ["builtin:pairwise-v1"]}),
        ]
        .into_iter()
        .map(|extra| plan(&prompt(&extra).unwrap(), &[("p", "x", "y")]).questions[0].id.clone())
        .collect();
        let different: BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        let item_prompt = Content::Text("p".into());
        let item = [Comparison { prompt: &item_prompt, response_a: "x", response_b: "y" }];
        let other = prompt(&json!({})).unwrap().plan("endpoint other", &item, &Order::default()).unwrap();
        assert_ne!(other.questions[0].id, ids[0]);
    }
}
