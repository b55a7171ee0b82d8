//! Data of other people: every record is learnt from, or counted where people look, or refused; and what is learnt is what
//! the records say.

use std::fs;
use std::path::PathBuf;

use plumbline_crds::Kind;
use plumbline_feedback::data::{parquet, preference};
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::place::Place;
use plumbline_testkit::{fixture, stage};
use serde_json::{Value, json};

const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");
const DPO: (Kind, &str) = (Kind::PolicyTuning, "dpo");
const SFT: (Kind, &str) = (Kind::PolicyTuning, "sft");

/// Pairs of the fixtures, as JSON.
fn pairs(n: usize) -> Vec<Value> {
    let text = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    text.lines().take(n).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines(records: &[Value]) -> String {
    records.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Stages that read a file of pairs, on a model.
fn stages(place: &Place, file: &str, model: &str) -> [Value; 2] {
    let data = json!({"datasetRef": null, "dataset": {"uri": place.uri(file)},
        "training": {"maxSteps": 2, "batchSize": 8, "microBatchSize": 8, "epochs": 1}});
    let reward = with(with(chain::reward(REWARD.1, ""), &data), &json!({"baseModel": {"uri": model}}));
    let dpo = with(chain::dpo(DPO.1, ""), &data);
    [reward, with(dpo, &json!({"policyModel": {"uri": model}, "evaluation": null}))]
}

/// The tiny model with a chat template.
fn chat_model(place: &Place, template: &str) -> PathBuf {
    let folder = place.path("model");
    fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"] {
        fs::copy(fixture::tiny().join(file), folder.join(file)).unwrap();
    }
    let config = fs::read_to_string(fixture::tiny().join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["chat_template"] = json!(template);
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn pairs_that_are_left_out_are_counted_on_the_screen_in_the_summary_the_report_and_the_status() {
    let place = Place::new(&[]);
    let mut records = pairs(24);
    for record in &mut records[..14] {
        record["chosen"] = json!(format!("{}{}", record["chosen"].as_str().unwrap(), " and the sea".repeat(200)));
    }
    fs::write(place.path("pairs.jsonl"), lines(&records)).unwrap();
    place.write(&stages(&place, "pairs.jsonl", &fixture::uri("tiny")));
    let ended = place.run().well();
    for (kind, name) in [REWARD, DPO] {
        let id = format!("{}/{name}", kind.to_string().to_lowercase());
        let said = ended.printed();
        let counts = place.status(kind, name).counts;
        let of = |count: &str| counts[count] as f64;
        assert!(of("records") == 24.0 && of("leftOut") <= 14.0 && of("leftOut") >= 12.0, "{counts:?}");
        // DPO learns from the training part of the file alone; the reward model is measured on the other.
        let held_out = counts.get("heldOut").copied().unwrap_or(0);
        assert_eq!(held_out > 0, (kind, name) == DPO, "{counts:?}");
        assert_eq!(counts["leftOut"], counts["leftOutTooLong"]);
        let line = format!(
            "warning: {id}: {} of {} records left out ({} too long)",
            counts["leftOut"], counts["records"], counts["leftOut"]
        );
        assert!(said.contains(&line), "expected `{line}`: {said}");
        let summary = place.json(kind, name, "summary.json");
        let number = |name: &str| summary[name].as_f64().unwrap();
        let numbers = [number("records"), number("left_out"), number("left_out_too_long")];
        assert_eq!(numbers, [of("records"), of("leftOut"), of("leftOutTooLong")]);
        let report = place.json(kind, name, "report.json");
        assert_eq!(report["sections"][0]["title"], "Pairs left out: most of them", "before everything else");
    }
}

#[test]
fn pairs_that_a_template_makes_equal_are_counted_and_none_is_learnt_from() {
    let place = Place::new(&[]);
    let model = chat_model(
        &place,
        "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}\n{% endfor %}{% if \
         add_generation_prompt %}[assistant] {% endif %}",
    );
    let turn = |role: &str, text: &Value| json!([{"role": role, "content": text}]);
    let mut records: Vec<Value> = pairs(24)
        .iter()
        .map(|r| {
            json!({"prompt": turn("user", &r["prompt"]), "chosen": turn("assistant", &r["chosen"]),
                "rejected": turn("assistant", &r["rejected"])})
        })
        .collect();
    for record in &mut records[..4] {
        let chosen = record["chosen"][0]["content"].as_str().unwrap().to_owned();
        record["rejected"] = turn("assistant", &json!(format!("{chosen} \n")));
    }
    fs::write(place.path("pairs.jsonl"), lines(&records)).unwrap();
    let manifests = stages(&place, "pairs.jsonl", &format!("file://{}", model.display()));
    place.write(&manifests);
    let _ = place.run().well();
    for (kind, name) in [REWARD, DPO] {
        let counts = place.status(kind, name).counts;
        let equal = counts["leftOutEqualAsTokens"];
        assert!((3..=4).contains(&equal) && counts["leftOut"] == equal, "{name}: {counts:?}");
    }

    fs::write(place.path("pairs.jsonl"), lines(&records[..4])).unwrap();
    let ended = place.run();
    assert_eq!(ended.code(), 3, "{}", ended.said());
    for word in ["pairs.jsonl", "no pair to train on", "4 equal as tokens"] {
        assert!(ended.said().contains(word), "expected `{word}`: {}", ended.said());
    }
}

#[test]
fn a_conversation_that_a_template_refuses_is_named_by_its_line() {
    let place = Place::new(&[]);
    let model = chat_model(
        &place,
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ m.content }}\n{% endfor %}",
    );
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let records: Vec<Value> = pairs(24)
        .iter()
        .enumerate()
        .map(|(i, r)| {
            let answer = |side: &str| json!([turn("assistant", r[side].as_str().unwrap())]);
            let asked = turn("user", r["prompt"].as_str().unwrap());
            let prompt = if i == 5 { vec![turn("system", "rhyme"), asked] } else { vec![asked] };
            json!({"prompt": prompt, "chosen": answer("chosen"), "rejected": answer("rejected")})
        })
        .collect();
    // A blank line is no record.
    fs::write(place.path("pairs.jsonl"), format!("\n{}", lines(&records))).unwrap();
    for manifest in stages(&place, "pairs.jsonl", &format!("file://{}", model.display())) {
        place.write(&[manifest]);
        let ended = place.run();
        assert_eq!(ended.code(), 3, "{}", ended.said());
        let begins = records[5]["prompt"][1]["content"].as_str().unwrap().chars().take(20).collect::<String>();
        for words in ["pairs.jsonl:7: ", "no system turn", &begins, "model"] {
            assert!(ended.said().contains(words), "expected `{words}`: {}", ended.said());
        }
    }
}

#[test]
fn preferences_texts_and_prompts_are_read_from_the_files_that_hugging_face_has() {
    let place = Place::new(&[]);
    let records = preference::read_file(&fixture::path("pairs.jsonl")).unwrap();
    fs::create_dir_all(place.path("hub/data")).unwrap();
    for (part, rows) in records[..48].chunks(24).enumerate() {
        parquet::write_file(&place.path(&format!("hub/data/train-0000{part}-of-00002.parquet")), rows).unwrap();
    }
    let texts: Vec<Value> = pairs(40).iter().map(|r| json!({"text": r["chosen"]})).collect();
    fs::write(place.path("texts.json"), serde_json::to_string_pretty(&texts).unwrap()).unwrap();
    let prompts = fs::read_to_string(fixture::path("prompts-held-out.txt")).unwrap();
    let prompts: Vec<Value> = prompts.lines().map(|line| json!({"prompt": line})).collect();
    fs::write(place.path("prompts"), serde_json::to_string(&prompts).unwrap()).unwrap();
    let evaluation =
        json!({"evaluation": {"prompts": {"uri": place.uri("prompts")}, "samplesPerPrompt": 1, "judge": null}});
    let short = json!({"training": {"maxSteps": 1}});
    let [reward, _] = stages(&place, "hub", &fixture::uri("tiny"));
    let sft = with(chain::sft(SFT.1, &place.uri("texts.json")), &short);
    let sft = with(sft, &json!({"evaluation": {"sampling": {"maxNewTokens": 8}}}));
    place.write(&[reward, with(sft, &evaluation)]);
    let _ = place.run().well();
    let counts = |(kind, name): (Kind, &str)| place.status(kind, name).counts["records"];
    assert_eq!((counts(REWARD), counts(SFT)), (48, 40));
    let before = place.status(SFT.0, SFT.1);
    assert!(before.evaluation.contains_key("afterEnded"), "{:?}", before.evaluation);
}

#[test]
fn a_policy_and_a_reference_of_equal_weights_start_at_ln_2_in_either_precision() {
    let root = tempfile::tempdir().unwrap();
    let mut records = pairs(24);
    let text: String = records.iter().map(|r| r["chosen"].as_str().unwrap().to_owned()).collect();
    for (i, record) in records.iter_mut().enumerate() {
        record["prompt"] = json!(text.chars().skip(7 * i).take(5 + 14 * i).collect::<String>());
    }
    fs::write(root.path().join("pairs.jsonl"), lines(&records)).unwrap();
    // Micro-batches of other sizes than the reference pass, which has 32 sequences.
    for (precision, adapter, micro) in [
        ("BFloat16", json!(null), 8),
        ("BFloat16", json!(null), 1),
        ("BFloat16", json!({"rank": 4}), 8),
        ("Float32", json!(null), 8),
    ] {
        let changes = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null,
            "training": {"maxSteps": 3, "batchSize": 8, "microBatchSize": micro, "maxLength": 256, "precision": precision, "adapter": adapter}});
        let folder = root.path().join(format!("{precision}-{adapter}-{micro}").replace(['"', '{', '}', ':'], ""));
        let inputs = [("policyModel", fixture::tiny()), ("dataset", root.path().join("pairs.jsonl"))];
        let made = stage::run(&with(chain::dpo("d", ""), &changes), &inputs, &folder);
        let losses: Vec<f64> = made.metrics.iter().map(|line| line["loss"].as_f64().unwrap()).collect();
        assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-5, "{precision} {adapter} {micro}: {losses:?}");
        assert!(losses[1] != losses[0], "{precision} {adapter}: it learns: {losses:?}");
    }
}

