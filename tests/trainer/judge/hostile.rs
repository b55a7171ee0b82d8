//! Servers that send what they should not: our key, absurd counts, bodies without an end, characters that act on a terminal.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plumbline_crds::preference_dataset::{Budget, Order};
use plumbline_crds::status::Cost;
use plumbline_feedback::Error;
use plumbline_feedback::judge::JudgeOptions;
use plumbline_feedback::shutdown;
use plumbline_testkit::chain;
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use plumbline_testkit::place::Place;
use serde_json::{Value, json};

use super::kit::{self, Planted, ask, planted, quiet, runtime, temp};

/// Judges as [`ask`] does, within a budget.
fn within(url: &str, more: &Value, data: &Planted, budget: &Budget, journal: &Path) -> Result<Cost, Error> {
    let (runtime, order) = (runtime(url, more), Order::default());
    let options = JudgeOptions { journal, order: &order, budget, progress: &mut quiet() };
    kit::within(&runtime, data, options).map(|judged| judged.cost)
}

/// A judge that says that the question number `at` was charged so many tokens of prompt, and all others 50.
fn charging(prompt: Value, at: impl Fn(usize) -> bool + Send + Sync + 'static) -> JudgeSim {
    JudgeSim::start(Config::default().faults(move |n, _| {
        let tokens = if at(n) { prompt.clone() } else { json!(50) };
        Some(Fault::changed(move |completion| {
            completion["usage"] = json!({"prompt_tokens": tokens, "completion_tokens": 1});
        }))
    }))
}

#[test]
fn a_budget_holds_whatever_a_server_says_it_used() {
    let judge =
        json!({"price": {"inputPerMillionTokens": 2.0, "outputPerMillionTokens": 2.0}, "limits": {"concurrency": 1}});
    let budget = Budget { max_cost: Some(0.05), max_requests: None };
    for absurd in [json!(i64::MAX), json!(u64::MAX), json!(1e300), json!(1_i64 << 62), json!(1_000_000_000_000_000_i64)]
    {
        let (sim, data, journal) = (charging(absurd.clone(), |_| true), planted(200), temp());
        let error = within(sim.url(), &judge, &data, &budget, journal.path()).unwrap_err();
        assert!(matches!(&error, Error::BudgetExhausted(_)), "{absurd}: {error}");
        assert!((20..200).contains(&sim.answered()), "{absurd}: {} answers, each at its bound", sim.answered());
        let (sim, data, journal) = (charging(absurd.clone(), |n| n == 2), planted(6), temp());
        let cost = within(sim.url(), &judge, &data, &budget, journal.path()).unwrap();
        assert!(cost.prompt_tokens > 550 && cost.prompt_tokens < 5000, "{absurd}: {cost:?}");
        assert!(cost.amount.is_some_and(|amount| amount.parse::<f64>().unwrap() > 0.0));
    }
    // A large prompt of the server's own is believed, and paid for.
    let (sim, data, journal) = (charging(json!(10_000), |_| true), planted(20), temp());
    assert!(matches!(within(sim.url(), &judge, &data, &budget, journal.path()), Err(Error::BudgetExhausted(_))));
    assert_eq!(sim.answered(), 3, "the third was still within the budget");
}

#[test]
fn one_absurd_count_lets_nobody_wait() {
    let (sim, data, journal) = (charging(json!(1_000_000_000_000_000_i64), |n| n == 2), planted(6), temp());
    let begin = Instant::now();
    let limits = json!({"limits": {"concurrency": 1, "tokensPerMinute": 1_000_000}});
    ask(sim.url(), &limits, &data, &Order::default(), journal.path()).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(sim.answered(), 12);
}

const WAITER: &str = "PLUMBLINE_TEST_WAITER";

