//! Asking a judge over HTTP: what is paid for is paid for once, what fails has a name and never becomes a label, and what
//! was planted in the judge is found again.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::preference_dataset::{Budget, Order, OrderCombination, OrderPolicy};
use plumbline_crds::run::RunDocument;
use plumbline_tests::judge_sim::{Config, Fault, JudgeSim};
use plumbline_trainer::data::Content;
use plumbline_trainer::judge::audit::audit;
use plumbline_trainer::judge::journal::{Entry, Journal};
use plumbline_trainer::judge::label::Outcome;
use plumbline_trainer::judge::{Asking, Comparison, JudgeRuntime, Judged, compare, judge};
use plumbline_trainer::{Error, Result};
use serde_json::{Value, json};

/// A judge at `url`, with more of its spec.
fn runtime(url: &str, more: &Value) -> JudgeRuntime {
    let mut judge = json!({"name": "sim", "endpoint": {"url": url, "model": "planted"}, "limits": {"concurrency": 4}});
    for (key, value) in more.as_object().unwrap() {
        judge[key] = value.clone();
    }
    let run: RunDocument = serde_json::from_value(json!({
        "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "PreferenceDataset", "metadata": {"name": "d"},
            "spec": {"prompts": {"inline": ["p"]}, "judges": [judge]}},
        "inputs": [], "output": "", "work": "",
    }))
    .unwrap();
    JudgeRuntime::resolve(&serde_json::from_value(judge).unwrap(), "judges[0]", &run).unwrap()
}

/// Prompts and pairs of responses with planted qualities, a standard normal times 1.5 apart.
struct Planted {
    prompts: Vec<Content>,
    texts: Vec<[String; 2]>,
    differences: Vec<f64>,
}

fn planted(n: usize) -> Planted {
    let mut all = Planted { prompts: Vec::new(), texts: Vec::new(), differences: Vec::new() };
    for i in 0..n {
        // The quantiles of the distribution in a scrambled order: no sampling noise.
        let rank = (i * 7919 + 13) % n;
        let difference = 1.5 * normal_quantile((rank as f64 + 0.5) / n as f64);
        all.prompts.push(Content::Text(format!("prompt {i}")));
        all.texts.push([difference / 2.0, -difference / 2.0].map(|q| format!("answer {i} quality={q:.6}")));
        all.differences.push(difference);
    }
    all
}

/// By bisection of the distribution function, which is integrated numerically.
fn normal_quantile(p: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let distribution = |x: f64| {
        let steps = 400;
        let h = x / f64::from(steps);
        0.5 + h * (0..steps).map(|i| density(h * (f64::from(i) + 0.5))).sum::<f64>()
    };
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if distribution(middle) < p { low = middle } else { high = middle }
    }
    low
}

impl Planted {
    fn items(&self) -> Vec<Comparison<'_>> {
        let pairs = self.prompts.iter().zip(&self.texts);
        pairs.map(|(prompt, [a, b])| Comparison { prompt, response_a: a, response_b: b }).collect()
    }
}

fn quiet() -> impl FnMut(usize, usize, &plumbline_crds::status::Cost) -> Result<()> {
    |_, _, _| Ok(())
}

