//! Which tokens a token attends to: those before it, as far as the window of a layer reaches. Each mask is 0 where it does
//! and minus infinity elsewhere, and is computed once per forward pass. Pure.

use tch::{Device, Kind, Tensor};

use crate::model::architecture::Architecture;

/// One mask per window; none where plain causal attention, or attention to everything cached, needs none.
#[derive(Debug)]
pub struct Masks(Vec<(Option<i64>, Option<Tensor>)>);

impl Masks {
    /// Masks of segments of at most `longest` tokens that continue `shared` tokens, `[longest, shared + longest]` each.
    pub fn over_segments(architecture: &Architecture, shared: i64, longest: i64, options: (Kind, Device)) -> Self {
        let mask = |window: Option<i64>| {
            let hides = window.filter(|window| *window < shared + longest);
            // The kernel that knows causality by itself takes neither a prefix nor a cap.
            let needed = shared > 0 || hides.is_some() || architecture.attention_softcap.is_some();
            needed.then(|| {
                let every = Tensor::ones([longest, shared + longest], (Kind::Bool, options.1));
                let later = every.triu(shared + 1);
                let hidden = match hides {
                    Some(window) => later.logical_or(&every.tril(shared - window)),
                    None => later,
                };
                minus_infinity(&hidden, options.0)
            })
        };
        Self(architecture.windows().into_iter().map(|window| (window, mask(window))).collect())
    }

    /// Masks of the last tokens of cached sequences of these lengths, `[sequences, 1, 1, longest]` each.
    pub fn over_cache(windows: &[Option<i64>], lengths: &[i64], options: (Kind, Device)) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ragged = lengths.iter().any(|length| *length != longest);
        let mask = |window: Option<i64>| {
            let hides = window.filter(|window| *window < longest);
            (ragged || hides.is_some()).then(|| {
                let position = Tensor::arange(longest, (Kind::Int64, options.1)).unsqueeze(0);
                let ends = Tensor::from_slice(lengths).to_device(options.1).unsqueeze(1);
                let past_end = position.ge_tensor(&ends);
                let hidden = match hides {
                    Some(window) => past_end.logical_or(&position.less_tensor(&(ends - window))),
                    None => past_end,
                };
                minus_infinity(&hidden, options.0).view([lengths.len() as i64, 1, 1, longest])
            })
        };
        Self(windows.iter().map(|window| (*window, mask(*window))).collect())
    }

    /// The mask of a window.
    pub fn of(&self, window: Option<i64>) -> Option<&Tensor> {
        self.0.iter().find(|(of, _)| *of == window)?.1.as_ref()
    }
}

fn minus_infinity(hidden: &Tensor, kind: Kind) -> Tensor {
    Tensor::zeros(hidden.size(), (kind, hidden.device())).masked_fill(hidden, f64::NEG_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::tests::tiny;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Which columns each row attends to.
    fn seen(mask: &Tensor) -> Vec<Vec<i64>> {
        let width = *mask.size().last().unwrap();
        let rows = mask.view([-1, width]);
        (0..rows.size()[0]).map(|i| Vec::try_from(rows.get(i).isfinite().nonzero().view([-1])).unwrap()).collect()
    }

    #[test]
    fn a_window_counts_the_token_itself() {
        let mut architecture = tiny().architecture;
        architecture.layers[1].window = Some(2);
        let masks = Masks::over_segments(&architecture, 0, 4, FLOAT);
        assert!(masks.of(None).is_none());
        assert_eq!(seen(masks.of(Some(2)).unwrap()), [vec![0], vec![0, 1], vec![1, 2], vec![2, 3]]);
        assert!(Masks::over_segments(&architecture, 0, 2, FLOAT).of(Some(2)).is_none(), "nothing to hide");
        let after_prefix = Masks::over_segments(&architecture, 3, 2, FLOAT);
        assert_eq!(seen(after_prefix.of(Some(2)).unwrap()), [[2, 3], [3, 4]]);
        assert_eq!(seen(after_prefix.of(None).unwrap()), [vec![0, 1, 2, 3], vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn a_window_over_the_cache_ends_at_each_sequences_last_token() {
        let masks = Masks::over_cache(&[None, Some(2)], &[4, 1, 3], FLOAT);
        assert_eq!(seen(masks.of(None).unwrap()), [vec![0, 1, 2, 3], vec![0], vec![0, 1, 2]]);
        assert_eq!(seen(masks.of(Some(2)).unwrap()), [vec![2, 3], vec![0], vec![1, 2]]);
        let equal = Masks::over_cache(&[None, Some(2)], &[2, 2], FLOAT);
        assert!(equal.of(None).is_none() && equal.of(Some(2)).is_none());
    }
}
