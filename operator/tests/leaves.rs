//! Every leaf of the three specs acts in every variant of them: one is flipped at a time, and something has to change for it beside the spec that the run
//! document repeats: an object of the run, the plan, a refusal by name; or else it is the trainer that reads it, by an
//! expression that is named here and looked for in its source. A leaf that is in no case fails, as does one that changes nothing.
//! What the trainer reads of some variants only is listed apart: of the others it has to be refused, or documented as such.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::Parser;
use plumbline_crds::artifact::hex;
use plumbline_crds::status::{InputRef, JobRef, Status};
use plumbline_crds::unsupported::Target;
use plumbline_crds::{API_VERSION, Kind, Resource, Spec};
use plumbline_operator::cluster::objects::{Input, Request, children};
use plumbline_operator::cluster::settings::Settings;
use plumbline_operator::location::Location;
use plumbline_operator::plan::{Artifact, Inputs, Observed, Rerun, Run, plan};
use plumbline_operator::validate::rules;
use plumbline_operator::{crds, digest, inputs};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Leaves that only the trainer reads, by the end of their path, with the expression that does.
const READ_BY_THE_TRAINER: &[(&str, &str)] = &[
    ("spec.budget.maxCost", "budget.max_cost"),
    ("spec.budget.maxRequests", "budget.max_requests"),
    ("gates.maxConflictRate", "gates.max_conflict_rate"),
    ("gates.maxUnparsedRate", "gates.max_unparsed_rate"),
    ("gates.minLabelMass", "gates.min_label_mass"),
    ("gates.minOrderCorrelation", "gates.min_order_correlation"),
    ("gates.minPairs", "gates.min_pairs"),
    ("gates.minAccuracy", "gates.min_accuracy"),
    ("gates.maxCalibrationError", "gates.max_calibration_error"),
    ("generator.precision", "generator.precision"),
    ("generator.responsesPerPrompt", "generator.responses_per_prompt"),
    ("sampling.maxNewTokens", "sampling.max_new_tokens"),
    ("sampling.minNewTokens", "sampling.min_new_tokens"),
    ("sampling.minP", "sampling.min_p"),
    ("sampling.topP", "sampling.top_p"),
    ("sampling.topK", "sampling.top_k"),
    ("sampling.temperature", "sampling.temperature"),
    ("sampling.seed", "sampling.seed"),
    ("sampling.stop[]", "sampling.stop"),
    (".answers[]", "judge.answers"),
    (".api", "judge.api"),
    (".mode", "judge.mode"),
    (".labelSource", "judge.label_source"),
    (".template", "judge.template"),
    (".templates[]", "judge.templates"),
    ("criteria[].name", "\"name\": c.name"),
    ("criteria[].description", "\"description\": c.description"),
    ("criteria[].levels[]", "\"levels\": c.levels"),
    ("criteria[].weight", "\"weight\": c.weight"),
    ("examples[].answer", "judge.examples"),
    ("examples[].prompt", "judge.examples"),
    ("examples[].response", "judge.examples"),
    ("examples[].responseA", "judge.examples"),
    ("examples[].responseB", "judge.examples"),
    ("endpoint.url", "endpoint.url"),
    ("endpoint.model", "endpoint.model"),
    ("judges[].name", "runtime.spec.name"),
    ("judge.name", "self.spec.name.clone()"),
    ("limits.concurrency", "limits.concurrency"),
    ("limits.maxAttempts", "limits.max_attempts"),
    ("limits.requestsPerMinute", "limits.requests_per_minute"),
    ("limits.tokensPerMinute", "limits.tokens_per_minute"),
    ("limits.timeoutSeconds", "limits.timeout_seconds"),
    ("price.currency", "price.currency"),
    ("price.inputPerMillionTokens", "price.input_per_million_tokens"),
    ("price.outputPerMillionTokens", "price.output_per_million_tokens"),
    ("order.combine", "order.combine"),
    ("order.policy", "order.policy"),
    ("order.sampleFraction", "order.sample_fraction"),
    ("pairs.maxSimilarity", "pairs.max_similarity"),
    ("pairs.minConfidence", "pairs.min_confidence"),
    ("pairs.perPrompt", "pairs.per_prompt"),
    ("prompts.inline[]", "source.inline"),
    ("prompts.limit", "source.limit"),
    ("spec.prompts.validationFraction", "prompts.validation_fraction"),
    ("loss.centeringCoefficient", "loss.centering_coefficient"),
    ("loss.labels", "loss.labels"),
    ("spec.loss.labelSmoothing", "loss.label_smoothing"),
    ("loss.marginWeight", "loss.margin_weight"),
    ("training.adapter.alpha", "adapter.alpha"),
    ("training.adapter.dropout", "adapter.dropout"),
    ("training.adapter.lastLayers", "adapter.last_layers"),
    ("training.adapter.rank", "adapter.rank"),
    ("training.adapter.save", "adapter.save"),
    ("training.adapter.targets[]", "adapter.targets"),
    ("training.batchSize", "training.batch_size"),
    ("training.checkpoint.everySteps", "checkpoint.every_steps"),
    ("training.checkpoint.keep", "checkpoint.keep"),
    ("training.epochs", "training.epochs"),
    ("training.learningRate", "training.learning_rate"),
    ("training.maxLength", "training.max_length"),
    ("training.maxSteps", "training.max_steps"),
    ("training.microBatchSize", "training.micro_batch_size"),
    ("training.optimizer.beta1", "settings.beta1"),
    ("training.optimizer.beta2", "settings.beta2"),
    ("training.optimizer.epsilon", "settings.epsilon"),
    ("training.optimizer.maxGradNorm", "settings.max_grad_norm"),
    ("training.optimizer.weightDecay", "settings.weight_decay"),
    ("training.precision", "training.precision"),
    ("training.schedule.type", "schedule.kind"),
    ("training.schedule.warmupFraction", "schedule.warmup_fraction"),
    ("training.seed", "training.seed"),
    ("dpo.beta", "settings.beta"),
    ("dpo.discopopTau", "settings.discopop_tau"),
    ("dpo.labelSmoothing", "settings.label_smoothing"),
    ("dpo.labels", "settings.labels"),
    ("dpo.loss", "settings.losses()"),
    ("dpo.losses[].loss", "l.loss"),
    ("dpo.losses[].weight", "l.weight"),
    ("dpo.simpoGamma", "settings.simpo_gamma"),
    ("evaluation.lexicons[].name", "l.name.clone(), Vader::load"),
    ("evaluation.samplesPerPrompt", "wanted.samples_per_prompt"),
    ("guard.maxKl", "guard.max_kl"),
    ("guard.minEntropy", "guard.min_entropy"),
    ("spec.method", "spec.method"),
    (".adaptiveKl.horizon", "adaptive.horizon"),
    (".adaptiveKl.target", "adaptive.target"),
    (".baseline", "settings.baseline"),
    (".baselineDecay", "settings.baseline_decay"),
    (".scaleAdvantages", "settings.scale_advantages"),
    (".clipRange", "settings.clip_range"),
    (".clipRangeHigh", "settings.clip_range_high"),
    (".dualClip", "settings.dual_clip"),
    (".epochs", "settings.epochs"),
    (".gamma", "settings.gamma"),
    (".klCoefficient", "settings.kl_coefficient"),
    (".klEstimator", "settings.kl_estimator"),
    (".lambda", "settings.lambda"),
    ("grpo.loss", "self.settings.loss"),
    (".maskTruncated", "settings.mask_truncated"),
    (".missingEosPenalty", "settings.missing_eos_penalty"),
    (".scaleRewards", "settings.scale_rewards"),
    (".scoreClip", "settings.score_clip"),
    (".targetKl", "settings.target_kl"),
    (".valueClipRange", "settings.value_clip_range"),
    (".valueCoefficient", "settings.value_coefficient"),
    (".whitenAdvantages", "settings.whiten_advantages"),
    (".whitenRewards", "settings.whiten_rewards"),
    ("rollout.promptsPerStep", "rollout.prompts_per_step"),
    ("rollout.responsesPerPrompt", "rollout.responses_per_prompt"),
    ("compute.threads", "compute().threads"),
];

