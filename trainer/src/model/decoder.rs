//! The decoder of the Llama family: token embedding, layers of attention and gated MLP with RMSNorm before each, a final
//! norm. It takes packed tokens and returns hidden states.

use tch::{Device, Kind, Tensor};

use plumbline_crds::training::AdapterTarget;
use plumbline_feedback::heartbeat;

use crate::model::attention::{Context, attend};
use crate::model::config::Config;
use crate::model::linear::{Adapters, Linear};
use crate::model::packed::Packed;
use crate::model::rotary::{Rotary, rotate};

/// A causal decoder.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes and constants.
    pub config: Config,
    /// `[vocab, hidden]`.
    pub embedding: Tensor,
    /// Layers, the first read first.
    pub layers: Vec<Layer>,
    /// `[hidden]`, scale of the final norm.
    pub norm: Tensor,
    /// `[vocab, hidden]`, unless the head is tied to the embedding.
    pub lm_head: Option<Tensor>,
    /// The kind of activations.
    pub kind: Kind,
    /// How many of the lowest layers are not trained, when the embedding is not trained either: what they compute does
    /// not change while the rest is trained.
    pub frozen_layers: Option<usize>,
    rotary: Rotary,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// `[hidden]`, scale of the norm before attention.
    pub input_norm: Tensor,
    /// Query projection.
    pub q_proj: Linear,
    /// Key projection.
    pub k_proj: Linear,
    /// Value projection.
    pub v_proj: Linear,
    /// Output projection of attention.
    pub o_proj: Linear,
    /// `[hidden]`, scale of the norm before the MLP.
    pub post_norm: Tensor,
    /// Gate projection.
    pub gate_proj: Linear,
    /// Up projection.
    pub up_proj: Linear,
    /// Down projection.
    pub down_proj: Linear,
}

impl Layer {
    /// A projection by its name.
    pub fn projection(&self, target: AdapterTarget) -> &Linear {
        match target {
            AdapterTarget::QProj => &self.q_proj,
            AdapterTarget::KProj => &self.k_proj,
            AdapterTarget::VProj => &self.v_proj,
            AdapterTarget::OProj => &self.o_proj,
            AdapterTarget::GateProj => &self.gate_proj,
            AdapterTarget::UpProj => &self.up_proj,
            AdapterTarget::DownProj => &self.down_proj,
        }
    }

    /// A projection by its name, to change.
    pub fn projection_mut(&mut self, target: AdapterTarget) -> &mut Linear {
        match target {
            AdapterTarget::QProj => &mut self.q_proj,
            AdapterTarget::KProj => &mut self.k_proj,
            AdapterTarget::VProj => &mut self.v_proj,
            AdapterTarget::OProj => &mut self.o_proj,
            AdapterTarget::GateProj => &mut self.gate_proj,
            AdapterTarget::UpProj => &mut self.up_proj,
            AdapterTarget::DownProj => &mut self.down_proj,
        }
    }
}

impl Decoder {
    /// A decoder of given weights.
    pub fn new(
        config: Config,
        embedding: Tensor,
        layers: Vec<Layer>,
        norm: Tensor,
        lm_head: Option<Tensor>,
        kind: Kind,
    ) -> Self {
        let rotary = Rotary::new(&config, kind, embedding.device());
        Self { config, embedding, layers, norm, lm_head, kind, frozen_layers: None, rotary }
    }

    /// Where its weights are; what it reads must be there too.
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

    /// What the frozen layers compute, `[tokens, hidden]`, of whole sequences; none when no layer is frozen.
    pub fn frozen_states(&self, batch: &Packed) -> Option<Tensor> {
        let frozen = self.frozen_layers?;
        Some(tch::no_grad(|| self.run_layers(0..frozen, self.embed(batch), batch, &mut Context::Whole, Adapters::Off)))
    }

    /// Hidden states of whole sequences after the final norm, from what the frozen layers computed.
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

    /// The final norm.
    pub fn final_norm(&self, x: &Tensor) -> Tensor {
        rms_norm(x, &self.norm, self.config.rms_norm_eps)
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
        let (layer, config) = (&self.layers[index], &self.config);
        let rows = x.size()[0];
        let y = rms_norm(x, &layer.input_norm, config.rms_norm_eps);
        let split = |t: Tensor, heads: i64| t.view([rows, heads, config.head_dim]);
        let q = rotate(&split(layer.q_proj.forward(&y, adapters), config.num_attention_heads), cos, sin);
        let k = rotate(&split(layer.k_proj.forward(&y, adapters), config.num_key_value_heads), cos, sin);
        let v = split(layer.v_proj.forward(&y, adapters), config.num_key_value_heads);
        let attended = attend(config, index, batch, context, &q, &k, &v);
        let x = x + layer.o_proj.forward(&attended, adapters);
        let y = rms_norm(&x, &layer.post_norm, config.rms_norm_eps);
        let gated = layer.gate_proj.forward(&y, adapters).silu() * layer.up_proj.forward(&y, adapters);
        x + layer.down_proj.forward(&gated, adapters)
    }
}

