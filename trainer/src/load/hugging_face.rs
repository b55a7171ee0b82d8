//! Hugging Face model directories: `config.json`, `model.safetensors` (or shards listed in
//! `model.safetensors.index.json`). Files are selected as in transformers 5; each of their tensors is either used, of a
//! kind that every reader ignores, or rejected by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use plumbline_crds::folder;
use plumbline_crds::training::Precision;

use super::peft;
use super::tensor_file::TensorFile;
pub use super::tensor_file::{read_safetensors, write_safetensors};
use crate::model::config::Config;
use crate::model::decoder::Decoder;
use crate::model::weights::WeightId;
use crate::torch_error::of_torch;
use crate::{Error, Result};

/// Weights in one file; it takes precedence over an index, as in transformers.
pub const WEIGHTS: &str = "model.safetensors";
/// The index: which shard contains which weight.
pub const INDEX: &str = "model.safetensors.index.json";
/// The head of a sequence classifier, which makes it a reward model.
pub(crate) const SCORE: &str = "score.weight";

/// An open model directory.
pub struct ModelFolder {
    path: PathBuf,
    /// The checked config.
    pub config: Config,
    files: Vec<TensorFile>,
    /// Where each tensor is, by its name in transformers.
    index: BTreeMap<String, Stored>,
}

/// A tensor in a file.
struct Stored {
    file: usize,
    name: String,
}

