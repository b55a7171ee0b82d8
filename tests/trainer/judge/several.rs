//! Several judges of one dataset: one journal, one budget, one rate limit per endpoint, and a label of all of them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use plumbline_crds::preference_dataset::{Budget, Order};
use plumbline_feedback::data::preference::{Split, read_split};
use plumbline_feedback::judge::journal::Journal;
use plumbline_feedback::judge::{JudgeOptions, JudgeRuntime, PanelJudgements, judge, refuse_alike};
use plumbline_feedback::report::{Report, Section};
use plumbline_feedback::{Error, Result};
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use serde_json::{Value, json};

use super::dataset::{document, label, quality};
use super::kit::{Planted, numbered, planted, quiet, temp};

/// Two judges: the second asks by another template, so that both may be behind one endpoint.
fn two(urls: [&str; 2], more: &Value) -> [JudgeRuntime; 2] {
    let mut second = json!({"name": "second", "templates": ["builtin:pairwise-v1"]});
    second.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    [numbered(0, urls[0], more), numbered(1, urls[1], &second)]
}

fn ask(judges: &[JudgeRuntime], data: &Planted, budget: &Budget, journal: &Path) -> Result<PanelJudgements> {
    let options = JudgeOptions { journal, order: &Order::default(), budget, progress: &mut quiet() };
    judge(judges, &data.items(), options)
}

/// Sum over the pairs of the squared error of a label's probability.
fn error_of(probabilities: &[Option<f64>], data: &Planted) -> f64 {
    let wanted = data.differences.iter().map(|difference| 1.0 / (1.0 + (-difference).exp()));
    probabilities.iter().zip(wanted).map(|(p, wanted)| (p.unwrap() - wanted).powi(2)).sum()
}

#[test]
fn the_mean_of_two_judges_is_nearer_to_the_truth_than_either() {
    let noisy = |noise| JudgeSim::start(Config { noise, ..Config::default() });
    let (good, bad) = (noisy(0.9), noisy(1.3));
    let (data, journal) = (planted(120), temp());
    let judges = two([good.url(), bad.url()], &json!({}));
    let panel = ask(&judges, &data, &Budget::default(), journal.path()).unwrap();
    let both: Vec<Option<f64>> = panel.outcomes.iter().map(|o| o.label().map(|l| l.p)).collect();
    let [one, other] = [0, 1].map(|i| error_of(&panel.judges[i].probabilities(), &data));
    let mean = error_of(&both, &data);
    assert!(one < other && mean < other * 0.8 && mean < one, "good {one:.3}, bad {other:.3}, both {mean:.3}");
    let right = both.iter().zip(&data.differences).filter(|(p, d)| (p.unwrap() > 0.5) == (**d > 0.0)).count();
    assert!(right > 90, "{right} of 120");
}

#[test]
fn killed_at_any_write_two_judges_end_the_same_and_buy_nothing_twice() {
    let price = json!({"price": {"inputPerMillionTokens": 1000.0, "outputPerMillionTokens": 1000.0}});
    let data = planted(5);
    let (sims, whole) = ([0, 1].map(|_| JudgeSim::start(Config { noise: 0.5, ..Config::default() })), temp());
    let judges = two([sims[0].url(), sims[1].url()], &price);
    let expected = ask(&judges, &data, &Budget::default(), whole.path()).unwrap();
    let text = fs::read_to_string(Journal::file(whole.path())).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 20, "two judges, two orders, five pairs, in one journal");
    let mut bought: usize = sims.iter().map(JudgeSim::answered).sum();
    for kept in 0..=lines.len() {
        // What a kill leaves: whole lines, and perhaps the beginning of the next.
        for torn in [0, lines.get(kept).map_or(0, |line| line.len() / 2)] {
            let journal = temp();
            let left = lines[..kept].concat() + &lines.get(kept).unwrap_or(&"")[..torn];
            fs::write(Journal::file(journal.path()), left).unwrap();
            let found = ask(&judges, &data, &Budget::default(), journal.path()).unwrap();
            assert_eq!((&found.outcomes, &found.cost), (&expected.outcomes, &expected.cost), "{kept} of 20 lines");
            let now: usize = sims.iter().map(JudgeSim::answered).sum();
            assert_eq!(now - bought, 20 - kept, "only what is missing is asked");
            bought = now;
        }
    }
}

