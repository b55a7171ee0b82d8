//! Rotary position embedding (Su et al., 2021) in the half-split layout of Hugging Face.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::model::architecture::Architecture;
use crate::model::packed::Packed;

/// Initial number of positions in the tables; less if the context is shorter.
const FIRST: i64 = 8192;

/// Cosines and sines up to the highest position used so far: contexts can have millions of tokens, of which a run uses
/// some thousands.
#[derive(Debug)]
pub struct Rotary {
    /// `[head_dim / 2]`, Double.
    frequencies: Tensor,
    kind: Kind,
    device: Device,
    /// `[positions, 1, head_dim]` each.
    tables: Mutex<(Tensor, Tensor)>,
}

impl Rotary {
    /// The tables for an architecture, in a kind, on a device.
    pub fn new(architecture: &Architecture, kind: Kind, device: Device) -> Self {
        let frequencies = Tensor::from_slice(&architecture.rotary_frequencies());
        let tables = tables(&frequencies, architecture.max_position_embeddings.min(FIRST), kind, device);
        Self { frequencies, kind, device, tables: Mutex::new(tables) }
    }

    /// Cosines and sines for a batch's tokens, `[tokens, 1, head_dim]` each.
    pub fn at(&self, batch: &Packed) -> (Tensor, Tensor) {
        let mut held = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0.size()[0] < batch.reach {
            let positions = u64::try_from(batch.reach).unwrap_or_default().next_power_of_two();
            *held = tables(&self.frequencies, positions as i64, self.kind, self.device);
        }
        (held.0.index_select(0, &batch.positions), held.1.index_select(0, &batch.positions))
    }
}

/// Rotates pairs of dimensions by their position. `x`: `[tokens, heads, dim]`, `cos` and `sin`: `[tokens, 1, dim]`,
/// with the first half of `sin` negated.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let half = x.size()[2] / 2;
    x * cos + x.roll([half], [2]) * sin
}

/// Cosines and sines of the first positions. The sine's first half is negated, so that a rotation is one roll and two
/// products: `[a, b] -> [a, b] cos + [b, a] [-sin, sin]`.
fn tables(frequencies: &Tensor, positions: i64, kind: Kind, device: Device) -> (Tensor, Tensor) {
    let angles = Tensor::arange(positions, (Kind::Double, Device::Cpu)).outer(frequencies);
    let (cos, sin) = (angles.cos(), angles.sin());
    let table =
        |first: &Tensor, second: &Tensor| Tensor::cat(&[first, second], 1).to_kind(kind).to_device(device).unsqueeze(1);
    (table(&cos, &cos), table(&sin.neg(), &sin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::tests::tiny;

    #[test]
    fn growing_the_tables_gives_the_values_of_one_full_table() {
        let mut config = tiny().architecture;
        config.max_position_embeddings = 1 << 24;
        let rotary = Rotary::new(&config, Kind::Float, Device::Cpu);
        let whole = tables(&Tensor::from_slice(&config.rotary_frequencies()), 4 * FIRST, Kind::Float, Device::Cpu);
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
}
