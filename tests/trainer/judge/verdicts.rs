//! What was planted in the judge is found again, and what is no verdict never becomes a label.

use plumbline_crds::preference_dataset::{Order, OrderCombination, OrderPolicy};
use plumbline_feedback::data::Content;
use plumbline_feedback::judge::audit::audit;
use plumbline_feedback::judge::label::Outcome;
use plumbline_feedback::judge::{Comparison, compare};
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use serde_json::json;

use super::kit::{ask, planted, quiet, runtime, temp};

#[test]
fn a_planted_position_bias_is_estimated_and_both_orders_remove_it() {
    for bias in [0.0, 1.0, -2.0] {
        let sim = JudgeSim::start(Config { position_bias: bias, ..Config::default() });
        let (data, journal) = (planted(120), temp());
        let judged = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap();
        for (outcome, difference) in judged.outcomes.iter().zip(&data.differences) {
            let log_odds = outcome.label().unwrap().log_odds.unwrap();
            assert!((log_odds - difference).abs() < 1e-4, "bias {bias}: {log_odds} for {difference}");
        }
        let position = audit(&judged, &data.items()).position.unwrap();
        let estimate = position.log_odds.unwrap();
        assert!(estimate.low - 1e-6 <= bias && bias <= estimate.high + 1e-6, "{estimate:?} for {bias}");
        let expected = match bias.abs() {
            b if b < 0.5 => 0.0,
            b if b < 1.5 => 0.495,
            _ => 0.818,
        };
        let conflicts = position.conflict_rate.unwrap().value;
        assert!((conflicts - expected).abs() < 0.02, "conflict rate {conflicts} for {bias}, expected {expected}");
    }
}

#[test]
fn the_other_policies_do_what_is_said_of_them_on_the_same_judge() {
    let sim = JudgeSim::start(Config { position_bias: 1.0, ..Config::default() });
    let data = planted(200);
    let accuracy = |order: &Order| {
        let journal = temp();
        let judged = ask(sim.url(), &json!({}), &data, order, journal.path()).unwrap();
        let labels: Vec<bool> = judged
            .outcomes
            .iter()
            .zip(&data.differences)
            .filter_map(|(o, d)| match o {
                Outcome::Label(l) => Some((l.p > 0.5) == (*d > 0.0)),
                _ => None,
            })
            .collect();
        (labels.iter().filter(|right| **right).count() as f64 / labels.len() as f64, labels.len())
    };
    let order = |policy, combine| Order { policy, combine, ..Order::default() };
    for combine in [OrderCombination::Logits, OrderCombination::Probabilities] {
        let (right, kept) = accuracy(&order(OrderPolicy::Both, combine));
        assert!(right > 0.999 && kept == 200, "{combine:?}: {right}, {kept}");
    }
    let (right, kept) = accuracy(&order(OrderPolicy::Both, OrderCombination::AgreeOnly));
    assert!(right > 0.999 && (kept as f64 / 200.0 - 0.505).abs() < 0.02, "the hard pairs are lost: {kept} kept");
    let (right, _) = accuracy(&order(OrderPolicy::Single, OrderCombination::Logits));
    assert!((right - 0.752).abs() < 0.08, "one order carries the bias: {right}");
    let (right, kept) =
        accuracy(&Order { policy: OrderPolicy::Sampled, sample_fraction: 0.2, combine: OrderCombination::AgreeOnly });
    assert!(
        (0.70..0.86).contains(&right) && (160..200).contains(&kept),
        "a sampled check helps little: {right}, {kept}"
    );
}

#[test]
fn a_pointwise_judge_is_asked_once_a_response_over_either_api() {
    for (api, template) in [("Chat", None), ("Completion", Some("Text: {{ response }}\nGood:"))] {
        let sim = JudgeSim::start(Config::default());
        let prompt = Content::Text("p".into());
        let texts = ["one quality=1.0", "two quality=0.25", "three quality=-2.0"];
        let pair = |a: usize, b: usize| Comparison { prompt: &prompt, response_a: texts[a], response_b: texts[b] };
        let mut judge = json!({"mode": "Pointwise", "api": api});
        if let Some(template) = template {
            judge["template"] = template.into();
        }
        let journal = temp();
        let items = [pair(0, 1), pair(1, 2), pair(2, 0), pair(0, 0)];
        let judged = compare(&runtime(sim.url(), &judge), &items, journal.path(), &mut quiet()).unwrap();
        let p: Vec<f64> = judged.probabilities().into_iter().map(Option::unwrap).collect();
        for (p, log_odds) in p.iter().zip([0.75, 2.25, -3.0, 0.0]) {
            assert!((p - 1.0 / (1.0 + f64::exp(-log_odds))).abs() < 1e-6, "{p} for {log_odds}");
        }
        assert_eq!(sim.bought().values().collect::<Vec<_>>(), [&1, &1, &1], "{api}");
        assert_eq!(judged.cost.requests, 3);
    }
}

#[test]
fn hard_verdicts_come_from_the_text() {
    let sim = JudgeSim::start(Config { position_bias: 1.0, ..Config::default() });
    let (data, journal) = (planted(100), temp());
    let judged = ask(sim.url(), &json!({"labelSource": "Verdict"}), &data, &Order::default(), journal.path()).unwrap();
    let (mut labels, mut ties) = (0, 0);
    for (outcome, difference) in judged.outcomes.iter().zip(&data.differences) {
        match outcome {
            Outcome::Label(l) => {
                assert!((l.p - f64::from(u8::from(*difference > 0.0))).abs() < 1e-12 && l.log_odds.is_none(), "{l:?}");
                labels += 1;
            }
            Outcome::Tie(_) => ties += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((ties - 49_i32).abs() <= 2 && labels + ties == 100, "{labels} labels, {ties} ties");
}

#[test]
fn garbage_and_other_replies_without_a_verdict_never_become_a_label() {
    let faults: [(Fault, &str); 4] = [
        (Fault::Text("\u{fffd}\u{0}#!%% A B A B"), "unparsed"),
        (Fault::Text("I'm sorry, but I can't do that."), "refused"),
        (Fault::Text("Verdict: A\nVerdict: B"), "ambiguous"),
        (Fault::Truncated, "truncated"),
    ];
    for (fault, kind) in faults {
        // Every fifth question, whenever it is asked.
        let planned = fault.clone();
        let sim = JudgeSim::start(Config::default().faults(move |n, _| (n % 5 == 4).then(|| planned.clone())));
        let (data, journal) = (planted(50), temp());
        let judged =
            ask(sim.url(), &json!({"labelSource": "Verdict"}), &data, &Order::default(), journal.path()).unwrap();
        assert_eq!(judged.counts()[kind], 20, "{fault:?}: {:?}", judged.counts());
        for (i, outcome) in judged.outcomes.iter().enumerate() {
            if let Outcome::Label(l) = outcome {
                assert_eq!(l.p > 0.5, data.differences[i] > 0.0, "a label that the judge did not give");
            }
        }
        let failed = judged.outcomes.iter().filter(|o| matches!(o, Outcome::Failed)).count();
        assert!((10..=20).contains(&failed), "{failed}");
        assert_eq!(sim.answered(), 100, "nothing is asked again until it reads well");
    }
}
