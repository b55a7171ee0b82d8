//! Replies and journals that are changed in places drawn by a fixed seed: nothing panics, every label is a probability or a
//! named failure, and a change of what is not the verdict changes no verdict.

use plumbline_crds::judge::Judge;
use plumbline_crds::preference_dataset::Order;
use plumbline_feedback::Error;
use plumbline_feedback::data::append_log::{AppendLog, Record};
use plumbline_feedback::data::id;
use plumbline_feedback::judge::body::Body;
use plumbline_feedback::judge::classify::{HttpResponse, classify};
use plumbline_feedback::judge::dialect::Dialect;
use plumbline_feedback::judge::journal::{Entry, Journal};
use plumbline_feedback::judge::prompt::JudgePrompt;
use plumbline_feedback::judge::reading;
use plumbline_feedback::judge::verdict::Verdict;
use plumbline_feedback::judge::wire;
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kit::{ask, planted, temp};

/// Draws by a seed.
struct Draw {
    seed: String,
    drawn: usize,
}

impl Draw {
    fn new(seed: &str) -> Self {
        Self { seed: seed.to_owned(), drawn: 0 }
    }

    fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        (id::key(&[&self.seed, &self.drawn.to_string()]) % n.max(1) as u64) as usize
    }
}

fn prompt(label: &str) -> JudgePrompt {
    let judge: Judge = serde_json::from_value(
        json!({"name": "j", "endpoint": {"url": "http://x/v1", "model": "m"}, "labelSource": label}),
    )
    .unwrap();
    JudgePrompt::new(&judge, "spec.judges[0]").unwrap()
}

fn usual(text: &str) -> Value {
    json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "f",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, "refusal": null},
            "logprobs": {"content": [{"token": "A", "logprob": -0.2, "bytes": [65], "top_logprobs": [
                {"token": "A", "logprob": -0.2, "bytes": [65]}, {"token": "B", "logprob": -1.9, "bytes": [66]}]}]}}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}})
}

/// Values that servers were seen to write in a wrong place, and some that nobody should.
fn strange(draw: &mut Draw) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(1e308),
        json!(-1e308),
        json!("\u{0}\u{1b}[2J"),
        json!("A"),
        json!("B"),
        json!(""),
        json!([]),
        json!({}),
        json!([[[{}]]]),
        json!("x".repeat(5000)),
        json!({"error": {"message": "m"}}),
    ];
    all[draw.below(all.len())].clone()
}

/// Every place of a value, as JSON pointers.
fn places(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| places(v, &format!("{here}/{i}"), found)),
        Value::Object(fields) => fields.iter().for_each(|(k, v)| places(v, &format!("{here}/{k}"), found)),
        _ => {}
    }
}

fn change_structure(value: &mut Value, draw: &mut Draw) {
    let mut all = Vec::new();
    places(value, "", &mut all);
    let place = all[draw.below(all.len())].clone();
    let kind = draw.below(3);
    let Some(target) = value.pointer_mut(&place) else { return };
    match (kind, target) {
        (0, Value::Array(items)) => {
            let again = items.clone();
            items.extend(again);
        }
        (0, Value::Object(fields)) => fields.retain(|_, _| draw.below(2) == 0),
        (1, Value::Array(items)) => items.clear(),
        (_, target) => *target = strange(draw),
    }
}

fn change_bytes(bytes: &mut Vec<u8>, draw: &mut Draw) {
    for _ in 0..=draw.below(4) {
        let at = draw.below(bytes.len());
        match draw.below(5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = draw.below(256) as u8,
            2 => bytes.insert(at, draw.below(256) as u8),
            3 => bytes.splice(at..at, [b'{'; 300]).for_each(drop),
            _ if at < bytes.len() => drop(bytes.remove(at)),
            _ => {}
        }
    }
}

/// The verdict on a body, or a word why there is none.
fn read(prompt: &JudgePrompt, bytes: &[u8]) -> Result<Verdict, String> {
    let body = Body::read(bytes, None);
    let _ = classify(
        &HttpResponse { status: 200, body: body.clone(), ..HttpResponse::default() },
        Dialect::default(),
        jiff::Timestamp::UNIX_EPOCH,
    );
    wire::reply(&body).map(|reply| {
        let line = serde_json::to_string(&reply).unwrap();
        assert_eq!(
            serde_json::from_str::<wire::Reply>(&line).unwrap(),
            reply,
            "a journal gives back what it was given"
        );
        reading::read(prompt, &reply)
    })
}

