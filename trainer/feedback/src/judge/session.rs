//! Asking one endpoint many questions (IO): what is in the journal is not asked again, what is new is asked within the limits
//! and the budget, and every reply is written down before it is used.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use plumbline_crds::judge::LabelSource;
use plumbline_crds::status::Cost;
use tokio::sync::watch;
use tokio::time::{interval, sleep};

use super::budget::{Account, Bound};
use super::classify::{AttemptOutcome, Fault};
use super::client::Client;
use super::dialect::Dialect;
use super::journal::Journal;
use super::limiter::Limiter;
use super::prompt::JudgePrompt;
use super::question::Question;
use super::runtime::{JudgeRuntime, Target};
use super::tripwire::Tripwire;
use super::verdict::Verdict;
use super::wire::{self, Reply};
use super::{log_probs, reading};
use crate::backoff::{PATIENCE, backoff};
use crate::shutdown;
use crate::{Error, Result};

/// Questions that are asked before all others: one alone, which finds out how the server wants to be asked, then some that
/// show whether its replies are worth their price.
const LEAD: [usize; 2] = [1, 7];
/// How often it is looked whether the process was asked to stop, while no answer comes.
const TICK: Duration = Duration::from_millis(250);
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
    pub(super) fn verdict(&self, prompt: &JudgePrompt) -> Verdict {
        match self {
            Self::Reply(reply) => reading::read(prompt, reply),
            Self::Filtered(_) => Verdict::Filtered,
            Self::Failed(_) => Verdict::TransportFailed,
        }
    }

    /// Why there is no reply, or no verdict in it.
    pub(super) fn reason<'a>(&'a self, verdict: &'a Verdict) -> Option<&'a str> {
        match self {
            Self::Filtered(why) | Self::Failed(why) => Some(why),
            Self::Reply(_) => verdict.cause(),
        }
    }
}

/// All questions to one endpoint, from the first to the last.
pub(super) struct Session<'a> {
    runtime: &'a JudgeRuntime,
    target: &'a Target,
    limiter: Limiter,
    state: Mutex<State>,
    /// Whether nothing new is asked.
    stopped: watch::Sender<bool>,
    /// Questions that are in the plan.
    total: usize,
    tokio: tokio::runtime::Runtime,
}

