//! The decoder: token embedding, layers of attention and MLP, and a final norm, as its architecture describes. It takes
//! packed tokens and returns hidden states.

use tch::{Device, Kind, Tensor};

use plumbline_feedback::heartbeat;

use crate::Result;
use crate::model::architecture::{AttentionInputs, QkNorm, Residual};
use crate::model::attention::{self, Context, attend};
use crate::model::config::Config;
use crate::model::layer::{GetWeight, Inner, Inputs, Layer};
use crate::model::linear::Adapters;
use crate::model::masks::Masks;
use crate::model::norm::NormWeights;
use crate::model::packed::Packed;
use crate::model::rotary::{Rotary, rotate};
use crate::model::weights::{LayerWeight, NormSite, WeightId};

/// A causal decoder.
#[derive(Debug)]
pub struct Decoder {
    /// Its architecture and the names of its weights.
    pub config: Config,
    /// `[vocab, hidden]`.
    pub embedding: Tensor,
    /// `[rows, hidden]`: the embedding of positions, if they are learned.
    pub positions: Option<Tensor>,
    /// Layers, in the order of the forward pass.
    pub layers: Vec<Layer>,
    /// The final norm, if the architecture has one.
    pub norm: Option<NormWeights>,
    /// `[vocab, hidden]`; `None` if the head is tied to the embedding.
    pub lm_head: Option<Tensor>,
    /// The kind of activations.
    pub kind: Kind,
    /// Number of the lowest layers that are frozen together with the embedding, so that their output does not change
    /// during training. `None` if the embedding is trained.
    pub frozen_layers: Option<usize>,
    /// One per rotary embedding of the architecture.
    rotary: Vec<Rotary>,
}

