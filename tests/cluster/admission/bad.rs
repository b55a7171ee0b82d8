//! Manifests that are wrong in one way each. Computes only.

use plumbline_crds::Kind;
use serde_json::{Value, json};

use super::case::{Case, Cases, path_of};
use super::manifests::{dpo, endpoint, least, price};

/// Every bad manifest of a kind.
pub(crate) fn of(kind: Kind) -> Vec<Case> {
    let mut cases = Cases::of(least(kind));
    every_kind(&mut cases);
    match kind {
        Kind::PreferenceDataset => dataset(&mut cases),
        Kind::RewardModel => reward(&mut cases),
        Kind::PolicyTuning => {
            tuning(&mut cases);
            let mut learns_from_data = Cases::of(dpo());
            data_methods(&mut learns_from_data);
            cases.list.append(&mut learns_from_data.list);
        }
    }
    cases.list
}

const ONE: &str = "expected exactly one of";

fn every_kind(cases: &mut Cases) {
    cases.field("a name of 53 characters", "/metadata/name", json!("a".repeat(53)), "52");
    cases.field("a name with a dot", "/metadata/name", json!("a.b"), "a-z0-9");
    cases.field("an unknown field", "/spec/suspended", json!(true), "unknown field");
    cases.field("a text for a boolean", "/spec/suspend", json!("yes"), "boolean");
    cases.field("too many accelerators", "/spec/compute/accelerators", json!(65), "less than or equal to 64");
    cases.field("a fraction of a pod", "/spec/compute/nodes", json!(1.5), "integer");
    cases.field("no time at all", "/spec/compute/deadlineSeconds", json!(0), "greater than or equal to 1");
    cases.field("a duration as text", "/spec/compute/deadlineSeconds", json!("1h"), "integer");
    cases.field("a long image", "/spec/compute/image", json!("i".repeat(513)), "512");
    cases.field("more retries than are sane", "/spec/compute/maxRetries", json!(1000), "100");
    cases.field("no quantity", "/spec/compute/resources/limits", json!({"memory": "8 GB"}), "expected quantities");
    cases.field("no quantity", "/spec/compute/resources/requests", json!({"cpu": "two"}), "expected quantities");
    let toleration = |value: Value| [("/spec/compute/tolerations", json!([value]))];
    let at = "spec.compute.tolerations[0]";
    cases.add("a toleration of what", &toleration(json!({"value": "v"})), &format!("{at}.operator"), "expected Exists");
    let exists = json!({"key": "k", "operator": "Exists", "value": "v"});
    cases.add("a value that is not read", &toleration(exists), &format!("{at}.value"), "expected no value");
    let seconds = json!({"key": "k", "effect": "NoSchedule", "tolerationSeconds": 1});
    cases.add(
        "seconds that are not read",
        &toleration(seconds),
        &format!("{at}.tolerationSeconds"),
        "only with effect",
    );
    let effect = json!({"key": "k", "effect": "NoRun"});
    cases.add("an unknown effect", &toleration(effect), &format!("{at}.effect"), "\"NoExecute\"");
    let both = json!({"name": "A", "value": "v", "secretKeyRef": {"name": "s", "key": "k"}});
    cases.add("two values", &[("/spec/compute/env", json!([both]))], "spec.compute.env[0]", "expected only one of");
    for (name, key, wrong) in
        [("../s", "k", "name"), ("S", "k", "name"), ("s", "../k", "key"), ("s", "..", "key"), ("s", "a/b", "key")]
    {
        let reference = json!([{"name": "A", "secretKeyRef": {"name": name, "key": key}}]);
        let at = format!("spec.compute.env[0].secretKeyRef.{wrong}");
        cases.add("no name and no key", &[("/spec/compute/env", reference)], &at, "should match");
    }
    cases.field("no class", "/spec/compute/priorityClassName", json!("High"), "should match");
    cases.field("a queue that is no label", "/spec/compute/queueName", json!("q".repeat(64)), "63");
    let twice = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    cases.add("a variable twice", &[("/spec/compute/env", twice)], "spec.compute.env[1]", "Duplicate value");
    location(cases, "/spec/output/uri");
}

