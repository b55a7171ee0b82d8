//! The model being tuned, and the reference that it started from. Computes only.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::model::linear::Adapters;
use crate::model::view::ModelView;
use crate::optim::copy_to_cpu;

/// The model being tuned, and its starting model.
pub struct Policy {
    /// The model.
    pub decoder: Decoder,
    /// The trained tensors, by name.
    pub params: BTreeMap<String, Tensor>,
    /// The starting model, unless it is the decoder without its adapters.
    pub original: Option<Decoder>,
    /// Predicts returns, for methods with a critic.
    pub value_head: Option<ScalarHead>,
    /// The data type of the model's stored weights, also used for the tuned model.
    pub stored: Kind,
}

impl Policy {
    /// The starting model: the reference of KL divergences.
    pub fn reference(&self) -> ModelView<'_> {
        let decoder = self.original.as_ref().unwrap_or(&self.decoder);
        ModelView { decoder, adapters: Adapters::Off }
    }

    /// Adds a value head to the policy, on its own hidden states, that initially predicts 0.
    pub fn add_value_head(&mut self) {
        let head = ScalarHead::zero(self.decoder.config.architecture.hidden_size, self.decoder.device());
        self.params.insert("value_head.weight".into(), head.trained.shallow_clone());
        self.value_head = Some(head);
    }

    /// Copies the parameters to the CPU.
    pub fn snapshot(&self) -> BTreeMap<String, Tensor> {
        self.params.iter().map(|(name, t)| (name.clone(), copy_to_cpu(t))).collect()
    }

    /// Restores the parameters from a snapshot.
    pub fn restore(&self, snapshot: &BTreeMap<String, Tensor>) {
        tch::no_grad(|| {
            for (name, tensor) in &self.params {
                if let Some(saved) = snapshot.get(name) {
                    tensor.shallow_clone().copy_(saved);
                }
            }
        });
    }
}
