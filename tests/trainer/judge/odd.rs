//! Servers that answer otherwise than most: what is read from them, how soon a useless one is stopped, and what is said of it.

use plumbline_crds::preference_dataset::Order;
use plumbline_feedback::Error;
use plumbline_feedback::judge::journal::Journal;
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use serde_json::{Value, json};

use super::kit::{ask, planted, temp};

/// A judge all of whose answers are changed so.
fn changed(change: impl Fn(&mut Value) + Send + Sync + Clone + 'static) -> JudgeSim {
    JudgeSim::start(Config::default().faults(move |_, _| Some(Fault::changed(change.clone()))))
}

/// Sets the text of a completion, made from the letter that it was.
fn text(make: impl Fn(&str) -> Value + Send + Sync + Clone + 'static) -> JudgeSim {
    changed(move |completion| {
        let letter = completion["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        completion["choices"][0]["message"]["content"] = make(&letter);
    })
}

/// Changes each token of the log-probabilities.
fn tokens(change: impl Fn(&mut Value) + Send + Sync + Clone + 'static) -> JudgeSim {
    changed(move |completion| {
        let position = &mut completion["choices"][0]["logprobs"]["content"][0];
        for entry in position["top_logprobs"].as_array_mut().unwrap() {
            change(entry);
        }
        change(position);
    })
}

#[test]
fn a_verdict_is_read_in_the_forms_that_servers_and_judges_give_it() {
    let (data, verdict) = (planted(12), json!({"labelSource": "Verdict"}));
    let parts = |letter: &str| json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm, A or B?"}]}, {"type": "text", "text": letter}]);
    let judges = [
        text(parts),
        text(|letter| json!(format!("The better answer is {letter}."))),
        text(|letter| json!(format!("{{\"winner\": \"{letter}\", \"loser answer\": \"neither, A nor B\",}}"))),
        text(|letter| json!(format!("<think>\nResponse A\nlooks fine. Verdict: B\n</think>\n\n{letter}"))),
        text(|letter| json!(format!("Both are fine.\n\nVerdict: **{letter}**"))),
    ];
    for (i, sim) in judges.iter().enumerate() {
        let journal = temp();
        let judged = ask(sim.url(), &verdict, &data, &Order::default(), journal.path()).unwrap();
        for (p, difference) in judged.probabilities().iter().zip(&data.differences) {
            assert!((p.unwrap() > 0.5) == (*difference > 0.0), "judge {i}: {p:?} for {difference}");
        }
        assert_eq!(sim.answered(), 24);
    }
}

#[test]
fn a_heading_is_never_a_verdict() {
    for make in [
        |letter: &str| {
            json!(format!("**Response {letter}**\n\nThis one invents facts. The other is the better of the two."))
        },
        |letter: &str| json!(format!("Response {letter}:\nIt names a wrong city, so the other one wins.")),
        |letter: &str| json!(format!("### {letter}\nThis one invents facts.")),
    ] {
        let (data, sim, journal) = (planted(12), text(make), temp());
        let error =
            ask(sim.url(), &json!({"labelSource": "Verdict"}), &data, &Order::default(), journal.path()).unwrap_err();
        assert!(
            matches!(&error, Error::JudgeRejected(why) if why.contains("8 x the reply states no verdict")),
            "{error}"
        );
    }
}

#[test]
fn tokens_are_known_as_vocabularies_write_them() {
    let data = planted(12);
    let before = |mark: &'static str| {
        tokens(move |entry: &mut Value| entry["token"] = format!("{mark}{}", entry["token"].as_str().unwrap()).into())
    };
    let bytes = tokens(|entry| {
        let letter = entry["token"].as_str().unwrap().as_bytes()[0];
        entry["bytes"] = json!([32, letter]);
        entry["token"] = "\u{fffd}".into();
    });
    let judges = [before("\u{2581}"), before("\u{120}"), before("\""), before("\n"), bytes];
    for (i, sim) in judges.iter().enumerate() {
        let journal = temp();
        let judged = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap();
        for (outcome, difference) in judged.outcomes.iter().zip(&data.differences) {
            let log_odds = outcome.label().unwrap().log_odds.unwrap();
            assert!((log_odds - difference).abs() < 1e-4, "judge {i}: {log_odds} for {difference}");
        }
    }
}