/// RMSNorm (Zhang and Sennrich, 2019), computed in Float32: `x / sqrt(mean(x^2) + eps) * scale`.
pub fn rms_norm(x: &Tensor, scale: &Tensor, eps: f64) -> Tensor {
    let width = *x.size().last().unwrap_or(&1);
    let normed = x.to_kind(Kind::Float).rms_norm([width], None::<&Tensor>, eps).to_kind(x.kind());
    normed * scale.to_kind(x.kind())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::cache::{Cache, Prefix};
    use crate::model::config::tests::tiny;
    use crate::model::lora;

    /// A decoder with random weights.
    pub(crate) fn random(seed: i64) -> Decoder {
        let c = tiny();
        tch::manual_seed(seed);
        let w = |rows: i64, columns: i64| Tensor::randn([rows, columns], (Kind::Float, Device::Cpu)) * 0.2;
        let norm = || Tensor::rand([c.hidden_size], (Kind::Float, Device::Cpu)) + 0.5;
        let (d, ff) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let layers = (0..c.num_hidden_layers)
            .map(|_| Layer {
                input_norm: norm(),
                q_proj: Linear::new(w(q, d)),
                k_proj: Linear::new(w(kv, d)),
                v_proj: Linear::new(w(kv, d)),
                o_proj: Linear::new(w(d, q)),
                post_norm: norm(),
                gate_proj: Linear::new(w(ff, d)),
                up_proj: Linear::new(w(ff, d)),
                down_proj: Linear::new(w(d, ff)),
            })
            .collect();
        let embedding = w(c.vocab_size, d) * 5.0;
        let final_norm = norm();
        Decoder::new(c.clone(), embedding, layers, final_norm, None, Kind::Float)
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
    fn packed_segments_do_not_see_each_other() {
        let decoder = random(1);
        let together = whole(&decoder, &[A, B]);
        assert_same(&together.narrow(0, 0, 8), &whole(&decoder, &[A]));
        assert_same(&together.narrow(0, 8, 3), &whole(&decoder, &[B]));
    }

    #[test]
    fn a_token_does_not_see_what_follows() {
        let decoder = random(2);
        assert_same(&whole(&decoder, &[A]).narrow(0, 0, 5), &whole(&decoder, &[&A[..5]]));
        let changed = whole(&decoder, &[&[3, 1, 4, 2, 5, 9, 2, 6]]);
        let difference = (changed - whole(&decoder, &[A])).abs().sum_dim_intlist(1, false, Kind::Float);
        assert!(difference.double_value(&[2]) < 1e-5 && difference.double_value(&[7]) > 1e-3);
    }

    #[test]
    fn reading_a_shared_prefix_once_changes_nothing() {
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
    fn token_by_token_over_a_cache_gives_what_reading_at_once_gives() {
        let decoder = random(4);
        let mut cache = Cache::new(&decoder.config, 2, 16, Kind::Float, Device::Cpu);
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
            assert_same(&hidden.get(0), &whole(&decoder, &[A]).get(4 + t as i64));
            assert_same(&hidden.get(1), &whole(&decoder, &[B]).get(1 + t as i64));
        }
        // Freeing the first slot moves the second sequence into it.
        assert_eq!(cache.release(0), Some(1));
        cache.reserve(3, 32);
        let batch = Packed::new(&[[5i64]]).at_positions(cache.lengths());
        let step = cache.step(Kind::Float);
        let hidden = decoder.forward(&batch, &mut Context::Decode { cache: &cache, step: &step }, Adapters::On);
        assert_same(&hidden.get(0), &whole(&decoder, &[&[2, 7, 1, 5]]).get(3));
    }

    #[test]
    fn the_gradient_of_an_adapter_is_the_slope_of_the_loss() {
        let mut decoder = random(5);
        let adapter = serde_json::from_value(serde_json::json!({"rank": 2, "alpha": 4})).unwrap();
        lora::attach(&mut decoder, &adapter, 7);
        let loss = |d: &Decoder| whole(d, &[A, B]).index_select(0, &Tensor::from_slice(&[7i64, 10])).sum(Kind::Double);
        let named = lora::parameters(&decoder);
        // B starts at zero, which hides the gradient of A: move off it.
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