/// A variant of a spec: what it has at a pointer.
type Variant = (&'static str, fn(&Value) -> bool);

const POINTWISE: Variant = ("/judges/0/mode", |mode| mode == "Pointwise");
const ALL_ALIKE: Variant = ("/order/policy", |policy| policy != "Sampled");
const ONE_ORDER: Variant = ("/order/policy", |policy| policy == "Single");
const FROM_DATA: Variant = ("/method", |method| method == "DPO" || method == "SFT");

/// Leaves that the trainer does not read of a variant: by the beginning of their path, with the words by which the descriptions
/// of the field, or of one that it is part of, say so. Without words they are refused by name.
const NOT_READ: &[(Kind, Variant, &str, Option<&str>)] = &[
    (Kind::PreferenceDataset, POINTWISE, "spec.order.", Some("Only Pairwise judges read it")),
    (Kind::PreferenceDataset, POINTWISE, "spec.gates.maxConflictRate", Some("among pairs asked in both orders")),
    (
        Kind::PreferenceDataset,
        POINTWISE,
        "spec.gates.minOrderCorrelation",
        Some("Checked once 100 prompts are asked in both orders"),
    ),
    (Kind::PreferenceDataset, ONE_ORDER, "spec.gates.maxConflictRate", Some("among pairs asked in both orders")),
    (
        Kind::PreferenceDataset,
        ONE_ORDER,
        "spec.gates.minOrderCorrelation",
        Some("Checked once 100 prompts are asked in both orders"),
    ),
    (Kind::PreferenceDataset, ONE_ORDER, "spec.order.combine", Some("of pairs asked in both orders")),
    (Kind::PreferenceDataset, ALL_ALIKE, "spec.order.sampleFraction", None),
    (Kind::PolicyTuning, FROM_DATA, "spec.guard.", None),
    (Kind::PolicyTuning, FROM_DATA, "spec.rollout.", None),
    (Kind::PolicyTuning, ("/method", |method| method != "PPO"), "spec.ppo.", None),
    (Kind::PolicyTuning, ("/method", |method| method != "GRPO"), "spec.grpo.", None),
    (Kind::PolicyTuning, ("/method", |method| method != "RLOO"), "spec.rloo.", None),
    (Kind::PolicyTuning, ("/method", |method| method != "REINFORCE"), "spec.reinforce.", None),
    (Kind::PolicyTuning, ("/method", |method| method != "REINFORCEPlusPlus"), "spec.reinforcePlusPlus.", None),
    (Kind::PolicyTuning, ("/method", |method| method != "A2C"), "spec.a2c.", None),
    (Kind::PolicyTuning, FROM_DATA, "spec.prompts.", None),
    (Kind::PolicyTuning, FROM_DATA, "spec.rewardModelRef.", None),
    (Kind::PolicyTuning, ("/method", |method| method != "DPO"), "spec.dpo.", None),
];

fn sampling() -> Value {
    json!({"temperature": 0.5, "topP": 0.5, "topK": 5, "minP": 0.5, "maxNewTokens": 50, "minNewTokens": 5, "stop": ["stop-a"], "seed": 5})
}

fn prompts(from: &str) -> Value {
    match from {
        "inline" => json!({"inline": ["prompt-a"], "limit": 5, "validationFraction": 0.05}),
        "uri" => json!({"uri": "pvc://prompts-a/p.txt", "limit": 5, "validationFraction": 0.05}),
        _ => json!({"configMapRef": {"name": "prompts-a", "key": "key-a"}, "limit": 5, "validationFraction": 0.05}),
    }
}

fn judge(by: &str) -> Value {
    let mut judge = json!({"name": "judge-a", "mode": "Pairwise", "api": "Chat", "reasoning": "None", "labelSource": "LogProbs",
        "criteria": [{"name": "name-a", "description": "description-a", "weight": 1.0, "levels": ["level-a"]}],
        "templates": ["builtin:pairwise-v1"], "answers": ["A", "B"],
        "examples": [{"prompt": "prompt-a", "responseA": "one-a", "responseB": "two-a", "answer": "A"}],
        "limits": {"concurrency": 5, "requestsPerMinute": 5, "tokensPerMinute": 5, "timeoutSeconds": 5, "maxAttempts": 5},
        "price": {"inputPerMillionTokens": 1.0, "outputPerMillionTokens": 1.0, "currency": "USD"}, "weight": 1.0});
    match by {
        "endpoint" => {
            judge["endpoint"] = json!({"url": "http://host-a/v1", "model": "model-a", "apiKeySecretRef": {"name": "keys-a", "key": "key-a"}});
        }
        "model" => {
            judge["model"] = json!({"uri": "hf://org/judge-a", "revision": "revision-a"});
            judge.as_object_mut().unwrap().remove("templates");
            judge["template"] = "template-a {{ prompt }} {{ response }}".into();
            judge["mode"] = "Pointwise".into();
            judge["answers"] = json!(["yes", "no"]);
            judge["examples"] = json!([{"prompt": "prompt-a", "response": "one-a", "answer": "yes"}]);
        }
        _ => {
            judge = json!({"name": "judge-a", "mode": "Pointwise", "reasoning": "None", "weight": 1.0,
                "lexicon": {"uri": "pvc://words-a/w.tsv"}});
        }
    }
    judge
}

fn compute() -> Value {
    json!({"accelerators": 0, "nodes": 1, "threads": 5, "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1"}},
        "nodeSelector": {"label": "value-a"},
        "tolerations": [{"key": "key-a", "operator": "Equal", "value": "value-a", "effect": "NoExecute", "tolerationSeconds": 5}],
        "env": [{"name": "NAME_A", "value": "value-a"}, {"name": "OTHER", "secretKeyRef": {"name": "secret-a", "key": "key-a"}}],
        "image": "image-a", "imagePullSecrets": [{"name": "pull-a"}], "serviceAccountName": "account-a",
        "priorityClassName": "class-a", "runtimeClassName": "class-a", "queueName": "queue-a", "maxRetries": 5,
        "deadlineSeconds": 500})
}

