//! The time that chat templates are told. A run has one, which it keeps: a text that is written again after a restart is
//! the same text. Talks to the clock, once.

use std::sync::OnceLock;

use jiff::civil::DateTime;

static TIME: OnceLock<DateTime> = OnceLock::new();

/// Sets the time of this process, before any template is read. A time that was read before stays.
pub fn set(time: DateTime) {
    TIME.get_or_init(|| time);
}

/// The time of this process: the one that was set, or else that of the first call.
pub fn now() -> DateTime {
    *TIME.get_or_init(|| jiff::Zoned::now().datetime())
}