fn dataset(cases: &mut Cases) {
    cases.field("nothing to ask about", "/spec/prompts", Value::Null, "Required value");
    prompts(cases, "/spec/prompts");
    cases.add("no responses", &[("/spec/generator", Value::Null)], "spec", ONE);
    cases.add("responses twice", &[("/spec/responses", json!({"uri": "r"}))], "spec", ONE);
    location(cases, "/spec/responses/uri");
    cases.add("two writers", &[("/spec/generator/endpoint", endpoint())], "spec.generator", ONE);
    cases.add("no writer", &[("/spec/generator/model", Value::Null)], "spec.generator", ONE);
    model(cases, "/spec/generator/model");
    sampling(cases, "/spec/generator/sampling");
    cases.field("one response cannot be compared", "/spec/generator/responsesPerPrompt", json!(1), "to 2");
    cases.field("no judge", "/spec/judges", json!([]), "at least 1");
    let same = json!({"name": "words", "lexicon": {"uri": "l"}});
    cases.add("judges of one name", &[("/spec/judges", json!([same, same]))], "spec.judges[1]", "Duplicate value");
    judge(cases, "/spec/judges/0");
    cases.field("a confidence that no label misses", "/spec/pairs/minConfidence", json!(0.4), "to 0.5");
    cases.field("a confidence without a fraction", "/spec/pairs/minConfidence", json!(0), "expected at least 0.5");
    cases.field("no pair", "/spec/pairs/perPrompt", json!(0), "to 1");
    cases.field("an unknown order", "/spec/order/policy", json!("Twice"), "\"Sampled\"");
    cases.field("a share of both orders", "/spec/order/sampleFraction", json!(0.5), "for order.policy Sampled only");
    cases.field("a share in percent", "/spec/order/sampleFraction", json!(20), "to 1");
    location(cases, "/spec/review/labelsFrom/uri");
    let judges = |judges: Value| [("/spec/budget/maxCost", json!(5)), ("/spec/judges", judges)];
    let free = json!([{"name": "a", "endpoint": endpoint()}]);
    cases.add("a limit without a price", &judges(free), "spec.judges", "expected a price for each judge");
    let mixed = json!([
        {"name": "a", "endpoint": endpoint(), "price": price("USD")},
        {"name": "b", "endpoint": endpoint(), "price": price("EUR")},
    ]);
    cases.add("two currencies", &judges(mixed), "spec.judges", "expected prices in one currency");
}

fn reward(cases: &mut Cases) {
    cases.add("no data", &[("/spec/datasetRef", Value::Null)], "spec", ONE);
    cases.add("data twice", &[("/spec/dataset", json!({"uri": "d"}))], "spec", ONE);
    cases.field("a name that no resource has", "/spec/datasetRef/name", json!("Data_1"), "a-z0-9");
    location(cases, "/spec/dataset/uri");
    location(cases, "/spec/referenceLabels/uri");
    cases.field("no model", "/spec/baseModel", Value::Null, "Required value");
    model(cases, "/spec/baseModel");
    training(cases);
    cases.field("more nodes than pairs", "/spec/compute/nodes", json!(65), "expected at most training.batchSize");
    cases.field("unknown labels", "/spec/loss/labels", json!("soft"), "\"Soft\"");
    cases.field("a negative weight", "/spec/loss/marginWeight", json!(-1), "to 0");
    cases.field("an accuracy in percent", "/spec/gates/minAccuracy", json!(70), "to 1");
}