struct State {
    journal: Journal,
    account: Account,
    /// Why nothing new is asked.
    stop: Option<Error>,
    /// How the server is asked, as far as it is known.
    dialect: Dialect,
    /// Questions with a reply, the journal's included.
    answered: usize,
    /// Whether one of them has a verdict.
    usable: bool,
    tripwire: Tripwire,
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
        let state = State {
            journal,
            account,
            stop: None,
            dialect: Dialect::default(),
            answered: 0,
            usable: false,
            tripwire: Tripwire::default(),
            broken: 0,
        };
        let (stopped, _) = watch::channel(false);
        Ok(Self { runtime, target, limiter, state: Mutex::new(state), stopped, total, tokio })
    }

    /// Answers every question, from the journal or from the endpoint. Returns the answers, what they cost, and how many of the
    /// server's counts of tokens were not believed.
    pub(super) fn ask_all(
        self,
        questions: &[Question],
        progress: &mut dyn FnMut(usize, usize, &Cost) -> Result<()>,
    ) -> Result<(Vec<Answer>, Cost, i64)> {
        let mut answers: Vec<Option<Answer>> = questions.iter().map(|q| self.replayed(q)).collect();
        let mut done = answers.iter().flatten().count();
        progress(done, self.total, &self.state().account.cost())?;
        self.tokio.block_on(async {
            let target = self.target;
            let path = wire::path(self.runtime.prompt.api);
            let client = Client::new(target, path, &self.runtime.spec.limits)?;
            let concurrency = self.runtime.spec.limits.concurrency.max(1) as usize;
            let mut ticks = interval(TICK);
            let mut pending: Vec<usize> = (0..questions.len()).filter(|i| answers[*i].is_none()).collect();
            for count in LEAD.into_iter().chain([usize::MAX]) {
                let part: Vec<usize> = pending.drain(..count.min(pending.len())).collect();
                // After a stop nothing new goes out, but what is under way is waited for: it is paid for.
                let asked = part.iter().map(|i| async { (*i, self.ask(&client, &questions[*i]).await) });
                let mut asked = futures::stream::iter(asked).buffer_unordered(concurrency);
                loop {
                    let next = tokio::select! {
                        next = asked.next() => next,
                        _ = ticks.tick() => {
                            // The caller notices between two answers; the next one may be an hour away.
                            if shutdown::requested() {
                                self.stop(Error::Interrupted);
                            }
                            continue;
                        }
                    };
                    let Some((i, answer)) = next else { break };
                    let Some(answer) = answer else { continue };
                    answers[i] = Some(answer);
                    done += 1;
                    let cost = self.state().account.cost();
                    if let Err(e) = progress(done, self.total, &cost) {
                        self.stop(e);
                    }
                }
            }
            Ok::<_, Error>(())
        })?;
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.journal.sync()?;
        if let Some(error) = state.stop {
            return Err(error);
        }
        if !state.usable
            && let Some(Answer::Failed(why)) = answers.iter().flatten().find(|a| matches!(a, Answer::Failed(_)))
        {
            return Err(unavailable(self.runtime, self.target, why, state.answered, self.total));
        }
        let answers = answers.into_iter().flatten().collect();
        Ok((answers, state.account.cost(), state.account.implausible()))
    }

    fn replayed(&self, question: &Question) -> Option<Answer> {
        let mut state = self.state();
        let reply = state.journal.reply(&question.id)?.clone();
        state.account.settle(&self.bound(question), reply.usage);
        state.answered += 1;
        state.usable |= self.unusable(&reply).is_none();
        Some(Answer::Reply(reply))
    }

    /// Asks a question until there is an answer. `None` if the asking was stopped.
    async fn ask(&self, client: &Client, question: &Question) -> Option<Answer> {
        let bound = self.bound(question);
        if !self.reserve(&bound) {
            return None;
        }
        let attempts = self.runtime.spec.limits.max_attempts.max(1) as u32;
        let mut last = (Fault::Endpoint, String::new());
        let mut attempt = 1;
        while attempt <= attempts {
            let Some(place) = self.unless_stopped(self.limiter.enter(bound.total())).await else { break };
            let dialect = self.state().dialect;
            let (system, text) = (question.system.as_deref(), &question.text);
            let body = wire::request(&self.runtime.prompt, dialect, &self.target.model, system, text);
            let class = client.attempt(&body, dialect).await;
            drop(place);
            let wait = match class {
                AttemptOutcome::Answer(reply) => return self.settle(question, &bound, Reply { dialect, ..*reply }),
                AttemptOutcome::Rewrite(next, why) => {
                    // No attempt of the question's: each rewriting takes something away, so there are few.
                    self.rewrite(dialect, next, &why);
                    continue;
                }
                AttemptOutcome::FatalPair { filtered, why } => {
                    self.state().account.release(&bound);
                    self.count_unusable(&why, None);
                    return Some(if filtered { Answer::Filtered(why) } else { Answer::Failed(why) });
                }
                AttemptOutcome::FatalJob(why) => {
                    self.state().account.release(&bound);
                    self.stop(Error::JudgeRejected(format!(
                        "{}: {} rejected a request of the judge: {why}",
                        self.runtime.field,
                        client_url(self.target)
                    )));
                    return None;
                }
                AttemptOutcome::RetryAfter(wait, why) if wait > PATIENCE => {
                    last = (Fault::Endpoint, format!("{why}; it asks to wait {} s", wait.as_secs()));
                    break;
                }
                AttemptOutcome::RetryAfter(wait, why) => {
                    last = (Fault::Endpoint, why);
                    self.limiter.cool_down(wait);
                    backoff(&question.id, attempt, Some(wait))
                }
                AttemptOutcome::RetryBackoff(fault, why) => {
                    last = (fault, why);
                    backoff(&question.id, attempt, None)
                }
            };
            tracing::debug!(judge = %self.runtime.spec.name, attempt, wait = wait.as_secs_f64(), why = %last.1, "retrying");
            if attempt < attempts && self.unless_stopped(sleep(wait)).await.is_none() {
                break;
            }
            attempt += 1;
        }
        self.state().account.release(&bound);
        self.exhausted(last.0, last.1)
    }

    /// What a wait results in; `None` as soon as nothing new is asked.
    async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            done = wait => Some(done),
        }
    }

    /// The server wants to be asked otherwise than in `from`. Another question may have found that out before.
    fn rewrite(&self, from: Dialect, next: Dialect, why: &str) {
        let mut state = self.state();
        if state.dialect == from {
            tracing::info!(judge = %self.runtime.spec.name, "asking {}: {why}", next.told().join(", "));
            state.dialect = next;
        }
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
            let error = unavailable(self.runtime, self.target, &why, state.answered, self.total);
            drop(state);
            self.stop(error);
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
        let Err(limit) = state.account.reserve(bound) else { return true };
        let (answered, total) = (state.answered, self.total);
        drop(state);
        self.stop(Error::BudgetExhausted(format!(
            "{limit}; {answered} of {total} questions are answered and saved in the journal: raise the budget to \
             resume from there"
        )));
        false
    }

    fn settle(&self, question: &Question, bound: &Bound, reply: Reply) -> Option<Answer> {
        let unusable = self.unusable(&reply);
        let mut state = self.state();
        state.account.release(bound);
        if let Err(e) = state.journal.append(&self.runtime.spec.name, question, reply.clone()) {
            drop(state);
            self.stop(e);
            return None;
        }
        let charged = state.account.settle(bound, reply.usage);
        state.answered += 1;
        state.broken = 0;
        if unusable.is_none() {
            state.usable = true;
            state.tripwire.usable();
        }
        drop(state);
        self.limiter.refund(bound.total().saturating_sub(charged.total()));
        if let Some(why) = unusable {
            self.count_unusable(why, reply.said());
        }
        Some(Answer::Reply(reply))
    }

    /// Stops before much is paid for what cannot become a label.
    fn count_unusable(&self, why: &str, reply: Option<&str>) {
        let sprung = self.state().tripwire.unusable(why, reply, self.total);
        if let Some(sprung) = sprung {
            self.stop(Error::JudgeRejected(format!("{}: {}: {sprung}", self.runtime.field, client_url(self.target))));
        }
    }

    /// Why no label can be read from a reply, if so. A reply that is all certainty counts too: one of them may be right, but
    /// nothing else is what a server without probabilities gives.
    fn unusable(&self, reply: &Reply) -> Option<&'static str> {
        let prompt = &self.runtime.prompt;
        let certain = prompt.label == LabelSource::LogProbs && log_probs::is_after_sampling(reply, &prompt.answers);
        reading::read(prompt, reply).cause().or(certain.then_some(log_probs::AFTER_SAMPLING))
    }

    fn bound(&self, question: &Question) -> Bound {
        let bytes = question.text.len() + question.system.as_ref().map_or(0, String::len);
        Bound::new(bytes, self.runtime.prompt.max_tokens())
    }

    fn stop(&self, error: Error) {
        self.state().stop.get_or_insert(error);
        self.stopped.send_replace(true);
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
        "{}: {} does not answer after {} attempts: {why}; {answered} of {total} questions are answered and saved in \
         the journal",
        runtime.field,
        client_url(target),
        runtime.spec.limits.max_attempts,
    ))
}
