//! `import`: converts a GGUF file into a Hugging Face directory (config.json, model.safetensors, tokenizer.json), which
//! this trainer, transformers and vLLM load. Quantised tensors are dequantised: training needs numbers, not blocks.
//!
//! This file reads and writes; the conversion itself is in [`crate::load::gguf`].

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use plumbline_crds::artifact::{self, ArtifactError, Manifest};
use plumbline_crds::status::InputRef;
use plumbline_feedback::files::{fresh_folder, write_json};
use plumbline_feedback::text::tokenizer::Tokenizer;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Value, json};

use crate::load::gguf::model::{self, GgufModel, unpermute};
use crate::load::gguf::{GgufFile, vocabulary};
use crate::load::save::{SHARD_BYTES, Shards};
use crate::{Error, Result};

/// Converts a GGUF file into a Hugging Face directory. A directory that already contains this model is not changed.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// The GGUF file: architecture llama, qwen2 or qwen3, unquantised or Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K
    #[arg(long, value_name = "FILE")]
    pub gguf: PathBuf,
    /// Directory to write the model to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Data type of the weights. float32 represents the values of the file exactly
    #[arg(long, value_enum, default_value = "float32")]
    pub dtype: WeightType,
}

/// Data type of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightType {
    /// 32 bits.
    Float32,
    /// 16 bits, IEEE half: 11 significant bits, up to 65504.
    Float16,
    /// 16 bits with the exponent of 32: 8 significant bits.
    Bfloat16,
}

/// Runs the import.
///
/// # Errors
/// [`Error::Config`] if the directory contains something else, [`Error::Data`] if the file cannot be converted, and
/// [`Error::Store`] if the directory cannot be written.
pub fn run(args: &ImportArgs) -> Result<()> {
    let out = &std::path::absolute(&args.out).map_err(|e| Error::disk(&args.out, e))?;
    let name = folder_name(out)?;
    let digest = artifact::digest_path(&args.gguf)?;
    let input = InputRef { role: "gguf".to_owned(), name: file_name(&args.gguf), digest };
    if let Some(manifest) = existing(out)?
        && manifest.inputs == [input.clone()]
        && written_type(out).as_deref() == Some(args.dtype.name())
    {
        tracing::info!(folder = %out.display(), digest = manifest.digest, "this model has already been imported");
        return Ok(());
    }

    let gguf = GgufFile::open(&args.gguf)?;
    let in_file = |e: &dyn std::fmt::Display| Error::Data(format!("{}: {e}", args.gguf.display()));
    let mut model = model::read(&gguf.header).map_err(|e| in_file(&e))?;
    let vocabulary = vocabulary::read(&gguf.header).map_err(|e| in_file(&e))?;
    model.config.insert("torch_dtype".to_owned(), json!(args.dtype.name()));

    let staging = out.with_file_name(format!(".{name}.partial"));
    fresh_folder(&staging)?;
    write_json(&staging.join("config.json"), &model.config)?;
    write_json(&staging.join("generation_config.json"), &vocabulary.generation)?;
    write_json(&staging.join("tokenizer.json"), &vocabulary.tokenizer)?;
    write_json(&staging.join("tokenizer_config.json"), &vocabulary.config)?;
    // An imported model must be loadable.
    Tokenizer::load(&staging).map_err(|e| in_file(&e))?;
    write_weights(&staging, &gguf, &model, args.dtype, SHARD_BYTES)?;
    let created = jiff::Timestamp::now().to_string();
    let manifest = artifact::publish(&staging, out, KIND, &name, vec![input], created)?;
    let bytes: u64 = manifest.files.iter().map(|f| f.size).sum();
    tracing::info!(folder = %out.display(), digest = manifest.digest, bytes, tensors = model.tensors.len(), "imported");
    Ok(())
}

const KIND: &str = "Model";