fn tuning(cases: &mut Cases) {
    cases.field("an unknown method", "/spec/method", json!("ppo"), "\"PPO\"");
    cases.field("no method", "/spec/method", Value::Null, "Required value");
    cases.field("no model", "/spec/policyModel", Value::Null, "Required value");
    model(cases, "/spec/policyModel");
    training(cases);
    cases.field("more nodes than sequences", "/spec/compute/nodes", json!(65), "expected at most training.batchSize");
    let few = [("/spec/rollout/promptsPerStep", json!(3)), ("/spec/compute/nodes", json!(4))];
    cases.add(
        "more nodes than prompts",
        &few,
        "spec.compute.nodes",
        "expected at most training.batchSize and rollout.promptsPerStep",
    );
    cases.field(
        "nothing to learn from",
        "/spec/rewardModelRef",
        Value::Null,
        "expected rewardModelRef for methods that sample",
    );
    cases.field("nothing to sample from", "/spec/prompts", Value::Null, "expected prompts for methods that sample");
    cases.field("data that is not read", "/spec/datasetRef", json!({"name": "d"}), "which is for method DPO only");
    cases.field("data that is not read", "/spec/dataset", json!({"uri": "d"}), "which is for SFT and DPO only");
    cases.field("settings of DPO", "/spec/dpo", json!({}), "which is for method DPO only");
    for (block, method) in [
        ("grpo", "GRPO"),
        ("rloo", "RLOO"),
        ("reinforce", "REINFORCE"),
        ("reinforcePlusPlus", "REINFORCEPlusPlus"),
        ("a2c", "A2C"),
    ] {
        let words = format!("which is for method {method} only");
        cases.field("settings of another method", &format!("/spec/{block}"), json!({}), &words);
    }
    for (block, method) in
        [("rloo", "RLOO"), ("reinforce", "REINFORCE"), ("reinforcePlusPlus", "REINFORCEPlusPlus"), ("a2c", "A2C")]
    {
        let pointer = format!("/spec/{block}/adaptiveKl");
        let none = [
            ("/spec/method", json!(method)),
            ("/spec/rollout/responsesPerPrompt", json!(4)),
            (&pointer, json!({"target": 0})),
        ];
        let path = format!("spec.{block}.adaptiveKl.target");
        cases.add("a target of nothing", &none, &path, "expected at least 0.001");
    }
    let bound = [
        ("/spec/method", json!("GRPO")),
        ("/spec/rollout/responsesPerPrompt", json!(4)),
        ("/spec/grpo/dualClip", json!(1)),
    ];
    cases.add("a bound that takes every gradient", &bound, "spec.grpo.dualClip", "expected at least 1.01");
    for method in ["GRPO", "RLOO"] {
        let alone = [("/spec/method", json!(method))];
        cases.add("nothing to compare with", &alone, "spec.rollout.responsesPerPrompt", "expected at least 2");
    }
    prompts(cases, "/spec/prompts");
    let long = json!(1024);
    let path = "/spec/rollout/sampling/maxNewTokens";
    cases.field("responses as long as the longest sequence", path, long, "expected less than training.maxLength");
    sampling(cases, "/spec/rollout/sampling");
    cases.field("an unknown estimator", "/spec/ppo/klEstimator", json!("K4"), "\"K3\"");
    cases.field("a negative coefficient", "/spec/ppo/klCoefficient", json!(-0.1), "to 0");
    cases.field("a discount of more than all", "/spec/ppo/gamma", json!(1.01), "to 1");
    cases.field("a number as text", "/spec/ppo/clipRange", json!("0.2"), "number");
    let horizon = [("/spec/ppo/adaptiveKl", json!({"horizon": 1}))];
    cases.add("a target left out", &horizon, "spec.ppo.adaptiveKl.target", "Required value");
    let none = [("/spec/ppo/adaptiveKl", json!({"target": 0}))];
    cases.add("a target of nothing", &none, "spec.ppo.adaptiveKl.target", "expected at least 0.001");
    cases.field("a misspelt setting", "/spec/ppo/klCoeficient", json!(0.1), "unknown field");
    let evaluation = |cases: &mut Cases, what: &str, field: &str, value: Value, path: &str, words: &str| {
        let prompts = ("/spec/evaluation/prompts", json!({"uri": "p"}));
        let pointer = format!("/spec/evaluation/{field}");
        cases.add(what, &[prompts, (&pointer, value)], &format!("spec.evaluation.{path}"), words);
    };
    let lexicons = |name: &str, uri: &str| json!([{"name": name, "uri": uri}]);
    let (taken, nowhere) = (lexicons("reward", "l"), lexicons("l", "/l"));
    evaluation(cases, "a name that is taken", "lexicons", taken, "lexicons[0].name", "that no other measure has");
    evaluation(cases, "a bare path", "lexicons", nowhere, "lexicons[0].uri", "expected pvc://, hf://, file:///");
    let short = json!({"minNewTokens": 2, "maxNewTokens": 1});
    evaluation(cases, "more than all", "sampling", short, "sampling.minNewTokens", "expected at most maxNewTokens");
    let none = json!({"topP": 0});
    evaluation(cases, "nothing to sample from", "sampling", none, "sampling.topP", "expected at least 1e-6");
    prompts(cases, "/spec/evaluation/prompts");
    judge(cases, "/spec/evaluation/judge");
    judge(cases, "/spec/guard/heldOutJudge");
    cases.field("an entropy below 0", "/spec/guard/minEntropy", json!(-1), "to 0");
}

