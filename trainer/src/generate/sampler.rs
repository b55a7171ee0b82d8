//! From logits to tokens: temperature, top-k, top-p, min-p, and one seeded uniform number per token. Pure.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use plumbline_crds::source::Sampling;

use crate::values::to_vec;

/// Random numbers of one response: they depend on seed and key alone.
#[derive(Clone, Debug)]
pub struct Uniforms(ChaCha8Rng);

impl Uniforms {
    /// The numbers of a (seed, key).
    pub fn new(seed: i64, key: u64) -> Self {
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&key.to_le_bytes());
        Self(ChaCha8Rng::from_seed(bytes))
    }

    /// The next number in [0, 1).
    pub fn draw(&mut self) -> f64 {
        self.0.random::<f64>()
    }
}

/// One token per row. `logits`: `[rows, vocab]`, Float32; `uniforms`: one number in [0, 1) per row. All rows share
/// `sampling`.
pub fn sample(logits: &Tensor, sampling: &Sampling, uniforms: &[f64]) -> Vec<i64> {
    if sampling.temperature <= 0.0 {
        return to_vec(&logits.argmax(-1, false));
    }
    let probabilities = truncated(logits, sampling);
    inverse_cdf(&probabilities, uniforms)
}

/// The distribution that is sampled from, `[rows, vocab]`, not normalised after truncation.
fn truncated(logits: &Tensor, sampling: &Sampling) -> Tensor {
    let mut logits = logits / sampling.temperature;
    let vocab = logits.size()[1];
    if sampling.top_k > 0 && sampling.top_k < vocab {
        let kth = logits.topk(sampling.top_k, -1, true, true).0.narrow(1, sampling.top_k - 1, 1);
        logits = logits.masked_fill(&logits.lt_tensor(&kth), f64::NEG_INFINITY);
    }
    let mut p = logits.softmax(-1, Kind::Float);
    if sampling.min_p > 0.0 {
        let least = p.amax([-1i64].as_slice(), true) * sampling.min_p;
        p = p.masked_fill(&p.lt_tensor(&least), 0.0);
    }
    if sampling.top_p < 1.0 {
        let (sorted, _) = p.sort(-1, true);
        // A token stays when the mass before it is below top-p: the first always does.
        let before = sorted.cumsum(-1, Kind::Float) - &sorted;
        let cut = before.ge(sampling.top_p);
        let least = sorted.masked_fill(&cut, f64::INFINITY).amin([-1i64].as_slice(), true);
        p = p.masked_fill(&p.lt_tensor(&least), 0.0);
    }
    p
}

/// The first token at which the cumulative mass exceeds `u * total`. Blocks of tokens are summed first, so that a row
/// costs two short scans instead of one over the vocabulary.
fn inverse_cdf(p: &Tensor, uniforms: &[f64]) -> Vec<i64> {
    const BLOCK: i64 = 256;
    let vocab = p.size()[1];
    let padded = (vocab + BLOCK - 1) / BLOCK * BLOCK;
    let p = p.constant_pad_nd([0, padded - vocab]);
    let rows = p.size()[0];
    let blocks = p.view([rows, padded / BLOCK, BLOCK]);
    let sums: Vec<f64> = to_vec(&blocks.sum_dim_intlist(-1, false, Kind::Double).view([-1]));
    let per_row = (padded / BLOCK) as usize;
    let found: Vec<(usize, f64)> = sums
        .chunks(per_row)
        .zip(uniforms)
        .map(|(sums, u)| {
            let mut rest = u * sums.iter().sum::<f64>();
            (find(sums, &mut rest), rest)
        })
        .collect();
    // The blocks of all rows at once: a GPU gives them in one transfer.
    let chosen: Vec<i64> = (0..).zip(&found).map(|(row, (block, _))| row * per_row as i64 + *block as i64).collect();
    let chosen = Tensor::from_slice(&chosen).to_device(p.device());
    let inside: Vec<f64> = to_vec(&blocks.view([-1, BLOCK]).index_select(0, &chosen).to_kind(Kind::Double).view([-1]));
    found
        .into_iter()
        .zip(inside.chunks(BLOCK as usize))
        .map(|((block, mut rest), inside)| block as i64 * BLOCK + find(inside, &mut rest) as i64)
        .collect()
}

/// The first index whose mass exceeds the remaining `rest`; rounding at the end falls back to the last one with mass.
fn find(masses: &[f64], rest: &mut f64) -> usize {
    let mut last = 0;
    for (i, &mass) in masses.iter().enumerate() {
        if mass > 0.0 {
            last = i;
            if *rest < mass {
                return i;
            }
            *rest -= mass;
        }
    }
    *rest = f64::INFINITY;
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(p: &[f32]) -> Tensor {
        Tensor::from_slice(p).log().view([1, -1])
    }

    fn draws(p: &[f32], sampling: &Sampling, n: usize) -> Vec<f64> {
        let mut uniforms = Uniforms::new(7, 1);
        let rows = logits(p).expand([n as i64, p.len() as i64], false).contiguous();
        let u: Vec<f64> = (0..n).map(|_| uniforms.draw()).collect();
        let mut counts = vec![0.0; p.len()];
        for token in sample(&rows, sampling, &u) {
            counts[token as usize] += 1.0 / n as f64;
        }
        counts
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let p = [0.5, 0.2, 0.2, 0.1];
        for (found, wanted) in draws(&p, &Sampling::default(), 20_000).iter().zip(p) {
            assert!((found - f64::from(wanted)).abs() < 0.015, "{found} {wanted}");
        }
    }

    #[test]
    fn truncation_removes_what_it_says_and_nothing_else() {
        let p = [0.5f32, 0.25, 0.15, 0.1];
        let keeps = |sampling: Sampling| -> Vec<bool> { draws(&p, &sampling, 4000).iter().map(|&f| f > 0.0).collect() };
        assert_eq!(keeps(Sampling { top_k: 2, ..Sampling::default() }), [true, true, false, false]);
        assert_eq!(keeps(Sampling { top_p: 0.76, ..Sampling::default() }), [true, true, true, false]);
        assert_eq!(keeps(Sampling { top_p: 0.01, ..Sampling::default() }), [true, false, false, false]);
        assert_eq!(keeps(Sampling { min_p: 0.25, ..Sampling::default() }), [true, true, true, false]);
        assert_eq!(keeps(Sampling { temperature: 0.0, ..Sampling::default() }), [true, false, false, false]);
    }

    #[test]
    fn a_token_in_a_later_block_is_reached() {
        let mut p = vec![1e-9f32; 1000];
        p[777] = 1.0;
        assert_eq!(sample(&logits(&p), &Sampling::default(), &[0.5]), [777]);
    }

    #[test]
    fn the_same_seed_and_key_give_the_same_numbers() {
        let take = |seed, key| -> Vec<f64> {
            let mut u = Uniforms::new(seed, key);
            (0..4).map(|_| u.draw()).collect()
        };
        assert_eq!(take(1, 2), take(1, 2));
        assert_ne!(take(1, 2), take(1, 3));
        assert_ne!(take(1, 2), take(2, 2));
    }
}