impl ModelFolder {
    /// Opens a directory and lists its tensors.
    ///
    /// # Errors
    /// [`Error::Config`] when config.json requests an unsupported computation, [`Error::Data`] when files are missing,
    /// corrupt or contradict each other.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_adapter(path)?;
        expect_config(path)?;
        let config = Config::from_json(read_object(&path.join("config.json"))?)
            .map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        let names = UsualNames::new(&config);
        let mut folder = Self { path: path.to_owned(), config, files: Vec::new(), index: BTreeMap::new() };
        for file in weight_files(path)? {
            folder.add(TensorFile::open(&file)?, &names)?;
        }
        Ok(folder)
    }

    fn add(&mut self, file: TensorFile, names: &UsualNames) -> Result<()> {
        let number = self.files.len();
        for name in file.names() {
            let stored = Stored { file: number, name: name.to_owned() };
            if let Some(other) = self.index.insert(names.of(name), stored) {
                let first = self.files.get(other.file).unwrap_or(&file).path();
                return Err(Error::Data(format!(
                    "{}: tensor '{name}' is in {} as well, as '{}'; expected each weight once",
                    file.path().display(),
                    first.display(),
                    other.name
                )));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Whether the model is a sequence classifier, that is, a reward model.
    pub fn has_score(&self) -> bool {
        self.index.contains_key(SCORE)
    }

    /// The data type of the decoder's weights; the widest if they differ.
    ///
    /// # Errors
    /// [`Error::Data`] when a weight is missing or is not floating-point.
    pub fn kind(&self) -> Result<Kind> {
        let mut kinds = Vec::new();
        for (name, stored) in &self.index {
            if name != SCORE && !self.is_ignored(name) {
                kinds.push(self.files[stored.file].weight_kind(&stored.name)?);
            }
        }
        let first = *kinds.first().ok_or_else(|| self.missing(&self.config.name(WeightId::Embedding)))?;
        Ok(if kinds.iter().all(|kind| *kind == first) { first } else { Kind::Float })
    }

    /// Loads the language model onto a device, without gradients.
    ///
    /// # Errors
    /// [`Error::Data`] when a weight is missing, of the wrong shape, not finite, or not used.
    pub fn decoder(&self, precision: Precision, device: Device) -> Result<Decoder> {
        let mut reader = Reader::new(self, kind_of(precision), device);
        let mut decoder = reader.trunk()?;
        decoder.lm_head = reader.lm_head()?;
        if decoder.lm_head.is_some() && self.config.architecture.tie_word_embeddings {
            tracing::warn!(
                folder = %self.path.display(),
                "config.json ties the head's weight to the embedding, but the file has different values for it; they are \
                 used, as in transformers"
            );
            // The loaded head is untied, and so is the head of every model that is saved from this one.
            decoder.config.architecture.tie_word_embeddings = false;
            decoder.config.raw.insert("tie_word_embeddings".into(), false.into());
        }
        reader.refuse_left_over()?;
        Ok(decoder)
    }

    /// Loads the decoder without its head onto a device. A language model's head is ignored, as scores do not depend on
    /// it.
    ///
    /// # Errors
    /// Those of [`ModelFolder::decoder`].
    pub fn trunk(&self, precision: Precision, device: Device) -> Result<Decoder> {
        let mut reader = Reader::new(self, kind_of(precision), device);
        let decoder = reader.trunk()?;
        reader.used.insert(self.config.name(WeightId::Head));
        reader.refuse_left_over()?;
        Ok(decoder)
    }

    /// Loads a sequence classifier of one label onto a device: the decoder, and the head's weight, `[1, hidden]` in
    /// Float32.
    ///
    /// # Errors
    /// Those of [`ModelFolder::decoder`].
    pub fn scorer(&self, precision: Precision, device: Device) -> Result<(Decoder, Tensor)> {
        let mut reader = Reader::new(self, kind_of(precision), device);
        let decoder = reader.trunk()?;
        let shape = [1, self.config.architecture.hidden_size];
        let score = reader.weight(SCORE, &shape, Kind::Float)?;
        reader.refuse_left_over()?;
        Ok((decoder, score))
    }

    /// Whether a tensor can be ignored: the rotary frequencies, which early versions of transformers saved and are
    /// recomputed, and what a family's own checkpoints have of this kind.
    fn is_ignored(&self, name: &str) -> bool {
        let mut endings = self.config.family.ignored.iter().chain(&["rotary_emb.inv_freq"]);
        endings.any(|ending| name.ends_with(ending))
    }

    fn no_head(&self) -> Error {
        Error::Data(format!(
            "{}: tensor '{}' is missing, and config.json does not tie it to the embedding (`tie_word_embeddings`)",
            self.path.display(),
            self.config.name(WeightId::Head)
        ))
    }

    fn missing(&self, name: &str) -> Error {
        let held: Vec<&str> = self.index.values().map(|stored| stored.name.as_str()).collect();
        Error::Data(format!(
            "{}: tensor '{name}' is missing; expected the weights of the model that config.json describes, found {}",
            self.path.display(),
            named(&held)
        ))
    }
}

/// Maps the names in a file to those of transformers: a model saved without its head has names without the prefix, and
/// one saved as part of another model also contains that model's heads.
struct UsualNames {
    prefix: &'static str,
    known: BTreeSet<String>,
}

impl UsualNames {
    fn new(config: &Config) -> Self {
        let known = config.architecture.weights().map(|(id, _)| config.name(id));
        let known = known.chain([config.name(WeightId::Head), SCORE.to_owned()]).collect();
        Self { prefix: config.family.prefix, known }
    }

    fn of(&self, name: &str) -> String {
        let bare = name.strip_prefix(self.prefix).filter(|bare| self.known.contains(*bare));
        let prefixed = Some(format!("{}{name}", self.prefix)).filter(|prefixed| self.known.contains(prefixed));
        bare.map(str::to_owned).or(prefixed).unwrap_or_else(|| name.to_owned())
    }
}

/// Reads a directory's weights, and records which were read.
struct Reader<'a> {
    folder: &'a ModelFolder,
    kind: Kind,
    device: Device,
    used: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(folder: &'a ModelFolder, kind: Kind, device: Device) -> Self {
        Self { folder, kind, device, used: BTreeSet::new() }
    }

    /// A weight with a given shape, in a given kind.
    fn weight(&mut self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor> {
        let stored = self.folder.index.get(name).ok_or_else(|| self.folder.missing(name))?;
        let tensor = self.folder.files[stored.file].weight(&stored.name, shape, kind)?;
        self.used.insert(name.to_owned());
        tensor.f_to_device(self.device).map_err(of_torch)
    }

    fn trunk(&mut self) -> Result<Decoder> {
        let (folder, kind) = (self.folder, self.kind);
        let mut get = |id: WeightId, shape: &[i64]| self.weight(&folder.config.name(id), shape, kind);
        Decoder::build(folder.config.clone(), kind, &mut get)
    }

    /// The head's weight; `None` if it is tied to the embedding. If the config ties them but the file contains two
    /// different tensors, they are not tied.
    fn lm_head(&mut self) -> Result<Option<Tensor>> {
        let (folder, config) = (self.folder, &self.folder.config);
        let [head_name, embedding_name] = [WeightId::Head, WeightId::Embedding].map(|id| config.name(id));
        let tied = config.architecture.tie_word_embeddings;
        let Some(head) = folder.index.get(&head_name) else {
            return if tied { Ok(None) } else { Err(folder.no_head()) };
        };
        self.used.insert(head_name.clone());
        let embedding = folder.index.get(&embedding_name).ok_or_else(|| folder.missing(&embedding_name))?;
        let (of_head, of_embedding) = (&folder.files[head.file], &folder.files[embedding.file]);
        let same = of_head.weight_kind(&head.name)? == of_embedding.weight_kind(&embedding.name)?
            && of_head.bytes(&head.name)? == of_embedding.bytes(&embedding.name)?;
        if tied && same {
            return Ok(None);
        }
        self.weight(&head_name, &config.architecture.shape(WeightId::Head), self.kind).map(Some)
    }

    /// Rejects a directory with weights that were not read: they belong to a different model.
    fn refuse_left_over(&self) -> Result<()> {
        let left_over = |name: &String| !self.used.contains(name) && !self.folder.is_ignored(name);
        let names: Vec<&str> = self
            .folder
            .index
            .iter()
            .filter(|(name, _)| left_over(name))
            .map(|(_, stored)| stored.name.as_str())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        if names.contains(&SCORE) {
            return Err(Error::Data(format!(
                "{}: expected a language model, found a reward model (it has the tensor '{SCORE}')",
                self.folder.path.display()
            )));
        }
        Err(Error::Data(format!(
            "{}: the model that config.json describes does not use {}; ignoring them would change what it computes: \
             use the directory of a supported model, or remove the tensors that do not belong to it",
            self.folder.path.display(),
            named(&names)
        )))
    }
}

fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::Float32 => Kind::Float,
        Precision::BFloat16 => Kind::BFloat16,
    }
}

