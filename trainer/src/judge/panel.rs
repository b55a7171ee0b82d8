//! Asking a judge about many comparisons (IO): what is in the journal is not asked again, what is new is asked within the
//! limits and the budget, and every reply is written down before it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use plumbline_crds::preference_dataset::{Budget, Order};
use plumbline_crds::status::Cost;
use tokio::time::sleep;

use super::budget::{Account, Bound};
use super::classify::{Class, Fault};
use super::client::Client;
use super::journal::Journal;
use super::label::{self, Outcome};
use super::lexicon;
use super::limiter::Limiter;
use super::question::{Comparison, Form, Plan, Question};
use super::retry::{PATIENCE, backoff};
use super::runtime::{Backend, JudgeRuntime, Target};
use super::verdict::{self, Verdict};
use super::wire::{self, Reply};
use crate::{Error, Result};

/// So many first questions without a usable answer, and the judge is not asked further.
const TRIPWIRE: usize = 8;
/// So many questions in a row that the server could not get through, and it is the server's fault (or as many as are asked
/// at once, if that is more).
const BROKEN_IN_A_ROW: usize = 4;

/// How comparisons are judged.
pub struct Asking<'a> {
    /// Folder of the journal.
    pub journal: &'a Path,
    /// In which orders pairs are shown, and how these are combined. A pointwise judge has no orders.
    pub order: &'a Order,
    /// What may be spent, the journal's replies included.
    pub budget: &'a Budget,
    /// Called with (questions answered, questions in all, cost so far) at the start and after each answer. An error stops
    /// the asking after the replies that are under way are safe.
    pub progress: &'a mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
}

/// What a judge said.
#[derive(Debug)]
pub struct Judged {
    /// One for each comparison, in order.
    pub outcomes: Vec<Outcome>,
    /// The questions.
    pub plan: Plan,
    /// One for each question.
    pub verdicts: Vec<Verdict>,
    /// Why questions had no reply or no verdict, with how often.
    pub reasons: BTreeMap<String, i64>,
    /// Models that answered, by their own word.
    pub models: BTreeSet<String>,
    /// What the replies cost, those that were in the journal included.
    pub cost: Cost,
}

impl Judged {
    /// For each comparison the probability that response a is better, one half for a tie. `None` if there is no verdict:
    /// that is no vote, for neither side.
    pub fn probabilities(&self) -> Vec<Option<f64>> {
        self.outcomes.iter().map(|o| o.label().map(|l| l.p)).collect()
    }

    /// How many questions had which verdict, by [`Verdict::KINDS`].
    pub fn counts(&self) -> BTreeMap<&'static str, i64> {
        let mut counts: BTreeMap<_, _> = Verdict::KINDS.into_iter().map(|k| (k, 0)).collect();
        for verdict in &self.verdicts {
            *counts.entry(verdict.kind()).or_default() += 1;
        }
        counts
    }
}