#[test]
fn a_stop_is_noticed_while_a_limit_or_a_server_makes_the_run_wait() {
    let Ok(which) = std::env::var(WAITER) else {
        // Being asked to stop is of a whole process, so each wait has one of its own.
        for which in ["limit", "server"] {
            let name = "judge::hostile::a_stop_is_noticed_while_a_limit_or_a_server_makes_the_run_wait";
            let begin = Instant::now();
            let test = std::env::current_exe().unwrap();
            let ended = Command::new(test).args(["--exact", name, "--nocapture"]).env(WAITER, which).output().unwrap();
            assert!(ended.status.success(), "{which}: {}", String::from_utf8_lossy(&ended.stderr));
            assert!(String::from_utf8_lossy(&ended.stdout).contains("1 passed"), "{name} is not the name of this test");
            assert!(begin.elapsed() < Duration::from_secs(30), "{which}: it ended after {:?}", begin.elapsed());
        }
        return;
    };
    let busy = Fault::Status(429, r#"{"error": {"code": "rate_limit_exceeded", "message": "slow"}}"#, Some("300"));
    let (sim, limits) = if which == "limit" {
        (JudgeSim::start(Config::default()), json!({"concurrency": 2, "requestsPerMinute": 1}))
    } else {
        let faults = move |n, _| (n >= 2).then(|| busy.clone());
        (JudgeSim::start(Config::default().faults(faults)), json!({"concurrency": 2}))
    };
    let (sim, data, journal) = (Arc::new(sim), planted(20), temp());
    let url = sim.url().to_owned();
    let asked = std::thread::spawn(move || {
        ask(&url, &json!({"limits": limits}), &data, &Order::default(), journal.path()).map(|_| ())
    });
    // What comes next is waited for: a minute, or the server's five.
    while sim.requests().len() < if which == "limit" { 1 } else { 3 } {
        std::thread::sleep(Duration::from_millis(5));
    }
    shutdown::request();
    let asked_to = Instant::now();
    let error = asked.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!(asked_to.elapsed() < Duration::from_secs(5), "{:?}", asked_to.elapsed());
}

#[test]
fn a_body_without_an_end_is_given_up_at_a_mebibyte() {
    let sim = JudgeSim::start(Config::default().faults(|_, _| Some(Fault::Endless)));
    let (data, journal, begin) = (planted(4), temp(), Instant::now());
    let limits = json!({"limits": {"concurrency": 2, "maxAttempts": 1, "timeoutSeconds": 600}});
    let error = ask(sim.url(), &limits, &data, &Order::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeUnavailable(why) if why.contains("longer than 1 MiB")), "{error}");
    assert!(begin.elapsed() < Duration::from_mins(1), "it does not wait for the end: {:?}", begin.elapsed());
}

#[test]
fn a_body_that_trickles_is_given_up_after_the_timeout() {
    let sim = JudgeSim::start(Config::default().faults(|_, _| Some(Fault::Drip)));
    let (data, journal, begin) = (planted(4), temp(), Instant::now());
    let limits = json!({"limits": {"concurrency": 4, "maxAttempts": 1, "timeoutSeconds": 1}});
    let error = ask(sim.url(), &limits, &data, &Order::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeUnavailable(why) if why.contains("no reply in time")), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

/// A key, and what may be left of it in no file: as it is, in either case, in base64 (of itself, and within the header's).
const KEY: &str = "sk-KeyOfTheHostileTest+0123456789";
const FORMS: [&str; 5] = [
    KEY,
    "SK-KEYOFTHEHOSTILETEST+0123456789",
    "sk-keyofthehostiletest+0123456789",
    "c2stS2V5T2ZUaGVIb3N0aWxlVGVzdCswMTIzNDU2",
    "LUtleU9mVGhlSG9zdGlsZVRlc3QrMDEyMzQ1Njc4",
];
/// The header in base64.
const HEADER: &str = "QmVhcmVyIHNrLUtleU9mVGhlSG9zdGlsZVRlc3QrMDEyMzQ1Njc4OQ==";

/// A run of the programs with a judge that is given the key.
fn run(sim: &JudgeSim, judge: &Value) -> (Place, i32, String) {
    let mut asked = json!({
        "name": "sim", "mode": "Pointwise", "template": "{{ prompt }}{{ response }} quality={{ response | length / 20 - 3 }}",
        "endpoint": {"url": sim.url(), "model": "planted", "apiKeySecretRef": {"name": "hostile", "key": "key"}},
        "limits": {"concurrency": 2, "maxAttempts": 2, "timeoutSeconds": 20},
    });
    for (key, value) in judge.as_object().unwrap() {
        asked[key] = value.clone();
    }
    let few = json!({"prompts": {"limit": 12}, "generator": {"sampling": {"maxNewTokens": 12}}});
    let mut place = Place::new(&[chain::with(chain::dataset("data", &asked), &few)]);
    place.set_env("PLUMBLINE_SECRET_HOSTILE_KEY", KEY);
    let ended = place.run();
    let (code, said) = (ended.code(), ended.said());
    (place, code, said)
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() { files(&path) } else { vec![(path.display().to_string(), fs::read(&path).unwrap())] }
        })
        .collect()
}

