//! Whether the process makes progress: all work that may take long beats once per finished part. The counter is in
//! memory, so that a blocked file system or network cannot keep the watchdog from reading it.

use std::sync::atomic::{AtomicU64, Ordering};

static BEATS: AtomicU64 = AtomicU64::new(0);

/// Counts a finished part: the layers of a pass, a tensor read, a piece of a file read or received.
pub fn beat() {
    BEATS.fetch_add(1, Ordering::Relaxed);
}

/// Parts finished so far.
pub fn beats() -> u64 {
    BEATS.load(Ordering::Relaxed)
}
