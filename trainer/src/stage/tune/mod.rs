//! `tune`: tunes an SFT model with a reward model or with preference data, and then evaluates the result.

use std::path::Path;

use tch::Device;

use plumbline_crds::Spec;
use plumbline_crds::conditions::Reason;
use plumbline_crds::policy_tuning::{Method, PolicyTuningSpec};
use plumbline_crds::run::{RunDocument, StageResult};
use plumbline_crds::training::AdapterSave;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::files::fresh_folder;
use plumbline_feedback::report::LeftOut;
use plumbline_feedback::store::work_dir_sync::WorkDirSync;
use plumbline_feedback::text::tokenizer::{Tokenizer, template_date};

use crate::generate::longest_prompt;
use crate::load::hugging_face::{ModelFolder, copy_tokenizer, write_safetensors};
use crate::load::peft;
use crate::load::save::{ModelClass, save_model};
use crate::method::a2c::A2c;
use crate::method::grpo::Grpo;
use crate::method::ppo::Ppo;
use crate::method::reinforce::Reinforce;
use crate::method::reinforce_plus_plus::ReinforcePlusPlus;
use crate::method::rloo::Rloo;
use crate::model::config::Config;
use crate::model::lora;
use crate::model::reward_model::RewardModel;
use crate::model::trainable::make_trainable;
use crate::stage::evaluate::{self, Evaluation, Prepared, Sides};
use crate::stage::in_status;
use crate::stage::inputs::input_path;
use crate::stage::run::publish;
use crate::train::io::TrainingIo;
use crate::train::online::Online;
use crate::train::pairs::Pairs;
use crate::train::policy::Policy;
use crate::train::rollout::RolloutPrompt;
use crate::{Error, Result, device};

mod dpo;
mod prompts;
mod reference;
pub(crate) mod reward;
mod sft;
mod show;

/// Runs the stage.
pub fn run(run: &RunDocument, sync: &WorkDirSync) -> Result<StageResult> {
    let Spec::PolicyTuning(spec) = &run.resource.spec else {
        return Err(Error::Config(format!("expected a PolicyTuning, found a {}", run.resource.kind)));
    };
    let mut io = TrainingIo::open(run, sync, "tune", &spec.training)?;
    let folder = input_path(run, "policyModel")?;
    let (tokenizer, opened) = (Tokenizer::load(&folder)?, ModelFolder::open(&folder)?);
    let data = Data::read(run, spec, &tokenizer, &opened.config)?;
    // Check first what is needed last: a fault in it must not cost the training.
    let longest = longest_prompt(&opened.config);
    let evaluation = spec.evaluation.as_ref();
    let evaluation = evaluation.map(|e| Prepared::read(run, e, &tokenizer, longest, &data.prompts)).transpose()?;
    let device = device::of(&spec.compute)?;
    let mut policy = load(&opened, spec, device)?;
    // Its mapped files count as memory.
    drop(opened);
    let reward = reward::load(run, spec, &tokenizer, device)?;

    let stopped_by_guard = train(run, spec, &data.examples, &tokenizer, &mut policy, reward.as_ref(), &mut io)?;
    let trained = Trained { stopped_by_guard, left_out: data.left_out };
    if !io.ranks.finish()? {
        return Ok(StageResult::new(Reason::Completed, "this rank has finished training"));
    }

    io.progress.stage("Saving", 1);
    let staging = io.work.join("staging");
    fresh_folder(&staging)?;
    save(&policy, run, spec, &folder, &staging)?;
    io.clock.start("evaluate")?;
    let evaluation = match evaluation {
        Some(prepared) => {
            let sides = sides(policy, spec, &folder, &staging);
            Some(evaluate::evaluate(run, prepared, &tokenizer, sides, reward.as_ref(), &mut io.progress)?)
        }
        None => None,
    };
    if let Some(evaluation) = &evaluation {
        evaluation.write_samples(&staging)?;
    }
    io.metrics.copy_into(&staging)?;
    let seconds = io.clock.seconds()?;
    let mut report = show::report(run, spec, &trained, evaluation.as_ref(), &io.metrics, &seconds)?;
    report.template_date(template_date(&folder)?);
    report.write(&staging)?;
    let artifact = publish(run, &staging)?;
    io.progress.finish();
    let message = evaluation.as_ref().map_or_else(|| "tuned; not evaluated".into(), Evaluation::headline);
    Ok(StageResult {
        artifact: Some(artifact),
        metrics: io.progress.metrics().to_vec(),
        counts: in_status(trained.left_out.numbers()),
        evaluation: evaluation.as_ref().map(Evaluation::status).unwrap_or_default(),
        cost: evaluation.and_then(|e| e.cost),
        seconds,
        ..StageResult::new(Reason::Completed, message)
    })
}

