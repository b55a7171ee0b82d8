//! Turns the updates of a request into its reply: a single one, or a stream of server-sent events. Talks to the
//! scheduler.

use std::convert::Infallible;

use axum::body::Bytes;
use axum::response::sse::Event;
use futures::{Stream, StreamExt, stream};
use plumbline_feedback::protocol::ApiError;
use plumbline_feedback::protocol::response::{Sequence, Usage, Writer};
use plumbline_feedback::protocol::update::Update;
use prometheus::HistogramTimer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::Result;

/// A request in progress. Dropping it cancels the work.
pub struct Pending {
    /// Updates from the scheduler.
    pub updates: UnboundedReceiver<Result<Update>>,
    /// Formats the output.
    pub writer: Writer,
    /// Number of sequences requested.
    pub sequences: usize,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Measures the duration of the request until it is dropped.
    pub timer: HistogramTimer,
    /// The memory reserved for the prompts and the reply, released when the reply is complete.
    pub memory: OwnedSemaphorePermit,
}

impl Pending {
    async fn next(&mut self) -> Result<Update, ApiError> {
        match self.updates.recv().await {
            Some(Ok(update)) => Ok(update),
            Some(Err(error)) => Err(ApiError::internal(error.to_string())),
            None => Err(ApiError::internal("the server stopped before the reply was complete")),
        }
    }
}

/// A complete reply, and the memory reserved for it until it has been sent.
struct Written {
    json: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// Waits for every sequence and returns one reply, as JSON.
pub async fn whole(mut pending: Pending) -> Result<Bytes, ApiError> {
    let mut open: Vec<(String, Vec<_>)> = vec![Default::default(); pending.sequences];
    let mut done: Vec<Option<Sequence>> = (0..pending.sequences).map(|_| None).collect();
    while done.iter().any(Option::is_none) {
        let update = pending.next().await?;
        let (text, tokens) = &mut open[update.sequence];
        text.push_str(&update.text);
        tokens.extend(update.tokens);
        if let Some(end) = update.end {
            let (text, tokens) = std::mem::take(&mut open[update.sequence]);
            done[update.sequence] = Some(Sequence { text, tokens, end });
        }
    }
    // Formatting many log-probabilities takes long enough to block other connections.
    let written = tokio::task::spawn_blocking(move || {
        let Pending { writer, prompt_tokens, memory, .. } = pending;
        let reply = writer.whole(done.into_iter().flatten().collect(), prompt_tokens);
        serde_json::to_vec(&reply).map(|json| Bytes::from_owner(Written { json, _memory: memory }))
    });
    match written.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(ApiError::internal(format!("the reply cannot be written as JSON: {error}"))),
        Err(error) => Err(ApiError::internal(format!("the reply cannot be written: {error}"))),
    }
}

/// The events of a streamed reply. `[DONE]` follows only if every sequence has ended; an error is the last event.
pub fn events(pending: Pending) -> impl Stream<Item = Result<Event, Infallible>> {
    let opening = pending.writer.opening(pending.sequences).iter().map(event).collect::<Vec<_>>();
    let state = Streaming { left: pending.sequences, sampled: 0, pending };
    let rest = stream::unfold(Some(state), |state| async {
        let (events, state) = state?.advance().await;
        Some((stream::iter(events), state))
    });
    stream::iter(opening).chain(rest.flatten()).map(Ok)
}

struct Streaming {
    pending: Pending,
    left: usize,
    sampled: usize,
}

impl Streaming {
    async fn advance(mut self) -> (Vec<Event>, Option<Self>) {
        let update = match self.pending.next().await {
            Ok(update) => update,
            Err(error) => return (vec![event(&serde_json::json!({"error": error.body}))], None),
        };
        if let Some(end) = update.end {
            self.left -= 1;
            self.sampled += end.sampled;
        }
        let writer = &self.pending.writer;
        let mut events: Vec<_> = writer.chunks(update).iter().map(event).collect();
        if self.left > 0 {
            return (events, Some(self));
        }
        let usage = Usage::new(self.pending.prompt_tokens, self.sampled);
        events.extend(writer.usage(usage).iter().map(event));
        events.push(Event::default().data("[DONE]"));
        (events, None)
    }
}

fn event<T: serde::Serialize>(value: &T) -> Event {
    match serde_json::to_string(value) {
        Ok(json) => Event::default().data(json),
        Err(error) => Event::default().comment(format!("a reply cannot be written as JSON: {error}")),
    }
}
