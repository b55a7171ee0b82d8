//! Damaged and hostile GGUF files: each is rejected, or is imported as a loadable model that computes what its
//! config.json describes.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use plumbline_crds::training::Precision;
use plumbline_feedback::text::tokenizer::Tokenizer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Map;
use tch::{Device, Kind, Tensor};

use super::tests::tiny;
use super::{ImportArgs, WeightType, run};
use crate::Result;
use crate::load::gguf::header::Header;
use crate::load::hugging_face::ModelFolder;
use crate::model::attention::Context;
use crate::model::config::Config;
use crate::model::heads;
use crate::model::linear::Adapters;
use crate::model::packed::Packed;

/// The config and the logits of a file after importing and loading it.
fn imported(folder: &Path, bytes: &[u8]) -> Result<(Config, Tensor)> {
    let (gguf, out) = (folder.join("a.gguf"), folder.join("model"));
    fs::write(&gguf, bytes).unwrap();
    let _ = fs::remove_dir_all(&out);
    run(&ImportArgs { gguf, out: out.clone(), dtype: WeightType::Float32 })?;
    let load = || -> Result<(Config, Tensor)> {
        let decoder = ModelFolder::open(&out)?.decoder(Precision::Float32, Device::Cpu)?;
        Tokenizer::load(&out)?;
        let batch = Packed::new(&[&[0i64, 3, 1]]);
        let hidden = decoder.forward(&batch, &mut Context::Whole, Adapters::On);
        let found = heads::logits(&decoder, &hidden).log_softmax(-1, Kind::Float);
        Ok((Config { raw: Map::new(), ..decoder.config }, found))
    };
    Ok(load().unwrap_or_else(|error| panic!("what was imported cannot be loaded: {error}")))
}

#[test]
fn a_gguf_file_with_a_damaged_header_is_rejected_or_loadable() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = tiny().finish();
    let (usual, expected) = imported(folder.path(), &bytes).unwrap();
    let parsed = Header::parse(&mut &bytes[..], bytes.len() as u64).unwrap();
    let header = parsed.tensors.values().map(|tensor| tensor.offset).min().unwrap() as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(14);
    let (mut same, mut other, mut refused) = (0, 0, 0);
    for i in 0..600 {
        let mut changed = bytes.clone();
        let at = rng.random_range(0..header);
        changed[at] = if i % 2 == 0 { rng.random() } else { changed[at] ^ (1 << rng.random_range(0..8)) };
        let start = Instant::now();
        let found = catch_unwind(AssertUnwindSafe(|| imported(folder.path(), &changed)));
        assert!(start.elapsed() < Duration::from_secs(20), "byte {at}: {:?}", start.elapsed());
        match found.unwrap_or_else(|_| panic!("byte {at} is {:#x}: panicked", changed[at])) {
            Err(_) => refused += 1,
            Ok((config, found)) if config == usual => {
                assert_eq!(found, expected, "byte {at} is {:#x}: another result under the same config", changed[at]);
                same += 1;
            }
            Ok(_) => other += 1,
        }
    }
    assert!(same > 20 && refused > 300, "{same} the same, {other} another, {refused} refused");
}

#[test]
fn a_gguf_file_truncated_anywhere_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = tiny().finish();
    for length in (0..bytes.len() - 32).step_by(37) {
        assert!(imported(folder.path(), &bytes[..length]).is_err(), "cut at {length}");
    }
}