fn training() -> Value {
    json!({"epochs": 5, "maxSteps": 5, "batchSize": 64, "microBatchSize": 8, "learningRate": 1e-5,
        "schedule": {"type": "Linear", "warmupFraction": 0.5},
        "optimizer": {"weightDecay": 0.5, "beta1": 0.5, "beta2": 0.5, "epsilon": 1e-8, "maxGradNorm": 1.0},
        "maxLength": 500, "precision": "Float32",
        "adapter": {"type": "Lora", "rank": 5, "alpha": 5.0, "dropout": 0.5, "targets": ["q_proj"], "lastLayers": 5, "save": "Merged"},
        "activationCheckpointing": "Disabled", "seed": 5, "checkpoint": {"everySteps": 5, "keep": 5}})
}

fn with(mut spec: Value) -> Value {
    spec["output"] = json!({"uri": "s3://bucket-a/out", "credentialsSecretRef": {"name": "secret-a"}});
    spec["compute"] = compute();
    spec["suspend"] = json!(false);
    spec
}

/// Valid specs of a kind in which every leaf occurs.
fn cases(kind: Kind) -> Vec<Value> {
    match kind {
        Kind::PreferenceDataset => [
            ("uri", "endpoint", "Sampled"),
            ("inline", "model", "Both"),
            ("config", "lexicon", "Both"),
            ("inline", "endpoint", "Single"),
        ]
            .into_iter()
            .map(|(from, by, policy)| {
                let mut spec = with(json!({"prompts": prompts(from), "judges": [judge(by)],
                    "pairs": {"perPrompt": 5, "strategy": "Random", "maxSimilarity": 0.5, "minConfidence": 0.5},
                    "order": {"policy": policy, "sampleFraction": 0.5, "combine": "Logits"}, "aggregation": "Mean",
                    "gates": {"minPairs": 5, "maxConflictRate": 0.5, "maxUnparsedRate": 0.5, "minHumanKappa": 0.5, "minLabelMass": 0.5, "minOrderCorrelation": 0.5},
                    "budget": {"maxRequests": 5, "maxCost": 5.0}, "shards": 1,
                    "review": {"sampleFraction": 0.5, "labelsFrom": {"uri": "pvc://labels-a/l.jsonl"},
                        "route": [{"name": "route-a", "match": {"tag": "tag-a"}, "to": "Human"}]}}));
                match by {
                    "lexicon" => spec["responses"] = json!({"uri": "pvc://responses-a/r.jsonl"}),
                    by => {
                        spec["generator"] = json!({"responsesPerPrompt": 5, "precision": "Float32", "sampling": sampling()});
                        let (name, from) = match by {
                            "endpoint" => ("model", json!({"uri": "hf://org/model-a", "revision": "revision-a"})),
                            _ => ("endpoint", judge("endpoint")["endpoint"].clone()),
                        };
                        spec["generator"][name] = from;
                    }
                }
                spec
            })
            .collect(),
        Kind::RewardModel => [("datasetRef", json!({"name": "data-a"})), ("dataset", json!({"uri": "pvc://data-a/d.jsonl"}))]
            .into_iter()
            .map(|(name, from)| {
                let mut spec = with(json!({"baseModel": {"uri": "hf://org/model-a", "revision": "revision-a"},
                    "training": training(), "loss": {"labels": "Soft", "labelSmoothing": 0.25, "marginWeight": 0.5, "centeringCoefficient": 0.5},
                    "gates": {"minAccuracy": 0.5, "maxCalibrationError": 0.5},
                    "referenceLabels": {"uri": "pvc://labels-a/l.jsonl"}}));
                spec[name] = from;
                spec
            })
            .collect(),
        Kind::PolicyTuning => {
            let evaluation = |from: &str, by: &str| json!({"prompts": prompts(from), "judge": judge(by), "baseline": "StartingModel",
                "samplesPerPrompt": 5, "sampling": sampling(), "lexicons": [{"name": "words-a", "uri": "pvc://words-a/w.tsv"}]});
            let tuning = |method: &str, from: &str, by: &str| with(json!({"method": method, "training": training(),
                "policyModel": {"uri": "hf://org/model-a", "revision": "revision-a"}, "evaluation": evaluation(from, by)}));
            let ppo = [("uri", "endpoint"), ("inline", "model"), ("config", "lexicon")].map(|(from, by)| {
                let mut spec = tuning("PPO", from, by);
                spec["rewardModelRef"] = json!({"name": "reward-a"});
                spec["prompts"] = prompts(from);
                spec["rollout"] = json!({"promptsPerStep": 5, "responsesPerPrompt": 5, "sampling": sampling()});
                spec["ppo"] = json!({"klCoefficient": 0.5, "klEstimator": "K1", "adaptiveKl": {"target": 5.0, "horizon": 500},
                    "epochs": 5, "clipRange": 0.5, "valueClipRange": 0.5, "valueCoefficient": 0.5, "gamma": 0.5, "lambda": 0.5,
                    "whitenAdvantages": "Enabled", "whitenRewards": "Enabled", "missingEosPenalty": 0.5, "scoreClip": 5.0,
                    "targetKl": 5.0});
                spec["guard"] = json!({"maxKl": 5.0, "minEntropy": 0.5, "heldOutJudge": judge(by), "action": "StopAndKeepBest"});
                spec
            });
            let adaptive = json!({"target": 5.0, "horizon": 500});
            let common = json!({"klCoefficient": 0.5, "klEstimator": "K3", "missingEosPenalty": 0.5, "scoreClip": 5.0});
            let others = [
                ("GRPO", "grpo", json!({"loss": "Gspo", "scaleRewards": "Batch", "epochs": 5, "clipRange": 0.5, "clipRangeHigh": 0.5,
                    "dualClip": 5.0, "maskTruncated": "Enabled"})),
                ("RLOO", "rloo", json!({"adaptiveKl": adaptive, "epochs": 5, "clipRange": 0.5, "whitenAdvantages": "Enabled"})),
                ("REINFORCE", "reinforce", json!({"adaptiveKl": adaptive, "baseline": "MovingAverage", "baselineDecay": 0.5,
                    "scaleAdvantages": "Enabled"})),
                ("REINFORCEPlusPlus", "reinforcePlusPlus", json!({"adaptiveKl": adaptive, "baseline": "Group", "epochs": 5,
                    "clipRange": 0.5})),
                ("A2C", "a2c", json!({"adaptiveKl": adaptive, "valueCoefficient": 0.5, "gamma": 0.5, "lambda": 0.5,
                    "whitenAdvantages": "Enabled"})),
            ];
            let online = others.clone().map(|(method, block, settings)| {
                let mut spec = ppo[0].clone();
                spec.as_object_mut().unwrap().remove("ppo");
                spec["method"] = json!(method);
                spec[block] = common.clone();
                spec[block].as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
                spec
            });
            let mut dpo = tuning("DPO", "inline", "model");
            dpo["datasetRef"] = json!({"name": "data-a"});
            let [one, several] = losses();
            let mut weighted = dpo.clone();
            dpo["dpo"] = one;
            weighted["dpo"] = several;
            let mut sft = tuning("SFT", "inline", "lexicon");
            sft["dataset"] = json!({"uri": "pvc://data-a/d.jsonl"});
            for spec in [&mut dpo, &mut sft] {
                for field in ["guard", "rollout", "ppo", "prompts", "rewardModelRef"] {
                    spec[field] = ppo[0][field].clone();
                }
            }
            sft["dpo"] = dpo["dpo"].clone();
            for (spec, (_, block, _)) in online.iter().zip(&others) {
                sft[*block] = spec[*block].clone();
            }
            ppo.into_iter().chain(online).chain([dpo, weighted, sft]).collect()
        }
    }
}