/// The first names of a list, and the number of names.
fn named(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let quoted: Vec<String> = names.iter().take(SHOWN).map(|name| format!("'{name}'")).collect();
    match names.len() {
        0 => "no tensor".to_owned(),
        n if n > SHOWN => format!("{n} tensors ({}, ...)", quoted.join(", ")),
        1 => format!("the tensor {}", quoted.join(", ")),
        n => format!("{n} tensors ({})", quoted.join(", ")),
    }
}

/// Rejects a directory for which transformers would load an adapter on top of another model.
fn refuse_adapter(path: &Path) -> Result<()> {
    if !path.join(peft::CONFIG).exists() {
        return Ok(());
    }
    Err(Error::Data(format!(
        "{}: expected a complete model, found an adapter of another model (it has {}); merge the adapter into its \
         base model with PEFT",
        path.display(),
        peft::CONFIG
    )))
}

/// Rejects a path that is no model directory, with a clearer error than that of a missing file.
fn expect_config(path: &Path) -> Result<()> {
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => "nothing there",
        Ok(about) if !about.is_dir() => "a file",
        Ok(_) if matches!(path.join("config.json").try_exists(), Ok(false)) => "no config.json in it",
        // Another error is that of reading it.
        _ => return Ok(()),
    };
    Err(Error::Data(format!(
        "{}: expected a Hugging Face model directory, found {found}; give the directory that contains config.json, \
         or convert a GGUF file with `plumbline-trainer import`",
        path.display()
    )))
}

/// Files of a model directory that belong to its tokenizer and its generation settings.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// Copies the tokenizer of a model directory into another.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        let (source, target) = (from.join(name), to.join(name));
        if source.exists() {
            fs::copy(&source, &target).map_err(|e| Error::disk(&target, e))?;
        }
    }
    Ok(())
}

/// A JSON object from a file.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = fs::read(path).map_err(|e| {
        let why = if e.kind() == ErrorKind::NotFound { "no such file".to_owned() } else { e.to_string() };
        Error::Data(format!("{}: {why}", path.display()))
    })?;
    serde_json::from_slice(&text).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
}

/// The files that contain the weights, selected as in transformers.
fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (path.join(WEIGHTS), path.join(INDEX));
    if single.exists() {
        if index.exists() {
            tracing::warn!(folder = %path.display(), "reading {WEIGHTS} and ignoring {INDEX}, as transformers does");
        }
        return Ok(vec![single]);
    }
    if index.exists() {
        return shards(path, &index);
    }
    Err(Error::Data(format!(
        "{}: no such file; expected the weights there, or in shards that {INDEX} lists; other formats are not \
         supported",
        single.display()
    )))
}

fn shards(path: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let object = read_object(index)?;
    let map = object
        .get("weight_map")
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
        .ok_or_else(|| Error::Data(format!("{}: expected an object `weight_map` of weights", index.display())))?;
    let mut files = BTreeSet::new();
    for (weight, file) in map {
        let name = file.as_str().filter(|name| is_file_name(name)).ok_or_else(|| {
            Error::Data(format!(
                "{}: expected the name of a file in this directory for '{weight}', found {file}",
                index.display()
            ))
        })?;
        files.insert(path.join(name));
    }
    Ok(files.into_iter().collect())
}

/// Whether a name can be that of a weight file: hidden files are excluded, as they are not part of an artifact's
/// digest.
fn is_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name) && !folder::is_ignored(name.as_ref())
}