fn ask(url: &str, more: &Value, planted: &Planted, order: &Order, journal: &Path) -> Result<Judged> {
    let (runtime, budget) = (runtime(url, more), Budget::default());
    judge(&runtime, &planted.items(), Asking { journal, order, budget: &budget, progress: &mut quiet() })
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

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
    assert_eq!(accuracy(&order(OrderPolicy::Both, OrderCombination::Logits)), (1.0, 200));
    assert_eq!(accuracy(&order(OrderPolicy::Both, OrderCombination::Probabilities)), (1.0, 200));
    let (right, kept) = accuracy(&order(OrderPolicy::Both, OrderCombination::AgreeOnly));
    assert!(right == 1.0 && (kept as f64 / 200.0 - 0.505).abs() < 0.02, "the hard pairs are lost: {kept} kept");
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
    let judged = ask(sim.url(), &json!({"label": "Verdict"}), &data, &Order::default(), journal.path()).unwrap();
    let (mut labels, mut ties) = (0, 0);
    for (outcome, difference) in judged.outcomes.iter().zip(&data.differences) {
        match outcome {
            Outcome::Label(l) => {
                assert_eq!((l.p, l.log_odds), (f64::from(u8::from(*difference > 0.0)), None));
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
        let judged = ask(sim.url(), &json!({"label": "Verdict"}), &data, &Order::default(), journal.path()).unwrap();
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

#[test]
fn html_half_a_body_and_bursts_of_500_are_asked_again_and_leave_no_trace() {
    let data = planted(30);
    let clean = {
        let (sim, journal) = (JudgeSim::start(Config::default()), temp());
        ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap().probabilities()
    };
    let sim = JudgeSim::start(Config::default().faults(|n, before| match (n, before) {
        (10..=16, _) => Some(Fault::Status(500, "Internal Server Error", None)),
        (n, 0) if n % 7 == 0 => Some(Fault::Body("<html><body>maintenance</body></html>")),
        (n, 0) if n % 7 == 3 => Some(Fault::Body("{\"choices\": [{\"message\": {\"content\": \"A")),
        (n, 0) if n % 7 == 5 => {
            Some(Fault::Status(503, r#"{"error": {"code": 503, "message": "Loading model"}}"#, None))
        }
        _ => None,
    }));
    let journal = temp();
    let judged = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap();
    assert_eq!(judged.probabilities(), clean);
    assert_eq!(judged.cost.requests, 60, "failed attempts cost nothing");
    assert!(sim.bought().values().all(|n| *n == 1));
    assert!(sim.requests().len() > 70);
}

#[test]
fn a_429_with_retry_after_holds_back_every_question() {
    let sim = JudgeSim::start(Config::default().faults(|n, _| {
        (n == 5).then_some(Fault::Status(
            429,
            r#"{"error": {"code": "rate_limit_exceeded", "message": "slow"}}"#,
            Some("1"),
        ))
    }));
    let (data, journal) = (planted(20), temp());
    ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap();
    let requests = sim.requests();
    let limited = requests[5].0;
    // Those that were on their way at that moment cannot be called back.
    let in_flight =
        requests.iter().skip(6).filter(|(at, _)| at.duration_since(limited) < Duration::from_millis(50)).count();
    let early = requests.iter().skip(6).filter(|(at, _)| at.duration_since(limited) < Duration::from_secs(1)).count();
    assert!(
        in_flight <= 4 && early == in_flight,
        "{early} requests came within the second, {in_flight} were in flight"
    );
    assert_eq!(sim.answered(), 40);
}

#[test]
fn a_rate_limit_of_our_own_is_kept() {
    let sim = JudgeSim::start(Config::default());
    let (data, journal) = (planted(20), temp());
    let limits = json!({"limits": {"concurrency": 8, "requestsPerMinute": 600}});
    ask(sim.url(), &limits, &data, &Order::default(), journal.path()).unwrap();
    let requests = sim.requests();
    let span = requests.last().unwrap().0.duration_since(requests[0].0);
    assert!(span >= Duration::from_millis(2800), "40 requests at ten a second, the first eleven at once: {span:?}");
}

#[test]
fn a_wrong_key_stops_at_once_with_the_servers_reason_and_without_the_key() {
    let sim = JudgeSim::start(Config { api_key: Some("right"), ..Config::default() });
    // The variable is read when the judge is resolved; no other test uses its name.
    let name = "PLUMBLINE_SECRET_WRONG_KEY_OF_TEST_KEY";
    let reference =
        json!({"url": sim.url(), "model": "m", "apiKeySecretRef": {"name": "wrong-key.of-test", "key": "key"}});
    if std::env::var(name).is_err() {
        let again = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_wrong_key_stops_at_once_with_the_servers_reason_and_without_the_key", "--nocapture"])
            .env(name, "sk-wrong-and-secret")
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&again.stdout) + String::from_utf8_lossy(&again.stderr);
        assert!(again.status.success() && shown.contains("Incorrect API key"), "{shown}");
        assert!(!shown.contains("wrong-and-secret"), "{shown}");
        return;
    }
    let (data, journal) = (planted(50), temp());
    let error = ask(sim.url(), &json!({"endpoint": reference}), &data, &Order::default(), journal.path()).unwrap_err();
    println!("{error}");
    assert!(matches!(&error, Error::JudgeRejected(_)));
    let text = error.to_string();
    assert!(text.contains("spec.judges[0]") && text.contains("[key]") && text.contains(sim.url()), "{text}");
    assert_eq!(sim.answered(), 0);
    assert!(Journal::open(journal.path()).unwrap().is_empty());
}

#[test]
fn a_401_is_not_tried_again() {
    let sim = JudgeSim::start(Config { api_key: Some("right"), ..Config::default() });
    let (data, journal) = (planted(50), temp());
    let begin = Instant::now();
    let error = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeRejected(why) if why.contains("HTTP 401")), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_empty_account_is_no_rate_limit() {
    let quota = r#"{"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}"#;
    let sim = JudgeSim::start(
        Config::default().faults(move |n, _| (n >= 10).then_some(Fault::Status(429, quota, Some("1")))),
    );
    let (data, journal) = (planted(50), temp());
    let error = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeRejected(why) if why.contains("insufficient_quota")), "{error}");
    assert!(sim.requests().len() < 18, "{} requests went out", sim.requests().len());
    assert_eq!(Journal::open(journal.path()).unwrap().len(), 10, "what was bought before is safe");
}

#[test]
fn an_unreachable_judge_is_named_with_what_is_safe() {
    let (data, journal) = (planted(5), temp());
    let url = {
        let sim = JudgeSim::start(Config::default());
        let few = planted(2);
        ask(sim.url(), &json!({}), &few, &Order::default(), journal.path()).unwrap();
        sim.url().to_owned()
    };
    let limits = json!({"limits": {"maxAttempts": 2}});
    let error = ask(&url, &limits, &data, &Order::default(), journal.path()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, Error::JudgeUnavailable(_)), "{text}");
    assert!(text.contains(&url) && text.contains("Connection refused") && text.contains("2 attempts"), "{text}");
    assert!(text.contains("0 of 10 questions are answered"), "the two of before were other questions: {text}");
}

#[test]
fn a_server_that_is_down_for_good_is_unavailable_and_one_bad_question_is_not() {
    let down = JudgeSim::start(Config::default().faults(|n, _| (n >= 20).then_some(Fault::Status(500, "boom", None))));
    let limits = json!({"limits": {"concurrency": 4, "maxAttempts": 2}});
    let (data, journal) = (planted(30), temp());
    let error = ask(down.url(), &limits, &data, &Order::default(), journal.path()).unwrap_err();
    assert!(
        matches!(&error, Error::JudgeUnavailable(why) if why.contains("20 of 60 questions are answered")),
        "{error}"
    );
    drop(down);

    // Two questions never get an answer, whenever they are asked.
    let first_two = std::sync::Mutex::new(0);
    let sim = JudgeSim::start(Config::default().faults(move |_, asked_before| {
        let mut first_two = first_two.lock().unwrap();
        let bad = asked_before > 0 || *first_two < 2;
        *first_two += usize::from(asked_before == 0);
        bad.then_some(Fault::Status(500, "boom", None))
    }));
    let judged = ask(sim.url(), &limits, &data, &Order::default(), temp().path()).unwrap();
    assert_eq!(judged.counts()["transportFailed"], 2);
    assert!(judged.reasons.keys().any(|r| r.contains("boom")));
}

#[test]
fn an_endpoint_without_log_probabilities_is_found_out_before_much_is_paid() {
    let sim = JudgeSim::start(Config::default().faults(|_, _| Some(Fault::NoLogProbs)));
    let (data, journal) = (planted(100), temp());
    let error = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeRejected(why) if why.contains("set label: Verdict")), "{error}");
    assert!(sim.answered() <= 12, "{} answers were paid for", sim.answered());
    let judged = ask(sim.url(), &json!({"label": "Verdict"}), &data, &Order::default(), journal.path()).unwrap();
    assert_eq!(judged.outcomes.len(), 100, "as the message advises");
}

