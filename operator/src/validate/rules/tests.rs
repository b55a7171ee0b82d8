use super::compute::is_quantity;
use super::*;
use plumbline_crds::Kind;
use serde_json::{Value, json};

fn tuning_with(change: &Value) -> Vec<String> {
    let mut spec = json!({"method": "PPO", "policyModel": {"uri": "m"}, "rewardModelRef": {"name": "r"},
                          "prompts": {"inline": ["a"]}});
    merge(&mut spec, change);
    findings(Kind::PolicyTuning, spec)
}

fn dataset_with(change: &Value) -> Vec<String> {
    let mut spec = json!({"prompts": {"inline": ["a"]}, "generator": {"model": {"uri": "m"}},
                          "judges": [{"name": "j", "endpoint": {"url": "http://h/v1", "model": "x"}}]});
    merge(&mut spec, change);
    findings(Kind::PreferenceDataset, spec)
}

fn reward_with(change: &Value) -> Vec<String> {
    let mut spec = json!({"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}});
    merge(&mut spec, change);
    findings(Kind::RewardModel, spec)
}

fn merge(spec: &mut Value, change: &Value) {
    for (key, value) in change.as_object().unwrap() {
        if value.is_null() {
            spec.as_object_mut().unwrap().remove(key);
        } else {
            spec[key] = value.clone();
        }
    }
}

fn findings(kind: Kind, spec: Value) -> Vec<String> {
    let spec = Spec::from_json(kind, spec).unwrap();
    check(&spec, Target::Local).into_iter().map(|f| format!("{}: {}", f.path, f.message)).collect()
}

fn judge_with(change: &Value) -> Vec<String> {
    let mut judge = json!({"name": "j", "model": {"uri": "m"}});
    merge(&mut judge, change);
    dataset_with(&json!({"judges": [judge]}))
}

#[test]
fn what_a_word_list_does_not_read_is_refused_by_name() {
    let beside = |field: &str, value: Value| judge_with(&json!({"model": null, "lexicon": {"uri": "l"}, field: value}));
    for (field, value) in [
        ("template", json!("{{ response }}")),
        ("templates", json!(["builtin:pointwise-v1"])),
        ("api", json!("Completion")),
        ("labelSource", json!("Verdict")),
        ("criteria", json!([{"name": "c"}])),
        ("answers", json!(["good", "bad"])),
        ("examples", json!([{"response": "r", "answer": "yes"}])),
        ("limits", json!({"concurrency": 1})),
        ("price", json!({"inputPerMillionTokens": 1, "outputPerMillionTokens": 1})),
    ] {
        let found = beside(field, value);
        assert!(found.len() == 1, "{field}: {found:?}");
        assert!(
            found[0].starts_with(&format!("spec.judges[0].{field}: expected no {field} beside lexicon")),
            "{found:?}"
        );
    }
    // It looks at one response at a time, whatever it is told.
    for (field, value) in
        [("mode", json!("Pointwise")), ("mode", json!("Pairwise")), ("limits", json!({})), ("templates", json!([]))]
    {
        assert_eq!(beside(field, value), [""; 0], "{field}");
    }
}

#[test]
fn good_specs_have_no_findings() {
    assert_eq!(tuning_with(&json!({})), [""; 0]);
    assert_eq!(dataset_with(&json!({})), [""; 0]);
    assert_eq!(reward_with(&json!({})), [""; 0]);
    assert_eq!(judge_with(&json!({})), [""; 0]);
}

#[test]
#[rustfmt::skip] // one case a line
fn each_rule_finds_its_fault_and_only_that() {
    let cases: Vec<(Vec<String>, &str)> = vec![
        (dataset_with(&json!({"prompts": {}})), "spec.prompts: expected exactly one of inline, uri or configMapRef"),
        (dataset_with(&json!({"prompts": {"inline": ["a"], "uri": "p"}})), "spec.prompts: expected only one of"),
        (dataset_with(&json!({"generator": null})), "spec: expected exactly one of generator or responses"),
        (
            tuning_with(&json!({"evaluation": {"prompts": {"inline": ["p"]}, "lexicons": [{"name": "reward", "uri": "l"}]}})),
            "spec.evaluation.lexicons[0].name: expected a name that no other measure has, found `reward`",
        ),
        (
            tuning_with(&json!({"rollout": {"sampling": {"minNewTokens": 9, "maxNewTokens": 8}}})),
            "spec.rollout.sampling.minNewTokens: expected at most spec.rollout.sampling.maxNewTokens (8), found 9",
        ),
        (dataset_with(&json!({"generator": {}})), "spec.generator: expected exactly one of model or endpoint"),
        (dataset_with(&json!({"order": {"sampleFraction": 0.5}})), "spec.order.sampleFraction: expected no sampleFraction, which is for spec.order.policy Sampled only"),
        (tuning_with(&json!({"method": "SFT", "rewardModelRef": null, "prompts": null, "dataset": {"uri": "d"}, "guard": {"maxKl": 1}})), "spec.guard: expected no guard with method SFT"),
        (dataset_with(&json!({"budget": {"maxCost": 5}})), "spec.judges[0].price: expected a price"),
        (judge_with(&json!({"model": null})), "spec.judges[0]: expected exactly one of endpoint, model or lexicon"),
        (judge_with(&json!({"lexicon": {"uri": "l"}, "answers": ["good", "bad"]})), "spec.judges[0]: expected only one of endpoint, model or lexicon, found model and lexicon"),
        (judge_with(&json!({"template": "{{ response_a }}{{ response_b }}", "templates": ["builtin:pairwise-v1"]})), "spec.judges[0]: expected only one of template"),
        (judge_with(&json!({"answers": ["x", "x"]})), "spec.judges[0].answers: expected two different answers"),
        (judge_with(&json!({"answers": [" A", "A"]})), "spec.judges[0].answers: expected two different answers"),
        (judge_with(&json!({"answers": [" ", "A"]})), "spec.judges[0].answers: expected two different answers"),
        (judge_with(&json!({"template": "{{ response_a }} {{ respons_b }}"})), "spec.judges[0].template: line 1: expected a name"),
        (reward_with(&json!({"datasetRef": null})), "spec: expected exactly one of datasetRef or dataset"),
        (reward_with(&json!({"training": {"batchSize": 4}})), "spec.training.microBatchSize: expected at most spec.training.batchSize (4), found 8"),
        (reward_with(&json!({"baseModel": {"uri": "m", "revision": "v1"}})), "spec.baseModel.revision: expected a revision only"),
        (tuning_with(&json!({"rewardModelRef": null})), "spec.rewardModelRef: expected rewardModelRef for method PPO"),
        (tuning_with(&json!({"prompts": null})), "spec.prompts: expected prompts for method PPO"),
        (tuning_with(&json!({"dpo": {}})), "spec.dpo: expected no dpo with method PPO"),
        (tuning_with(&json!({"training": {"maxLength": 256}})), "spec.rollout.sampling.maxNewTokens: expected less than spec.training.maxLength (256)"),
        (tuning_with(&json!({"method": "DPO", "rewardModelRef": null, "prompts": null})), "spec: expected exactly one of datasetRef or dataset"),
        (tuning_with(&json!({"method": "SFT", "rewardModelRef": null, "prompts": null})), "spec.dataset: expected dataset for method SFT"),
        (tuning_with(&json!({"method": "SFT", "rewardModelRef": null, "prompts": null, "dataset": {"uri": "d"}, "ppo": {}})), "spec.ppo: expected no ppo with method SFT"),
        (tuning_with(&json!({"method": "BestOfN"})), "spec.method: found BestOfN, which is not supported yet; use another method"),
        (tuning_with(&json!({"method": "GRPO"})), "spec.rollout.responsesPerPrompt: expected at least 2 for method GRPO"),
        (tuning_with(&json!({"method": "RLOO"})), "spec.rollout.responsesPerPrompt: expected at least 2 for method RLOO"),
        (
            tuning_with(&json!({"method": "REINFORCEPlusPlus", "reinforcePlusPlus": {"baseline": "Group"}})),
            "spec.rollout.responsesPerPrompt: expected at least 2 for spec.reinforcePlusPlus.baseline Group",
        ),
        (tuning_with(&json!({"method": "A2C", "rewardModelRef": null})), "spec.rewardModelRef: expected rewardModelRef for method A2C"),
        (tuning_with(&json!({"method": "REINFORCE", "a2c": {}})), "spec.a2c: expected no a2c with method REINFORCE"),
        (tuning_with(&json!({"grpo": {}})), "spec.grpo: expected no grpo with method PPO"),
    ];
    for (found, expected) in cases {
        assert_eq!(found.len(), 1, "{expected}: {found:?}");
        assert!(found[0].starts_with(expected), "expected {expected}, found {}", found[0]);
    }
}

#[test]
fn a_loss_that_does_not_read_a_setting_of_dpo_refuses_it_by_name() {
    let dpo = |dpo: Value| {
        tuning_with(
            &json!({"method": "DPO", "rewardModelRef": null, "prompts": null, "dataset": {"uri": "d"}, "dpo": dpo}),
        )
    };
    let both = |other: &str| json!([{"loss": other}, {"loss": "Sft", "weight": 0.2}]);
    for good in [
        json!({"losses": both("Sigmoid"), "labels": "Soft", "labelSmoothing": 0.1}),
        json!({"losses": both("Simpo"), "simpoGamma": 1.0}),
        json!({"loss": "Robust", "labelSmoothing": 0.4}),
        json!({"loss": "ExoPair", "labelSmoothing": 0.001, "labels": "Soft"}),
        json!({"loss": "Hinge", "referenceModel": {"uri": "m"}}),
        json!({"loss": "Discopop", "discopopTau": 0.1}),
    ] {
        assert_eq!(dpo(good.clone()), [""; 0], "{good}");
    }
    for (bad, expected) in [
        (json!({"loss": "Ipo", "losses": both("Ipo")}), "spec.dpo: expected only one of loss or losses"),
        (json!({"loss": "Sft"}), "spec.dpo: expected another loss beside Sft"),
        (json!({"losses": both("Hinge"), "labels": "Soft"}), "spec.dpo.labels: expected Hard with the loss Hinge"),
        (json!({"loss": "Robust", "labels": "Soft"}), "spec.dpo.labels: expected Hard with the loss Robust"),
        (json!({"loss": "Orpo", "labelSmoothing": 0.1}), "spec.dpo.labelSmoothing: expected 0 with the loss Orpo"),
        (json!({"loss": "ExoPair"}), "spec.dpo.labelSmoothing: expected more than 0 with the loss ExoPair"),
        (json!({"loss": "Robust", "labelSmoothing": 0.5}), "spec.dpo.labelSmoothing: expected less than 0.5"),
        (json!({"simpoGamma": 1.0}), "spec.dpo.simpoGamma: expected no simpoGamma, which is for the loss Simpo only"),
        (json!({"discopopTau": 1.0}), "spec.dpo.discopopTau: expected no discopopTau, which is for the loss Discopop"),
        (
            json!({"losses": both("Cpo"), "referenceModel": {"uri": "m"}}),
            "spec.dpo.referenceModel: expected no referenceModel with Cpo and Sft",
        ),
    ] {
        let found = dpo(bad);
        assert_eq!(found.len(), 1, "{expected}: {found:?}");
        assert!(found[0].starts_with(expected), "expected {expected}, found {}", found[0]);
    }
}

#[test]
fn examples_fit_the_mode_and_the_answers_of_their_judge() {
    let pairwise = json!({"responseA": "a", "responseB": "b", "answer": "A"});
    assert_eq!(judge_with(&json!({"examples": [pairwise]})), [""; 0]);
    let found = judge_with(&json!({"mode": "Pointwise", "examples": [pairwise]}));
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.iter().any(|f| f.starts_with("spec.judges[0].examples[0].response: expected response")));
    assert!(found.iter().any(|f| f.contains("answers (\"yes\" or \"no\"), found \"A\"")));
}

#[test]
fn quantities_are_those_of_kubernetes() {
    for text in ["1", "0.5", ".5", "5.", "500m", "16Gi", "1e3", "2E-2", "+1", "100M", "3E"] {
        assert!(is_quantity(text), "{text}");
    }
    for text in ["", ".", "Gi", "8 Gi", "8GB", "1.2.3", "1e", "1ki", "lots", "1,5"] {
        assert!(!is_quantity(text), "{text}");
    }
    assert_eq!(reward_with(&json!({"compute": {"resources": {"requests": {"cpu": 2, "memory": "8Gi"}}}})), [""; 0]);
    let found = reward_with(&json!({"compute": {"resources": {"limits": {"memory": "8GB"}}}}));
    assert!(found.len() == 1 && found[0].starts_with("spec.compute.resources.limits.memory: "), "{found:?}");
}

#[test]
fn a_toleration_is_one_that_kubernetes_takes() {
    let tolerations = |toleration: Value| reward_with(&json!({"compute": {"tolerations": [toleration]}}));
    assert_eq!(tolerations(json!({"operator": "Exists"})), [""; 0]);
    assert_eq!(tolerations(json!({"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 9})), [""; 0]);
    for (toleration, field) in [
        (json!({"operator": "Equal", "value": "v"}), "operator"),
        (json!({"key": "k", "operator": "Exists", "value": "v"}), "value"),
        (json!({"key": "k", "tolerationSeconds": 9}), "tolerationSeconds"),
    ] {
        let found = tolerations(toleration);
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("spec.compute.tolerations[0].{field}: ")),
            "{found:?}"
        );
    }
}

#[test]
fn prices_are_in_one_currency() {
    let judge = |name: &str, currency: &str| {
        json!({"name": name, "endpoint": {"url": "http://h/v1", "model": "x"},
               "price": {"inputPerMillionTokens": 1, "outputPerMillionTokens": 1, "currency": currency}})
    };
    let found = dataset_with(&json!({"budget": {"maxCost": 5}, "judges": [judge("a", "USD"), judge("b", "EUR")]}));
    assert!(found.iter().any(|f| f.starts_with("spec.judges[1].price.currency: expected USD")), "{found:?}");
}

#[test]
fn no_two_api_keys_reach_the_trainer_in_one_environment_variable() {
    let judges = |keys: [(&str, &str); 2]| {
        let judges = keys.map(|(name, key)| {
            json!({"name": format!("j-{name}-{key}").replace(['_', '.'], "-"),
                "endpoint": {"url": "http://h/v1", "model": "x", "apiKeySecretRef": {"name": name, "key": key}}})
        });
        dataset_with(&json!({"judges": judges}))
    };
    for clash in [[("a-b", "c"), ("a", "b_c")], [("keys", "a.b"), ("keys", "a-b")], [("keys", "k"), ("keys", "K")]] {
        let found = judges(clash);
        assert_eq!(found.len(), 1, "{clash:?}: {found:?}");
        let path = "spec.judges[1].endpoint.apiKeySecretRef: expected an environment variable of its own, found PLUMBLINE_SECRET_";
        assert!(found[0].starts_with(path), "{found:?}");
    }
    for distinct in [[("keys", "k"), ("keys", "k")], [("a", "k"), ("b", "k")]] {
        assert_eq!(judges(distinct), [""; 0], "{distinct:?}");
    }
}