#[test]
fn a_model_tuned_on_texts_still_ends_its_responses_and_one_tuned_on_cut_texts_unlearns_it() {
    let root = tempfile::tempdir().unwrap();
    let ended = |complete: bool| {
        let records: Vec<Value> = pairs(48)
            .iter()
            .map(|r| json!({"text": format!("{}{}", r["prompt"].as_str().unwrap(), r["chosen"].as_str().unwrap()), "complete": complete}))
            .collect();
        let folder = root.path().join(complete.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("texts.jsonl"), lines(&records)).unwrap();
        let changes = json!({"training": {"epochs": 6},
            "evaluation": {"prompts": {"uri": "prompts"}, "samplesPerPrompt": 2, "sampling": {"maxNewTokens": 60, "seed": 3}}});
        let inputs = [
            ("policyModel", fixture::tiny()),
            ("dataset", folder.join("texts.jsonl")),
            ("evaluation.prompts", fixture::path("prompts-held-out.txt")),
        ];
        let made = stage::run(&with(chain::sft("s", "texts"), &changes), &inputs, &folder);
        let summary: Value = serde_json::from_slice(&fs::read(made.artifact.join("summary.json")).unwrap()).unwrap();
        [&summary["before"]["ended"], &summary["after"]["ended"]].map(|n| n.as_f64().unwrap())
    };
    let ([before, after], [_, after_cut]) = (ended(true), ended(false));
    assert!(after >= before && after > 0.5, "{before} before, {after} after");
    assert!(after_cut < after - 0.3, "{after} and {after_cut}: the end tokens are what makes the difference");
}

#[test]
fn the_learning_rate_has_one_name() {
    let root = tempfile::tempdir().unwrap();
    let pairs = ("dataset", fixture::path("pairs.jsonl"));
    let few = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "training": {"maxSteps": 1, "batchSize": 8}});
    let inputs = [("baseModel", fixture::tiny()), pairs];
    let reward = stage::run(&with(chain::reward("r", ""), &few), &inputs, &root.path().join("reward"));
    let few = json!({"evaluation": null, "rollout": {"promptsPerStep": 8, "sampling": {"maxNewTokens": 4}},
        "training": {"maxSteps": 1, "batchSize": 8}});
    let inputs = [
        ("policyModel", fixture::tiny()),
        ("rewardModelRef", reward.artifact.clone()),
        ("prompts", fixture::path("prompts.txt")),
    ];
    let ppo = stage::run(&with(chain::ppo("p", "r"), &few), &inputs, &root.path().join("ppo"));
    for made in [reward, ppo] {
        let line = &made.metrics[0];
        assert!(line["learning_rate"].as_f64().is_some() && line.get("lr").is_none(), "{line}");
    }
}
