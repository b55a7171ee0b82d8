//! Judging comparisons (IO): all judges answer their questions concurrently, with shared resources.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use plumbline_crds::preference_dataset::{Budget, Order, OrderCombination};
use plumbline_crds::status::Cost;

use super::answers::Answers;
use super::dialect::Dialect;
use super::label::{self, Outcome};
use super::question::{Comparison, Plan};
use super::resources::{Member, Resources};
use super::runtime::{Backend, JudgeRuntime, Target};
use super::session::Session;
use super::verdict::Verdict;
use super::{ensemble, lexicon};
use crate::data::Content;
use crate::{Error, Result};

/// Options for judging comparisons.
pub struct JudgeOptions<'a> {
    /// Directory of the journal.
    pub journal: &'a Path,
    /// The orders in which pairs are shown, and how they are combined. Pointwise judges ignore it.
    pub order: &'a Order,
    /// Budget of all judges together, including replies in the journal.
    pub budget: &'a Budget,
    /// Called with (questions answered, total questions, cost so far), summed over judges, at the start and after each
    /// answer. After an error no new questions are sent, and replies in flight are still journalled.
    pub progress: &'a mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
}

/// The results of a judge.
#[derive(Debug)]
pub struct Judgements {
    /// One outcome per comparison, in order.
    pub outcomes: Vec<Outcome>,
    /// The questions.
    pub plan: Plan,
    /// One verdict per question, in order.
    pub verdicts: Vec<Verdict>,
    /// Why questions had no reply or no verdict, with counts.
    pub reasons: BTreeMap<String, i64>,
    /// Models that answered, as named in replies.
    pub models: BTreeSet<String>,
    /// The dialects of the requests: one, unless the server's backends differ.
    pub dialects: BTreeSet<Dialect>,
    /// Cost of the replies, including those that were already in the journal.
    pub cost: Cost,
    /// Number of replies with an implausible token count, which are charged their bound.
    pub implausible: i64,
    /// Ids of the replies to turns after the first.
    later_turns: Vec<String>,
}

/// The results of all judges.
#[derive(Debug)]
pub struct PanelJudgements {
    /// The results of each judge, in order.
    pub judges: Vec<Judgements>,
    /// One outcome per comparison, in order: the weighted mean of the judges.
    pub outcomes: Vec<Outcome>,
    /// Total cost.
    pub cost: Cost,
}

/// Judges comparisons by one judge without a budget: in both orders with mean log-odds (pairwise), or by the difference
/// of two scores (pointwise). `journal` is a directory that survives restarts; `progress` is that of [`JudgeOptions`].
///
/// # Errors
/// Those of [`judge`] except `BudgetExhausted`.
pub fn compare(
    runtime: &JudgeRuntime,
    items: &[Comparison<'_>],
    journal: &Path,
    progress: &mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
) -> Result<Judgements> {
    let (order, budget) = (Order::default(), Budget::default());
    let options = JudgeOptions { journal, order: &order, budget: &budget, progress };
    let mut all = judge(std::slice::from_ref(runtime), items, options)?;
    all.judges.pop().ok_or_else(|| Error::Failed("a judge said nothing".into()))
}

/// Judges comparisons by several judges.
///
/// # Errors
/// `JudgeUnavailable` (retry later: the answers so far are safe), `JudgeRejected` (key, quota, model or protocol),
/// `BudgetExhausted`, `Config` if two judges would ask the same questions; `Store`, `Disk` and `Data` for the journal.
pub fn judge(judges: &[JudgeRuntime], items: &[Comparison<'_>], options: JudgeOptions<'_>) -> Result<PanelJudgements> {
    let JudgeOptions { journal, order, budget, progress } = options;
    let plan = |judge: &JudgeRuntime| judge.prompt.plan(&judge.identity, items, order);
    let plans = judges.iter().map(plan).collect::<Result<Vec<_>>>()?;
    refuse_repeated(judges, &plans)?;
    let total = plans.iter().map(|plan| plan.questions.len()).sum();

    let (mut said, mut remote) = (Vec::new(), Vec::new());
    for (judge, plan) in judges.iter().zip(&plans) {
        match &judge.backend {
            Backend::Endpoint(target) => {
                remote.push((said.len(), Remote { judge, target, plan }));
                said.push(Said::default());
            }
            Backend::Lexicon(vader) => {
                progress(0, total, &Cost::default())?;
                let verdict = |q| Ok(Some(lexicon::verdict(vader, &judge.prompt.question(q, items)?.text)));
                let verdicts = plan.questions.iter().map(verdict).collect::<Result<_>>()?;
                said.push(Said { answers: Answers { verdicts, ..Answers::default() }, ..Said::default() });
            }
        }
    }
    let done = said.iter().map(|said| said.answers.verdicts.len()).sum();
    let tally = Tally { done, total, progress };
    let (indices, remote): (Vec<usize>, Vec<Remote<'_>>) = remote.into_iter().unzip();
    let (heard, cost) = ask(&remote, items, (journal, budget), tally)?;
    for (index, heard) in indices.into_iter().zip(heard) {
        said[index] = heard;
    }
    let judged: Vec<Judgements> =
        plans.into_iter().zip(said).map(|(plan, said)| said.judgements(plan, order.combine)).collect();
    let weights: Vec<f64> = judges.iter().map(|judge| judge.spec.weight).collect();
    Ok(PanelJudgements { outcomes: ensemble::mean(&judged, &weights), judges: judged, cost })
}

/// A judge that is asked over HTTP.
struct Remote<'a> {
    judge: &'a JudgeRuntime,
    target: &'a Target,
    plan: &'a Plan,
}

/// A judge's answers and their cost.
#[derive(Default)]
struct Said {
    answers: Answers,
    cost: Cost,
    implausible: i64,
}

/// Counts answered questions.
struct Tally<'a> {
    done: usize,
    total: usize,
    progress: &'a mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
}

impl Tally<'_> {
    fn report(&mut self, more: usize, cost: &Cost) -> Result<()> {
        self.done += more;
        (self.progress)(self.done, self.total, cost)
    }
}