#[test]
fn judges_that_ask_alike_are_refused_before_there_is_anything_to_ask() {
    let sim = JudgeSim::start(Config::default());
    let [first, other] = two([sim.url(); 2], &json!({}));
    let alike = [first, numbered(1, sim.url(), &json!({"name": "second"}))];
    let error = refuse_alike(&alike, &Order::default()).unwrap_err();
    let fields = "spec.judges[1]: asks the same model the same questions as spec.judges[0]";
    assert!(matches!(&error, Error::Config(why) if why.starts_with(fields)), "{error}");
    let [first, _] = alike;
    refuse_alike(&[first, other], &Order::default()).unwrap();
    assert!(sim.requests().is_empty());
}

#[test]
fn two_judges_together_never_pass_the_budget() {
    let sims = [0, 1].map(|_| JudgeSim::start(Config { latency: Duration::from_millis(3), ..Config::default() }));
    let (data, journal) = (planted(20), temp());
    let price = json!({"price": {"inputPerMillionTokens": 1000.0, "outputPerMillionTokens": 1000.0}});
    let judges = two([sims[0].url(), sims[1].url()], &price);
    let answered = || sims.iter().map(JudgeSim::answered).sum::<usize>();
    let error = ask(&judges, &data, &Budget { max_cost: None, max_requests: Some(30) }, journal.path()).unwrap_err();
    assert!(matches!(&error, Error::BudgetExhausted(why) if why.contains("of 80 questions")), "{error}");
    assert_eq!(answered(), 30);
    assert!(sims.iter().all(|sim| sim.answered() >= 8), "both are asked at the same time");
    let mut spent = Vec::new();
    let mut progress = |_: usize, _: usize, cost: &plumbline_crds::status::Cost| {
        spent.push(cost.amount.as_ref().unwrap().parse::<f64>().unwrap());
        Ok(())
    };
    let budget = Budget { max_cost: Some(5.0), max_requests: None };
    let options =
        JudgeOptions { journal: journal.path(), order: &Order::default(), budget: &budget, progress: &mut progress };
    assert!(matches!(judge(&judges, &data.items(), options), Err(Error::BudgetExhausted(_))));
    assert!(spent.iter().all(|spent| *spent <= 5.0) && *spent.last().unwrap() > 2.0, "{:?}", spent.last());
    let panel = ask(&judges, &data, &Budget::default(), journal.path()).unwrap();
    assert_eq!((answered(), panel.cost.requests), (80, 80), "what was bought is not bought again");
    let each: f64 = panel.judges.iter().map(|j| j.cost.amount.as_ref().unwrap().parse::<f64>().unwrap()).sum();
    assert!((each - panel.cost.amount.unwrap().parse::<f64>().unwrap()).abs() < 1e-6, "one ledger");
}

#[test]
fn two_judges_on_one_endpoint_share_its_rate_limit() {
    let sim = JudgeSim::start(Config::default());
    let (data, journal) = (planted(10), temp());
    // The second writes the same endpoint with a slash, and a wider limit.
    let [first, _] = two([sim.url(), sim.url()], &json!({"limits": {"concurrency": 8, "requestsPerMinute": 600}}));
    let wide = json!({"limits": {"concurrency": 8, "requestsPerMinute": 60_000}});
    let [_, second] = two([sim.url(), &format!("{}/", sim.url())], &wide);
    let begin = Instant::now();
    ask(&[first, second], &data, &Budget::default(), journal.path()).unwrap();
    assert_eq!(sim.answered(), 40);
    let span = sim.requests().last().unwrap().0.duration_since(begin);
    assert!(span >= Duration::from_millis(2800), "40 requests at ten a second, the first eleven at once: {span:?}");
}

