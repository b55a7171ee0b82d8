//! The time that chat templates see. A run has one time and stores it, so that a text that is rendered again after a
//! restart is the same. It is sent with each question to a served model, because servers are restarted with the run.
//! Reads the clock.

use std::sync::OnceLock;

use jiff::civil::DateTime;

/// The request header with the run's time, as [`DateTime`] prints it. Without it, the server's time is used.
pub const HEADER: &str = "x-plumbline-time";

static TIME: OnceLock<DateTime> = OnceLock::new();

/// Sets the time of this process, before any template is rendered. A time that was read before stays.
pub fn set(time: DateTime) {
    TIME.get_or_init(|| time);
}

/// The time of this process: the one that was set, or otherwise that of the first call.
pub fn now() -> DateTime {
    *TIME.get_or_init(wall)
}

/// The current time.
pub fn wall() -> DateTime {
    jiff::Zoned::now().datetime()
}