impl WeightType {
    /// The name of this type for `torch_dtype` in config.json.
    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }

    fn safetensors(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::F32,
            Self::Float16 => Dtype::F16,
            Self::Bfloat16 => Dtype::BF16,
        }
    }

    /// Little-endian bytes of the values; `None` if a finite value has no finite counterpart.
    fn bytes(self, values: &[f32]) -> Option<Vec<u8>> {
        match self {
            Self::Float32 => Some(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Self::Float16 => {
                let fits = values.iter().all(|x| f16::from_f32(*x).is_finite());
                fits.then(|| values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect())
            }
            Self::Bfloat16 => {
                let fits = values.iter().all(|x| bf16::from_f32(*x).is_finite());
                fits.then(|| values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect())
            }
        }
    }

    /// The largest finite value.
    fn largest(self) -> f32 {
        match self {
            Self::Float32 => f32::MAX,
            Self::Float16 => f16::MAX.to_f32(),
            Self::Bfloat16 => bf16::MAX.to_f32(),
        }
    }
}

/// The manifest of the model at the destination of the import; `None` if there is nothing or a damaged model.
fn existing(out: &Path) -> Result<Option<Manifest>> {
    match artifact::verify(out) {
        Ok(manifest) if manifest.kind == KIND => Ok(Some(manifest)),
        Ok(manifest) => Err(Error::Config(format!(
            "{}: contains the {} {}, which the import would replace; choose another --out",
            out.display(),
            manifest.kind,
            manifest.name
        ))),
        Err(ArtifactError::Incomplete { .. }) if is_absent_or_empty(out) => Ok(None),
        Err(ArtifactError::Incomplete { .. }) => Err(Error::Config(format!(
            "{}: already exists and was not written by an import, which would replace it; choose another --out",
            out.display()
        ))),
        // A damaged model is imported again. Any other content was put there by a user, and would be lost.
        Err(ArtifactError::Altered { path, file, what }) => match artifact::read_manifest(&path)? {
            manifest if manifest.kind == KIND && manifest.files.iter().any(|f| f.path == file) => Ok(None),
            manifest => Err(Error::Config(format!(
                "{}: contains the {} {}, in which {file} {what}; the import would replace all of it: choose another \
                 --out, or remove it",
                out.display(),
                manifest.kind,
                manifest.name
            ))),
        },
        Err(error) => Err(error.into()),
    }
}

fn is_absent_or_empty(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

fn written_type(out: &Path) -> Option<String> {
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).ok()?).ok()?;
    Some(config.get("torch_dtype")?.as_str()?.to_owned())
}

fn folder_name(out: &Path) -> Result<String> {
    let name = out
        .file_name()
        .ok_or_else(|| Error::Config(format!("--out {}: expected the name of a directory", out.display())))?;
    Ok(name.to_string_lossy().into_owned())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Writes the weights into files of at most `most` bytes, with an index if there are several; only one tensor is in
/// memory at a time.
fn write_weights(folder: &Path, gguf: &GgufFile, model: &GgufModel, dtype: WeightType, most: u64) -> Result<()> {
    let tensors: BTreeMap<&str, &model::Tensor> = model.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let numbers = |tensor: &model::Tensor| tensor.source.shape.iter().product::<usize>();
    let width = dtype.safetensors().bitsize() / 8;
    let sized = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), (numbers(tensor) * width) as u64));
    let shards = Shards::new(sized, most);
    for (file, names) in &shards.files {
        let of_file: Vec<&model::Tensor> =
            names.iter().filter_map(|name| tensors.get(name.as_str()).copied()).collect();
        write_file(&folder.join(file), gguf, &of_file, dtype)?;
    }
    shards.write_index(folder, tensors.values().map(|tensor| numbers(tensor)).sum())
}

/// Writes tensors as one safetensors file.
fn write_file(path: &Path, gguf: &GgufFile, tensors: &[&model::Tensor], dtype: WeightType) -> Result<()> {
    let unwritable = |e: std::io::Error| Error::disk(path, e);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(unwritable)?);
    file.write_all(&safetensors_header(tensors, dtype)?).map_err(unwritable)?;
    for tensor in tensors {
        let mut values = gguf.tensor(&tensor.source)?;
        if let (Some(heads), [_, columns]) = (tensor.interleaved_heads, tensor.source.shape.as_slice()) {
            values = unpermute(&values, heads, *columns);
        }
        let bytes = dtype.bytes(&values).ok_or_else(|| {
            let (name, largest) = (&tensor.source.name, dtype.largest());
            Error::Data(format!(
                "tensor {name} has values beyond {largest}, the maximum of {}; use a wider --dtype",
                dtype.name()
            ))
        })?;
        file.write_all(&bytes).map_err(unwritable)?;
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(unwritable)
}

