//! Reads the body of a request: so long, in so much time, and with so much memory for all of them. Talks to the
//! connection.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::protocol::ApiError;

/// The longest body of a request, in bytes: 128k tokens of text whose characters JSON escapes with six bytes for two.
pub(super) const MOST_BYTES: usize = 4 << 20;
/// So much of a longer one is dropped as it comes, since a client that is still sending would not hear the answer.
const MOST_DROPPED: usize = 4 * MOST_BYTES;
/// What is longer is read out of the memory that all long requests share, and one at a time by the model's tokenizer.
pub(super) const SHORT_BYTES: usize = 64 << 10;
/// Memory for long requests that are not yet understood, in bytes.
const MOST_SHARED: usize = 64 << 20;

/// Reads bodies, and has them understood so many at a time.
pub(super) struct Reading {
    shared: Arc<Semaphore>,
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    patience: Duration,
}

/// A body that has come.
#[derive(Default)]
pub(super) struct Received {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    shared: Vec<OwnedSemaphorePermit>,
}

impl Reading {
    /// Waits `patience` for a body.
    pub(super) fn new(patience: Duration) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { shared: semaphore(MOST_SHARED / SHORT_BYTES), short: semaphore(4), long: semaphore(1), patience }
    }

    /// The whole body.
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

    /// Waits until a body of that length may be understood; for as long as what is returned is kept, it may.
    pub(super) async fn turn(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let queue = if bytes > SHORT_BYTES { &self.long } else { &self.short };
        Arc::clone(queue).acquire_owned().await.map_err(|_| ApiError::internal("the server is shutting down"))
    }
}
