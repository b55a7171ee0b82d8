//! Reads request bodies within limits on their length, their duration, and the memory of all bodies together. Talks to
//! the connection.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use futures::StreamExt;
use plumbline_feedback::protocol::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Maximum length of a request's body, in bytes: 128k tokens of text in which JSON escapes every two bytes with six.
pub(super) const MOST_BYTES: usize = 4 << 20;
/// This much of a longer body is read and discarded, as a client that is still sending would not see the response.
const MOST_DROPPED: usize = 4 * MOST_BYTES;
/// Longer bodies are counted against the memory that all long requests share, and are tokenised one at a time.
pub(super) const SHORT_BYTES: usize = 64 << 10;
/// Memory for long requests that are not parsed yet, in bytes.
const MOST_SHARED: usize = 64 << 20;

/// Reads bodies, and limits how many are parsed at a time.
pub(super) struct Reading {
    shared: Arc<Semaphore>,
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    patience: Duration,
}

/// A received body.
#[derive(Default)]
pub(super) struct Received {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    shared: Vec<OwnedSemaphorePermit>,
}

impl Reading {
    /// A reader that waits at most `patience` for a body.
    pub(super) fn new(patience: Duration) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { shared: semaphore(MOST_SHARED / SHORT_BYTES), short: semaphore(4), long: semaphore(1), patience }
    }

    /// Reads the whole body.
    pub(super) async fn receive(&self, body: Body) -> Result<Received, ApiError> {
        if body.size_hint().lower() > MOST_DROPPED as u64 {
            return Err(ApiError::too_large(MOST_BYTES));
        }
        let until = Instant::now() + self.patience;
        let mut body = body.into_data_stream();
        let mut received = Received::default();
        let (mut length, mut refused) = (0, None);
        loop {
            let piece = match timeout_at(until, body.next()).await {
                Err(_) => return Err(ApiError::too_slow(self.patience.as_secs())),
                Ok(None) => return refused.map_or(Ok(received), Err),
                Ok(Some(Err(error))) => return Err(ApiError::malformed(format!("the body cannot be read: {error}"))),
                Ok(Some(Ok(piece))) => piece,
            };
            length += piece.len();
            if length > MOST_DROPPED {
                return Err(ApiError::too_large(MOST_BYTES));
            }
            if length > MOST_BYTES {
                refused = Some(ApiError::too_large(MOST_BYTES));
            }
            while refused.is_none() && length > SHORT_BYTES * (received.shared.len() + 1) {
                match Arc::clone(&self.shared).try_acquire_owned() {
                    Ok(permit) => received.shared.push(permit),
                    Err(_) => refused = Some(ApiError::busy_reading()),
                }
            }
            if refused.is_some() {
                received = Received::default();
            } else {
                received.bytes.extend_from_slice(&piece);
            }
        }
    }

    /// Waits until a body of this length may be parsed; dropping the permit lets the next one proceed.
    pub(super) async fn turn(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let queue = if bytes > SHORT_BYTES { &self.long } else { &self.short };
        Arc::clone(queue).acquire_owned().await.map_err(|_| ApiError::internal("the server is shutting down"))
    }
}
