//! A chain with two judges, killed at random points, over and over: the executor, its stage, or both. `PLUMBLINE_KILLS` is
//! how often (30 and more before a release), `PLUMBLINE_KILL_SEED` repeats a sequence that a test has printed.

use std::time::{Duration, Instant, SystemTime};

use plumbline_testkit::judge_sim::JudgeSim;
use plumbline_testkit::place::{Place, Struck, Victim};

use super::kit::{ALL, CONCURRENCY, DATA, assert_same, digests, journal, judge, two_judges, undisturbed};

/// Kills that a test run has time for.
const KILLS: usize = 5;

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    /// A number below 1.
    fn draw(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: expected a number, found {text}")))
}

/// What the judge was asked of a chain, beside what its journal has.
struct Paid<'a> {
    sim: &'a JudgeSim,
    before: usize,
}

impl Paid<'_> {
    fn twice(&self, place: &Place) -> usize {
        (self.sim.requests().len() - self.before).saturating_sub(journal(place).len())
    }
}

/// Waits until what was on its way has arrived.
fn settled(sim: &JudgeSim) {
    let mut seen = usize::MAX;
    while std::mem::replace(&mut seen, sim.requests().len()) != seen {
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn killed_at_random_points_a_chain_ends_with_the_same_artifacts_and_asks_nothing_twice_that_it_has() {
    let kills = number("PLUMBLINE_KILLS").map_or(KILLS, |n| n as usize);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("PLUMBLINE_KILL_SEED").unwrap_or_else(now);
    eprintln!("PLUMBLINE_KILLS={kills} PLUMBLINE_KILL_SEED={seed}");
    let mut random = Random(seed.max(1));

    let sim = judge();
    let manifests = two_judges(&sim);
    let begun = Instant::now();
    let expected = undisturbed(&manifests);
    let (took, questions) = (begun.elapsed(), sim.answered());
    assert!(questions > 100);

    let (mut hits, mut chains, mut twice) = (0, 0, 0);
    while hits < kills {
        let place = Place::new(&manifests);
        let paid = Paid { sim: &sim, before: sim.requests().len() };
        chains += 1;
        while hits < kills {
            let after = took.mul_f64(random.draw() / 3.0);
            let victim = [Victim::Executor, Victim::Stage, Victim::Both][(random.draw() * 3.0) as usize];
            let lost_before = paid.twice(&place);
            match place.start().strike(after, victim) {
                Struck::Missed(ended) => {
                    let _ = ended.well();
                    break;
                }
                Struck::Hit => hits += 1,
            }
            settled(&sim);
            let lost = paid.twice(&place) - lost_before;
            eprintln!("kill {hits}: {victim:?} after {:.2} s; {lost} answers were on their way", after.as_secs_f64());
            assert!(lost <= CONCURRENCY, "seed {seed}: {lost} answers are lost with one kill");
        }
        let _ = place.run().well();
        assert_same(&digests(&place), &expected);
        assert_eq!(journal(&place).len(), questions, "seed {seed}");
        let cost = place.status(DATA.0, DATA.1).cost.expect("a dataset whose judges have a price has a cost");
        assert_eq!(cost.requests, questions as i64, "seed {seed}: one bill, with each question once");
        twice += paid.twice(&place);
        for (kind, name) in ALL {
            assert_eq!(place.runs(kind, name), 1, "seed {seed}: {name} began again");
        }
    }
    eprintln!("{hits} kills, {chains} chains of {took:.1?}, {twice} of {} questions asked twice", questions * chains);
}
