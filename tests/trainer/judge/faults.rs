//! Servers that are busy, broken, away or unwilling: what is tried again, what is given up, and what is said.

use std::process::Command;
use std::time::{Duration, Instant};

use plumbline_crds::preference_dataset::Order;
use plumbline_feedback::Error;
use plumbline_feedback::judge::journal::Journal;
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use serde_json::json;

use super::kit::{ask, planted, temp};

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
    let early = requests.iter().skip(6).filter(|(at, _)| at.duration_since(limited) < Duration::from_secs(1)).count();
    assert!(early <= 3, "{early} requests came within the second; only the other 3 of 4 places were on their way");
    assert_eq!(sim.answered(), 40);
}

#[test]
fn a_rate_limit_of_our_own_is_kept() {
    let sim = JudgeSim::start(Config::default());
    let (data, journal) = (planted(20), temp());
    let limits = json!({"limits": {"concurrency": 8, "requestsPerMinute": 600}});
    let begin = Instant::now();
    ask(sim.url(), &limits, &data, &Order::default(), journal.path()).unwrap();
    let span = sim.requests().last().unwrap().0.duration_since(begin);
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
            .args([
                "--exact",
                "judge::faults::a_wrong_key_stops_at_once_with_the_servers_reason_and_without_the_key",
                "--nocapture",
            ])
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
    assert_eq!(judged.counts()["transport_failed"], 2);
    assert!(judged.reasons.keys().any(|r| r.contains("boom")));
}

#[test]
fn refused_questions_stop_no_judge_and_a_resumed_run_asks_them_again_and_ends_the_same() {
    let filtered = r#"{"error": {"code": "content_filter", "message": "content management policy"}}"#;
    let unknown = r#"{"problem": "not today"}"#;
    // From the first question on, or a quarter of them: a resumed run has none but refused ones.
    for (body, first, every) in [(filtered, 12, 4), (unknown, 0, 4)] {
        let sim = JudgeSim::start(Config::default().faults(move |n, before| {
            (before > 0 || n < first || n % every == 3).then_some(Fault::Status(400, body, None))
        }));
        let (data, journal) = (planted(200), temp());
        let judged = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap();
        let (asked, answered) = (sim.requests().len(), sim.answered());
        assert_eq!(asked, 400);
        let again = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap();
        assert_eq!(again.outcomes, judged.outcomes);
        assert_eq!((sim.requests().len(), sim.answered()), (asked + 400 - answered, answered), "{body}");
    }
}

#[test]
fn a_judge_whose_context_is_too_short_for_every_question_is_found_out_at_once() {
    let short =
        r#"{"error": {"code": "context_length_exceeded", "message": "the maximum context length is 256 tokens"}}"#;
    let sim = JudgeSim::start(Config::default().faults(move |_, _| Some(Fault::Status(400, short, None))));
    let (data, journal) = (planted(100), temp());
    let error = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeRejected(why) if why.contains("context_length_exceeded")), "{error}");
    assert_eq!(sim.requests().len(), 8);
}

#[test]
fn an_endpoint_without_log_probabilities_is_found_out_before_much_is_paid() {
    let sim = JudgeSim::start(Config::default().faults(|_, _| Some(Fault::NoLogProbs)));
    let (data, journal) = (planted(100), temp());
    let error = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap_err();
    assert!(matches!(&error, Error::JudgeRejected(why) if why.contains("set labelSource: Verdict")), "{error}");
    assert_eq!(sim.answered(), 8, "no more answers are paid for");
    let judged = ask(sim.url(), &json!({"labelSource": "Verdict"}), &data, &Order::default(), journal.path()).unwrap();
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