/// Judges comparisons in both orders by mean log-odds (pairwise), or by the difference of two scores (pointwise), without
/// a budget. `journal` is a folder that survives a restart; `progress` is as in [`Asking`].
///
/// Errors: `JudgeUnavailable` (try again later: the answers so far are safe), `JudgeRejected` (key, quota, model or
/// protocol), `Store`.
pub fn compare(
    runtime: &JudgeRuntime,
    items: &[Comparison<'_>],
    journal: &Path,
    progress: &mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
) -> Result<Judged> {
    let (order, budget) = (Order::default(), Budget::default());
    judge(runtime, items, Asking { journal, order: &order, budget: &budget, progress })
}

/// Judges comparisons. Errors as [`compare`], and `BudgetExhausted`.
pub fn judge(runtime: &JudgeRuntime, items: &[Comparison<'_>], asking: Asking<'_>) -> Result<Judged> {
    let Asking { journal, order, budget, progress } = asking;
    let plan = runtime.form.plan(&runtime.identity, items, order)?;
    let total = plan.questions.len();
    let mut judged = match &runtime.backend {
        Backend::Lexicon(vader) => {
            progress(0, total, &Cost::default())?;
            let verdicts = plan.questions.iter().map(|q| lexicon::verdict(vader, &q.text)).collect();
            progress(total, total, &Cost::default())?;
            Judged::of(plan, verdicts)
        }
        Backend::Endpoint(target) => {
            let account = Account::open(budget, &runtime.spec, &runtime.field)?;
            let session = Session::open(runtime, target, account, journal, total)?;
            let (answers, cost) = session.ask_all(&plan.questions, progress)?;
            let verdicts: Vec<Verdict> = answers.iter().map(|a| a.verdict(&runtime.form)).collect();
            let mut judged = Judged::of(plan, verdicts);
            judged.cost = cost;
            judged.models = answers.iter().filter_map(|a| a.reply()?.model.clone()).collect();
            for (answer, verdict) in answers.iter().zip(&judged.verdicts) {
                if let Some(reason) = answer.reason(verdict) {
                    *judged.reasons.entry(reason.to_owned()).or_default() += 1;
                }
            }
            judged
        }
    };
    judged.outcomes = label::outcomes(&judged.plan, &judged.verdicts, order.combine);
    Ok(judged)
}

impl Judged {
    /// Verdicts that no outcome was drawn from yet.
    pub(super) fn of(plan: Plan, verdicts: Vec<Verdict>) -> Self {
        let (reasons, models) = (BTreeMap::new(), BTreeSet::new());
        Self { outcomes: Vec::new(), plan, verdicts, reasons, models, cost: Cost::default() }
    }
}

/// What came of a question.
#[derive(Debug)]
enum Answer {
    Reply(Reply),
    /// Refused for its content.
    Filtered(String),
    /// No reply.
    Failed(String),
}

impl Answer {
    fn reply(&self) -> Option<&Reply> {
        if let Self::Reply(reply) = self { Some(reply) } else { None }
    }

    fn verdict(&self, form: &Form) -> Verdict {
        match self {
            Self::Reply(reply) => verdict::read(form, reply),
            Self::Filtered(_) => Verdict::Filtered,
            Self::Failed(_) => Verdict::TransportFailed,
        }
    }

    fn reason<'a>(&'a self, verdict: &'a Verdict) -> Option<&'a str> {
        match (self, verdict) {
            (Self::Filtered(why) | Self::Failed(why), _) => Some(why),
            (_, Verdict::Unparsed(why)) => Some(why),
            _ => None,
        }
    }
}

/// All questions to one endpoint, from the first to the last.
struct Session<'a> {
    runtime: &'a JudgeRuntime,
    target: &'a Target,
    limiter: Limiter,
    state: Mutex<State>,
    /// Questions that are in the plan.
    total: usize,
    tokio: tokio::runtime::Runtime,
}

struct State {
    journal: Journal,
    account: Account,
    /// Why nothing new is asked.
    stop: Option<Error>,
    /// Questions with a reply, the journal's included.
    answered: usize,
    /// Questions with a usable answer, and those without one.
    usable: usize,
    unusable: usize,
    /// Questions in a row that the server could not get through.
    broken: usize,
}

impl<'a> Session<'a> {
    fn open(
        runtime: &'a JudgeRuntime,
        target: &'a Target,
        account: Account,
        journal: &Path,
        total: usize,
    ) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Failed(format!("no runtime for the judge's client: {e}")))?;
        let journal = Journal::open(journal)?;
        let limiter = Limiter::new(&runtime.spec.limits);
        let state = State { journal, account, stop: None, answered: 0, usable: 0, unusable: 0, broken: 0 };
        Ok(Self { runtime, target, limiter, state: Mutex::new(state), total, tokio })
    }

    /// Answers every question, from the journal or from the endpoint.
    fn ask_all(
        self,
        questions: &[Question],
        progress: &mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
    ) -> Result<(Vec<Answer>, Cost)> {
        let mut answers: Vec<Option<Answer>> = questions.iter().map(|q| self.replayed(q)).collect();
        let mut done = answers.iter().flatten().count();
        let pending: Vec<usize> = (0..questions.len()).filter(|i| answers[*i].is_none()).collect();
        progress(done, self.total, &self.state().account.cost())?;
        self.tokio.block_on(async {
            let target = self.target;
            let path = wire::path(self.runtime.form.api);
            let client = Client::new(&target.url, path, target.key.clone(), &self.runtime.spec.limits)?;
            let concurrency = self.runtime.spec.limits.concurrency.max(1) as usize;
            // After a stop nothing new goes out, but what is under way is waited for: it is paid for.
            let asked = pending.iter().map(|i| async { (*i, self.ask(&client, &questions[*i]).await) });
            let mut asked = futures::stream::iter(asked).buffer_unordered(concurrency);
            while let Some((i, answer)) = asked.next().await {
                let Some(answer) = answer else { continue };
                answers[i] = Some(answer);
                done += 1;
                let cost = self.state().account.cost();
                if let Err(e) = progress(done, self.total, &cost) {
                    self.state().stop.get_or_insert(e);
                }
            }
            Ok::<_, Error>(())
        })?;
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.journal.sync()?;
        if let Some(error) = state.stop {
            return Err(error);
        }
        if state.usable == 0
            && let Some(Answer::Failed(why)) = answers.iter().flatten().find(|a| matches!(a, Answer::Failed(_)))
        {
            return Err(unavailable(self.runtime, self.target, why, state.answered, self.total));
        }
        Ok((answers.into_iter().flatten().collect(), state.account.cost()))
    }

    fn replayed(&self, question: &Question) -> Option<Answer> {
        let mut state = self.state();
        let reply = state.journal.reply(&question.id)?.clone();
        state.account.settle(&self.bound(question), reply.usage);
        let usable = self.is_usable(&reply);
        state.answered += 1;
        state.usable += usize::from(usable);
        state.unusable += usize::from(!usable);
        Some(Answer::Reply(reply))
    }

    /// Asks a question until there is an answer. `None` if the asking was stopped.
    async fn ask(&self, client: &Client, question: &Question) -> Option<Answer> {
        let body = wire::request(&self.runtime.form, &self.target.model, question.system.as_deref(), &question.text);
        let bound = self.bound(question);
        if !self.reserve(&bound) {
            return None;
        }
        let attempts = self.runtime.spec.limits.max_attempts.max(1) as u32;
        let mut last = (Fault::Endpoint, String::new());
        for attempt in 1..=attempts {
            let place = self.limiter.enter(bound.total()).await;
            if self.state().stop.is_some() {
                break;
            }
            let class = client.attempt(&body).await;
            drop(place);
            let wait = match class {
                Class::Answer(reply) => return self.settle(question, &bound, *reply),
                Class::FatalPair { filtered, why } => {
                    self.state().account.release(&bound);
                    self.count_unusable(&why);
                    return Some(if filtered { Answer::Filtered(why) } else { Answer::Failed(why) });
                }
                Class::FatalJob(why) => {
                    self.state().account.release(&bound);
                    self.stop(Error::JudgeRejected(format!(
                        "{}: {} rejects the judge: {why}",
                        self.runtime.field,
                        client_url(self.target)
                    )));
                    return None;
                }
                Class::RetryAfter(wait, why) if wait > PATIENCE => {
                    last = (Fault::Endpoint, format!("{why}; it asks to wait {} s", wait.as_secs()));
                    break;
                }
                Class::RetryAfter(wait, why) => {
                    last = (Fault::Endpoint, why);
                    self.limiter.cool_down(wait);
                    backoff(&question.id, attempt, Some(wait))
                }
                Class::RetryBackoff(fault, why) => {
                    last = (fault, why);
                    backoff(&question.id, attempt, None)
                }
            };
            tracing::debug!(judge = %self.runtime.spec.name, attempt, wait = wait.as_secs_f64(), why = %last.1, "asking again");
            if attempt < attempts {
                sleep(wait).await;
            }
        }
        self.state().account.release(&bound);
        self.exhausted(last.0, last.1)
    }

    /// Every attempt failed, or the asking was stopped.
    fn exhausted(&self, fault: Fault, why: String) -> Option<Answer> {
        let mut state = self.state();
        if state.stop.is_some() {
            return None;
        }
        state.broken += 1;
        let in_a_row = BROKEN_IN_A_ROW.max(self.runtime.spec.limits.concurrency as usize);
        if fault == Fault::Endpoint || state.broken >= in_a_row {
            state.stop = Some(unavailable(self.runtime, self.target, &why, state.answered, self.total));
            return None;
        }
        Some(Answer::Failed(why))
    }

    /// Reserves the bound, or stops the asking.
    fn reserve(&self, bound: &Bound) -> bool {
        let mut state = self.state();
        if state.stop.is_some() {
            return false;
        }
        match state.account.reserve(bound) {
            Ok(()) => true,
            Err(limit) => {
                state.stop = Some(Error::BudgetExhausted(format!(
                    "{limit}; {} of {} questions are answered and safe in the journal: raise the budget to go on from there",
                    state.answered, self.total
                )));
                false
            }
        }
    }

    fn settle(&self, question: &Question, bound: &Bound, reply: Reply) -> Option<Answer> {
        let usable = self.is_usable(&reply);
        let mut state = self.state();
        state.account.release(bound);
        if let Err(e) = state.journal.append(&self.runtime.spec.name, question, reply.clone()) {
            state.stop.get_or_insert(e);
            return None;
        }
        state.account.settle(bound, reply.usage);
        state.answered += 1;
        state.usable += usize::from(usable);
        state.broken = 0;
        drop(state);
        let used = reply.usage.map_or(bound.total(), |u| u.prompt + u.completion);
        self.limiter.refund(bound.total() - used);
        if !usable {
            self.count_unusable(
                "the replies have no log-probabilities; set label: Verdict, or use an endpoint that has them",
            );
        }
        Some(Answer::Reply(reply))
    }

    /// Stops before much is paid for what cannot become a label.
    fn count_unusable(&self, why: &str) {
        let mut state = self.state();
        state.unusable += 1;
        if state.usable == 0 && state.unusable >= TRIPWIRE.min(self.total) {
            let error = Error::JudgeRejected(format!(
                "{}: none of the first {} questions to {} has a usable answer: {why}",
                self.runtime.field,
                state.unusable,
                client_url(self.target)
            ));
            state.stop.get_or_insert(error);
        }
    }

    /// Whether a reply has what a label is read from.
    fn is_usable(&self, reply: &Reply) -> bool {
        verdict::read(&self.runtime.form, reply) != Verdict::Unparsed(verdict::NO_LOG_PROBS)
    }

    fn bound(&self, question: &Question) -> Bound {
        let bytes = question.text.len() + question.system.as_ref().map_or(0, String::len);
        Bound::new(bytes, self.runtime.form.max_tokens())
    }

    fn stop(&self, error: Error) {
        self.state().stop.get_or_insert(error);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client_url(target: &Target) -> String {
    format!("{} (model {})", target.url, target.model)
}

fn unavailable(runtime: &JudgeRuntime, target: &Target, why: &str, answered: usize, total: usize) -> Error {
    Error::JudgeUnavailable(format!(
        "{}: {} does not answer after {} attempts: {why}; {answered} of {total} questions are answered and safe in the journal",
        runtime.field,
        client_url(target),
        runtime.spec.limits.max_attempts,
    ))
}
