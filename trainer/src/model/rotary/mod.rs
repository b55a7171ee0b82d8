//! Rotary position embedding (Su et al., 2021) in the half-split layout of Hugging Face.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::model::packed::Packed;

pub mod scaling;

use scaling::RotaryPositions;

/// Initial number of positions in the tables; less if the context is shorter.
const FIRST: i64 = 8192;

/// Cosines and sines up to the highest position used so far: contexts can have millions of tokens, of which a run uses
/// some thousands.
#[derive(Debug)]
pub struct Rotary {
    positions: RotaryPositions,
    kind: Kind,
    device: Device,
    /// `[positions, 1, dims]` each, for sequences whose length does not change the frequencies.
    tables: Mutex<(Tensor, Tensor)>,
}

impl Rotary {
    /// The tables for a context, in a kind, on a device.
    pub fn new(positions: &RotaryPositions, context: i64, kind: Kind, device: Device) -> Self {
        let first = tables(positions, 0.0, &span(0, context.min(FIRST)), kind, device);
        Self { positions: positions.clone(), kind, device, tables: Mutex::new(first) }
    }

    /// Cosines and sines for a batch's tokens, `[tokens, 1, dims]` each.
    pub fn at(&self, batch: &Packed) -> (Tensor, Tensor) {
        match self.positions.scaling.constant_until() {
            Some(length) if batch.reach as f64 > length => self.by_length(batch),
            _ => self.shared(batch),
        }
    }

    fn shared(&self, batch: &Packed) -> (Tensor, Tensor) {
        let mut held = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0.size()[0] < batch.reach {
            let positions = u64::try_from(batch.reach).unwrap_or_default().next_power_of_two();
            *held = tables(&self.positions, 0.0, &span(0, positions as i64), self.kind, self.device);
        }
        (held.0.index_select(0, &batch.positions), held.1.index_select(0, &batch.positions))
    }

    /// Each segment with the frequencies of its own length, so that packing changes nothing.
    fn by_length(&self, batch: &Packed) -> (Tensor, Tensor) {
        let start = batch.reach - batch.longest();
        let segment =
            |n: &i64| tables(&self.positions, (start + n) as f64, &span(start, start + n), self.kind, self.device);
        let (cos, sin): (Vec<Tensor>, Vec<Tensor>) = batch.lengths.iter().map(segment).unzip();
        (Tensor::cat(&cos, 0), Tensor::cat(&sin, 0))
    }
}

/// Rotates pairs of the first dimensions by their position. `x`: `[tokens, heads, dim]`, `cos` and `sin`: `[tokens, 1,
/// dims]`, with the first half of `sin` negated.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let (dim, dims) = (x.size()[2], cos.size()[2]);
    if dims < dim {
        let rotated = rotate(&x.narrow(2, 0, dims), cos, sin);
        return Tensor::cat(&[rotated, x.narrow(2, dims, dim - dims)], 2);
    }
    x * cos + x.roll([dim / 2], [2]) * sin
}

/// Positions from `start` to `end`, which is excluded.
fn span(start: i64, end: i64) -> Tensor {
    Tensor::arange_start(start, end, (Kind::Double, Device::Cpu))
}

/// Cosines and sines of positions in a sequence of `length` tokens. The sine's first half is negated, so that a rotation is
/// one roll and two products: `[a, b] -> [a, b] cos + [b, a] [-sin, sin]`.
fn tables(rotary: &RotaryPositions, length: f64, positions: &Tensor, kind: Kind, device: Device) -> (Tensor, Tensor) {
    let angles = positions.outer(&Tensor::from_slice(&rotary.frequencies(length)));
    let factor = rotary.scaling.attention_factor();
    let (cos, sin) = (angles.cos() * factor, angles.sin() * factor);
    let table =
        |first: &Tensor, second: &Tensor| Tensor::cat(&[first, second], 1).to_kind(kind).to_device(device).unsqueeze(1);
    (table(&cos, &cos), table(&sin.neg(), &sin))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn growing_the_tables_gives_the_values_of_one_full_table() {
        let positions = RotaryPositions::unscaled(10_000.0, 4);
        let rotary = Rotary::new(&positions, 1 << 24, Kind::Float, Device::Cpu);
        let whole = tables(&positions, 0.0, &span(0, 4 * FIRST), Kind::Float, Device::Cpu);
        for start in [0, FIRST - 2, FIRST, 3 * FIRST, 5] {
            let batch = Packed::starting_at(&[[1i64, 2, 3]], start);
            let (cos, sin) = rotary.at(&batch);
            assert_eq!((cos, sin), (whole.0.narrow(0, start, 3), whole.1.narrow(0, start, 3)), "{start}");
        }
        assert_eq!(
            rotary.tables.lock().unwrap().0.size()[0],
            4 * FIRST,
            "a table of what was asked for, not of the context"
        );
    }

    #[test]
    fn only_the_first_dimensions_are_rotated() {
        let positions = RotaryPositions::unscaled(10_000.0, 4);
        let (cos, sin) = Rotary::new(&positions, 16, Kind::Float, Device::Cpu).at(&Packed::starting_at(&[[1i64]], 3));
        let x = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([1, 1, 6]);
        let rotated = rotate(&x, &cos, &sin);
        assert_eq!(rotated.narrow(2, 4, 2), x.narrow(2, 4, 2));
        assert_eq!(rotated.narrow(2, 0, 4), rotate(&x.narrow(2, 0, 4), &cos, &sin));
    }
}