/// The methods that learn from data alone; these start from a tuning by DPO.
fn data_methods(cases: &mut Cases) {
    cases.add("no data", &[("/spec/datasetRef", Value::Null)], "spec", "for method DPO");
    cases.add("data twice", &[("/spec/dataset", json!({"uri": "d"}))], "spec", "for method DPO");
    cases.add(
        "no pull to the reference",
        &[("/spec/dpo", json!({"beta": 0}))],
        "spec.dpo.beta",
        "expected at least 0.0001",
    );
    let sft = [("/spec/method", json!("SFT")), ("/spec/datasetRef", Value::Null)];
    cases.add("no texts", &sft, "spec.dataset", "expected dataset for method SFT");
    location(cases, "/spec/dataset/uri");
    cases.field("a reward", "/spec/rewardModelRef", json!({"name": "r"}), "which is for methods that sample only");
    cases.field("prompts", "/spec/prompts", json!({"inline": ["p"]}), "which is for methods that sample only");
    cases.field("a guard", "/spec/guard", json!({"maxKl": 1}), "which is for methods that sample only");
    cases.field("settings of PPO", "/spec/ppo", json!({}), "which is for method PPO only");
    let rollout = [("/spec/rollout/sampling/temperature", json!(0.5))];
    cases.add("a rollout", &rollout, "spec.rollout", "which is for methods that sample only");
    let steps = [("/spec/rollout/promptsPerStep", json!(63))];
    cases.add("a rollout", &steps, "spec.rollout", "which is for methods that sample only");
    cases.field("half of the labels wrong", "/spec/dpo/labelSmoothing", json!(0.6), "0.5");
    losses(cases);
    model(cases, "/spec/dpo/referenceModel");
}

/// The losses of DPO, and what they do not read.
fn losses(cases: &mut Cases) {
    let mut add = |what: &str, dpo: Value, field: &str, words: &str| {
        cases.add(what, &[("/spec/dpo", dpo)], &format!("spec.dpo{field}"), words);
    };
    add("an unknown loss", json!({"loss": "sigmoid"}), ".loss", "\"Sigmoid\"");
    let twice = json!([{"loss": "Ipo"}, {"loss": "Ipo"}]);
    add("a loss twice", json!({"losses": twice}), ".losses[1]", "Duplicate");
    add("no losses", json!({"losses": []}), ".losses", "at least 1 items");
    let unweighted = json!({"losses": [{"loss": "Ipo", "weight": 0}]});
    add("a loss without weight", unweighted, ".losses[0].weight", "expected at least 0.0001");
    add("losses twice", json!({"loss": "Ipo", "losses": [{"loss": "Ipo"}]}), "", "expected only one of");
    add("nothing but texts", json!({"losses": [{"loss": "Sft"}]}), "", "expected another loss beside Sft");
    add("probabilities", json!({"loss": "Hinge", "labels": "Soft"}), ".labels", "expected Hard");
    add("smoothing", json!({"loss": "Hinge", "labelSmoothing": 0.1}), ".labelSmoothing", "expected 0");
    add("a certain label", json!({"loss": "ExoPair"}), ".labelSmoothing", "expected more than 0");
    add("no signal", json!({"loss": "Robust", "labelSmoothing": 0.5}), ".labelSmoothing", "expected less than 0.5");
    add("a margin of Simpo", json!({"simpoGamma": 1}), ".simpoGamma", "expected no simpoGamma");
    add("a temperature of Discopop", json!({"discopopTau": 1}), ".discopopTau", "expected no discopopTau");
    let cold = json!({"loss": "Discopop", "discopopTau": 0});
    add("a temperature of 0", cold, ".discopopTau", "expected at least 0.0001");
    let unread = json!({"loss": "Simpo", "referenceModel": {"uri": "m"}});
    add("a reference that is not read", unread, ".referenceModel", "expected no referenceModel");
}

