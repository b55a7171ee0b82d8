//! Key-value cache of tokens that were already processed. Each slot belongs to one sequence; sequences in use always
//! occupy the first slots, so that a step reads one contiguous block.

use tch::{Device, Kind, Tensor};

use crate::model::architecture::Architecture;
use crate::model::masks::Masks;

/// Keys and values of one layer for some tokens, `[tokens, key_value_heads * head_dim]` each.
#[derive(Debug)]
pub struct KeyValue {
    /// Keys, rotated.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

/// The cached keys and values of one token sequence, layer by layer: a prompt that several sequences share.
#[derive(Debug)]
pub struct Prefix {
    /// The tokens.
    pub tokens: Vec<i64>,
    /// One entry per layer.
    pub layers: Vec<KeyValue>,
}

/// A cache of `slots` sequences of at most `capacity` tokens.
#[derive(Debug)]
pub struct Cache {
    /// Per layer, `[slots * capacity, key_value_heads * head_dim]`.
    layers: Vec<KeyValue>,
    /// Number of tokens cached for each sequence in use.
    lengths: Vec<i64>,
    /// The windows of the architecture's layers, each once.
    windows: Vec<Option<i64>>,
    slots: i64,
    capacity: i64,
    device: Device,
}

/// Where one decoding step reads and writes; the same for all layers.
#[derive(Debug)]
pub struct Step {
    /// `[active]`: the cache row that each sequence's new token is written to.
    pub rows: Tensor,
    /// Number of sequences in use.
    pub active: i64,
    /// Length of the longest sequence, including the new token.
    pub longest: i64,
    /// Which cached tokens each sequence attends to.
    pub masks: Masks,
}

impl Cache {
    /// An empty cache.
    pub fn new(architecture: &Architecture, slots: usize, capacity: i64, kind: Kind, device: Device) -> Self {
        let slots = slots as i64;
        let width = architecture.num_key_value_heads * architecture.head_dim;
        let empty = || Tensor::zeros([slots * capacity, width], (kind, device));
        let layers = (0..architecture.num_hidden_layers).map(|_| KeyValue { keys: empty(), values: empty() }).collect();
        Self { layers, lengths: Vec::new(), windows: architecture.windows(), slots, capacity, device }
    }

    /// Grows the cache to this many sequences of this many tokens; cached content is preserved.
    pub fn reserve(&mut self, slots: usize, capacity: i64) {
        let (slots, capacity) = (self.slots.max(slots as i64), self.capacity.max(capacity));
        if (slots, capacity) == (self.slots, self.capacity) {
            return;
        }
        let (old_capacity, lengths) = (self.capacity, &self.lengths);
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values] {
                let grown = Tensor::zeros([slots * capacity, tensor.size()[1]], (tensor.kind(), tensor.device()));
                for (slot, &len) in lengths.iter().enumerate() {
                    let held = tensor.narrow(0, slot as i64 * old_capacity, len);
                    grown.narrow(0, slot as i64 * capacity, len).copy_(&held);
                }
                *tensor = grown;
            }
        }
        (self.slots, self.capacity) = (slots, capacity);
    }

    /// Maximum number of tokens per sequence.
    pub fn capacity(&self) -> i64 {
        self.capacity
    }

    /// Assigns the next slot to a sequence that consists of `prefix` and then `rest` (layer by layer, `len` rows
    /// beginning with row `from`). The caller has checked that a slot is free and that the tokens fit.
    pub fn admit(&mut self, prefix: Option<&Prefix>, rest: &[KeyValue], from: i64, len: i64) {
        let start = self.lengths.len() as i64 * self.capacity;
        let shared = prefix.map_or(0, |p| p.tokens.len() as i64);
        for (i, layer) in self.layers.iter().enumerate() {
            let write = |to: &Tensor, at: i64, source: Tensor| to.narrow(0, at, source.size()[0]).copy_(&source);
            if let Some(p) = prefix {
                write(&layer.keys, start, p.layers[i].keys.shallow_clone());
                write(&layer.values, start, p.layers[i].values.shallow_clone());
            }
            write(&layer.keys, start + shared, rest[i].keys.narrow(0, from, len));
            write(&layer.values, start + shared, rest[i].values.narrow(0, from, len));
        }
        self.lengths.push(shared + len);
    }

    /// Frees a slot by moving the last sequence into it. Returns the slot that was moved, if it was a different one.
    pub fn release(&mut self, slot: usize) -> Option<usize> {
        let last = self.lengths.len() - 1;
        self.lengths.swap_remove(slot);
        if slot == last {
            return None;
        }
        let len = self.lengths[slot];
        for layer in &self.layers {
            for tensor in [&layer.keys, &layer.values] {
                let from = tensor.narrow(0, last as i64 * self.capacity, len);
                tensor.narrow(0, slot as i64 * self.capacity, len).copy_(&from);
            }
        }
        Some(last)
    }

    /// Makes room for one more token of every sequence in use.
    pub fn step(&mut self, kind: Kind) -> Step {
        let rows: Vec<i64> = self.lengths.iter().enumerate().map(|(s, n)| s as i64 * self.capacity + n).collect();
        for n in &mut self.lengths {
            *n += 1;
        }
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let active = self.lengths.len() as i64;
        let masks = Masks::over_cache(&self.windows, &self.lengths, (kind, self.device));
        Step { rows: Tensor::from_slice(&rows).to_device(self.device), active, longest, masks }
    }

    /// Number of tokens cached for each sequence in use.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// Writes the new tokens' keys and values of a layer and returns views of the block in use, `[active, longest,
    /// key_value_heads * head_dim]` each.
    pub fn write(&self, layer: usize, step: &Step, keys: &Tensor, values: &Tensor) -> (Tensor, Tensor) {
        let held = &self.layers[layer];
        let width = keys.size()[1];
        let block = |tensor: &Tensor, new: &Tensor| {
            let mut target = tensor.shallow_clone();
            let _ = target.index_copy_(0, &step.rows, new);
            tensor.view([self.slots, self.capacity, width]).narrow(0, 0, step.active).narrow(1, 0, step.longest)
        };
        (block(&held.keys, keys), block(&held.values, values))
    }
}