#[test]
fn a_slow_answer_is_given_up_after_the_timeout_and_asked_for_again() {
    let sim = JudgeSim::start(
        Config::default().faults(|n, before| (n == 3 && before == 0).then_some(Fault::Slow(Duration::from_secs(20)))),
    );
    let (data, journal) = (planted(5), temp());
    let begin = Instant::now();
    let limits = json!({"limits": {"timeoutSeconds": 1}});
    let judged = ask(sim.url(), &limits, &data, &Order::default(), journal.path()).unwrap();
    assert!(judged.probabilities().iter().all(Option::is_some));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_budget_is_never_overrun_and_raising_it_goes_on_where_it_stopped() {
    let sim = JudgeSim::start(Config { latency: Duration::from_millis(5), ..Config::default() });
    let (data, journal) = (planted(40), temp());
    let price = json!({"price": {"inputPerMillionTokens": 1000.0, "outputPerMillionTokens": 1000.0}});
    let runtime = runtime(sim.url(), &price);
    let order = Order::default();
    let mut spent = Vec::new();
    let run = |budget: Budget, spent: &mut Vec<f64>| {
        let items = data.items();
        let mut progress = |_: usize, _: usize, cost: &plumbline_crds::status::Cost| {
            spent.push(cost.amount.as_ref().unwrap().parse::<f64>().unwrap());
            Ok(())
        };
        judge(
            &runtime,
            &items,
            Asking { journal: journal.path(), order: &order, budget: &budget, progress: &mut progress },
        )
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
    let mut stop = |done: usize, _: usize, _: &plumbline_crds::status::Cost| {
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
    let plan = runtime(sim.url(), &json!({}));
    let plan = plan.form.plan(&plan.identity, &data.items(), &Order::default()).unwrap();
    let texts: BTreeMap<&str, &str> = plan.questions.iter().map(|q| (q.id.as_str(), q.text.as_str())).collect();
    for kill_at in [7, 31, 64] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_run_that_is_killed_again_and_again_ends_the_same_and_asks_nothing_twice_that_it_has"])
            .env(VICTIM_URL, sim.url())
            .env(VICTIM_JOURNAL, journal.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while sim.answered() < kill_at {
            assert!(begin.elapsed() < Duration::from_secs(60), "the victim does not ask");
            std::thread::sleep(Duration::from_millis(1));
        }
        victim.kill().unwrap();
        assert!(!victim.wait().unwrap().success(), "it was killed before its end");
        let asked_before = sim.requests().len();
        let file = std::fs::read_to_string(Journal::file(journal.path())).unwrap();
        let whole = &file[..=file.rfind('\n').unwrap()];
        let safe: HashSet<&str> =
            whole.lines().map(|l| texts[serde_json::from_str::<Entry>(l).unwrap().id.as_str()]).collect();
        assert!(
            safe.len() + 4 >= kill_at,
            "{} of {kill_at} answers are in the journal, 4 may be in flight",
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