#[test]
fn a_judge_that_is_rejected_stops_the_others_and_loses_no_reply() {
    let good = JudgeSim::start(Config { latency: Duration::from_millis(20), ..Config::default() });
    let bad = JudgeSim::start(
        Config { latency: Duration::from_millis(40), ..Config::default() }
            .faults(|n, _| (n > 0).then_some(Fault::Status(401, "no", None))),
    );
    let (data, journal) = (planted(40), temp());
    let judges = two([good.url(), bad.url()], &json!({}));
    let error = ask(&judges, &data, &Budget::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeRejected(why) if why.contains("spec.judges[1]")), "{error}");
    let answered = good.answered() + bad.answered();
    assert!(answered < 80, "{answered} of 160");
    assert_eq!(Journal::open(journal.path()).unwrap().len(), answered, "every answer that was sent is in the journal");
}

#[test]
fn two_judges_that_ask_the_same_are_refused_before_anything_is_asked() {
    let sim = JudgeSim::start(Config::default());
    let judges = [0, 1].map(|i| numbered(i, sim.url(), &json!({"name": format!("judge-{i}")})));
    let error = ask(&judges, &planted(3), &Budget::default(), temp().path()).unwrap_err();
    assert!(
        matches!(&error, Error::Config(why) if why.contains("spec.judges[1]") && why.contains("as spec.judges[0]")),
        "{error}"
    );
    assert_eq!(sim.requests().len(), 0);
}

#[test]
fn a_dataset_of_two_judges_says_what_each_said_and_how_far_they_agree() {
    let (good, poor) = (
        JudgeSim::start(Config::default()),
        JudgeSim::start(Config { noise: 1.5, position_bias: 1.0, ..Config::default() }),
    );
    let judge = |name: &str, sim: &JudgeSim, weight: f64| json!({"name": name, "endpoint": {"url": sim.url(), "model": "planted"}, "weight": weight});
    let root = tempfile::tempdir().unwrap();
    let document =
        document(root.path(), &good, &json!({"judges": [judge("good", &good, 2.0), judge("poor", &poor, 1.0)]}));
    let result = label(&document).unwrap();
    assert_eq!((result.counts["questions"], result.counts["partialPairs"]), (840, 0));
    let records = read_split(Path::new(&document.output), Split::Train).unwrap();
    for record in &records {
        let said = &record.provenance.as_ref().unwrap().judges;
        let [first, second] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!((first.judge.as_str(), second.judge.as_str(), first.weight), ("good", "poor", 2.0));
        assert!((record.p - (2.0 * first.p + second.p) / 3.0).abs() < 1e-9, "{record:?}");
        let difference = quality(&record.chosen) - quality(&record.rejected);
        assert!((first.p - 1.0 / (1.0 + (-difference).exp())).abs() < 1e-4, "each judge's own probability");
    }
    assert!(result.message.contains("by the judges good, poor") && result.message.contains("prefer the same response"));
    let agreement: f64 = result.agreement["judgesAgreement"].parse().unwrap();
    assert!((0.6..0.99).contains(&agreement), "{agreement}");
    let report = Report::read(Path::new(&document.output)).unwrap().unwrap();
    let titles: Vec<&str> = report
        .sections
        .iter()
        .filter_map(|section| match section {
            Section::Numbers { title, .. } | Section::Table { title, .. } => Some(title.as_str()),
            _ => None,
        })
        .collect();
    for title in ["Agreement of the judges", "Biases of the judge: good", "Biases of the judge: poor"] {
        assert!(titles.contains(&title), "{title} is not among {titles:?}");
    }
    let summary = fs::read(Path::new(&document.output).join("summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    assert!((summary["judges"]["poor"]["position_log_odds"].as_f64().unwrap() - 1.0).abs() < 0.3, "{summary}");
    assert!(summary["judges"]["good"]["position_log_odds"].as_f64().unwrap().abs() < 1e-3, "{summary}");
    assert_eq!(good.answered() + poor.answered(), 840);
}
