//! The thread that owns the model. It takes work from a channel, batches concurrent requests, samples, and sends each
//! request its text as it is generated. It ends when it receives [`Message::Stop`], or when the model fails.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::protocol::update::{End, Scored, Update};
use plumbline_feedback::text::tokenizer::Tokenizer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::metrics::Metrics;
use super::model::Sample;
use super::stream::{Piece, TextStream};
use crate::Result;
use crate::generate::engine::{Event, Job, JobId};

/// If the model is idle, requests that arrive within this time after the first one join its batch.
const GATHER: Duration = Duration::from_millis(2);

/// Messages to the thread.
pub enum Message {
    /// A request.
    Work(Work),
    /// End now; unfinished work is dropped.
    Stop,
}

/// A request. Its jobs are dropped as soon as the receiver of `reply` is dropped.
pub struct Work {
    /// One job for each sequence requested.
    pub jobs: Vec<Job>,
    /// Stop strings: a response ends before the first of these.
    pub stop: Arc<[String]>,
    /// Whether the updates include tokens.
    pub tokens_wanted: bool,
    /// Receives the text; an error is the request's last message. Unbounded, but it never contains more than the
    /// requested tokens.
    pub reply: UnboundedSender<Result<Update>>,
    /// One permit per job, released as each ends.
    pub permit: OwnedSemaphorePermit,
    /// When the request was queued.
    pub queued: Instant,
}

/// Runs until [`Message::Stop`], or until every sender is dropped and the work is done. An error of the sampler ends
/// the thread and every request: their channels close without an end.
pub fn run<S: Sample>(sampler: S, tokenizer: &Tokenizer, inbox: &Receiver<Message>, metrics: &Metrics) -> Result<()> {
    let mut scheduler = Scheduler { sampler, tokenizer, metrics, active: HashMap::new() };
    while scheduler.receive(inbox).is_continue() {
        scheduler.drop_abandoned();
        if !scheduler.sampler.idle() {
            let started = Instant::now();
            let events = scheduler.sampler.step()?;
            metrics.stepped(started.elapsed(), events.len());
            for event in events {
                scheduler.route(event);
            }
        }
        metrics.sampler(scheduler.sampler.stats());
    }
    Ok(())
}

struct Scheduler<'a, S> {
    sampler: S,
    tokenizer: &'a Tokenizer,
    metrics: &'a Metrics,
    active: HashMap<JobId, Sequence<'a>>,
}

/// An unfinished job.
struct Sequence<'a> {
    index: usize,
    stream: TextStream<'a>,
    sampled: usize,
    tokens_wanted: bool,
    reply: UnboundedSender<Result<Update>>,
    queued: Instant,
    /// A slot in the queue, released when the end has been sent to the client.
    permit: Option<OwnedSemaphorePermit>,
}

impl<S: Sample> Scheduler<'_, S> {
    /// Receives the messages that have arrived; waits for one only if there is nothing to do.
    fn receive(&mut self, inbox: &Receiver<Message>) -> ControlFlow<()> {
        if self.sampler.idle() {
            let Ok(first) = inbox.recv() else { return ControlFlow::Break(()) };
            self.admit(first)?;
            let until = Instant::now() + GATHER;
            while let Ok(message) = inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                self.admit(message)?;
            }
        }
        while let Ok(message) = inbox.try_recv() {
            self.admit(message)?;
        }
        ControlFlow::Continue(())
    }

    fn admit(&mut self, message: Message) -> ControlFlow<()> {
        let Message::Work(mut work) = message else { return ControlFlow::Break(()) };
        let mut ids = Vec::with_capacity(work.jobs.len());
        for (index, job) in work.jobs.into_iter().enumerate() {
            let after = job.tokens.last().copied();
            let id = match self.sampler.submit(job) {
                Ok(id) => id,
                Err(error) => {
                    let _ = work.reply.send(Err(error));
                    for id in ids {
                        self.forget(id);
                    }
                    break;
                }
            };
            let sequence = Sequence {
                index,
                stream: TextStream::new(self.tokenizer, after, Arc::clone(&work.stop)),
                sampled: 0,
                tokens_wanted: work.tokens_wanted,
                reply: work.reply.clone(),
                queued: work.queued,
                permit: work.permit.split(1),
            };
            self.active.insert(id, sequence);
            ids.push(id);
        }
        ControlFlow::Continue(())
    }

    fn forget(&mut self, id: JobId) {
        self.active.remove(&id);
        self.sampler.cancel(id);
    }

    /// Cancels the jobs whose client has disconnected.
    fn drop_abandoned(&mut self) {
        for (id, sequence) in self.active.extract_if(|_, sequence| sequence.reply.is_closed()) {
            drop(sequence);
            self.sampler.cancel(id);
        }
    }

    /// Sends the text that a token adds to its sequence.
    fn route(&mut self, event: Event) {
        let (id, engine_is_done) = (event.job, event.finish.is_some());
        // The job may have been cancelled.
        let Some(sequence) = self.active.get_mut(&id) else { return };
        if sequence.sampled == 0 {
            self.metrics.first_token(sequence.queued.elapsed());
        }
        let update = sequence.update(event);
        let ended = !matches!(update, Ok(Update { end: None, .. }));
        if ended {
            sequence.permit = None;
        }
        if !update.as_ref().is_ok_and(Update::is_empty) {
            // If the client has disconnected, that is detected before the next step.
            let _ = sequence.reply.send(update);
        }
        match (ended, engine_is_done) {
            (true, true) => drop(self.active.remove(&id)),
            (true, false) => self.forget(id),
            (false, _) => {}
        }
    }
}

impl Sequence<'_> {
    fn update(&mut self, event: Event) -> Result<Update> {
        self.sampled += 1;
        let scored = Scored { token: event.token, logprob: event.logprob, top: event.top, offset: 0 };
        let piece = match event.finish {
            None => self.stream.push(scored)?,
            Some(Finish::Eos) => self.stream.end(Some(scored)),
            Some(Finish::Stop | Finish::Length) => {
                let piece = self.stream.push(scored)?;
                if piece.stopped { piece } else { joined(piece, self.stream.end(None)) }
            }
        };
        let finish = if piece.stopped { Some(Finish::Stop) } else { event.finish };
        Ok(Update {
            sequence: self.index,
            text: piece.text,
            tokens: if self.tokens_wanted { piece.tokens } else { Vec::new() },
            end: finish.map(|finish| End { finish, sampled: self.sampled }),
        })
    }
}

fn joined(mut first: Piece, second: Piece) -> Piece {
    first.text.push_str(&second.text);
    first.tokens.extend(second.tokens);
    Piece { stopped: second.stopped, ..first }
}