/// Settings of DPO with one loss and with several.
fn losses() -> [Value; 2] {
    [
        json!({"loss": "Sigmoid", "beta": 0.5, "labelSmoothing": 0.25, "labels": "Hard",
            "referenceModel": {"uri": "hf://org/reference-a", "revision": "revision-a"}}),
        json!({"losses": [{"loss": "Simpo", "weight": 0.5}, {"loss": "Discopop", "weight": 0.5}], "simpoGamma": 0.5,
            "discopopTau": 0.5}),
    ]
}

/// The paths of all leaves of a schema, as `spec.judges[].name`, with the schema of each.
fn leaves(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            leaves(property, &format!("{path}.{name}"), found);
        }
    } else if schema["items"].is_object() {
        leaves(&schema["items"], &format!("{path}[]"), found);
    } else if schema["additionalProperties"].is_object() {
        leaves(&schema["additionalProperties"], &format!("{path}{{}}"), found);
    } else {
        found.insert(path.to_owned(), schema.clone());
    }
}

/// The value at a path: of lists and maps the first item that has it.
fn at<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(value);
    }
    if let Some(rest) = path.strip_prefix("[]") {
        return value.as_array_mut()?.iter_mut().find_map(|item| at(item, rest));
    }
    if let Some(rest) = path.strip_prefix("{}") {
        return value.as_object_mut()?.values_mut().find_map(|item| at(item, rest));
    }
    let path = path.strip_prefix('.').unwrap();
    let end = path.find(['.', '[', '{']).unwrap_or(path.len());
    at(value.get_mut(&path[..end])?, &path[end..])
}

