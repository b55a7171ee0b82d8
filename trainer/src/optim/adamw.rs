//! AdamW (Loshchilov and Hutter, 2019) over named parameters, one fused step, and a state that can be saved.

use std::collections::BTreeMap;

use plumbline_crds::training::Optimizer;
use tch::{Device, Kind, Tensor};

use crate::torch_error::of_torch;
use crate::{Error, Result};

/// The optimiser and its state.
pub struct AdamW {
    settings: Optimizer,
    names: Vec<String>,
    params: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl AdamW {
    /// An optimiser of `params`, Float32 leaves that require gradients, ordered by name.
    pub fn new(params: &BTreeMap<String, Tensor>, settings: &Optimizer) -> Self {
        // All on the parameter's device, the count of steps too: the fused step of a GPU reads it there.
        let zeros = |p: &Tensor| Tensor::zeros(p.size(), (Kind::Float, p.device()));
        let count = |p: &Tensor| Tensor::zeros([0i64; 0], (Kind::Float, p.device()));
        let params_list: Vec<Tensor> = params.values().map(Tensor::shallow_clone).collect();
        Self {
            settings: settings.clone(),
            names: params.keys().cloned().collect(),
            first: params_list.iter().map(zeros).collect(),
            second: params_list.iter().map(zeros).collect(),
            steps: params_list.iter().map(count).collect(),
            params: params_list,
        }
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.params.first().map_or(Device::Cpu, Tensor::device)
    }

    /// Clips the gradients, takes a step, drops the gradients. Returns the gradient norm before clipping. A norm that
    /// is not finite is an error, because such a step would destroy the model.
    pub fn step(&mut self, learning_rate: f64) -> Result<f64> {
        // Parameters that took no part in this step have no gradient and keep their state.
        let with_grad: Vec<usize> = (0..self.params.len()).filter(|&i| self.params[i].grad().defined()).collect();
        let pick = |list: &[Tensor]| -> Vec<Tensor> { with_grad.iter().map(|&i| list[i].shallow_clone()).collect() };
        let grads: Vec<Tensor> = with_grad.iter().map(|&i| self.params[i].grad()).collect();
        if grads.is_empty() {
            return Err(Error::Failed("no parameter has a gradient; nothing would be trained".into()));
        }
        let norm = plumbline_torch::clip_grad_norm(&grads, self.settings.max_grad_norm).map_err(of_torch)?;
        if !norm.is_finite() {
            return Err(Error::Failed(format!(
                "the gradient norm is {norm}; lower spec.training.learningRate, or use Float32 precision"
            )));
        }
        // Matrices decay, vectors (norms, biases) do not.
        let (decayed, kept): (Vec<usize>, Vec<usize>) =
            (0..with_grad.len()).partition(|&i| self.params[with_grad[i]].dim() > 1);
        let (params, first, second, steps) =
            (pick(&self.params), pick(&self.first), pick(&self.second), pick(&self.steps));
        for (group, weight_decay) in [(decayed, self.settings.weight_decay), (kept, 0.0)] {
            if group.is_empty() {
                continue;
            }
            let of = |list: &[Tensor]| -> Vec<Tensor> { group.iter().map(|&i| list[i].shallow_clone()).collect() };
            let settings = plumbline_torch::AdamW {
                learning_rate,
                beta1: self.settings.beta1,
                beta2: self.settings.beta2,
                weight_decay,
                epsilon: self.settings.epsilon,
            };
            plumbline_torch::fused_adamw(&of(&params), &of(&grads), &of(&first), &of(&second), &of(&steps), settings)
                .map_err(of_torch)?;
        }
        plumbline_torch::drop_grads(&self.params).map_err(of_torch)?;
        Ok(norm)
    }

    /// Parameters and state, to be saved: copies, on the CPU.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (i, name) in self.names.iter().enumerate() {
            for (part, list) in self.parts() {
                state.insert(format!("{part}/{name}"), copy_to_cpu(&list[i]));
            }
        }
        state
    }

    /// Restores the state returned by [`AdamW::state`].
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        tch::no_grad(|| {
            for (i, name) in self.names.iter().enumerate() {
                for (part, list) in self.parts() {
                    let key = format!("{part}/{name}");
                    let saved =
                        state.get(&key).ok_or_else(|| Error::Data(format!("checkpoint: '{key}' is missing")))?;
                    if saved.size() != list[i].size() {
                        return Err(Error::Data(format!(
                            "checkpoint: '{key}' has shape {:?} where the model has {:?}",
                            saved.size(),
                            list[i].size()
                        )));
                    }
                    list[i].shallow_clone().copy_(saved);
                }
            }
            Ok(())
        })
    }

    fn parts(&self) -> [(&'static str, &Vec<Tensor>); 4] {
        [("param", &self.params), ("first", &self.first), ("second", &self.second), ("step", &self.steps)]
    }
}

/// A copy on the CPU, without gradients. What is saved for later must not take a GPU's memory twice.
pub fn copy_to_cpu(tensor: &Tensor) -> Tensor {
    tensor.detach().to_device_(Device::Cpu, tensor.kind(), false, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (Tensor, AdamW) {
        let w = Tensor::from_slice(&[1.0f32, -1.0]).set_requires_grad(true);
        let optimizer = AdamW::new(&[("w".to_owned(), w.shallow_clone())].into(), &Optimizer::default());
        (w, optimizer)
    }

    fn descend(w: &Tensor, optimizer: &mut AdamW) {
        w.square().sum(Kind::Float).backward();
        optimizer.step(0.1).unwrap();
    }

    #[test]
    fn a_restored_optimiser_continues_as_if_it_had_not_stopped() {
        let (w, mut optimizer) = setup();
        descend(&w, &mut optimizer);
        let state = optimizer.state();
        descend(&w, &mut optimizer);
        descend(&w, &mut optimizer);
        let (resumed, mut other) = setup();
        other.restore(&state).unwrap();
        descend(&resumed, &mut other);
        descend(&resumed, &mut other);
        assert_eq!(w, resumed);
    }

    #[test]
    fn a_step_without_gradients_or_with_broken_ones_is_refused() {
        let (w, mut optimizer) = setup();
        assert!(optimizer.step(0.1).unwrap_err().to_string().contains("gradient"));
        (&w * f64::NAN).sum(Kind::Float).backward();
        assert!(optimizer.step(0.1).unwrap_err().to_string().contains("learningRate"));
        assert_eq!(Vec::<f32>::try_from(&w).unwrap(), [1.0, -1.0], "the model is untouched");
    }
}
