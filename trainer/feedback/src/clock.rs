//! The time that chat templates are told. A run has one, which it keeps: a text that is written again after a restart is
//! the same text. It sends it with each question to a model that is served for it, since a server is started again with the
//! run. Talks to the clock.

use std::sync::OnceLock;

use jiff::civil::DateTime;

/// The header of a request that holds its run's time, as [`DateTime`] writes it. Without it, the time is the server's.
pub const HEADER: &str = "x-plumbline-time";

static TIME: OnceLock<DateTime> = OnceLock::new();

/// Sets the time of this process, before any template is read. A time that was read before stays.
pub fn set(time: DateTime) {
    TIME.get_or_init(|| time);
}

/// The time of this process: the one that was set, or else that of the first call.
pub fn now() -> DateTime {
    *TIME.get_or_init(wall)
}

/// The time on the clock.
pub fn wall() -> DateTime {
    jiff::Zoned::now().datetime()
}
