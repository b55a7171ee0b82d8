//! Waits for conditions that other processes bring about. Talks to the clock.

use std::time::{Duration, Instant};

/// Timeout for operations that normally take a second: the machine may be busy with a build.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// Polling interval: many tests poll the same API server.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Polls until `look` returns a value; panics on a timeout.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