/// Another value that the schema allows; none where there is only one.
fn flipped(path: &str, value: &Value, schema: &Value) -> Option<Value> {
    if let Some(known) = schema["enum"].as_array() {
        return known.iter().find(|other| *other != value).cloned();
    }
    Some(match value {
        Value::Bool(b) => json!(!b),
        Value::Number(number) if schema["type"] == "integer" => json!(number.as_i64().unwrap() + 1),
        Value::Number(number) => json!(number.as_f64().unwrap() * 1.5),
        Value::String(text) => match text.as_str() {
            "USD" => "EUR".into(),
            "1" => "2".into(),
            "A" => if path.ends_with("answer") { "B" } else { "C" }.into(),
            "yes" => if path.ends_with("answer") { "no" } else { "maybe" }.into(),
            "builtin:pairwise-v1" => "builtin:pairwise-v2".into(),
            "NAME_A" => "NAME_B".into(),
            "q_proj" => "k_proj".into(),
            text => {
                assert!(text.contains("-a"), "{path}: {text} has nothing to flip");
                text.replacen("-a", "-b", 1).into()
            }
        },
        other => panic!("{path}: {other} is no leaf"),
    })
}

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

/// What a spec does beside being repeated in the run document.
#[derive(PartialEq)]
struct Effect {
    objects: Value,
    decision: String,
    run: String,
}

