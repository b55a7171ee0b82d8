//! What is paid for is paid for once, within the budget, however a run ends.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::preference_dataset::{Budget, Order};
use plumbline_crds::status::Cost;
use plumbline_feedback::Error;
use plumbline_feedback::judge::journal::{Entry, Journal};
use plumbline_feedback::judge::question::Planned;
use plumbline_feedback::judge::{JudgeOptions, compare};
use plumbline_testkit::judge_sim::{Config, JudgeSim};
use serde_json::json;

use super::kit::{ask, planted, runtime, temp, within};

#[test]
fn the_budget_is_never_overrun_and_raising_it_goes_on_where_it_stopped() {
    let sim = JudgeSim::start(Config { latency: Duration::from_millis(5), ..Config::default() });
    let (data, journal) = (planted(40), temp());
    let price = json!({"price": {"inputPerMillionTokens": 1000.0, "outputPerMillionTokens": 1000.0}});
    let runtime = runtime(sim.url(), &price);
    let order = Order::default();
    let mut spent = Vec::new();
    let run = |budget: Budget, spent: &mut Vec<f64>| {
        let mut progress = |_: usize, _: usize, cost: &Cost| {
            spent.push(cost.amount.as_ref().unwrap().parse::<f64>().unwrap());
            Ok(())
        };
        let options = JudgeOptions { journal: journal.path(), order: &order, budget: &budget, progress: &mut progress };
        within(&runtime, &data, options)
    };
    let error = run(Budget { max_cost: Some(5.0), max_requests: None }, &mut spent).unwrap_err();
    assert!(
        matches!(&error, Error::BudgetExhausted(why) if why.contains("maxCost is 5 USD") && why.contains("of 80")),
        "{error}"
    );
    assert!(spent.iter().all(|s| *s <= 5.0) && spent.last().unwrap() > &2.0, "{:?}", spent.last());
    let bought = sim.answered();
    assert!((10..70).contains(&bought), "{bought}");
    assert!(matches!(
        run(Budget { max_cost: None, max_requests: Some(50) }, &mut spent),
        Err(Error::BudgetExhausted(_))
    ));
    assert_eq!(sim.answered(), 50.max(bought));
    let judged = run(Budget::default(), &mut spent).unwrap();
    assert!(judged.probabilities().iter().all(Option::is_some));
    assert_eq!((sim.answered(), judged.cost.requests), (80, 80), "what was bought is not bought again");
}

#[test]
fn a_stop_waits_for_what_is_under_way_and_keeps_it() {
    let sim = JudgeSim::start(Config { latency: Duration::from_millis(20), ..Config::default() });
    let (data, journal) = (planted(40), temp());
    let runtime = runtime(sim.url(), &json!({}));
    let mut stop = |done: usize, _: usize, _: &Cost| {
        if done < 10 { Ok(()) } else { Err(Error::Interrupted) }
    };
    let error = compare(&runtime, &data.items(), journal.path(), &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(
        Journal::open(journal.path()).unwrap().len(),
        sim.answered(),
        "every answer that was sent is in the journal"
    );
    assert!(sim.answered() <= 14);
}

const VICTIM_URL: &str = "PLUMBLINE_TEST_VICTIM_URL";
const VICTIM_JOURNAL: &str = "PLUMBLINE_TEST_VICTIM_JOURNAL";

#[test]
fn a_run_that_is_killed_again_and_again_ends_the_same_and_asks_nothing_twice_that_it_has() {
    let data = planted(60);
    if let (Ok(url), Ok(journal)) = (std::env::var(VICTIM_URL), std::env::var(VICTIM_JOURNAL)) {
        ask(&url, &json!({}), &data, &Order::default(), Path::new(&journal)).unwrap();
        return;
    }
    let expected = {
        let (sim, journal) = (JudgeSim::start(Config::default()), temp());
        ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap().probabilities()
    };
    let sim = JudgeSim::start(Config { latency: Duration::from_millis(10), ..Config::default() });
    let journal = temp();
    let judge = runtime(sim.url(), &json!({}));
    let plan = judge.prompt.plan(&judge.identity, &data.items(), &Order::default()).unwrap();
    let text = |q: &Planned| judge.prompt.question(q, &data.items()).unwrap().text;
    let texts: BTreeMap<&str, String> = plan.questions.iter().map(|q| (q.id.as_str(), text(q))).collect();
    for (kills, kill_at) in [(1, 7), (2, 31), (3, 64)] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "judge::spend::a_run_that_is_killed_again_and_again_ends_the_same_and_asks_nothing_twice_that_it_has",
            ])
            .env(VICTIM_URL, sim.url())
            .env(VICTIM_JOURNAL, journal.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while sim.answered() < kill_at {
            assert!(begin.elapsed() < Duration::from_mins(1), "the victim does not ask");
            std::thread::sleep(Duration::from_millis(1));
        }
        victim.kill().unwrap();
        assert!(!victim.wait().unwrap().success(), "it was killed before its end");
        let asked_before = sim.requests().len();
        let file = std::fs::read_to_string(Journal::file(journal.path())).unwrap();
        let whole = &file[..=file.rfind('\n').unwrap()];
        let safe: HashSet<&str> =
            whole.lines().map(|l| texts[serde_json::from_str::<Entry>(l).unwrap().id.as_str()].as_str()).collect();
        assert!(
            safe.len() + 4 * kills >= kill_at,
            "{} of {kill_at} answers are in the journal; each kill may lose the 4 in flight",
            safe.len()
        );
        std::thread::sleep(Duration::from_millis(50));
        let judged = if kill_at == 64 {
            Some(ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap())
        } else {
            None
        };
        let again: Vec<String> = sim.requests().split_off(asked_before).into_iter().map(|(_, q)| q).collect();
        assert!(again.iter().all(|q| !safe.contains(q.as_str())), "a question in the journal was asked again");
        if let Some(judged) = judged {
            assert_eq!(judged.probabilities(), expected);
            assert_eq!(judged.cost.requests, 120);
        }
    }
    let extra: usize = sim.bought().values().map(|n| n - 1).sum();
    assert!(extra <= 3 * 4, "only what was in flight at a kill is paid for twice: {extra}");
}
