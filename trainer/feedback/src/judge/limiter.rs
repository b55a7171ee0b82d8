//! When the next attempt may go out (IO: it waits). One limiter per endpoint, shared by all its questions: a failed
//! attempt counts against the minute like any other, and a server that asks for patience gets it from all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plumbline_crds::judge::JudgeLimits;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

/// What may go out at once is what one second allows: servers count over windows that we do not see.
const BURST_SECONDS: f64 = 1.0;
/// The longest time that one reply, which used more than was taken for it, lets all others wait: the window of the limit.
const MOST_SECONDS: f64 = 60.0;

/// Gatekeeper of an endpoint.
#[derive(Debug)]
pub struct Limiter {
    places: Semaphore,
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: Option<Meter>,
    tokens: Option<Meter>,
    /// Seconds since the start before which nothing goes out.
    cool_until: f64,
}

/// A rate as the virtual scheduling algorithm keeps it (ITU-T I.371, GCRA): the time at which everything let through so
/// far will be paid off. Times are seconds since the limiter's start.
#[derive(Clone, Copy, Debug)]
struct Meter {
    per_second: f64,
    paid_off: f64,
}

impl Meter {
    fn per_minute(limit: i64) -> Self {
        Self { per_second: limit as f64 / 60.0, paid_off: 0.0 }
    }

    /// Takes `amount` and returns when it may be used.
    fn take(&mut self, now: f64, amount: f64) -> f64 {
        let from = self.paid_off.max(now);
        self.paid_off = from + amount / self.per_second;
        (from - BURST_SECONDS).max(now)
    }

    /// Gives back what was taken and not used; less than nothing is what was used beyond.
    fn give_back(&mut self, amount: f64) {
        self.paid_off -= (amount / self.per_second).max(-MOST_SECONDS);
    }
}

impl Limiter {
    /// A limiter; its clock starts now.
    pub fn new(limits: &JudgeLimits) -> Self {
        Self {
            places: Semaphore::new(limits.concurrency.max(1) as usize),
            start: Instant::now(),
            state: Mutex::new(State {
                requests: limits.requests_per_minute.map(Meter::per_minute),
                tokens: limits.tokens_per_minute.map(Meter::per_minute),
                cool_until: 0.0,
            }),
        }
    }

    /// Waits for a place, for one request and for `tokens`, and for the end of a cool-down. The place is held until the
    /// permit is dropped.
    pub async fn enter(&self, tokens: i64) -> Option<SemaphorePermit<'_>> {
        let permit = self.places.acquire().await.ok();
        let mut ready = {
            let now = self.now();
            let mut state = self.state();
            let requests = state.requests.as_mut().map_or(now, |m| m.take(now, 1.0));
            let tokens = state.tokens.as_mut().map_or(now, |m| m.take(now, tokens as f64));
            requests.max(tokens)
        };
        loop {
            ready = ready.max(self.state().cool_until);
            let wait = ready - self.now();
            if wait <= 0.0 {
                return permit;
            }
            sleep(Duration::from_secs_f64(wait)).await;
        }
    }

    /// Lets nothing out for this long.
    pub fn cool_down(&self, wait: Duration) {
        let until = self.now() + wait.as_secs_f64();
        let mut state = self.state();
        state.cool_until = state.cool_until.max(until);
    }

    /// Gives back tokens that were taken and not used; a negative number takes those that were used beyond, a minute's worth
    /// at most.
    pub fn refund(&self, tokens: i64) {
        if let Some(meter) = &mut self.state().tokens {
            meter.give_back(tokens as f64);
        }
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_lets_a_second_through_at_once_and_then_keeps_the_rate() {
        let mut meter = Meter::per_minute(600); // ten a second
        let times: Vec<f64> = (0..30).map(|_| meter.take(0.0, 1.0)).collect();
        assert_eq!(times.iter().filter(|t| **t <= 0.0).count(), 11, "a second's worth, and the one that is due");
        assert!((times[29] - 1.9).abs() < 1e-9, "{}", times[29]);
        assert!((meter.take(100.0, 1.0) - 100.0).abs() < 1e-9, "a pause is not saved up beyond the burst");
    }

    #[test]
    fn a_request_larger_than_the_burst_passes_and_is_paid_off_afterwards() {
        let mut tokens = Meter::per_minute(6000); // a hundred a second
        assert!(tokens.take(0.0, 1000.0) <= 0.0);
        assert!((tokens.take(0.0, 100.0) - 9.0).abs() < 1e-9);
        tokens.give_back(500.0);
        assert!((tokens.take(0.0, 100.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn one_reply_holds_back_the_others_for_a_minute_at_most() {
        let mut tokens = Meter::per_minute(1_000_000);
        tokens.give_back(-1e15);
        assert!((0.0..=60.0).contains(&tokens.take(0.0, 50.0)));
        let mut tokens = Meter::per_minute(6000);
        tokens.give_back(-1000.0);
        assert!((tokens.take(0.0, 50.0) - 9.0).abs() < 1e-9, "what was used beyond is waited for");
    }

    #[tokio::test]
    async fn a_cool_down_holds_back_everybody_and_places_are_few() {
        let limiter = Limiter::new(&JudgeLimits { concurrency: 1, ..JudgeLimits::default() });
        limiter.cool_down(Duration::from_millis(80));
        let begin = Instant::now();
        let first = limiter.enter(1).await;
        assert!(begin.elapsed() >= Duration::from_millis(80));
        let second = tokio::time::timeout(Duration::from_millis(30), limiter.enter(1)).await;
        assert!(second.is_err(), "the only place is taken");
        drop(first);
        assert!(limiter.enter(1).await.is_some());
    }
}