#[test]
fn a_useless_judge_is_stopped_after_eight_replies_with_the_cause_and_one_of_them() {
    let log_probs = json!({"labelSource": "LogProbs", "limits": {"concurrency": 32}});
    let verdict = json!({"labelSource": "Verdict", "limits": {"concurrency": 32}});
    let reasoning = |finish: &'static str| {
        changed(move |completion| {
            completion["choices"][0]["message"] =
                json!({"role": "assistant", "content": null, "reasoning_content": "Let me think about it"});
            completion["choices"][0]["finish_reason"] = finish.into();
        })
    };
    let after_sampling = tokens(|entry| {
        let p = entry["logprob"].as_f64().unwrap();
        entry["logprob"] = if p > -0.8 { json!(0.0) } else { json!(-9999.0) };
    });
    let one_alternative = changed(|completion| {
        let position = &mut completion["choices"][0]["logprobs"]["content"][0];
        position["top_logprobs"] = json!([]);
        position["logprob"] = json!(0.0);
    });
    let probabilities = changed(|completion| {
        completion["choices"][0]["logprobs"] =
            json!({"content": [{"token": "A", "prob": 0.8, "top_probs": [{"token": "A", "prob": 0.8}]}]});
    });
    let nan = JudgeSim::start(Config::default().faults(|_, _| {
        Some(Fault::made(|_, _, completion| {
            let text = completion.to_string().replacen("\"logprob\":-", "\"logprob\":NaN,\"was\":-", 1);
            (200, text.into_bytes())
        }))
    }));
    let thinking = changed(|completion| {
        let position = &mut completion["choices"][0]["logprobs"]["content"][0];
        *position =
            json!({"token": "<think>", "logprob": -0.01, "top_logprobs": [{"token": "<think>", "logprob": -0.01}]});
    });
    for (judge, sim, words) in [
        (&verdict, text(|_| json!("")), &["8 x the reply is empty"][..]),
        (
            &verdict,
            reasoning("length"),
            &["8 x the reply is truncated before its verdict", "\"Let me think about it\""],
        ),
        (&verdict, reasoning("stop"), &["8 x the reply is reasoning without an answer"]),
        (
            &verdict,
            text(|_| json!("I'm sorry, but I can't assist with that.")),
            &["8 x the judge refuses", "can't assist"],
        ),
        (
            &verdict,
            text(|_| json!("Verdict: A\nVerdict: B")),
            &["8 x the reply gives more than one answer", "Verdict: A Verdict: B"],
        ),
        (
            &verdict,
            text(|l| json!(format!("I think that {l} is better because it is kind. Thanks!"))),
            &["8 x the reply states no verdict", "because it is kind"],
        ),
        (
            &log_probs,
            changed(|c| c["choices"][0]["logprobs"] = Value::Null),
            &["no log-probabilities; set labelSource: Verdict"],
        ),
        (&log_probs, probabilities, &["8 x the reply has no log-probabilities"]),
        (&log_probs, after_sampling, &["8 x every log-probability is 0 or -9999"]),
        (&log_probs, one_alternative, &["8 x every log-probability is 0 or -9999"]),
        (&log_probs, tokens(|e| e["logprob"] = json!(5.0)), &["8 x the log-probabilities are above 0"]),
        (&log_probs, nan, &["8 x the log-probabilities are above 0, sum to more than 1 or are not numbers"]),
        (&log_probs, tokens(|e| e["token"] = "token_id:362".into()), &["8 x the server writes tokens as ids"]),
        (&log_probs, tokens(|e| e["token"] = "The".into()), &["8 x neither answer is among the likely tokens"]),
        (&log_probs, thinking, &["8 x the log-probabilities are those of reasoning"]),
    ] {
        let (data, journal) = (planted(40), temp());
        let error = ask(sim.url(), judge, &data, &Order::default(), journal.path()).unwrap_err();
        assert!(matches!(&error, Error::JudgeRejected(_)), "{error}");
        let said = error.to_string();
        for word in [&["spec.judges[0]", sim.url()], words].concat() {
            assert!(said.contains(word), "expected `{word}` in: {said}");
        }
        assert!(!said.contains("a tie") && !said.contains("below minConfidence"), "{said}");
        assert_eq!(sim.answered(), 8, "eight answers are paid for, of {words:?}");
    }
}