/// Asks judges over HTTP, concurrently.
fn ask(
    judges: &[Remote<'_>],
    items: &[Comparison<'_>],
    (journal, budget): (&Path, &Budget),
    mut tally: Tally<'_>,
) -> Result<(Vec<Said>, Cost)> {
    if judges.is_empty() {
        tally.report(0, &Cost::default())?;
        return Ok((Vec::new(), Cost::default()));
    }
    let members: Vec<Member<'_>> =
        judges.iter().map(|r| Member { spec: &r.judge.spec, field: &r.judge.field, target: r.target }).collect();
    let total = judges.iter().map(|remote| remote.plan.questions.len()).sum();
    let resources = Resources::open(&members, journal, budget, total)?;
    let numbered = judges.iter().enumerate();
    let sessions = numbered.map(|(i, r)| Session::open(&resources, i, (r.judge, r.target), r.plan, items));
    let sessions = sessions.collect::<Result<Vec<_>>>()?;
    tally.report(sessions.iter().map(Session::answered).sum(), &resources.total_cost())?;
    let tally = RefCell::new(tally);
    let progress = || {
        if let Err(error) = tally.borrow_mut().report(1, &resources.total_cost()) {
            resources.stop(error);
        }
    };
    resources.wait(sessions.iter().map(|session| session.ask_all(&progress)))?;
    let said = sessions.into_iter().enumerate().map(|(i, session)| {
        let (cost, implausible) = resources.account(i);
        Ok(Said { answers: session.finish()?, cost, implausible })
    });
    Ok((said.collect::<Result<_>>()?, resources.total_cost()))
}

/// Refuses judges that would ask the same questions, before there is anything to ask about.
///
/// # Errors
/// `Config` with the fields of the two.
pub fn refuse_alike(judges: &[JudgeRuntime], order: &Order) -> Result<()> {
    let prompt = Content::Text("a prompt".into());
    let items = [Comparison { prompt: &prompt, response_a: "a response", response_b: "another response" }];
    let plan = |judge: &JudgeRuntime| judge.prompt.plan(&judge.identity, &items, order);
    refuse_repeated(judges, &judges.iter().map(plan).collect::<Result<Vec<_>>>()?)
}

/// Rejects two judges with a common question: they would share one answer, and count it and pay for it twice.
fn refuse_repeated(judges: &[JudgeRuntime], plans: &[Plan]) -> Result<()> {
    let mut asked: HashMap<&str, usize> = HashMap::new();
    for (i, plan) in plans.iter().enumerate() {
        for question in &plan.questions {
            let first = *asked.entry(&question.id).or_insert(i);
            if first != i {
                return Err(Error::Config(format!(
                    "{}: asks the same model the same questions as {}; change its model, template, criteria or labelSource, \
                     or remove it",
                    judges[i].field, judges[first].field
                )));
            }
        }
    }
    Ok(())
}

impl Said {
    fn judgements(self, plan: Plan, combine: OrderCombination) -> Judgements {
        let Answers { verdicts, reasons, models, dialects, later_turns, .. } = self.answers;
        let verdicts: Vec<Verdict> = verdicts.into_iter().flatten().collect();
        Judgements {
            outcomes: label::outcomes(&plan, &verdicts, combine),
            reasons,
            models,
            dialects,
            cost: self.cost,
            implausible: self.implausible,
            later_turns,
            plan,
            verdicts,
        }
    }
}

impl Judgements {
    /// For each comparison the probability that response a is better, one half for a tie; `None` if there is no
    /// verdict, which is a vote for neither side.
    pub fn probabilities(&self) -> Vec<Option<f64>> {
        self.outcomes.iter().map(|o| o.label().map(|l| l.p)).collect()
    }

    /// Number of questions by kind of verdict ([`Verdict::KINDS`]).
    pub fn counts(&self) -> BTreeMap<&'static str, i64> {
        let mut counts: BTreeMap<_, _> = Verdict::KINDS.into_iter().map(|k| (k, 0)).collect();
        for verdict in &self.verdicts {
            *counts.entry(verdict.kind()).or_default() += 1;
        }
        counts
    }

    /// Ids of all replies that were used.
    pub fn replies(&self) -> impl Iterator<Item = &str> {
        self.plan.questions.iter().map(|q| q.id.as_str()).chain(self.later_turns.iter().map(String::as_str))
    }

    #[cfg(test)]
    pub(super) fn of(plan: Plan, verdicts: Vec<Verdict>, combine: OrderCombination) -> Self {
        let answers = Answers { verdicts: verdicts.into_iter().map(Some).collect(), ..Answers::default() };
        Said { answers, ..Said::default() }.judgements(plan, combine)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::super::journal::Journal;
    use super::super::prompt::{self, JudgePrompt};
    use super::super::turn::{Question, Turn};
    use super::super::wire::Reply;
    use super::*;

    /// Two turns: first the reasons, then the verdict.
    fn two_turns(prompt: &JudgePrompt, question: &Question, replies: &[Reply]) -> Option<Turn> {
        let one = prompt::one_turn(prompt, question, &[])?;
        match replies {
            [] => Some(Turn { max_tokens: 64, log_probs: false, ..one }),
            [reasons] => {
                let texts = [one.texts[0].clone(), reasons.choices[0].text.clone(), "So, A or B?".into()];
                Some(Turn { texts: texts.into(), ..one })
            }
            _ => None,
        }
    }

    /// Answers one request: reasons for a first turn, the verdict for a second. Records the request in `asked`.
    fn answer(stream: TcpStream, asked: &Mutex<Vec<Value>>) {
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let request: Value = serde_json::from_slice(&body).unwrap();
        let said: Vec<&Value> =
            request["messages"].as_array().unwrap().iter().filter(|m| m["role"] != "system").collect();
        let choice = match said.as_slice() {
            [_] => json!({"message": {"content": "A is right."}, "finish_reason": "stop"}),
            [_, reasons, _] if reasons["content"] == "A is right." => {
                let top = [json!({"token": "A", "logprob": -0.1}), json!({"token": "B", "logprob": -2.5})];
                let position = json!({"token": "A", "logprob": -0.1, "top_logprobs": top});
                json!({"message": {"content": "A"}, "logprobs": {"content": [position]}, "finish_reason": "stop"})
            }
            other => panic!("{other:?}"),
        };
        asked.lock().unwrap().push(request);
        let usage = json!({"prompt_tokens": 50, "completion_tokens": 1});
        let body = json!({"model": "m", "choices": [choice], "usage": usage}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        reader.get_mut().write_all((head + &body).as_bytes()).unwrap();
    }

    #[test]
    fn a_question_of_two_turns_resumes_at_the_turn_without_a_reply() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &log)));

        let spec = serde_json::from_value(json!({"name": "j", "endpoint": {"url": url, "model": "m"}})).unwrap();
        let mut prompt = JudgePrompt::new(&spec, "spec.judges[0]").unwrap();
        prompt.turns = two_turns;
        let backend = Backend::Endpoint(Target { url, model: "m".into(), key: None, time: None });
        let judge = JudgeRuntime { spec, field: "spec.judges[0]".into(), prompt, backend, identity: "e m".into() };
        let text = Content::Text("p".into());
        let items = ["x", "y"].map(|b| Comparison { prompt: &text, response_a: "a", response_b: b });
        let run = |journal: &Path| compare(&judge, &items, journal, &mut |_, _, _| Ok(())).unwrap();

        let whole = tempfile::tempdir().unwrap();
        let judged = run(whole.path());
        assert_eq!((judged.plan.questions.len(), judged.verdicts.len(), judged.cost.requests), (4, 4, 8));
        assert!(judged.verdicts.iter().all(|v| matches!(v, Verdict::First(Some(_)))), "{:?}", judged.verdicts);
        assert_eq!((judged.replies().count(), asked.lock().unwrap().len()), (8, 8));
        let file = fs::read_to_string(Journal::file(whole.path())).unwrap();
        let lines: Vec<&str> = file.split_inclusive('\n').collect();
        for kept in 0..=lines.len() {
            let journal = tempfile::tempdir().unwrap();
            fs::write(Journal::file(journal.path()), lines[..kept].concat()).unwrap();
            let before = asked.lock().unwrap().len();
            let again = run(journal.path());
            assert_eq!(
                (again.verdicts, again.cost),
                (judged.verdicts.clone(), judged.cost.clone()),
                "{kept} of 8 lines"
            );
            assert_eq!(asked.lock().unwrap().len() - before, 8 - kept, "only the turns without a reply are asked");
        }
    }
}
