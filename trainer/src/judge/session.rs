//! Asking one endpoint many questions (IO): what is in the journal is not asked again, what is new is asked within the limits
//! and the budget, and every reply is written down before it is used.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use plumbline_crds::status::Cost;
use tokio::time::sleep;

use super::budget::{Account, Bound};
use super::classify::{Class, Fault};
use super::client::Client;
use super::form::Form;
use super::journal::Journal;
use super::limiter::Limiter;
use super::question::Question;
use super::runtime::{JudgeRuntime, Target};
use super::verdict::{self, Verdict};
use super::wire::{self, Reply};
use crate::backoff::{PATIENCE, backoff};
use crate::{Error, Result};

/// So many first questions without a usable answer, and the judge is not asked further.
const TRIPWIRE: usize = 8;
/// So many questions in a row that the server could not get through, and it is the server's fault (or as many as are asked
/// at once, if that is more).
const BROKEN_IN_A_ROW: usize = 4;

/// What came of a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// A reply.
    Reply(Reply),
    /// Refused for its content.
    Filtered(String),
    /// No reply.
    Failed(String),
}

impl Answer {
    /// The reply, if there is one.
    pub(super) fn reply(&self) -> Option<&Reply> {
        if let Self::Reply(reply) = self { Some(reply) } else { None }
    }

    /// What it means.
    pub(super) fn verdict(&self, form: &Form) -> Verdict {
        match self {
            Self::Reply(reply) => verdict::read(form, reply),
            Self::Filtered(_) => Verdict::Filtered,
            Self::Failed(_) => Verdict::TransportFailed,
        }
    }

    /// Why there is no reply, or no verdict in it.
    pub(super) fn reason<'a>(&'a self, verdict: &'a Verdict) -> Option<&'a str> {
        match (self, verdict) {
            (Self::Filtered(why) | Self::Failed(why), _) => Some(why),
            (_, Verdict::Unparsed(why)) => Some(why),
            _ => None,
        }
    }
}

/// All questions to one endpoint, from the first to the last.
pub(super) struct Session<'a> {
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
    /// Opens the journal.
    pub(super) fn open(
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
    pub(super) fn ask_all(
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
