//! Whether the process gets on: everything that may take long says so each time that a part of it is done. A counter in
//! memory, so that no file system and no network can keep it from being read.

use std::sync::atomic::{AtomicU64, Ordering};

static BEATS: AtomicU64 = AtomicU64::new(0);

/// A part is done: layers of a pass, a tensor read, a piece of a file read or received.
pub fn beat() {
    BEATS.fetch_add(1, Ordering::Relaxed);
}

/// How many parts so far.
pub fn beats() -> u64 {
    BEATS.load(Ordering::Relaxed)
}
