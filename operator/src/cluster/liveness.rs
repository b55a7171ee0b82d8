//! When each controller was last active. Computes only.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use plumbline_crds::Kind;

/// The last sign of life of the controller of each kind: a reconcile, or a list or watch of the kind that the API server
/// granted. A watch is renewed every five minutes or so, also where nothing changes and where there is nothing to watch;
/// a controller that is stuck renews none.
#[derive(Debug)]
pub struct Liveness {
    last: Mutex<[Instant; Kind::ALL.len()]>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { last: Mutex::new([Instant::now(); Kind::ALL.len()]) }
    }
}

impl Liveness {
    /// The controller of a kind works.
    pub fn beat(&self, kind: Kind) {
        self.locked()[kind as usize] = Instant::now();
    }

    /// All are given the benefit of the doubt: call it when this process begins to lead.
    pub fn beat_all(&self) {
        *self.locked() = [Instant::now(); Kind::ALL.len()];
    }

    /// How long ago the quietest controller was active.
    pub fn age(&self) -> Duration {
        self.locked().iter().map(Instant::elapsed).max().unwrap_or_default()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, [Instant; Kind::ALL.len()]> {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quietest_controller_counts() {
        let (liveness, pause) = (Liveness::default(), Duration::from_millis(20));
        std::thread::sleep(pause);
        let since = Instant::now();
        liveness.beat(Kind::RewardModel);
        liveness.beat(Kind::PolicyTuning);
        assert!(liveness.age() >= pause, "the dataset controller was not active");
        liveness.beat(Kind::PreferenceDataset);
        assert!(liveness.age() <= since.elapsed());
    }
}
