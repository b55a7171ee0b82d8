//! The decoder: token embedding, layers of attention and MLP, and a final norm, as its architecture describes. It takes
//! packed tokens and returns hidden states.

use tch::{Device, Kind, Tensor};

use plumbline_feedback::heartbeat;

use crate::Result;
use crate::model::attention::{Context, attend};
use crate::model::config::Config;
use crate::model::layer::{GetWeight, Layer};
use crate::model::linear::Adapters;
use crate::model::packed::Packed;
use crate::model::rotary::{Rotary, rotate};
use crate::model::weights::{LayerWeight, WeightId};

/// A causal decoder.
#[derive(Debug)]
pub struct Decoder {
    /// Its architecture and the names of its weights.
    pub config: Config,
    /// `[vocab, hidden]`.
    pub embedding: Tensor,
    /// Layers, in the order of the forward pass.
    pub layers: Vec<Layer>,
    /// `[hidden]`: scale of the final norm.
    pub norm: Tensor,
    /// `[vocab, hidden]`; `None` if the head is tied to the embedding.
    pub lm_head: Option<Tensor>,
    /// The kind of activations.
    pub kind: Kind,
    /// Number of the lowest layers that are frozen together with the embedding, so that their output does not change
    /// during training. `None` if the embedding is trained.
    pub frozen_layers: Option<usize>,
    rotary: Rotary,
}