#[test]
fn a_question_in_three_without_a_verdict_stops_nothing() {
    let sim = JudgeSim::start(Config::default().faults(|n, _| (n % 3 != 2).then_some(Fault::Text(""))));
    let (data, journal) = (planted(60), temp());
    let judged = ask(sim.url(), &json!({"labelSource": "Verdict"}), &data, &Order::default(), journal.path()).unwrap();
    assert_eq!((judged.counts()["unparsed"], sim.answered()), (80, 120));
    assert_eq!(judged.reasons["the reply is empty"], 80);
}

#[test]
fn an_error_that_repeats_the_request_costs_its_question_alone() {
    let sim = JudgeSim::start(Config::default().faults(|n, _| {
        (n % 5 == 0).then(|| {
            Fault::made(|request, _, _| {
                let detail = json!({"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "string too long",
                    "type": "value_error", "input": request}]});
                (422, detail.to_string().into_bytes())
            })
        })
    }));
    let (data, journal) = (planted(30), temp());
    let judged = ask(sim.url(), &json!({}), &data, &Order::default(), journal.path()).unwrap();
    assert_eq!((judged.counts()["transport_failed"], sim.answered()), (12, 48));
    assert_eq!(judged.reasons.get("HTTP 422: value_error: string too long"), Some(&12), "{:?}", judged.reasons);
}

/// A server that refuses `max_tokens`, a temperature and more than five alternatives, as newer and smaller servers do.
fn particular() -> JudgeSim {
    JudgeSim::start(Config::default().faults(|_, _| {
        Some(Fault::made(|request, _, completion| {
            let refused = |message: &str, parameter: &str| {
                let error =
                    json!({"message": message, "type": "invalid_request_error", "param": parameter, "code": null});
                (400, json!({"error": error}).to_string().into_bytes())
            };
            if !request["max_tokens"].is_null() {
                let words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                             'max_completion_tokens' instead.";
                return refused(words, "max_tokens");
            }
            if !request["temperature"].is_null() {
                return refused("Unsupported value: 'temperature' does not support 0 with this model.", "temperature");
            }
            if request["top_logprobs"].as_i64().unwrap_or(0) > 5 {
                return refused("Cannot request more than 5 logprobs.", "top_logprobs");
            }
            assert!(request["max_completion_tokens"].as_i64().is_some_and(|n| n > 0), "{request}");
            (200, completion.to_string().into_bytes())
        }))
    }))
}

#[test]
fn a_server_is_asked_as_it_wants_to_be_and_no_reply_is_bought_twice() {
    let (sim, data, journal) = (particular(), planted(20), temp());
    let judge = json!({"limits": {"concurrency": 16, "maxAttempts": 1}});
    let judged = ask(sim.url(), &judge, &data, &Order::default(), journal.path()).unwrap();
    assert!(judged.probabilities().iter().all(Option::is_some));
    assert_eq!((sim.answered(), sim.requests().len()), (40, 43), "the first question finds out, with three refusals");
    let told: Vec<String> = judged.dialects.iter().flat_map(|d| d.told()).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told[0].contains("max_completion_tokens")
            && told[1].contains("temperature")
            && told[2].starts_with("5 alternatives")
    );
    // Half of the journal is lost; the run that goes on finds out again, and buys the lost half alone.
    let file = Journal::file(journal.path());
    let half: String = std::fs::read_to_string(&file).unwrap().split_inclusive('\n').take(20).collect();
    std::fs::write(&file, half).unwrap();
    let again = ask(sim.url(), &judge, &data, &Order::default(), journal.path()).unwrap();
    assert_eq!(again.probabilities(), judged.probabilities());
    assert_eq!(again.dialects, judged.dialects, "a report says the same, however often the run was stopped");
    assert_eq!((sim.answered(), sim.requests().len()), (60, 66));
    let whole = ask(sim.url(), &judge, &data, &Order::default(), journal.path()).unwrap();
    assert_eq!(
        (whole.dialects, sim.requests().len()),
        (judged.dialects, 66),
        "nothing is asked for what is in the journal"
    );
}
