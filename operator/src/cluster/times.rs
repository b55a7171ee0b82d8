//! Times of the Kubernetes API as RFC 3339 text, to the second. Computes only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{Timestamp, Unit};

/// A time as text.
pub fn timestamp(time: &Time) -> String {
    text(time.0)
}

/// This moment.
pub fn now() -> String {
    text(Timestamp::now())
}

fn text(time: Timestamp) -> String {
    time.round(Unit::Second).unwrap_or(time).to_string()
}

/// Seconds from one time to a later one; 0 where either is no time.
pub fn seconds_between(from: &str, to: &str) -> i64 {
    match (from.parse::<Timestamp>(), to.parse::<Timestamp>()) {
        (Ok(from), Ok(to)) => (to.as_second() - from.as_second()).max(0),
        _ => 0,
    }
}