/// Trains the policy by the method of its spec. Returns why a guard stopped it, if one did.
fn train(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    examples: &Examples,
    tokenizer: &Tokenizer,
    policy: &mut Policy,
    reward: Option<&RewardModel>,
    io: &mut TrainingIo,
) -> Result<Option<String>> {
    match examples {
        Examples::Sft(texts) => sft::train(spec, texts, policy, io).map(|()| None),
        Examples::Dpo(pairs) => dpo::train(run, spec, pairs, tokenizer, policy, io).map(|()| None),
        Examples::Prompts(prompts) => {
            let missing = || Error::Config("spec.rewardModelRef: expected a reward model, found none; add it".into());
            let scorer = reward.ok_or_else(missing)?;
            if matches!(spec.method, Method::Ppo | Method::A2c) {
                policy.add_value_head();
            }
            let online = Online { spec, prompts, tokenizer, policy, scorer };
            match spec.method {
                Method::Ppo => online.train(&mut Ppo::new(spec.ppo.clone().unwrap_or_default()), io),
                Method::Grpo => {
                    let longest = spec.rollout.sampling.max_new_tokens;
                    online.train(&mut Grpo::new(spec.grpo.clone().unwrap_or_default(), longest), io)
                }
                Method::Rloo => online.train(&mut Rloo::new(spec.rloo.clone().unwrap_or_default()), io),
                Method::Reinforce => online.train(&mut Reinforce::new(spec.reinforce.clone().unwrap_or_default()), io),
                Method::ReinforcePlusPlus => {
                    let settings = spec.reinforce_plus_plus.clone().unwrap_or_default();
                    online.train(&mut ReinforcePlusPlus::new(settings), io)
                }
                Method::A2c => online.train(&mut A2c::new(spec.a2c.clone().unwrap_or_default()), io),
                other @ (Method::Sft | Method::Dpo | Method::BestOfN) => Err(unsupported(other)),
            }
        }
    }
}

fn unsupported(method: Method) -> Error {
    Error::Config(format!("spec.method: found {method:?}, which is not supported yet; use another method"))
}

/// The training data.
struct Data {
    examples: Examples,
    /// Ids of the training prompts; evaluation prompts must not be among them.
    prompts: Vec<String>,
    /// Records that were read but not used for training.
    left_out: LeftOut,
}

/// The training examples of each method.
enum Examples {
    Sft(Vec<Sequence>),
    Dpo(Pairs),
    Prompts(Vec<RolloutPrompt>),
}

impl Data {
    fn read(run: &RunDocument, spec: &PolicyTuningSpec, tokenizer: &Tokenizer, config: &Config) -> Result<Self> {
        match spec.method {
            Method::Sft => {
                let (texts, left_out) = sft::read(run, spec, tokenizer, config)?;
                Ok(Self { examples: Examples::Sft(texts), prompts: Vec::new(), left_out })
            }
            Method::Dpo => {
                let (pairs, prompts) = dpo::read(run, spec, tokenizer, config)?;
                let left_out = pairs.left_out.clone();
                Ok(Self { examples: Examples::Dpo(pairs), prompts, left_out })
            }
            Method::BestOfN => Err(unsupported(spec.method)),
            _ => {
                let (prompts, left_out) = prompts::read(run, spec, tokenizer, config)?;
                let ids = prompts.iter().map(|p| p.id.clone()).collect();
                Ok(Self { examples: Examples::Prompts(prompts), prompts: ids, left_out })
            }
        }
    }
}

/// Results of training for the report.
pub(crate) struct Trained {
    /// Why training stopped before its end, if a guard stopped it.
    pub stopped_by_guard: Option<String>,
    /// Records that were read but not used for training.
    pub left_out: LeftOut,
}

/// Loads the model to tune, and makes it trainable.
fn load(opened: &ModelFolder, spec: &PolicyTuningSpec, device: Device) -> Result<Policy> {
    let mut decoder = opened.decoder(spec.training.precision, device)?;
    // With low-rank adapters the original weights do not change: without its adapters, the decoder is the reference.
    let original = match spec.training.adapter {
        Some(_) => None,
        None if spec.method == Method::Sft && spec.evaluation.is_none() => None,
        None if spec.method == Method::Dpo && spec.evaluation.is_none() && !dpo::reads_starting_model(spec) => None,
        None => Some(opened.decoder(spec.training.precision, device)?),
    };
    let params = make_trainable(&mut decoder, &spec.training)?;
    Ok(Policy { decoder, params, original, value_head: None, stored: opened.kind()? })
}

/// Writes a directory that `AutoModelForCausalLM` (merged) or `PeftModel` (adapter) loads, and the value head, if there
/// is one.
fn save(policy: &Policy, run: &RunDocument, spec: &PolicyTuningSpec, base: &Path, folder: &Path) -> Result<()> {
    match &spec.training.adapter {
        Some(adapter) if adapter.save == AdapterSave::Adapter => {
            let base_model = run.input("policyModel").map_or("", |i| i.name.as_str());
            peft::save(&policy.decoder, adapter, base_model, folder)?;
        }
        _ => {
            let weights = lora::merged_weights(&policy.decoder);
            save_model(folder, &weights, policy.stored, &policy.decoder.config, ModelClass::CausalLm)?;
        }
    }
    if let Some(head) = &policy.value_head {
        let named = [("value_head.weight".to_owned(), head.weight())].into();
        write_safetensors(&folder.join("value_head.safetensors"), &named)?;
    }
    copy_tokenizer(base, folder)
}

/// The starting model in `base`, and the tuned one as saved in `folder`: merging adapters and rounding to the stored
/// data type change weights, and the evaluation must measure the model that users will load.
fn sides(policy: Policy, spec: &PolicyTuningSpec, base: &Path, folder: &Path) -> Sides {
    let is_merged = spec.training.adapter.as_ref().is_none_or(|adapter| adapter.save == AdapterSave::Merged);
    let before = policy.original.unwrap_or(policy.decoder);
    if is_merged {
        Sides::of_folders(before, [base.to_owned(), folder.to_owned()], spec.training.precision)
    } else {
        Sides::of_adapters(before, spec.training.precision)
    }
}