impl Decoder {
    /// Builds a decoder from stored weights, without an untied head.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn build(config: Config, kind: Kind, get: &mut GetWeight) -> Result<Self> {
        let architecture = &config.architecture;
        let layers = (0..architecture.num_hidden_layers as usize)
            .map(|index| Layer::build(architecture, index, get))
            .collect::<Result<_>>()?;
        let mut get = |id| get(id, &architecture.shape(id));
        let (embedding, norm) = (get(WeightId::Embedding)?, get(WeightId::FinalNorm)?);
        let rotary = Rotary::new(architecture, kind, embedding.device());
        Ok(Self { config, embedding, layers, norm, lm_head: None, kind, frozen_layers: None, rotary })
    }

    /// Every weight, without adapters.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, &Tensor)> {
        let layers = self.layers.iter().enumerate().flat_map(|(index, layer)| {
            LayerWeight::all().filter_map(move |id| Some((WeightId::Layer(index, id), layer.weight(id)?)))
        });
        let own = [(WeightId::Embedding, &self.embedding), (WeightId::FinalNorm, &self.norm)];
        own.into_iter().chain(layers).chain(self.lm_head.iter().map(|head| (WeightId::Head, head)))
    }

    /// A weight, mutable; `None` if the decoder does not have it.
    pub fn weight_mut(&mut self, weight: WeightId) -> Option<&mut Tensor> {
        match weight {
            WeightId::Embedding => Some(&mut self.embedding),
            WeightId::FinalNorm => Some(&mut self.norm),
            WeightId::Head => self.lm_head.as_mut(),
            WeightId::Layer(index, weight) => self.layers.get_mut(index)?.weight_mut(weight),
        }
    }

    /// The device of its weights; inputs must be on the same one.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// The head's weight, `[vocab, hidden]`.
    pub fn head_weight(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Hidden states after the final norm, `[tokens, hidden]`.
    pub fn forward(&self, batch: &Packed, context: &mut Context, adapters: Adapters) -> Tensor {
        let x = self.embed(batch);
        let x = self.run_layers(0..self.layers.len(), x, batch, context, adapters);
        self.final_norm(&x)
    }

    /// Output of the frozen layers for whole sequences, `[tokens, hidden]`; `None` if no layer is frozen.
    pub fn frozen_states(&self, batch: &Packed) -> Option<Tensor> {
        let frozen = self.frozen_layers?;
        Some(tch::no_grad(|| self.run_layers(0..frozen, self.embed(batch), batch, &mut Context::Whole, Adapters::Off)))
    }

    /// Hidden states of whole sequences after the final norm, computed from the output of the frozen layers.
    pub fn forward_from(&self, frozen_states: Tensor, batch: &Packed, adapters: Adapters) -> Tensor {
        let rest = self.frozen_layers.unwrap_or(0)..self.layers.len();
        self.final_norm(&self.run_layers(rest, frozen_states, batch, &mut Context::Whole, adapters))
    }

    /// The tokens' embeddings, `[tokens, hidden]`.
    pub fn embed(&self, batch: &Packed) -> Tensor {
        Tensor::embedding(&self.embedding, &batch.tokens, -1, false, false).to_kind(self.kind)
    }

    /// Runs some of the layers on hidden states, `[tokens, hidden]` -> the same.
    pub fn run_layers(
        &self,
        range: std::ops::Range<usize>,
        mut x: Tensor,
        batch: &Packed,
        context: &mut Context,
        adapters: Adapters,
    ) -> Tensor {
        let (cos, sin) = self.rotary.at(batch);
        for index in range {
            heartbeat::beat();
            x = self.layer(index, &x, batch, context, adapters, (&cos, &sin));
        }
        x
    }

    /// Applies the final norm.
    pub fn final_norm(&self, x: &Tensor) -> Tensor {
        self.config.architecture.norm.apply(x, &self.norm)
    }

    fn layer(
        &self,
        index: usize,
        x: &Tensor,
        batch: &Packed,
        context: &mut Context,
        adapters: Adapters,
        (cos, sin): (&Tensor, &Tensor),
    ) -> Tensor {
        let (layer, a) = (&self.layers[index], &self.config.architecture);
        let rows = x.size()[0];
        let y = a.norm.apply(x, &layer.input_norm);
        let split = |t: Tensor, heads: i64| t.view([rows, heads, a.head_dim]);
        let normed = |t: Tensor, scale: &Option<Tensor>| match scale {
            Some(scale) => a.norm.apply(&t, scale),
            None => t,
        };
        let q = normed(split(layer.q_proj.forward(&y, adapters), a.num_attention_heads), &layer.q_norm);
        let k = normed(split(layer.k_proj.forward(&y, adapters), a.num_key_value_heads), &layer.k_norm);
        let v = split(layer.v_proj.forward(&y, adapters), a.num_key_value_heads);
        let (q, k) = (rotate(&q, cos, sin), rotate(&k, cos, sin));
        let attended = attend(a, index, batch, context, &q, &k, &v);
        let x = x + layer.o_proj.forward(&attended, adapters);
        let y = a.norm.apply(&x, &layer.post_norm);
        let gated = a.activation.apply(&layer.gate_proj.forward(&y, adapters)) * layer.up_proj.forward(&y, adapters);
        x + layer.down_proj.forward(&gated, adapters)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::cache::{Cache, Prefix};
    use crate::model::config::tests::{tiny, tiny_of};
    use crate::model::lora;

    /// A decoder with random weights.
    pub(crate) fn random(seed: i64) -> Decoder {
        of_config(tiny(), seed)
    }

    /// A decoder for a config, with random weights and a tied head.
    fn of_config(config: Config, seed: i64) -> Decoder {
        tch::manual_seed(seed);
        let float = (Kind::Float, Device::Cpu);
        let mut get = |id: WeightId, shape: &[i64]| {
            Ok(match id {
                WeightId::Embedding => Tensor::randn(shape, float),
                WeightId::Layer(_, LayerWeight::Weight(_) | LayerWeight::Bias(_)) => Tensor::randn(shape, float) * 0.2,
                _ => Tensor::rand(shape, float) + 0.5,
            })
        };
        Decoder::build(config, Kind::Float, &mut get).unwrap()
    }

    fn whole(decoder: &Decoder, segments: &[&[i64]]) -> Tensor {
        decoder.forward(&Packed::new(segments), &mut Context::Whole, Adapters::On)
    }

    fn assert_same(a: &Tensor, b: &Tensor) {
        assert_eq!(a.size(), b.size());
        let difference = (a - b).abs().max().double_value(&[]);
        assert!(difference < 1e-4, "differs by {difference}");
    }

    const A: &[i64] = &[3, 1, 4, 1, 5, 9, 2, 6];
    const B: &[i64] = &[2, 7, 1];

    #[test]
    fn packed_segments_do_not_attend_to_each_other() {
        let decoder = random(1);
        let together = whole(&decoder, &[A, B]);
        assert_same(&together.narrow(0, 0, 8), &whole(&decoder, &[A]));
        assert_same(&together.narrow(0, 8, 3), &whole(&decoder, &[B]));
    }

    #[test]
    fn a_token_does_not_attend_to_later_tokens() {
        let decoder = random(2);
        assert_same(&whole(&decoder, &[A]).narrow(0, 0, 5), &whole(&decoder, &[&A[..5]]));
        let changed = whole(&decoder, &[&[3, 1, 4, 2, 5, 9, 2, 6]]);
        let difference = (changed - whole(&decoder, &[A])).abs().sum_dim_intlist(1, false, Kind::Float);
        assert!(difference.double_value(&[2]) < 1e-5 && difference.double_value(&[7]) > 1e-3);
    }

    #[test]
    fn sharing_a_prefix_does_not_change_the_result() {
        let decoder = random(3);
        let mut layers = Vec::new();
        let mut context = Context::Prefill { prefix: None, kept: &mut layers };
        let _ = decoder.forward(&Packed::new(&[&A[..3]]), &mut context, Adapters::On);
        let prefix = Prefix { tokens: A[..3].to_vec(), layers };
        let rest: [&[i64]; 2] = [&A[3..], &[8, 8]];
        let mut kept = Vec::new();
        let mut context = Context::Prefill { prefix: Some(&prefix), kept: &mut kept };
        let hidden = decoder.forward(&Packed::starting_at(&rest, 3), &mut context, Adapters::On);
        assert_same(&hidden.narrow(0, 0, 5), &whole(&decoder, &[A]).narrow(0, 3, 5));
        assert_same(&hidden.narrow(0, 5, 2), &whole(&decoder, &[&[3, 1, 4, 8, 8]]).narrow(0, 3, 2));
    }

    #[test]
    fn decoding_over_a_cache_equals_one_forward_pass() {
        for family in ["llama", "qwen2", "qwen3"] {
            reads_token_by_token(&of_config(tiny_of(family), 4));
        }
    }

    fn reads_token_by_token(decoder: &Decoder) {
        let mut cache = Cache::new(&decoder.config.architecture, 2, 16, Kind::Float, Device::Cpu);
        let mut kept = Vec::new();
        let batch = Packed::new(&[&A[..4], &B[..1]]);
        let mut context = Context::Prefill { prefix: None, kept: &mut kept };
        let _ = decoder.forward(&batch, &mut context, Adapters::On);
        cache.admit(None, &kept, 0, 4);
        cache.admit(None, &kept, 4, 1);
        for t in 0..2 {
            let batch = Packed::new(&[[A[4 + t]], [B[1 + t]]]).at_positions(cache.lengths());
            let step = cache.step(Kind::Float);
            let hidden = decoder.forward(&batch, &mut Context::Decode { cache: &cache, step: &step }, Adapters::On);
            assert_same(&hidden.get(0), &whole(decoder, &[A]).get(4 + t as i64));
            assert_same(&hidden.get(1), &whole(decoder, &[B]).get(1 + t as i64));
        }
        // Freeing the first slot moves the second sequence into it.
        assert_eq!(cache.release(0), Some(1));
        cache.reserve(3, 32);
        let batch = Packed::new(&[[5i64]]).at_positions(cache.lengths());
        let step = cache.step(Kind::Float);
        let hidden = decoder.forward(&batch, &mut Context::Decode { cache: &cache, step: &step }, Adapters::On);
        assert_same(&hidden.get(0), &whole(decoder, &[&[2, 7, 1, 5]]).get(3));
    }

    #[test]
    fn gradients_of_an_adapter_match_finite_differences() {
        let mut decoder = random(5);
        let adapter = serde_json::from_value(serde_json::json!({"rank": 2, "alpha": 4})).unwrap();
        lora::attach(&mut decoder, &adapter, 7).unwrap();
        let loss = |d: &Decoder| whole(d, &[A, B]).index_select(0, &Tensor::from_slice(&[7i64, 10])).sum(Kind::Double);
        let named = lora::parameters(&decoder);
        // B is zero at first, which makes the gradient of A zero: set it to something else.
        tch::no_grad(|| {
            for (name, t) in named.iter().filter(|(name, _)| name.contains("lora_B")) {
                t.shallow_clone().copy_(&(Tensor::randn_like(t) * 0.3 * (name.len() as f64).sqrt() / 8.0));
            }
        });
        loss(&decoder).backward();
        for (name, t) in &named {
            let slope = t.grad().double_value(&[0, 1]);
            let at = |shift: f64| {
                tch::no_grad(|| {
                    let kept = t.copy();
                    let _ = t.get(0).get(1).g_add_scalar_(shift);
                    let value = loss(&decoder).double_value(&[]);
                    t.shallow_clone().copy_(&kept);
                    value
                })
            };
            let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((slope - numeric).abs() < 0.02 * (1.0 + slope.abs()), "{name}: {slope} but {numeric}");
        }
    }
}