/// The start of a safetensors file: length of the JSON as u64, the JSON, spaces up to a multiple of 8 bytes.
fn safetensors_header(tensors: &[&model::Tensor], dtype: WeightType) -> Result<Vec<u8>> {
    let mut end = 0;
    let entries = tensors
        .iter()
        .map(|tensor| {
            let start = end;
            end += tensor.source.shape.iter().product::<usize>() * dtype.safetensors().bitsize() / 8;
            let shape = tensor.source.shape.clone();
            (tensor.name.clone(), TensorInfo { dtype: dtype.safetensors(), shape, data_offsets: (start, end) })
        })
        .collect();
    // transformers rejects files without the name of a framework.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = |e: &dyn std::fmt::Display| Error::Failed(format!("model.safetensors: {e}"));
    let metadata = Metadata::new(Some(about), entries).map_err(|e| failed(&e))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| failed(&e))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    Ok(header)
}

#[cfg(test)]
mod mutations;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::gguf::{header::tests::Writer, model::tests as tiny_model, vocabulary::tests as words};
    use crate::load::hugging_face::ModelFolder;
    use crate::model::lora;
    use plumbline_crds::training::Precision;
    use safetensors::SafeTensors;
    use tch::Device;

    fn write_gguf(folder: &Path, writer: Writer) -> PathBuf {
        let path = folder.join("tiny.gguf");
        fs::write(&path, writer.finish()).unwrap();
        path
    }

    pub(super) fn tiny() -> Writer {
        tiny_model::tensors(words::vocabulary(tiny_model::metadata(), "smollm"))
    }

    fn import(folder: &Path, writer: Writer, dtype: WeightType) -> (PathBuf, Result<()>) {
        let args = ImportArgs { gguf: write_gguf(folder, writer), out: folder.join("model"), dtype };
        let result = run(&args);
        (args.out, result)
    }

    #[test]
    fn an_imported_directory_verifies_and_contains_the_files_values() {
        let root = tempfile::tempdir().unwrap();
        let (out, result) = import(root.path(), tiny(), WeightType::Float32);
        result.unwrap();
        let manifest = artifact::verify(&out).unwrap();
        assert_eq!((manifest.kind.as_str(), manifest.name.as_str()), ("Model", "model"));
        assert_eq!((manifest.inputs[0].role.as_str(), manifest.inputs[0].name.as_str()), ("gguf", "tiny.gguf"));
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(weights.len(), 11);
        let values = |name: &str| -> Vec<f32> {
            let data = weights.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let ramp: Vec<f32> = (0..8).map(|i| i as f32 / 8.0).collect();
        assert_eq!(values("model.layers.0.self_attn.v_proj.weight"), ramp);
        assert_eq!(values("model.layers.0.self_attn.k_proj.weight"), ramp, "a head of two rows has nothing to undo");
        assert_eq!(weights.tensor("model.layers.0.mlp.down_proj.weight").unwrap().shape(), [4, 3]);
        assert_eq!(root.path().read_dir().unwrap().count(), 2, "nothing is left beside the file and the folder");
    }

    #[test]
    fn sixteen_bits_are_rounded_and_overflow_is_rejected() {
        let root = tempfile::tempdir().unwrap();
        let (out, result) = import(root.path(), tiny(), WeightType::Bfloat16);
        result.unwrap();
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        let norm = weights.tensor("model.norm.weight").unwrap();
        assert_eq!((norm.dtype(), &norm.data()[2..4]), (Dtype::BF16, bf16::from_f32(0.125).to_le_bytes().as_slice()));
        assert_eq!(WeightType::Float16.bytes(&[65504.0, -1.0]).unwrap().len(), 4);
        assert!(WeightType::Float16.bytes(&[70000.0]).is_none());
    }

    #[test]
    fn repeating_an_import_changes_nothing_and_another_type_replaces_it() {
        let root = tempfile::tempdir().unwrap();
        let (out, result) = import(root.path(), tiny(), WeightType::Float32);
        result.unwrap();
        let first = artifact::read_manifest(&out).unwrap();
        import(root.path(), tiny(), WeightType::Float32).1.unwrap();
        assert_eq!(artifact::read_manifest(&out).unwrap(), first);
        import(root.path(), tiny(), WeightType::Float16).1.unwrap();
        assert_ne!(artifact::verify(&out).unwrap().digest, first.digest);
        fs::write(out.join("config.json"), "{}").unwrap();
        import(root.path(), tiny(), WeightType::Float32).1.unwrap();
        assert_eq!(artifact::verify(&out).unwrap().digest, first.digest, "a damaged model is made again");
    }

    #[test]
    fn a_directory_with_other_content_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("model");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("thesis.txt"), "years of work").unwrap();
        let error = import(root.path(), tiny(), WeightType::Float32).1.unwrap_err();
        assert!(matches!(&error, Error::Config(m) if m.contains("choose another --out")), "{error}");
        assert!(out.join("thesis.txt").exists());
        // Nor are files that a user added to a model, nor another artifact that contains such a file.
        fs::remove_dir_all(&out).unwrap();
        import(root.path(), tiny(), WeightType::Float32).1.unwrap();
        for kind in ["Model", "PreferenceDataset"] {
            let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
            fs::write(out.join("manifest.json"), manifest.replace("\"Model\"", &format!("{kind:?}"))).unwrap();
            fs::write(out.join("notes.txt"), "years of work").unwrap();
            let error = import(root.path(), tiny(), WeightType::Float16).1.unwrap_err();
            assert!(matches!(&error, Error::Config(m) if m.contains(kind) && m.contains("notes.txt")), "{error}");
            assert!(out.join("notes.txt").exists());
        }
        fs::write(out.join("manifest.json"), "{}").unwrap();
        assert!(import(root.path(), tiny(), WeightType::Float32).1.is_err() && out.join("notes.txt").exists());
    }

    #[test]
    fn a_file_that_cannot_be_converted_leaves_no_directory() {
        let root = tempfile::tempdir().unwrap();
        let (out, result) = import(root.path(), tiny_model::tensors(tiny_model::metadata()), WeightType::Float32);
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Data(m) if m.contains("tiny.gguf: the metadata lacks tokenizer")), "{error}");
        assert!(!out.exists());
    }
    #[test]
    fn a_non_finite_value_is_rejected_by_its_tensor() {
        let root = tempfile::tempdir().unwrap();
        for value in [f32::NAN, f32::INFINITY] {
            let writer = tiny().f32s("output.weight", &[5, 4], &[[0.5; 19].as_slice(), &[value]].concat());
            for dtype in [WeightType::Float32, WeightType::Float16, WeightType::Bfloat16] {
                let (out, result) = import(root.path(), writer.clone(), dtype);
                let error = result.unwrap_err();
                assert!(
                    matches!(&error, Error::Data(m) if m.contains("output.weight") && m.contains("not finite")),
                    "{error}"
                );
                assert!(!out.exists());
            }
        }
    }

    #[test]
    fn a_value_beyond_the_type_is_rejected_by_its_tensor() {
        let root = tempfile::tempdir().unwrap();
        for (value, dtype, fits) in [
            (70_000.0, WeightType::Float16, false),
            (3.4e38, WeightType::Bfloat16, false),
            (70_000.0, WeightType::Bfloat16, true),
        ] {
            let writer = tiny().f32s("output.weight", &[5, 4], &[value; 20]);
            let (_, result) = import(root.path(), writer, dtype);
            assert_eq!(result.is_ok(), fits, "{value} {dtype:?}");
            assert!(fits || result.unwrap_err().to_string().contains("output.weight has values beyond"));
        }
    }

    #[test]
    fn a_large_model_is_imported_in_shards_with_the_same_values() {
        let root = tempfile::tempdir().unwrap();
        let path = write_gguf(root.path(), tiny());
        let gguf = GgufFile::open(&path).unwrap();
        let model = model::read(&gguf.header).unwrap();
        let [whole, cut] = ["whole", "cut"].map(|name| root.path().join(name));
        for (folder, most) in [(&whole, SHARD_BYTES), (&cut, 150)] {
            fs::create_dir(folder).unwrap();
            write_json(&folder.join("config.json"), &model.config).unwrap();
            write_weights(folder, &gguf, &model, WeightType::Float32, most).unwrap();
        }
        assert!(cut.join("model.safetensors.index.json").exists() && !cut.join("model.safetensors").exists());
        let read = |folder: &Path| {
            let decoder = ModelFolder::open(folder).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap();
            lora::merged_weights(&decoder)
        };
        assert_eq!(read(&whole), read(&cut));
    }
}