#[track_caller]
fn assert_sound(verdict: &Result<Verdict, String>, what: &str) {
    match verdict {
        Ok(verdict) => match (verdict.probability(), verdict.cause()) {
            (Some(p), None) => assert!((0.0..=1.0).contains(&p), "{p}: {what}"),
            (None, Some(why)) => assert!(!why.is_empty(), "{what}"),
            other => panic!("{other:?}: {what}"),
        },
        Err(why) => assert!(!why.is_empty(), "{what}"),
    }
}

#[test]
fn a_changed_reply_is_a_label_within_its_range_or_a_named_failure() {
    for (label, text) in [("LogProbs", "A"), ("Verdict", "The better answer is A."), ("Verdict", "{\"winner\": \"A\"}")]
    {
        let prompt = prompt(label);
        let mut read_as_a = 0;
        for seed in 0..4000 {
            let mut draw = Draw::new(&format!("{label} {text} {seed}"));
            let mut value = usual(text);
            let mut bytes = if seed % 2 == 0 {
                for _ in 0..=draw.below(3) {
                    change_structure(&mut value, &mut draw);
                }
                value.to_string().into_bytes()
            } else {
                value.to_string().into_bytes()
            };
            if seed % 2 == 1 {
                change_bytes(&mut bytes, &mut draw);
            }
            let verdict = read(&prompt, &bytes);
            assert_sound(&verdict, &String::from_utf8_lossy(&bytes));
            read_as_a += usize::from(matches!(verdict, Ok(Verdict::First(_))));
        }
        assert!((800..3600).contains(&read_as_a), "{label} {text}: {read_as_a} of 4000 replies are read");
    }
}

#[test]
fn a_change_of_what_is_not_the_verdict_changes_no_verdict() {
    const ELSEWHERE: [&str; 12] = [
        "/id",
        "/object",
        "/created",
        "/model",
        "/system_fingerprint",
        "/usage",
        "/usage/prompt_tokens",
        "/choices/0/index",
        "/choices/0/message/role",
        "/choices/0/extra",
        "/provider",
        "/choices/0/logprobs/refusal",
    ];
    for (label, text) in
        [("LogProbs", "A"), ("Verdict", "The better answer is A."), ("Verdict", "{\"winner\": \"A\",}")]
    {
        let prompt = prompt(label);
        let expected = read(&prompt, usual(text).to_string().as_bytes()).unwrap();
        assert!(matches!(expected, Verdict::First(_)), "{expected:?}");
        for seed in 0..600 {
            let mut draw = Draw::new(&format!("elsewhere {label} {text} {seed}"));
            let mut value = usual(text);
            for _ in 0..=draw.below(4) {
                let place = ELSEWHERE[draw.below(ELSEWHERE.len())];
                let (parent, name) = place.rsplit_once('/').unwrap();
                if let Some(fields) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
                    fields.insert(name.to_owned(), strange(&mut draw));
                }
            }
            assert_eq!(read(&prompt, value.to_string().as_bytes()).unwrap(), expected, "{value}");
        }
    }
}

#[test]
fn words_around_a_stated_verdict_never_turn_it_around() {
    let prompt = prompt("Verdict");
    let words = [
        "Response A",
        "Response B",
        "**Response B**",
        "is",
        "better",
        "the",
        "because",
        "\n",
        "\n\n",
        ".",
        ":",
        "[[B]]",
        "{",
        "}",
        "\"",
        "<think>",
        "</think>",
        "B",
        "A",
        "tie",
        "#",
        "not",
        "if",
        "answer",
        ",",
        "\u{0}",
        "漢",
    ];
    let mut stated = 0;
    for seed in 0..6000 {
        let mut draw = Draw::new(&format!("words {seed}"));
        let mut some = || (0..draw.below(12)).map(|_| words[draw.below(words.len())]).collect::<Vec<_>>().join(" ");
        let text = format!("{}\n\nFinal verdict: A", some());
        let read = read(&prompt, usual(&text).to_string().as_bytes()).unwrap();
        assert!(!matches!(read, Verdict::Second(_) | Verdict::Tie(_)), "{read:?}: {text:?}");
        stated += usize::from(matches!(read, Verdict::First(_)));
    }
    assert!(stated > 4000, "{stated} of 6000 are read");
}