fn resource(kind: Kind, spec: &Value) -> Resource {
    let metadata = json!({"name": "r", "namespace": "team"});
    let object = json!({"apiVersion": API_VERSION, "kind": kind.to_string(), "metadata": metadata, "spec": spec});
    serde_json::from_value(object).unwrap_or_else(|e| panic!("{kind}: {e}"))
}

fn effect(resource: &Resource) -> Effect {
    let settings = Arguments::parse_from(["plumbline", "--trainer-image=t", "--progress-url=http://p"]).settings;
    let found: Vec<Input> = inputs::wanted(&resource.spec)
        .into_iter()
        .map(|wanted| {
            let (name, location) = match wanted.from {
                inputs::From::Uri(uri) => (uri.clone(), Location::of_input(&uri).unwrap()),
                inputs::From::ConfigMap { name, key } => (format!("{name}/{key}"), Location::ConfigMap { name, key }),
                inputs::From::Resource { kind, name } => {
                    (name.clone(), Location::of_input(&format!("pvc://results/{}/{name}", kind.plural())).unwrap())
                }
            };
            let digest = format!("sha256:{}", hex(&Sha256::digest(name.as_bytes())));
            Input { role: wanted.role, name, location, digest }
        })
        .collect();
    let output = Location::of_output(resource.spec.output().uri.as_deref().unwrap()).unwrap();
    let job = JobRef { name: "run".into(), attempt: 1, ..JobRef::default() };
    let made = children(&Request {
        resource,
        uid: "u",
        job: &job,
        accelerator_seconds: 0,
        inputs: &found,
        output: &output,
        cache: None,
        settings: &settings,
    });
    let mut document: Value = serde_yaml::from_str(&made.config_map.data.unwrap()["run.yaml"]).unwrap();
    document.as_object_mut().unwrap().remove("resource").unwrap();
    let lineage: Vec<InputRef> = found
        .iter()
        .map(|i| InputRef { role: i.role.clone(), name: i.name.clone(), digest: i.digest.clone() })
        .collect();
    let previous = Status::default();
    let decision = plan(&Observed {
        spec: &resource.spec,
        generation: 1,
        previous: &previous,
        inputs: &Inputs::Ready(lineage.clone()),
        run: &Run::None,
        job: None,
        base_name: "run",
        problems: &[],
        artifact: Artifact::Unseen,
        stopping: false,
        rerun: Rerun::SpecChange,
    });
    Effect {
        objects: json!([document, made.job, made.service, made.service_account]),
        decision: format!("{:?}", decision.action),
        run: digest::run_name("run", &resource.spec, &lineage),
    }
}

