//! `inspect`: a model directory as the loader reads it, and the model's output for a text: the logits of a language
//! model, the score of a reward model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use plumbline_crds::training::Precision;
use plumbline_feedback::files;
use plumbline_feedback::text::tokenizer::Tokenizer;
use tch::{Device, Tensor};

use crate::load::hugging_face::{ModelFolder, write_safetensors};
use crate::load::peft;
use crate::load::tensor_file::not_finite;
use crate::model::attention::Context;
use crate::model::heads;
use crate::model::linear::Adapters;
use crate::model::lora;
use crate::model::packed::Packed;
use crate::model::reward_model::RewardModel;
use crate::{Error, Result};

/// What to inspect.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Directory of the model.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Directory of a PEFT adapter to apply to the model.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Text to continue, or to score with a reward model.
    #[arg(long)]
    pub text: String,
    /// File to write `input_ids` (Int64) and `logits` (Float32; [tokens, vocab], or [1] for a reward model) to, as safetensors.
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
}

/// Prints a model as the loader reads it.
#[allow(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(args: &InspectArgs) -> Result<()> {
    for (option, folder) in [("--model", Some(&args.model)), ("--adapter", args.adapter.as_ref())] {
        if let Some(folder) = folder {
            files::check_folder(folder).map_err(|e| e.within(option))?;
        }
    }
    let folder = ModelFolder::open(&args.model)?;
    let tokenizer = Tokenizer::load(&args.model)?;
    let c = &folder.config.architecture;
    println!("parameters            {}", c.parameters());
    println!("layers                {}", c.num_hidden_layers);
    println!("hidden, intermediate  {}, {}", c.hidden_size, c.intermediate_size);
    println!("attention heads       {}", c.num_attention_heads);
    println!("key-value heads       {}", c.num_key_value_heads);
    println!("head size             {}", c.head_dim);
    println!("vocabulary, context   {}, {}", c.vocab_size, c.max_position_embeddings);
    println!("tied embeddings       {}", c.tie_word_embeddings);
    println!("end tokens            {:?}", tokenizer.eos_ids());
    println!("chat template         {}", if tokenizer.has_chat_template() { "yes" } else { "no" });

    let ids = tokenizer.encode(&args.text)?;
    if ids.is_empty() {
        return Err(Error::Config("--text: expected at least one token, found none".into()));
    }
    if ids.len() as i64 > c.max_position_embeddings {
        return Err(Error::Config(format!(
            "--text has {} tokens; expected at most {}, the model's context",
            ids.len(),
            c.max_position_embeddings
        )));
    }
    let logits = if folder.has_score() { score(args, &ids)? } else { next_token(args, &folder, &tokenizer, &ids)? };
    if let Some((count, first)) = not_finite(&logits) {
        return Err(Error::Data(format!(
            "{}: the model computes {count} values that are not finite, the first at {first:?}; its weights do not \
             match its config.json",
            args.model.display()
        )));
    }
    if let Some(path) = &args.logits {
        let tensors = BTreeMap::from([
            ("input_ids".to_owned(), Tensor::from_slice(&ids)),
            ("logits".to_owned(), logits.contiguous()),
        ]);
        write_safetensors(path, &tensors)?;
    }
    Ok(())
}

/// The logits of each token's successor, `[tokens, vocab]`.
#[allow(clippy::print_stdout, reason = "this is the command's output")]
fn next_token(args: &InspectArgs, folder: &ModelFolder, tokenizer: &Tokenizer, ids: &[i64]) -> Result<Tensor> {
    let mut decoder = folder.decoder(Precision::Float32, Device::Cpu)?;
    if let Some(adapter) = &args.adapter {
        peft::attach(&mut decoder, adapter)?;
        let weights = lora::parameters(&decoder);
        let numbers: usize = weights.values().map(Tensor::numel).sum();
        println!("adapter               {numbers} parameters, on {} projections", weights.len() / 2);
    }
    println!("tokens                {ids:?}");
    let logits = tch::no_grad(|| {
        let hidden = decoder.forward(&Packed::new(&[ids]), &mut Context::Whole, Adapters::On);
        heads::logits(&decoder, &hidden)
    });
    let (top, tokens) = logits.get(-1).log_softmax(-1, tch::Kind::Float).topk(5, -1, true, true);
    println!("most likely next tokens, with their log-probabilities in nats:");
    for i in 0..5 {
        let token = tokens.int64_value(&[i]);
        println!("{:8.4}  {:?}", top.double_value(&[i]), tokenizer.token_text(token));
    }
    Ok(logits)
}

/// The score of the text, `[1]`.
#[allow(clippy::print_stdout, reason = "this is the command's output")]
fn score(args: &InspectArgs, ids: &[i64]) -> Result<Tensor> {
    if args.adapter.is_some() {
        return Err(Error::Config(format!(
            "--adapter: {} is a reward model, which contains its adapter; omit --adapter",
            args.model.display()
        )));
    }
    println!("tokens                {ids:?}");
    let score = RewardModel::load(&args.model, Precision::Float32, Device::Cpu)?.score(&[ids])[0];
    println!("score                 {score:.4}");
    Ok(Tensor::from_slice(&[score as f32]))
}
