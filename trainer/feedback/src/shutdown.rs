//! Requests to stop: SIGTERM and SIGINT set a flag that a stage reads between two units of work, and while it waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Error, Result};

/// How often the flag is read while waiting.
const LOOK: Duration = Duration::from_millis(50);

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn flag() -> &'static Arc<AtomicBool> {
    FLAG.get_or_init(Arc::default)
}

/// Whether the process was asked to stop. A stage that sees this saves its progress and returns [`Error::Interrupted`].
pub fn requested() -> bool {
    flag().load(Ordering::Relaxed)
}

/// Returns when the process is asked to stop.
pub async fn asked() {
    while !requested() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The result of `work`, or [`Error::Interrupted`] if the process is asked to stop first: for work that can be repeated
/// without loss, however long a server takes to respond.
pub async fn unless_asked<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = asked() => Err(Error::Interrupted),
    }
}

/// Requests a stop, as a signal does.
pub fn request() {
    flag().store(true, Ordering::Relaxed);
}

/// Installs handlers: the first SIGTERM or SIGINT sets the flag, and a second one ends the process at once with 128
/// plus its number, as a shell reports a process that was terminated by a signal.
pub fn install() -> Result<()> {
    for signal in [SIGTERM, SIGINT] {
        // The order matters: the second handler sets the flag that the first one reads at the next signal.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(flag()))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag())))
            .map_err(|e| Error::Failed(format!("cannot handle signal {signal}: {e}")))?;
    }
    Ok(())
}