/// Whether a leaf, or what it is part of, is refused by name: by a rule, or as nothing acts on it yet.
fn is_refused(path: &str, spec: &Spec) -> bool {
    rules::check(spec, Target::Cluster).iter().any(|refused| {
        let of = refused.path.replace("[0]", "[]");
        path.strip_prefix(&of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '{']))
    })
}

/// Whether a description on the way to a leaf has some words.
fn is_documented(schema: &Value, path: &str, words: &str) -> bool {
    let said = |schema: &Value| schema["description"].as_str().is_some_and(|said| said.contains(words));
    let mut at = schema;
    path.split('.').skip(1).any(|name| {
        at = &at["properties"][name.trim_end_matches("[]").trim_end_matches("{}")];
        said(at)
    })
}

/// The source of the trainer without its tests and comments, in one line.
fn source(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            source(&entry, all);
        } else if entry.extension().is_some_and(|e| e == "rs") && !entry.ends_with("tests.rs") {
            let text = fs::read_to_string(&entry).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let code = text.lines().flat_map(|line| line.split("//").next().unwrap_or_default().split_whitespace());
            for word in code {
                // A chain of fields may go over several lines.
                if !word.starts_with('.') {
                    all.push(' ');
                }
                all.push_str(word);
            }
        }
    }
}

