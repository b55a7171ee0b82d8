//! Waiting for what others do. Talks to the clock.

use std::time::{Duration, Instant};

/// How long something may take that takes a second: the machine may be busy with a build.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// How long to wait between two looks: many tests look at one API server.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Looks until there is something to see; ends the test if that takes too long.
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