impl Decoder {
    /// Builds a decoder from stored weights, without an untied head.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn build(config: Config, kind: Kind, get: &mut GetWeight) -> Result<Self> {
        let architecture = &config.architecture;
        let embedding = get(WeightId::Embedding, &architecture.shape(WeightId::Embedding))?;
        let layers = (0..architecture.num_hidden_layers as usize)
            .map(|index| Layer::build(architecture, index, get))
            .collect::<Result<_>>()?;
        let mut get = |id| architecture.has(id).then(|| get(id, &architecture.shape(id))).transpose();
        let positions = get(WeightId::Positions)?;
        let (scale, bias) = (get(WeightId::FinalNorm)?, get(WeightId::FinalNormBias)?);
        let norm = scale.map(|scale| NormWeights { scale, bias });
        let context = architecture.max_position_embeddings;
        let table = |rotary| Rotary::new(rotary, context, kind, embedding.device());
        let rotary = architecture.rotary.iter().map(table).collect();
        Ok(Self { config, embedding, positions, layers, norm, lm_head: None, kind, frozen_layers: None, rotary })
    }

    /// Every weight, without adapters.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, &Tensor)> {
        let layers = self.layers.iter().enumerate().flat_map(|(index, layer)| {
            LayerWeight::all().filter_map(move |id| Some((WeightId::Layer(index, id), layer.weight(id)?)))
        });
        let norm = self.norm.as_ref();
        let own = [
            (WeightId::Embedding, Some(&self.embedding)),
            (WeightId::Positions, self.positions.as_ref()),
            (WeightId::FinalNorm, norm.map(|norm| &norm.scale)),
            (WeightId::FinalNormBias, norm.and_then(|norm| norm.bias.as_ref())),
            (WeightId::Head, self.lm_head.as_ref()),
        ];
        own.into_iter().filter_map(|(id, weight)| Some((id, weight?))).chain(layers)
    }

    /// A weight, mutable; `None` if the decoder does not have it.
    pub fn weight_mut(&mut self, weight: WeightId) -> Option<&mut Tensor> {
        match weight {
            WeightId::Embedding => Some(&mut self.embedding),
            WeightId::Positions => self.positions.as_mut(),
            WeightId::FinalNorm => self.norm.as_mut().map(|norm| &mut norm.scale),
            WeightId::FinalNormBias => self.norm.as_mut()?.bias.as_mut(),
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
        let architecture = &self.config.architecture;
        let of = |table: &Tensor, rows: &Tensor| Tensor::embedding(table, rows, -1, false, false).to_kind(self.kind);
        let x = of(&self.embedding, &batch.tokens);
        let x = match architecture.embedding_scale {
            Some(scale) => x * Tensor::from(scale).to_kind(self.kind).double_value(&[]),
            None => x,
        };
        match (&self.positions, architecture.learned_positions) {
            (Some(table), Some(learned)) => x + of(table, &(&batch.positions + learned.offset)),
            _ => x,
        }
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
        let rotary: Vec<(Tensor, Tensor)> = self.rotary.iter().map(|rotary| rotary.at(batch)).collect();
        let masks = attention::masks(&self.config.architecture, batch, context, (x.kind(), x.device()));
        for index in range {
            heartbeat::beat();
            let rotary = self.config.architecture.layers[index].rotary.and_then(|of| rotary.get(of));
            x = self.layer(index, &x, batch, context, adapters, (rotary, masks.as_ref()));
        }
        x
    }

    /// Applies the final norm.
    pub fn final_norm(&self, x: &Tensor) -> Tensor {
        self.normed(x, self.norm.as_ref())
    }

    fn normed(&self, x: &Tensor, weights: Option<&NormWeights>) -> Tensor {
        weights.map_or_else(|| x.shallow_clone(), |weights| self.config.architecture.norm.apply(x, weights))
    }

    fn layer(
        &self,
        index: usize,
        x: &Tensor,
        batch: &Packed,
        context: &mut Context,
        adapters: Adapters,
        (rotary, masks): (Option<&(Tensor, Tensor)>, Option<&Masks>),
    ) -> Tensor {
        let (layer, a) = (&self.layers[index], &self.config.architecture);
        let normed = |x: &Tensor, site: NormSite| self.normed(x, layer.norm(site));
        let (q, k, v) = self.queries_keys_values(layer, &normed(x, NormSite::BeforeAttention), adapters);
        let (q, k) = match rotary {
            Some((cos, sin)) => (rotate(&q, cos, sin), rotate(&k, cos, sin)),
            None => (q, k),
        };
        let attended = attend(a, index, batch, context, masks, [&q, &k, &v]);
        let attended = layer.output.forward(&attended, adapters);
        let mlp = |x: &Tensor| self.mlp(layer, &normed(x, NormSite::BeforeMlp), adapters);
        match a.residual {
            Residual::Sequential => {
                let x = x + normed(&attended, NormSite::AfterAttention);
                let inner = normed(&mlp(&x), NormSite::AfterMlp);
                x + inner
            }
            Residual::Parallel => mlp(x) + attended + x,
            Residual::NormOfSum => {
                let x = normed(&(x + attended), NormSite::AfterAttention);
                normed(&(&x + mlp(&x)), NormSite::AfterMlp)
            }
        }
    }

    /// `[tokens, hidden]` -> `[tokens, heads, head_dim]` each, with the norms of queries and keys.
    fn queries_keys_values(&self, layer: &Layer, x: &Tensor, adapters: Adapters) -> (Tensor, Tensor, Tensor) {
        let a = &self.config.architecture;
        let (rows, dim, heads, kv_heads) = (x.size()[0], a.head_dim, a.num_attention_heads, a.num_key_value_heads);
        let split = |t: &Tensor, heads: i64| t.view([rows, heads, dim]);
        let norm_heads = |t: Tensor, heads: i64, site: NormSite| match a.qk_norm {
            QkNorm::None => split(&t, heads),
            QkNorm::PerHead => self.normed(&split(&t, heads), layer.norm(site)),
            QkNorm::Whole => split(&self.normed(&t, layer.norm(site)), heads),
        };
        let (q, k, v) = match &layer.inputs {
            Inputs::Separate { query, key, value } => {
                (query.forward(x, adapters), key.forward(x, adapters), value.forward(x, adapters))
            }
            Inputs::Fused(linear) => {
                let all = linear.forward(x, adapters);
                let (query, key) = (a.query_width(), a.key_width());
                if a.attention_inputs == AttentionInputs::FusedByHead {
                    let by_head = all.view([rows, heads, 3, dim]);
                    let part = |i: i64| by_head.select(2, i).reshape([rows, query]);
                    (part(0), part(1), part(2))
                } else {
                    let part = |start: i64, width: i64| all.narrow(1, start, width);
                    (part(0, query), part(query, key), part(query + key, key))
                }
            }
        };
        (norm_heads(q, heads, NormSite::Query), norm_heads(k, kv_heads, NormSite::Key), split(&v, kv_heads))
    }

    fn mlp(&self, layer: &Layer, x: &Tensor, adapters: Adapters) -> Tensor {
        let a = &self.config.architecture;
        let inner = match &layer.mlp.inner {
            Inner::Gated { gate, up } => a.activation.apply(&gate.forward(x, adapters)) * up.forward(x, adapters),
            Inner::FusedGated(linear) => {
                let both = linear.forward(x, adapters);
                let width = a.intermediate_size;
                a.activation.apply(&both.narrow(1, 0, width)) * both.narrow(1, width, width)
            }
            Inner::Plain(up) => a.activation.apply(&up.forward(x, adapters)),
        };
        layer.mlp.down.forward(&inner, adapters)
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
