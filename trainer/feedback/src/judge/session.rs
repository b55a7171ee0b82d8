//! Asks one endpoint many questions (IO): questions in the journal are not asked again, new ones are asked within the
//! limits and the budget, and every reply is journalled before it is used.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use plumbline_crds::judge::LabelSource;
use tokio::time::sleep;

use super::answers::{Answer, Answers};
use super::classify::{AttemptOutcome, Fault, Refusal};
use super::client::Client;
use super::dialect::Dialect;
use super::journal::Entry;
use super::ledger::Bound;
use super::limiter::Limiter;
use super::question::{Comparison, Plan};
use super::resources::Resources;
use super::runtime::{JudgeRuntime, Target};
use super::turn::{Question, Turn};
use super::verdict::Verdict;
use super::wire::{self, Choice, Reply};
use super::{log_probs, reading};
use crate::backoff::{PATIENCE, backoff};
use crate::{Error, Result};

/// Sizes of the first batches: a single question to learn the server's dialect, then some to check whether its replies
/// are usable.
const LEAD: [usize; 2] = [1, 7];
/// After this many consecutive questions that the server could not process, the server is considered faulty (or after
/// as many as are asked concurrently, if that is more).
const BROKEN_IN_A_ROW: usize = 4;

/// All questions to a judge behind an endpoint.
pub(super) struct Session<'a> {
    resources: &'a Resources,
    /// Its index in the ledger.
    judge: usize,
    runtime: &'a JudgeRuntime,
    target: &'a Target,
    plan: &'a Plan,
    items: &'a [Comparison<'a>],
    client: Client,
    limiter: Arc<Limiter>,
    state: Mutex<State>,
}

struct State {
    answers: Answers,
    /// The server's dialect as known so far.
    dialect: Dialect,
    /// Consecutive questions that the server could not process.
    broken: usize,
}

/// A turn without a reply, with its id.
struct Next {
    turn: Turn,
    id: String,
}