fn prompts(cases: &mut Cases, at: &str) {
    let path = path_of(at);
    cases.add("no source", &[(at, json!({}))], &path, ONE);
    cases.add("two sources", &[(at, json!({"inline": ["p"], "uri": "p"}))], &path, ONE);
    let limit = [(at, json!({"uri": "p", "limit": 0}))];
    cases.add("none of the prompts", &limit, &format!("{path}.limit"), "to 1");
    let empty = [(at, json!({"inline": [""]}))];
    cases.add("an empty prompt", &empty, &format!("{path}.inline[0]"), "at least 1 chars");
    let nowhere = [(at, json!({"uri": "ftp://p"}))];
    cases.add("a place that cannot be read", &nowhere, &format!("{path}.uri"), "expected pvc://, hf://, file:///");
}

fn sampling(cases: &mut Cases, at: &str) {
    let path = path_of(at);
    let short = [(at, json!({"minNewTokens": 2, "maxNewTokens": 1}))];
    cases.add("more than all", &short, &format!("{path}.minNewTokens"), "expected at most maxNewTokens");
    let hot = [(at, json!({"temperature": 11}))];
    cases.add("too hot", &hot, &format!("{path}.temperature"), "to 10");
    let none = [(at, json!({"topP": 0}))];
    cases.add("nothing to sample from", &none, &format!("{path}.topP"), "expected at least 1e-6");
}

fn training(cases: &mut Cases) {
    let batch = [("/spec/training/batchSize", json!(7))];
    cases.add("parts larger than the whole", &batch, "spec.training.microBatchSize", "expected at most batchSize");
    cases.field("a rate that diverges", "/spec/training/learningRate", json!(2), "to 1");
    let norm = json!(0);
    cases.field("no gradient", "/spec/training/optimizer/maxGradNorm", norm, "expected at least 1e-6");
    cases.field("a fraction of a pass", "/spec/training/epochs", json!(0.5), "integer");
    cases.field("an unknown precision", "/spec/training/precision", json!("bf16"), "\"BFloat16\"");
    let unknown = [("/spec/training/adapter", json!({"targets": ["attention heads"]}))];
    cases.add("no role and no name", &unknown, "spec.training.adapter.targets[0]", "should match");
    let twice = [("/spec/training/adapter", json!({"targets": ["q_proj", "q_proj"]}))];
    cases.add("a projection twice", &twice, "spec.training.adapter.targets[1]", "Duplicate value");
}

fn model(cases: &mut Cases, at: &str) {
    let path = path_of(at);
    let file = [(at, json!({"uri": "file:///m", "revision": "main"}))];
    cases.add("a revision of a file", &file, &format!("{path}.revision"), "only with an hf:// URI");
    cases.add("no place", &[(at, json!({}))], &format!("{path}.uri"), "Required value");
    location(cases, &format!("{at}/uri"));
}

fn location(cases: &mut Cases, at: &str) {
    for (what, uri) in [("a bare path", "/data"), ("two slashes", "file://data"), ("an unknown scheme", "ftp://data")] {
        cases.field(what, at, json!(uri), "expected pvc://, hf://, file:///");
    }
    for (what, uri) in [
        ("a password", "https://me:secret@host/a.jsonl"),
        ("a signature", "https://host/a.jsonl?signature=secret"),
        ("a part of a page", "https://host/a.jsonl#1"),
        ("a key", "s3://key:secret@bucket/a"),
    ] {
        cases.field(what, at, json!(uri), "without the characters @, ? and #");
    }
    cases.field("an empty URI", at, json!(""), "at least 1 chars");
}

