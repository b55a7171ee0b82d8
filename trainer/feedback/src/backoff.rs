//! How long to wait before the next attempt. Computes only.

use std::time::Duration;

use crate::data::id;

/// Longest back-off without a Retry-After.
pub const CAP: Duration = Duration::from_mins(1);
/// A server that asks for a longer wait is considered unavailable.
pub const PATIENCE: Duration = Duration::from_mins(10);
/// Back-off after the first attempt, at most, in seconds.
const BASE: f64 = 0.5;

/// The wait after failed attempt `attempt` (1 is the first): a bound that doubles from [`BASE`] to [`CAP`], of which a
/// random part of up to one half is left out ("equal jitter"; Brooker, AWS Architecture Blog, 2015). Clients that failed
/// together return apart, and n attempts outlast a known time: at least half the sum of their bounds. The server's
/// Retry-After is the minimum: jitter of a second at most is added to it. Drawn by hash: the same `id` waits the same
/// time.
pub fn backoff(id: &str, attempt: u32, retry_after: Option<Duration>) -> Duration {
    let draw = id::unit(&["backoff", id, &attempt.to_string()]);
    let bound = (BASE * 2_f64.powi(attempt.saturating_sub(1).min(16) as i32)).min(CAP.as_secs_f64());
    match retry_after {
        Some(minimum) => minimum + Duration::from_secs_f64(draw * bound.min(1.0)),
        None => Duration::from_secs_f64((0.5 + 0.5 * draw) * bound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_are_spread_over_the_upper_half() {
        for attempt in 1..30 {
            let bound = (0.5 * 2_f64.powi(attempt - 1)).min(60.0);
            let waits: Vec<f64> =
                (0..500).map(|q| backoff(&q.to_string(), attempt as u32, None).as_secs_f64()).collect();
            let mean = waits.iter().sum::<f64>() / 500.0;
            assert!(waits.iter().all(|w| (bound / 2.0..=bound).contains(w)), "attempt {attempt}");
            assert!((mean / bound - 0.75).abs() < 0.03, "attempt {attempt}: mean {mean} of {bound}");
        }
    }

    #[test]
    fn six_attempts_outlast_7_seconds_and_twelve_150_whatever_the_draw() {
        for (attempts, seconds) in [(6, 7), (12, 150)] {
            let outlasted = |id: usize| (1..attempts).map(|n| backoff(&id.to_string(), n, None)).sum::<Duration>();
            assert!((0..10_000).all(|id| outlasted(id) >= Duration::from_secs(seconds)), "{attempts} attempts");
        }
    }

    #[test]
    fn retry_after_is_never_undercut() {
        for attempt in 1..10 {
            let wait = backoff("q", attempt, Some(Duration::from_secs(30)));
            assert!(wait >= Duration::from_secs(30) && wait <= Duration::from_secs(31));
        }
    }
}
