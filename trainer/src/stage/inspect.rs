//! `inspect`: what the loader sees in a model folder, and the logits of a text.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use plumbline_crds::training::Precision;
use tch::Tensor;

use crate::load::hugging_face::{ModelFolder, write_safetensors};
use crate::load::tokenizer::Tokenizer;
use crate::model::attention::Context;
use crate::model::heads;
use crate::model::linear::Adapters;
use crate::model::packed::Packed;
use crate::{Error, Result};

/// What to inspect.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Model folder.
    #[arg(long)]
    pub model: PathBuf,
    /// Text whose next-token distribution is shown.
    #[arg(long)]
    pub text: String,
    /// File to write `input_ids` (Int64) and `logits` (Float32, [tokens, vocab]) to, as safetensors.
    #[arg(long)]
    pub logits: Option<PathBuf>,
}

/// Prints what the loader sees.
#[allow(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(args: &InspectArgs) -> Result<()> {
    let folder = ModelFolder::open(&args.model)?;
    let tokenizer = Tokenizer::load(&args.model)?;
    let decoder = folder.decoder(Precision::Float32)?;
    let c = &decoder.config;
    println!("parameters            {}", c.parameters());
    println!("layers                {}", c.num_hidden_layers);
    println!("hidden, intermediate  {}, {}", c.hidden_size, c.intermediate_size);
    println!("heads, key-value      {}, {} of {}", c.num_attention_heads, c.num_key_value_heads, c.head_dim);
    println!("vocabulary, context   {}, {}", c.vocab_size, c.max_position_embeddings);
    println!("tied embeddings       {}", decoder.lm_head.is_none());
    println!("end tokens            {:?}", tokenizer.eos_ids());
    println!("chat template         {}", if tokenizer.has_chat_template() { "yes" } else { "no" });

    let ids = tokenizer.encode(&args.text)?;
    if ids.is_empty() {
        return Err(Error::Config("--text has no token; give a text".into()));
    }
    println!("tokens                {ids:?}");
    let logits = tch::no_grad(|| {
        let hidden = decoder.forward(&Packed::new(&[&ids]), &mut Context::Whole, Adapters::Off);
        heads::logits(&decoder, &hidden)
    });
    let (top, tokens) = logits.get(-1).log_softmax(-1, tch::Kind::Float).topk(5, -1, true, true);
    for i in 0..5 {
        let token = tokens.int64_value(&[i]);
        println!("next {:8.4}  {:?}", top.double_value(&[i]), tokenizer.token_text(token));
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
