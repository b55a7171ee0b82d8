//! The reward model: a decoder with a scalar head, which reads the hidden state of a text's last token. Computes, and
//! reads and writes directories.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tch::{Device, Kind, Tensor};

use plumbline_crds::reward_model::RewardModelSpec;
use plumbline_crds::training::Precision;
use plumbline_feedback::files::write_json;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::Result;
use crate::load::hugging_face::{ModelFolder, SCORE, copy_tokenizer, read_object};
use crate::load::save::{ModelClass, save_model};
use crate::model::attention::Context;
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::model::linear::Adapters;
use crate::model::lora;
use crate::model::packed::{Packed, passes};
use crate::model::trainable::make_trainable;
use crate::values::to_f64;

/// Maximum tokens per forward pass without gradients.
const SCORING_TOKENS: usize = 4096;

/// A decoder with a scalar head in place of its language-model head.
pub struct RewardModel {
    pub(crate) decoder: Decoder,
    head: ScalarHead,
    /// The kind that the base model is stored in, and that the saved model will have.
    kind: Kind,
}

impl RewardModel {
    /// The base model with a head whose score is always 0.
    pub(crate) fn from_base(folder: &Path, spec: &RewardModelSpec, device: Device) -> Result<Self> {
        let opened = ModelFolder::open(folder)?;
        let decoder = opened.trunk(spec.training.precision, device)?;
        let head = ScalarHead::zero(decoder.config.architecture.hidden_size, device);
        Ok(Self { decoder, head, kind: opened.kind()? })
    }

    /// Loads a saved reward model onto a device.
    pub fn load(folder: &Path, precision: Precision, device: Device) -> Result<Self> {
        let opened = ModelFolder::open(folder)?;
        let (decoder, weight) = opened.scorer(precision, device)?;
        Ok(Self { decoder, head: ScalarHead::from_weight(weight), kind: opened.kind()? })
    }

    /// Maximum tokens of a text.
    pub(crate) fn context(&self) -> i64 {
        self.decoder.config.architecture.max_position_embeddings
    }

    /// The trained tensors, by name.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an adapter target that the model does not have.
    pub(crate) fn make_trainable(&mut self, spec: &RewardModelSpec) -> Result<BTreeMap<String, Tensor>> {
        let mut params = make_trainable(&mut self.decoder, &spec.training)?;
        params.insert(SCORE.into(), self.head.trained.shallow_clone());
        Ok(params)
    }

    /// One score per sequence, `[sequences]`. `frozen`: output of the frozen layers for them, if it is known.
    pub(crate) fn forward<S: AsRef<[i64]>>(
        &self,
        sequences: &[S],
        frozen_states: Option<Tensor>,
        adapters: Adapters,
    ) -> Tensor {
        let batch = Packed::new(sequences).to_device(self.decoder.device());
        let hidden = match frozen_states {
            Some(states) => self.decoder.forward_from(states, &batch, adapters),
            None => self.decoder.forward(&batch, &mut Context::Whole, adapters),
        };
        self.head.forward(&hidden.index_select(0, &batch.last_rows()))
    }

    /// One score per sequence, without gradients, in bounded memory.
    pub fn score<S: AsRef<[i64]>>(&self, sequences: &[S]) -> Vec<f64> {
        let _no_grad = tch::no_grad_guard();
        let mut scores = Vec::with_capacity(sequences.len());
        for pass in passes(sequences.iter().map(|s| s.as_ref().len()), SCORING_TOKENS) {
            let found = self.forward(&sequences[pass], None, Adapters::On);
            scores.extend(to_f64(&found));
        }
        scores
    }

    /// Writes a directory that `AutoModelForSequenceClassification` loads.
    pub(crate) fn save(&self, base: &Path, tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
        let mut weights = lora::merged_weights(&self.decoder);
        weights.insert(SCORE.into(), self.head.weight());
        let mut config = self.decoder.config.clone();
        // The classifier of transformers reads the last token that is not the padding token. The end token is often the
        // padding token too, and would be skipped at the end of a turn.
        let padding = tokenizer.padding();
        config.raw.insert("pad_token_id".into(), json!(padding.map(|(_, id)| id)));
        save_model(folder, &weights, self.kind, &config, ModelClass::SequenceClassification)?;
        copy_tokenizer(base, folder)?;
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let path = folder.join(name);
            if path.exists() {
                let mut object = read_object(&path)?;
                object.insert("pad_token".into(), json!(padding.map(|(token, _)| token)));
                write_json(&path, &object)?;
            }
        }
        Ok(())
    }
}