#[test]
fn a_key_that_a_server_repeats_is_in_no_file_and_on_no_screen_and_neither_are_control_characters() {
    let said = |header: &str| {
        let (upper, lower) = (header.to_uppercase(), header.to_lowercase());
        format!("{header} {upper} {lower} {HEADER} \u{1b}]0;title\u{7}\u{9b}2J\u{202e}")
    };
    let echoing = JudgeSim::start(Config::default().faults(move |_, _| {
        Some(Fault::made(move |_, header, mut completion| {
            let said = said(header);
            completion["model"] = format!("gpt {said}").into();
            completion["system_fingerprint"] = said.clone().into();
            let choice = &mut completion["choices"][0];
            choice["message"]["reasoning_content"] = said.clone().into();
            choice["finish_reason"] = format!("stop {said}").into();
            if let Some(tops) = choice.pointer_mut("/logprobs/content/0/top_logprobs").and_then(Value::as_array_mut) {
                tops.push(json!({"token": said, "logprob": -20.0}));
            }
            let text = choice["message"]["content"].as_str().unwrap().to_owned();
            choice["message"]["content"] = format!("{text} {said}").into();
            (200, completion.to_string().into_bytes())
        }))
    }));
    let refusing = JudgeSim::start(Config::default().faults(move |_, _| {
        Some(Fault::made(move |_, header, _| {
            (
                401,
                json!({"error": {"message": format!("bad key {}", said(header)), "code": "invalid_api_key"}})
                    .to_string()
                    .into(),
            )
        }))
    }));
    // A verdict judge that never gives one, so that its words are in the message.
    for (sim, judge, expected, words) in [
        (&echoing, json!({}), 0, ""),
        (&echoing, json!({"labelSource": "Verdict"}), 7, "states no verdict"),
        (&refusing, json!({}), 7, "bad key"),
    ] {
        let (place, code, said) = run(sim, &judge);
        assert!(code == expected && said.contains(words), "{code}: {said}");
        let all = files(&place.path("work"));
        assert!(code != 0 || all.iter().any(|(name, _)| name.ends_with("README.md")), "it was published");
        for (name, bytes) in
            all.iter().map(|(n, b)| (n.as_str(), b.as_slice())).chain([("the screen", said.as_bytes())])
        {
            let shown = String::from_utf8_lossy(bytes);
            for form in FORMS {
                assert!(!shown.contains(form), "{name} holds {form}");
            }
            let text = !name.ends_with(".parquet") && !name.contains("tfevents");
            let acts = ["\u{1b}", "\u{7}", "\u{9b}", "\u{202e}"];
            assert!(
                !text || !acts.iter().any(|c| shown.contains(c)),
                "{name} holds a character that acts on a terminal"
            );
        }
    }
}