/// Whether an expression is there, and is not only the end or the beginning of a longer name.
fn is_read(source: &str, expression: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source.match_indices(expression).any(|(at, _)| {
        let before = source[..at].chars().next_back().is_none_or(|c| !of_name(c));
        let after = source[at + expression.len()..].chars().next().is_none_or(|c| !of_name(c));
        before && after
    })
}

#[test]
fn every_leaf_of_a_spec_acts_or_is_refused_by_name() {
    let mut trainer = String::new();
    for folder in [
        concat!(env!("CARGO_MANIFEST_DIR"), "/../trainer/src"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/../trainer/feedback/src"),
    ] {
        source(Path::new(folder), &mut trainer);
    }
    let (mut dead, mut named, mut unread) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut flips = 0;
    for kind in Kind::ALL {
        let (spec_schema, mut all) = (crds::spec_schema(kind).unwrap(), BTreeMap::new());
        leaves(&spec_schema, "spec", &mut all);
        for (path, schema) in all {
            let below = path.strip_prefix("spec").unwrap();
            let with_it: Vec<Value> =
                cases(kind).into_iter().filter(|case| at(&mut case.clone(), below).is_some()).collect();
            if with_it.is_empty() {
                dead.push(format!("{kind}: {path} is in no case; add it to one"));
            }
            for (i, mut spec) in with_it.into_iter().enumerate() {
                let variant = spec.clone();
                let before = resource(kind, &spec);
                let leaf = at(&mut spec, below).unwrap();
                let Some(other) = flipped(&path, leaf, &schema) else { continue };
                *leaf = other;
                let after = resource(kind, &spec);
                flips += 1;
                let path = path.as_str();
                let mut fails = |why: &str| dead.push(format!("{kind}, case {i}: {path} {why}"));
                if before == after {
                    fails("is dropped by the types");
                }
                let refused = is_refused(path, &before.spec) || is_refused(path, &after.spec);
                let not_read = NOT_READ.iter().enumerate().filter(|(_, (of, (pointer, is_it), start, _))| {
                    *of == kind && path.starts_with(start) && variant.pointer(pointer).is_some_and(is_it)
                });
                let not_read: Vec<_> = not_read.collect();
                for (entry, (.., words)) in &not_read {
                    unread.insert(*entry);
                    match words {
                        None if !refused => fails("is not read by this variant, and not refused"),
                        Some(words) if !is_documented(&spec_schema, path, words) => {
                            fails("is not read by this variant, and its description does not say so");
                        }
                        _ => {}
                    }
                }
                if refused || !not_read.is_empty() {
                    continue;
                }
                let (was, is) = (effect(&before), effect(&after));
                // How a run is done and not what it makes: a run continues when these change.
                let not_part = [
                    "spec.budget",
                    "spec.compute",
                    "spec.suspend",
                    "spec.output.credentialsSecretRef",
                    "spec.training.microBatchSize",
                    "spec.training.checkpoint",
                ];
                if not_part.iter().all(|free| !path.starts_with(free)) && was.run == is.run {
                    fails("leaves the run its name");
                }
                if was.objects != is.objects || was.decision != is.decision {
                    continue;
                }
                match READ_BY_THE_TRAINER.iter().find(|(end, _)| path.ends_with(end)) {
                    Some((end, expression)) if is_read(&trainer, expression) => {
                        named.insert(*end);
                    }
                    Some((_, expression)) => fails(&format!("is not read by the trainer, which has no `{expression}`")),
                    None => fails("changes nothing; make it act, or refuse it in unsupported.rs"),
                }
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
    assert!(flips > 200, "{flips}");
    let unused: Vec<_> = READ_BY_THE_TRAINER.iter().filter(|(end, _)| !named.contains(end)).collect();
    assert!(unused.is_empty(), "nothing needs these entries: {unused:?}");
    assert_eq!(unread.len(), NOT_READ.len(), "nothing needs some entries of NOT_READ: {unread:?}");
}