impl<'a> Session<'a> {
    /// A session for the questions of a plan. `judge`: the judge's index in the resources. Questions whose replies are
    /// in the journal are answered from it.
    pub(super) fn open(
        resources: &'a Resources,
        judge: usize,
        (runtime, target): (&'a JudgeRuntime, &'a Target),
        plan: &'a Plan,
        items: &'a [Comparison<'a>],
    ) -> Result<Self> {
        let limits = &runtime.spec.limits;
        let client = {
            let _in = resources.runtime().enter();
            Client::new(target, wire::path(runtime.prompt.api), limits)?
        };
        let limiter = resources.limiter(target).unwrap_or_else(|| Arc::new(Limiter::new(limits)));
        let answers = Answers::of(plan.questions.len());
        let state = Mutex::new(State { answers, dialect: Dialect::default(), broken: 0 });
        let session = Self { resources, judge, runtime, target, plan, items, client, limiter, state };
        session.replay()?;
        Ok(session)
    }

    /// Number of answered questions.
    pub(super) fn answered(&self) -> usize {
        self.state().answers.verdicts.iter().flatten().count()
    }

    /// Asks every question without an answer, and calls `progress` after each answer.
    pub(super) async fn ask_all(&self, progress: &dyn Fn()) {
        let concurrency = self.runtime.spec.limits.concurrency.max(1) as usize;
        let mut pending: Vec<usize> = {
            let verdicts = &self.state().answers.verdicts;
            (0..verdicts.len()).filter(|i| verdicts[*i].is_none()).collect()
        };
        for count in LEAD.into_iter().chain([usize::MAX]) {
            let part: Vec<usize> = pending.drain(..count.min(pending.len())).collect();
            // After a stop no new requests are sent, but those in flight are completed, as they are paid for.
            let asked = part.iter().map(|i| async { (*i, self.ask(*i).await) });
            let mut asked = futures::stream::iter(asked).buffer_unordered(concurrency);
            while let Some((i, answer)) = asked.next().await {
                let Some(answer) = answer else { continue };
                self.state().answers.note(i, answer);
                progress();
            }
        }
    }

    /// The answers. An error if the judge could not be reached and there is no usable answer.
    pub(super) fn finish(self) -> Result<Answers> {
        let answers = self.state.into_inner().unwrap_or_else(PoisonError::into_inner).answers;
        match &answers.failed {
            Some((_, why)) if !answers.usable => {
                let total = self.plan.questions.len();
                Err(unavailable(self.runtime, self.target, why, answers.answered, total))
            }
            _ => Ok(answers),
        }
    }

    /// Reads the journal: questions with all replies are answered from it; the replies of others are counted.
    fn replay(&self) -> Result<()> {
        for (i, planned) in self.plan.questions.iter().enumerate().filter(|(_, q)| self.resources.is_answered(&q.id)) {
            let question = self.runtime.prompt.question(planned, self.items)?;
            let mut replies = Vec::new();
            let is_whole = loop {
                let Some(next) = self.next(&question, &replies) else { break true };
                let Some(reply) = self.resources.reply(&next.id)? else { break false };
                self.resources.count(self.judge, &bound(&next.turn), reply.usage);
                self.heard(&next.id, &reply, replies.len());
                replies.push(reply);
            };
            if let (true, Some(last)) = (is_whole, replies.pop()) {
                let (verdict, unusable) = self.read(&last);
                let answers = &mut self.state().answers;
                answers.tripwire.replayed(unusable.is_none());
                answers.note(i, Answer::Verdict(verdict));
            }
        }
        Ok(())
    }

    fn next(&self, question: &Question, replies: &[Reply]) -> Option<Next> {
        let prompt = &self.runtime.prompt;
        let turn = (prompt.turns)(prompt, question, replies)?;
        Some(Next { id: wire::request_id(&turn, &self.runtime.identity, prompt.api), turn })
    }

    /// Asks a question, turn by turn, until there is an answer; `None` if asking was stopped.
    async fn ask(&self, index: usize) -> Option<Answer> {
        let question = self.or_stop(self.runtime.prompt.question(&self.plan.questions[index], self.items))?;
        let mut replies = Vec::new();
        while let Some(next) = self.next(&question, &replies) {
            let known = self.or_stop(self.resources.reply(&next.id))?;
            let reply = match known {
                Some(reply) => reply,
                None => match self.send(&question, &next, replies.len()).await? {
                    Ok(reply) => reply,
                    Err(answer) => return Some(answer),
                },
            };
            replies.push(reply);
        }
        let last = replies.pop()?;
        let (verdict, unusable) = self.read(&last);
        match unusable {
            Some(why) => self.count_unusable(why, last.choices.first().and_then(Choice::said)),
            None => self.state().answers.tripwire.usable(),
        }
        Some(Answer::Verdict(verdict))
    }

    /// Sends a turn until there is a reply, or a final answer without one; `None` if asking was stopped.
    async fn send(&self, question: &Question, next: &Next, number: usize) -> Option<Result<Reply, Answer>> {
        let bound = bound(&next.turn);
        if !self.resources.reserve(self.judge, &bound) {
            return None;
        }
        let attempts = self.runtime.spec.limits.max_attempts.max(1) as u32;
        let mut last = (Fault::Endpoint, String::new());
        let mut attempt = 1;
        while attempt <= attempts {
            let Some(place) = self.resources.unless_stopped(self.limiter.enter(bound.total())).await else { break };
            let dialect = self.state().dialect;
            let body = wire::request(&next.turn, self.runtime.prompt.api, dialect, &self.target.model);
            let outcome = self.client.attempt(&body, dialect).await;
            drop(place);
            let wait = match outcome {
                AttemptOutcome::Answer(reply) => {
                    return self.settle(question, next, &bound, Reply { dialect, ..*reply }, number).map(Ok);
                }
                AttemptOutcome::Rewrite(other, why) => {
                    // Does not count as an attempt: each new dialect omits something, so there are few.
                    self.rewrite(dialect, other, &why);
                    continue;
                }
                AttemptOutcome::Refused(refusal, why) => {
                    self.resources.release(self.judge, &bound);
                    // A refusal costs nothing, and is not in the journal: a resumed run begins with all of them. So only a
                    // server that has answered nothing yet is suspected.
                    if refusal != Refusal::Filtered && !self.state().answers.usable {
                        self.count_unusable(&why, None);
                    }
                    return Some(Err(match refusal {
                        Refusal::Filtered => Answer::Filtered(why),
                        Refusal::TooLong | Refusal::Unknown => Answer::Failed(why),
                    }));
                }
                AttemptOutcome::FatalJob(why) => {
                    self.resources.release(self.judge, &bound);
                    self.resources.stop(Error::JudgeRejected(format!(
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
                    backoff(&next.id, attempt, Some(wait))
                }
                AttemptOutcome::RetryBackoff(fault, why) => {
                    last = (fault, why);
                    backoff(&next.id, attempt, None)
                }
            };
            tracing::debug!(judge = %self.runtime.spec.name, attempt, wait = wait.as_secs_f64(), why = %last.1, "retrying");
            if attempt < attempts && self.resources.unless_stopped(sleep(wait)).await.is_none() {
                break;
            }
            attempt += 1;
        }
        self.resources.release(self.judge, &bound);
        self.exhausted(last.0, last.1).map(Err)
    }

    /// Switches from dialect `from` to `next`, unless another question has changed it already.
    fn rewrite(&self, from: Dialect, next: Dialect, why: &str) {
        let mut state = self.state();
        if state.dialect == from {
            tracing::info!(judge = %self.runtime.spec.name, "asking {}: {why}", next.told().join(", "));
            state.dialect = next;
        }
    }

    /// Handles a question whose attempts all failed, or whose asking was stopped.
    fn exhausted(&self, fault: Fault, why: String) -> Option<Answer> {
        if self.resources.is_stopped() {
            return None;
        }
        let mut state = self.state();
        state.broken += 1;
        let in_a_row = BROKEN_IN_A_ROW.max(self.runtime.spec.limits.concurrency as usize);
        if fault == Fault::Endpoint || state.broken >= in_a_row {
            let (answered, total) = (state.answers.answered, self.plan.questions.len());
            drop(state);
            self.resources.stop(unavailable(self.runtime, self.target, &why, answered, total));
            return None;
        }
        Some(Answer::Failed(why))
    }

    /// Journals the reply to turn `number` and counts its cost; `None` if it cannot be written.
    fn settle(&self, question: &Question, next: &Next, bound: &Bound, reply: Reply, number: usize) -> Option<Reply> {
        let entry = Entry {
            id: next.id.clone(),
            judge: self.runtime.spec.name.clone(),
            template: question.template.clone(),
            about: question.about.clone(),
            reply,
        };
        let charged = self.or_stop(self.resources.settle(self.judge, bound, &entry))?;
        self.state().broken = 0;
        self.limiter.refund(bound.total().saturating_sub(charged.total()));
        self.heard(&next.id, &entry.reply, number);
        Some(entry.reply)
    }

    /// Records the reply to turn `number`.
    fn heard(&self, id: &str, reply: &Reply, number: usize) {
        let answers = &mut self.state().answers;
        answers.heard(reply);
        if number > 0 {
            answers.later_turns.push(id.to_owned());
        }
    }

    /// Reads the reply to the last turn of a question: the verdict, and why it has no label, if so. Replies with only
    /// certain probabilities count as unusable for the tripwire: one of them may be genuine, but a server without
    /// probabilities returns nothing else.
    fn read(&self, reply: &Reply) -> (Verdict, Option<&'static str>) {
        let prompt = &self.runtime.prompt;
        let verdict = reading::read(prompt, reply);
        let is_certain = |choice| log_probs::is_after_sampling(choice, &prompt.answers);
        let certain = prompt.label == LabelSource::LogProbs && reply.choices.first().is_some_and(is_certain);
        let unusable = verdict.cause().or(certain.then_some(log_probs::AFTER_SAMPLING));
        self.resources.answered();
        let answers = &mut self.state().answers;
        answers.answered += 1;
        answers.usable |= unusable.is_none();
        (verdict, unusable)
    }

    /// Counts an unusable reply, and stops the judge before many of them are paid for.
    fn count_unusable(&self, why: &str, reply: Option<&str>) {
        let sprung = self.state().answers.tripwire.unusable(why, reply, self.plan.questions.len());
        if let Some(sprung) = sprung {
            self.resources.stop(Error::JudgeRejected(format!(
                "{}: {}: {sprung}",
                self.runtime.field,
                client_url(self.target)
            )));
        }
    }

    /// The value, or `None` after stopping because of the error.
    fn or_stop<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.resources.stop(error)).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bound(turn: &Turn) -> Bound {
    Bound::new(turn.bytes(), turn.max_tokens)
}

fn client_url(target: &Target) -> String {
    format!("{} (model {})", target.url, target.model)
}

fn unavailable(runtime: &JudgeRuntime, target: &Target, why: &str, answered: usize, total: usize) -> Error {
    Error::JudgeUnavailable(format!(
        "{}: {} did not respond after {} attempts: {why}; {answered} of {total} questions are answered and saved in \
         the journal",
        runtime.field,
        client_url(target),
        runtime.spec.limits.max_attempts,
    ))
}
