//! Delays requests to the permitted rate (IO: it waits). One limiter per endpoint, shared by all its questions: failed
//! attempts count against the rate like any other, and a delay requested by the server applies to all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plumbline_crds::judge::JudgeLimits;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

/// Permitted burst, in seconds of the rate: the windows over which servers count are unknown.
const BURST_SECONDS: f64 = 1.0;
/// Maximum delay of all requests because of one reply that used more tokens than reserved: the window of the limit.
const MOST_SECONDS: f64 = 60.0;

/// The limiter of an endpoint.
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
    /// No request is sent before this time, in seconds since the start.
    cool_until: f64,
}

/// A rate limit by the virtual scheduling algorithm (ITU-T I.371, GCRA): stores the time at which everything admitted
/// so far conforms to the rate. Times are seconds since the limiter's start.
#[derive(Clone, Copy, Debug)]
struct Meter {
    per_second: f64,
    paid_off: f64,
}

impl Meter {
    fn per_minute(limit: i64) -> Self {
        Self { per_second: limit as f64 / 60.0, paid_off: 0.0 }
    }

    /// Admits `amount` and returns the time at which it may be used.
    fn take(&mut self, now: f64, amount: f64) -> f64 {
        let from = self.paid_off.max(now);
        self.paid_off = from + amount / self.per_second;
        (from - BURST_SECONDS).max(now)
    }

    /// Returns an unused amount; a negative one stands for additional use.
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

    /// Waits for a free slot, for the rate limits of one request and `tokens`, and for the end of a cool-down. Dropping
    /// the permit frees the slot.
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

    /// Blocks all requests for this time.
    pub fn cool_down(&self, wait: Duration) {
        let until = self.now() + wait.as_secs_f64();
        let mut state = self.state();
        state.cool_until = state.cool_until.max(until);
    }

    /// Returns unused tokens; a negative number takes additional ones, up to those of one minute.
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
    fn a_meter_admits_a_burst_of_one_second_and_then_the_rate() {
        let mut meter = Meter::per_minute(600); // ten a second
        let times: Vec<f64> = (0..30).map(|_| meter.take(0.0, 1.0)).collect();
        assert_eq!(times.iter().filter(|t| **t <= 0.0).count(), 11, "a second's worth, and the one that is due");
        assert!((times[29] - 1.9).abs() < 1e-9, "{}", times[29]);
        assert!((meter.take(100.0, 1.0) - 100.0).abs() < 1e-9, "a pause is not saved up beyond the burst");
    }

    #[test]
    fn a_request_larger_than_the_burst_delays_the_next_one() {
        let mut tokens = Meter::per_minute(6000); // a hundred a second
        assert!(tokens.take(0.0, 1000.0) <= 0.0);
        assert!((tokens.take(0.0, 100.0) - 9.0).abs() < 1e-9);
        tokens.give_back(500.0);
        assert!((tokens.take(0.0, 100.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn one_reply_delays_the_others_for_a_minute_at_most() {
        let mut tokens = Meter::per_minute(1_000_000);
        tokens.give_back(-1e15);
        assert!((0.0..=60.0).contains(&tokens.take(0.0, 50.0)));
        let mut tokens = Meter::per_minute(6000);
        tokens.give_back(-1000.0);
        assert!((tokens.take(0.0, 50.0) - 9.0).abs() < 1e-9, "what was used beyond is waited for");
    }

    #[tokio::test]
    async fn a_cool_down_delays_all_requests_and_slots_are_limited() {
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