fn judge(cases: &mut Cases, at: &str) {
    let path = path_of(at);
    let good = |changes: &[(&str, Value)]| {
        let mut judge = json!({"name": "j", "model": {"uri": "pvc://models/m"}});
        for (field, value) in changes {
            judge[field] = value.clone();
        }
        judge
    };
    // What else the judge of an evaluation stands among.
    let prompts = at.contains("evaluation").then_some(("/spec/evaluation/prompts", json!({"uri": "p"})));
    let mut add = |what: &str, judge: Value, field: &str, words: &str| {
        let changes: Vec<(&str, Value)> = prompts.clone().into_iter().chain([(at, judge)]).collect();
        cases.add(what, &changes, &format!("{path}{field}"), words);
    };
    add("a judge of no kind", json!({"name": "j"}), "", ONE);
    add("a judge of two kinds", good(&[("endpoint", endpoint())]), "", ONE);
    let both = [("template", json!("t")), ("templates", json!(["builtin:a"]))];
    add("two questions", good(&both), "", "expected only one of template or templates");
    add("a name of capitals", good(&[("name", json!("Judge"))]), ".name", "a-z0-9");
    add("no weight in a mean", good(&[("weight", json!(0))]), ".weight", "expected at least 0.001");
    let revision = json!({"name": "j", "model": {"uri": "m", "revision": "main"}});
    add("a revision of a file", revision, ".model.revision", "only with an hf:// URI");
    let model = json!({"name": "j", "model": {"uri": "/m"}});
    add("a bare path", model, ".model.uri", "expected pvc://, hf://, file:///");
    let lexicon = json!({"name": "j", "lexicon": {"uri": "/l"}});
    add("a bare path", lexicon, ".lexicon.uri", "expected pvc://, hf://, file:///");
    let url = json!({"name": "j", "endpoint": {"url": "api.example.com", "model": "m"}});
    add("a URL without a scheme", url, ".endpoint.url", "https?");
    for url in ["https://me:secret@host/v1", "https://host/v1?key=secret"] {
        let url = json!({"name": "j", "endpoint": {"url": url, "model": "m"}});
        add("a URL with a secret", url, ".endpoint.url", "https?");
    }
    add("equal answers", good(&[("answers", json!(["x", "x"]))]), ".answers", "expected two different answers");
    for answers in [json!([" A", "A"]), json!(["A", "A\t"]), json!([" ", "A"]), json!(["A", "\n"])] {
        add(
            "answers that differ by space",
            good(&[("answers", answers)]),
            ".answers",
            "expected two different answers",
        );
    }
    for (field, value) in [
        ("template", json!("{{ response }}")),
        ("templates", json!(["builtin:pointwise-v1"])),
        ("api", json!("Completion")),
        ("labelSource", json!("Verdict")),
        ("criteria", json!([{"name": "kind"}])),
        ("answers", json!(["good", "bad"])),
        ("examples", json!([{"responseA": "x", "responseB": "y", "answer": "A"}])),
        ("limits", json!({"concurrency": 1})),
        ("limits", json!({"tokensPerMinute": 1})),
        ("price", price("EUR")),
    ] {
        let judge = json!({"name": "j", "lexicon": {"uri": "pvc://words/l"}, field: value});
        add("what a word list does not read", judge, "", "expected beside lexicon only");
    }
    add("three answers", good(&[("answers", json!(["x", "y", "z"]))]), ".answers", "2");
    let pointwise = json!([{"response": "x", "answer": "A"}]);
    add("an example of the other mode", good(&[("examples", pointwise)]), ".examples", "in each example of a Pairwise");
    let answer = json!([{"responseA": "x", "responseB": "y", "answer": "yes"}]);
    add("an answer of the other mode", good(&[("examples", answer)]), ".examples", "one of the judge's answers");
    let retries = json!({"maxAttempts": 0});
    add("no attempt", good(&[("limits", retries)]), ".limits.maxAttempts", "to 1");
    let criteria = json!([{"name": "kind"}, {"name": "kind"}]);
    add("a criterion twice", good(&[("criteria", criteria)]), ".criteria[1]", "Duplicate value");
}