#[test]
fn a_real_run_over_changed_replies_ends_with_labels_in_range_or_a_named_error() {
    for seed in 0..40 {
        let sim = JudgeSim::start(Config::default().faults(move |n, _| {
            (n % 3 != 0).then(|| {
                Fault::made(move |_, _, mut completion| {
                    let mut draw = Draw::new(&format!("run {seed} {n}"));
                    if draw.below(2) == 0 {
                        change_structure(&mut completion, &mut draw);
                        return (200, completion.to_string().into_bytes());
                    }
                    let mut bytes = completion.to_string().into_bytes();
                    change_bytes(&mut bytes, &mut draw);
                    ([200, 200, 400, 422, 500][draw.below(5)], bytes)
                })
            })
        }));
        let (data, journal) = (planted(10), temp());
        let judge = json!({"labelSource": if seed % 2 == 0 { "LogProbs" } else { "Verdict" },
            "limits": {"concurrency": 2, "maxAttempts": 1, "timeoutSeconds": 10}});
        match ask(sim.url(), &judge, &data, &Order::default(), journal.path()) {
            Ok(judged) => {
                assert!(judged.probabilities().iter().flatten().all(|p| (0.0..=1.0).contains(p)), "seed {seed}");
                let cost = &judged.cost;
                assert!(cost.prompt_tokens >= 0 && cost.completion_tokens >= 0 && cost.requests <= 20, "{cost:?}");
            }
            Err(Error::JudgeRejected(why) | Error::JudgeUnavailable(why)) => {
                assert!(why.contains("spec.judges[0]") && why.contains(sim.url()), "{why}");
            }
            Err(other) => panic!("seed {seed}: {other:?}"),
        }
    }
}

/// A line of a journal, whatever is in it.
#[derive(Deserialize, Serialize)]
struct Line(Value);

impl Record for Line {
    const VERSION: u32 = Entry::VERSION;
    const WITHOUT: &'static str = Entry::WITHOUT;
}

#[test]
fn a_journal_with_other_contents_is_read_as_carefully_as_a_server() {
    let (sim, data, whole) = (JudgeSim::start(Config::default()), planted(6), temp());
    let undisturbed = ask(sim.url(), &json!({}), &data, &Order::default(), whole.path()).unwrap().probabilities();
    let (log, written) = AppendLog::<Line>::open(&Journal::file(whole.path())).unwrap();
    drop(log);
    let mut other_labels = 0;
    for seed in 0..150 {
        let mut draw = Draw::new(&format!("journal {seed}"));
        let mut entries: Vec<Value> = written.iter().map(|line| line.0.clone()).collect();
        for _ in 0..=draw.below(3) {
            let at = draw.below(entries.len());
            if draw.below(2) == 0 {
                change_structure(&mut entries[at]["reply"], &mut draw);
            } else {
                change_structure(&mut entries[at], &mut draw);
            }
        }
        let journal = temp();
        // Each line gets a valid checksum; otherwise the changed lines would be dropped unread. Only objects can have one.
        let (mut log, _) = AppendLog::open(&Journal::file(journal.path())).unwrap();
        for entry in entries.iter().filter(|entry| entry.as_object().is_some_and(|fields| !fields.is_empty())) {
            log.append(&Line(entry.clone())).unwrap();
        }
        drop(log);
        match ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()) {
            Ok(judged) => {
                assert!(judged.probabilities().iter().flatten().all(|p| (0.0..=1.0).contains(p)), "seed {seed}");
                other_labels += usize::from(judged.probabilities() != undisturbed);
                assert!(
                    judged.cost.prompt_tokens >= 0 && judged.cost.prompt_tokens < 12 * 200_000,
                    "{:?}",
                    judged.cost
                );
            }
            Err(Error::Data(why)) => assert!(why.contains("replies.jsonl:"), "the line is named: {why}"),
            Err(other) => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(other_labels > 15, "{other_labels} of 150 journals give other labels: the changed lines are read");
}
