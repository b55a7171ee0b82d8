//! Attention over packed segments: causal within each segment, with or without a shared prefix, or of one new token per
//! sequence over a cache. Segments are spread over a padded grid only here; padding cells come after a segment's last
//! token, so causality alone hides them.

use tch::{Device, Kind, Tensor};

use crate::model::architecture::Architecture;
use crate::model::cache::{Cache, KeyValue, Prefix, Step};
use crate::model::masks::Masks;
use crate::model::packed::Packed;

/// What the tokens of a forward pass attend to.
#[derive(Debug)]
pub enum Context<'a> {
    /// Each segment is a whole sequence.
    Whole,
    /// Each segment continues the prefix, if there is one; the keys and values of each layer are collected.
    Prefill {
        /// The prefix that all segments share.
        prefix: Option<&'a Prefix>,
        /// Receives one entry per layer.
        kept: &'a mut Vec<KeyValue>,
    },
    /// Each segment is the next token of a sequence in the cache.
    Decode {
        /// The cache.
        cache: &'a Cache,
        /// Where this step reads and writes.
        step: &'a Step,
    },
}

/// The masks of a forward pass.
pub fn masks(architecture: &Architecture, batch: &Packed, context: &Context, options: (Kind, Device)) -> Option<Masks> {
    let shared = match context {
        Context::Whole | Context::Prefill { prefix: None, .. } => 0,
        Context::Prefill { prefix: Some(prefix), .. } => prefix.tokens.len() as i64,
        // The step has its own.
        Context::Decode { .. } => return None,
    };
    Some(Masks::over_segments(architecture, shared, batch.longest(), options))
}

/// Computes attention of a layer. `q`: `[tokens, heads, head_dim]`, `k` and `v`: `[tokens, key_value_heads, head_dim]`,
/// rotated; `masks`: those of the pass. Returns `[tokens, heads * head_dim]`.
pub fn attend(
    architecture: &Architecture,
    layer: usize,
    batch: &Packed,
    context: &mut Context,
    masks: Option<&Masks>,
    [q, k, v]: [&Tensor; 3],
) -> Tensor {
    let (heads, kv_heads) = (architecture.num_attention_heads, architecture.num_key_value_heads);
    let dim = architecture.head_dim;
    let rows = q.size()[0];
    let window = architecture.layers[layer].window;
    let mask = masks.and_then(|masks| masks.of(window));
    match context {
        Context::Whole => over_segments(architecture, batch, None, mask, [q, k, v]),
        Context::Prefill { prefix, kept } => {
            let flat = |t: &Tensor| t.reshape([rows, kv_heads * dim]);
            kept.push(KeyValue { keys: flat(k), values: flat(v) });
            over_segments(architecture, batch, prefix.map(|p| &p.layers[layer]), mask, [q, k, v])
        }
        Context::Decode { cache, step } => {
            let (keys, values) = cache.write(layer, step, &k.reshape([rows, -1]), &v.reshape([rows, -1]));
            let grid = |t: Tensor| t.view([step.active, step.longest, kv_heads, dim]).transpose(1, 2);
            // Query heads that share a key head become additional queries of it, so keys and values are not repeated.
            let q = q.reshape([rows, kv_heads, heads / kv_heads, dim]);
            let out = scores(architecture, [&q, &grid(keys), &grid(values)], step.masks.of(window), false);
            out.reshape([rows, heads * dim])
        }
    }
}

fn over_segments(
    architecture: &Architecture,
    batch: &Packed,
    prefix: Option<&KeyValue>,
    mask: Option<&Tensor>,
    [q, k, v]: [&Tensor; 3],
) -> Tensor {
    let (segments, longest) = (batch.lengths.len() as i64, batch.longest());
    let (heads, kv_heads, dim) = (q.size()[1], k.size()[1], q.size()[2]);
    let grid = |t: &Tensor, n: i64| {
        let t = batch.spread.as_ref().map_or_else(|| t.shallow_clone(), |s| t.index_select(0, &s.to_grid));
        t.view([segments, longest, n, dim]).transpose(1, 2)
    };
    let (q, mut k, mut v) = (grid(q, heads), grid(k, kv_heads), grid(v, kv_heads));
    if let Some(p) = prefix {
        let shared = p.keys.size()[0];
        let before = |t: &Tensor| {
            t.view([1, shared, kv_heads, dim]).transpose(1, 2).expand([segments, kv_heads, shared, dim], false)
        };
        k = Tensor::cat(&[before(&p.keys), k.shallow_clone()], 2);
        v = Tensor::cat(&[before(&p.values), v.shallow_clone()], 2);
    }
    let repeat = heads / kv_heads;
    let (k, v) = (repeat_heads(&k, repeat), repeat_heads(&v, repeat));
    let out = scores(architecture, [&q, &k, &v], mask, mask.is_none());
    let out = out.transpose(1, 2).reshape([segments * longest, heads * dim]);
    batch.spread.as_ref().map_or_else(|| out.shallow_clone(), |s| out.index_select(0, &s.to_packed))
}

/// `softmax(q k^T * scale) v` over the last two dimensions, with the architecture's scale and cap.
fn scores(architecture: &Architecture, [q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, is_causal: bool) -> Tensor {
    let scale = architecture.attention_scale;
    let Some(cap) = architecture.attention_softcap else {
        return Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale, false);
    };
    let scale = scale.unwrap_or_else(|| (architecture.head_dim as f64).sqrt().recip());
    let capped = (q.matmul(&k.transpose(-2, -1)) * (scale / cap)).tanh() * cap;
    let masked = match mask {
        Some(mask) => capped + mask,
        None => capped,
    };
    masked.softmax(-1, Kind::Float).to_kind(v.kind()).matmul(v)
}

/// `[segments, kv_heads, tokens, dim]` -> `[segments, kv_heads * repeat, tokens, dim]`, each head `repeat` times in a row.
fn repeat_heads(t: &Tensor, repeat: i64) -> Tensor {
    if repeat == 1 {
        return t.shallow_clone();
    }
    let s = t.size();
    t.unsqueeze(2).expand([s[0], s[1], repeat, s[2], s[3]], false).reshape([s[0], s[1] * repeat, s[2], s[3]])
}
