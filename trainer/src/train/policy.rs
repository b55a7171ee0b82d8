//! The model that is tuned, and the reference that it started from. Computes only.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::model::linear::Adapters;
use crate::model::view::ModelView;
use crate::optim::copy_to_cpu;

/// The model that is tuned, and the model it was made from.
pub struct Policy {
    /// The model.
    pub decoder: Decoder,
    /// What is trained, by name.
    pub params: BTreeMap<String, Tensor>,
    /// The starting model, when it is not the decoder without its adapters.
    pub original: Option<Decoder>,
    /// Predicts returns (methods with a critic).
    pub value_head: Option<ScalarHead>,
    /// The type in which the model's weights are stored, and its tuned copy will be.
    pub stored: Kind,
}

impl Policy {
    /// The starting model: the reference of KL divergences.
    pub fn reference(&self) -> ModelView<'_> {
        let decoder = self.original.as_ref().unwrap_or(&self.decoder);
        ModelView { decoder, adapters: Adapters::Off }
    }

    /// Gives the policy a value head, on its own hidden states, that predicts 0 at first.
    pub fn add_value_head(&mut self) {
        let head = ScalarHead::zero(self.decoder.config.architecture.hidden_size, self.decoder.device());
        self.params.insert("value_head.weight".into(), head.trained.shallow_clone());
        self.value_head = Some(head);
    }

    /// A copy of the parameters, on the CPU.
    pub fn snapshot(&self) -> BTreeMap<String, Tensor> {
        self.params.iter().map(|(name, t)| (name.clone(), copy_to_cpu(t))).collect()
    }

    /// Sets the parameters to a snapshot.
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
