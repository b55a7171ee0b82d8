//! Concatenated segments of tokens, without padding. Pure.

use std::ops::Range;

use tch::{Device, Tensor};

/// A batch: one flat sequence of tokens, the position of each in its segment, and the segments' lengths.
#[derive(Debug)]
pub struct Packed {
    /// `[tokens]`, Int64.
    pub tokens: Tensor,
    /// `[tokens]`, Int64: position of each token in its segment.
    pub positions: Tensor,
    /// The last position plus one.
    pub reach: i64,
    /// Tokens of each segment.
    pub lengths: Vec<i64>,
    /// How rows are spread over `[segments, longest]` for attention and back; `None` if all segments are equally long.
    pub spread: Option<Spread>,
}

/// Index maps between packed rows and a grid of `[segments, longest]`.
#[derive(Debug)]
pub struct Spread {
    /// `[segments * longest]`: the packed row of each cell; cells past a segment's end point at its last row.
    pub to_grid: Tensor,
    /// `[tokens]`: the cell of each packed row.
    pub to_packed: Tensor,
}

impl Packed {
    /// Packs segments that start at position 0. Each must contain at least one token.
    pub fn new<S: AsRef<[i64]>>(segments: &[S]) -> Self {
        Self::starting_at(segments, 0)
    }

    /// Packs segments that start at position `start`.
    pub fn starting_at<S: AsRef<[i64]>>(segments: &[S], start: i64) -> Self {
        let lengths: Vec<i64> = segments.iter().map(|s| s.as_ref().len() as i64).collect();
        let tokens: Vec<i64> = segments.iter().flat_map(AsRef::as_ref).copied().collect();
        let positions: Vec<i64> = lengths.iter().flat_map(|&n| start..start + n).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let spread = lengths.iter().any(|&n| n != longest).then(|| Spread::new(&lengths, longest));
        let reach = start + longest;
        Self { tokens: Tensor::from_slice(&tokens), positions: Tensor::from_slice(&positions), reach, lengths, spread }
    }

    /// The same tokens at other positions, one per token.
    #[must_use]
    pub fn at_positions(self, positions: &[i64]) -> Self {
        let reach = positions.iter().max().map_or(0, |last| last + 1);
        Self { positions: Tensor::from_slice(positions), reach, ..self }
    }

    /// Moves the batch to the device of the decoder that will read it.
    #[must_use]
    pub fn to_device(self, device: Device) -> Self {
        let to = |t: &Tensor| t.to_device(device);
        let spread = self.spread.map(|s| Spread { to_grid: to(&s.to_grid), to_packed: to(&s.to_packed) });
        let (tokens, positions) = (to(&self.tokens), to(&self.positions));
        Self { tokens, positions, reach: self.reach, lengths: self.lengths, spread }
    }

    /// Total number of tokens.
    pub fn tokens_len(&self) -> i64 {
        self.lengths.iter().sum()
    }

    /// Length of the longest segment, in tokens.
    pub fn longest(&self) -> i64 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// The packed row at which each segment starts.
    pub fn starts(&self) -> Vec<i64> {
        self.lengths
            .iter()
            .scan(0, |next, &n| {
                let start = *next;
                *next += n;
                Some(start)
            })
            .collect()
    }

    /// The packed row of each segment's last token, `[segments]`.
    pub fn last_rows(&self) -> Tensor {
        let rows: Vec<i64> = self.starts().iter().zip(&self.lengths).map(|(s, n)| s + n - 1).collect();
        Tensor::from_slice(&rows).to_device(self.tokens.device())
    }
}

/// Splits sequences of these lengths into runs of at most `most` tokens in total, or of one sequence: the batches of
/// forward passes without gradients.
pub fn passes(lengths: impl Iterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, length) in lengths.enumerate() {
        match runs.last_mut() {
            Some(run) if tokens + length <= most => run.end = i + 1,
            _ => {
                runs.push(i..i + 1);
                tokens = 0;
            }
        }
        tokens += length;
    }
    runs
}

impl Spread {
    fn new(lengths: &[i64], longest: i64) -> Self {
        let (mut to_grid, mut to_packed, mut start) = (Vec::new(), Vec::new(), 0);
        for (segment, &n) in lengths.iter().enumerate() {
            to_grid.extend((0..longest).map(|t| start + t.min(n - 1)));
            to_packed.extend((0..n).map(|t| segment as i64 * longest + t));
            start += n;
        }
        Self { to_grid: Tensor::from_slice(&to_grid), to_packed: Tensor::from_slice(&to_packed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreading_segments_over_a_grid_is_reversible() {
        let packed = Packed::starting_at(&[vec![1i64, 2, 3], vec![4]], 5);
        assert_eq!(Vec::<i64>::try_from(&packed.positions).unwrap(), [5, 6, 7, 5]);
        assert_eq!(Vec::<i64>::try_from(packed.last_rows()).unwrap(), [2, 3]);
        let spread = packed.spread.as_ref().unwrap();
        let grid = packed.tokens.index_select(0, &spread.to_grid);
        assert_eq!(Vec::<i64>::try_from(&grid).unwrap(), [1, 2, 3, 4, 4, 4]);
        assert_eq!(grid.index_select(0, &spread.to_packed), packed.tokens);
    }

    #[test]
    fn passes_include_every_sequence_once_however_long() {
        assert_eq!(passes([11, 3001, 11, 11].into_iter(), 2048), [0..1, 1..2, 2..4]);
        assert_eq!(passes([5, 5, 5].into_iter(), 10), [0..2, 2..3]);
        assert!(passes(std::iter::empty(), 10).is_empty());
    }

    #[test]
    fn equally_long_segments_need_no_spreading() {
        assert!(Packed::new(&[[1i64, 2], [3, 4]]).spread.is_none());
    }
}
