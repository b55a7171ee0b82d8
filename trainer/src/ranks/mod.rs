//! Processes that train one model together, each on its share of every batch (data parallelism): the weights are the
//! same on all, gradients and metrics are summed. Talks to the network; a single process does not, and has no overhead.
//!
//! | question | file |
//! |---|---|
//! | Which rank is this? | `rank_info` |
//! | How do they connect? | `meet` |
//! | How are gradients summed? | `gradients` |
//!
//! Every call below is collective: all ranks make it, in the same order.

mod gradients;
mod meet;
mod rank_info;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plumbline_crds::run::RunDocument;
use plumbline_feedback::clock;
use plumbline_feedback::data::id;
use plumbline_feedback::heartbeat;
use plumbline_torch::{Group, TorchError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

pub use rank_info::RankInfo;

use crate::{Error, Result};

/// Values of a tensor that are compared in one step.
const SLICE: i64 = 4 << 20;

/// The ranks of a run, from the point of view of one of them.
#[derive(Debug)]
pub struct Ranks {
    rank: usize,
    size: usize,
    /// None if there is only one rank.
    group: Option<Group>,
}

impl Ranks {
    /// One process alone.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, group: None }
    }

    /// Connects to the other ranks that the environment describes (see [`RankInfo::read`]).
    ///
    /// # Errors
    /// `Config` for an inconsistent environment, `PeerLost` if not all connect or they are those of another run, `Data`
    /// if they do not all have the same inputs.
    pub fn join(run: &RunDocument) -> Result<Self> {
        let Some(info) = RankInfo::of_this_process()? else { return Ok(Self::alone()) };
        let group = meet::meet(&info, name(&info, run))?;
        let ranks = Self { rank: info.rank, size: info.size, group: Some(group) };
        let inputs = ranks.gather(run.lineage())?;
        for other in &inputs[1..] {
            if let Some((of_first, _)) = inputs[0].iter().zip(other).find(|(a, b)| a != b) {
                return Err(Error::Data(format!(
                    "spec.{}: expected the same input on all ranks, found different ones; if it is fetched, pin a \
                     revision",
                    of_first.role
                )));
            }
        }
        // Chat templates see the same time on all ranks: that of rank 0, which stores it.
        if let Some(began) = ranks.broadcast(ranks.is_first().then(clock::now))? {
            clock::set(began);
        }
        tracing::info!(rank = info.rank, size = info.size, "all ranks are connected");
        Ok(ranks)
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is rank 0, which alone writes the output of the run: checkpoints, metrics, progress, the artifact.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Where this rank writes metrics and progress: rank 0 in the work directory, each other rank in its own
    /// subdirectory.
    pub fn folder(&self, work: &Path) -> PathBuf {
        folder(self.rank, work)
    }

    /// This rank's share of a list that all ranks have: the shares of all, in order of rank, are the list.
    pub fn share<'a, T>(&self, items: &'a [T]) -> &'a [T] {
        &items[self.rank * items.len() / self.size..(self.rank + 1) * items.len() / self.size]
    }

    /// Makes the random numbers drawn during a step depend on seed, step and rank alone: masks differ between ranks,
    /// and a resumed run draws the same numbers. A single process keeps the state of its generator.
    pub fn seed(&self, seed: i64, step: i64) {
        if self.group.is_some() {
            let mixed = (step as u64).wrapping_mul(self.size as u64).wrapping_add(self.rank as u64 + 1);
            // Consecutive seeds that are spread over all bits (Steele et al., 2014, the constant of SplitMix64).
            tch::manual_seed(seed ^ mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64);
        }
    }

    /// Gathers a value of every rank, in order of rank (all-gather).
    pub fn gather<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        let Some(group) = &self.group else { return Ok(vec![own]) };
        let bytes = packed(&own)?;
        let lengths = group.all_gather(&Tensor::from_slice(&[bytes.len() as i64])).map_err(|e| self.lost(&e))?;
        let lengths: Vec<usize> = lengths.iter().map(|l| l.int64_value(&[0]) as usize).collect();
        // All send as much as the one with the most.
        let mut padded = bytes;
        padded.resize(lengths.iter().copied().max().unwrap_or(0), 0);
        let all = group.all_gather(&Tensor::from_slice(&padded)).map_err(|e| self.lost(&e))?;
        all.iter()
            .zip(lengths)
            .map(|(tensor, length)| {
                let mut bytes = vec![0u8; tensor.numel()];
                let whole = bytes.len();
                tensor.copy_data(&mut bytes, whole);
                unpacked(&bytes[..length])
            })
            .collect()
    }

    /// Rank 0's value, on all ranks; the values of the others are ignored.
    pub fn broadcast<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T> {
        let Some(group) = &self.group else { return Ok(own) };
        let mut bytes = if self.is_first() { packed(&own)? } else { Vec::new() };
        let length = Tensor::from_slice(&[bytes.len() as i64]);
        group.broadcast(&length, 0).map_err(|e| self.lost(&e))?;
        bytes.resize(length.int64_value(&[0]) as usize, 0);
        let tensor = Tensor::from_slice(&bytes);
        group.broadcast(&tensor, 0).map_err(|e| self.lost(&e))?;
        let whole = bytes.len();
        tensor.copy_data(&mut bytes, whole);
        unpacked(&bytes)
    }

    /// Rank 0's named tensors, on all ranks. Each is Float32 or bytes.
    pub fn broadcast_tensors(&self, own: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        let Some(group) = &self.group else { return Ok(own) };
        let shapes: Vec<(String, bool, Vec<i64>)> = own
            .iter()
            .map(|(name, t)| match t.kind() {
                Kind::Float => Ok((name.clone(), false, t.size())),
                Kind::Uint8 => Ok((name.clone(), true, t.size())),
                other => Err(Error::Failed(format!("{name}: expected Float32 or bytes to send, found {other:?}"))),
            })
            .collect::<Result<_>>()?;
        let mut all = BTreeMap::new();
        for (name, bytes, shape) in self.broadcast(shapes)? {
            let tensor = match own.get(&name).filter(|_| self.is_first()) {
                Some(tensor) => tensor.to_device(Device::Cpu).contiguous(),
                None => Tensor::zeros(shape, (if bytes { Kind::Uint8 } else { Kind::Float }, Device::Cpu)),
            };
            group.broadcast(&tensor, 0).map_err(|e| self.lost(&e))?;
            heartbeat::beat();
            all.insert(name, tensor);
        }
        Ok(all)
    }

    /// Replaces the gradients of parameters by their sums over all ranks, in Float32.
    pub fn sum_gradients(&self, params: &BTreeMap<String, Tensor>) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        gradients::sum(group, params).map_err(|e| self.lost(&e))
    }

    /// Checks that all ranks have the same bits of each parameter.
    ///
    /// # Errors
    /// `Failed`: the results of such a run are invalid, and none may be saved.
    pub fn check_same(&self, step: i64, params: &BTreeMap<String, Tensor>) -> Result<()> {
        if self.group.is_none() {
            return Ok(());
        }
        let own: Vec<i64> = params.values().map(|p| bits(p, SLICE)).collect();
        let all = self.gather((step, own))?;
        let Some(other) = all.iter().position(|found| *found != all[0]) else { return Ok(()) };
        let (theirs, first) = (&all[other], &all[0]);
        let what = if theirs.0 == first.0 {
            let names = params.keys().zip(theirs.1.iter().zip(&first.1));
            names
                .filter(|(_, (a, b))| a != b)
                .map(|(name, _)| name.as_str())
                .next()
                .unwrap_or("its parameters")
                .to_owned()
        } else {
            format!("it is at step {}, rank 0 at {}", theirs.0, first.0)
        };
        Err(Error::Failed(format!(
            "expected the same weights on all {} ranks, found a different {what} on rank {other} at step {step}; the ranks must \
             run the same image on the same kind of processor, from the same files",
            self.size
        )))
    }

    /// Waits until all ranks have reached this call.
    pub fn wait(&self) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        group.barrier().map_err(|e| self.lost(&e))
    }

    /// Waits for all ranks at the end of their common work. Returns whether this is rank 0, which does the rest alone.
    pub fn finish(&self) -> Result<bool> {
        self.wait()?;
        Ok(self.is_first())
    }

    fn lost(&self, error: &TorchError) -> Error {
        Error::PeerLost(format!(
            "rank {} of {}: lost connection to a peer ({error}); all ranks restart from the last checkpoint",
            self.rank, self.size
        ))
    }
}

/// What the ranks of this attempt at this run have in common, and no others: an address may belong to another run,
/// whose gradients must never be added to ours.
fn name(info: &RankInfo, run: &RunDocument) -> String {
    let resource = serde_json::to_string(&run.resource).unwrap_or_default();
    id::of(&[&info.attempt, &resource])
}

/// The directory of a rank for files that the others do not need.
pub fn folder(rank: usize, work: &Path) -> PathBuf {
    if rank == 0 { work.to_owned() } else { work.join(format!("rank-{rank}")) }
}

/// A checksum that changes almost certainly if any bit of a Float32 tensor changes, independent of the order of the
/// sum. It is summed over slices of at most this many values, each of which takes some 30 bytes of memory while it is
/// computed.
fn bits(tensor: &Tensor, slice: i64) -> i64 {
    let (all, count) = (tensor.detach().flatten(0, -1), tensor.numel() as i64);
    let starts = (0..count).step_by(slice as usize);
    let sums = starts.map(|start| {
        let end = count.min(start + slice);
        let words = all.narrow(0, start, end - start).to_device(Device::Cpu).to_kind(Kind::Float).view_dtype(Kind::Int);
        let position = Tensor::arange_start(start, end, (Kind::Int64, Device::Cpu)) * 2 + 1;
        (words.to_kind(Kind::Int64) * position).sum(Kind::Int64).int64_value(&[])
    });
    sums.fold(0, i64::wrapping_add)
}

/// Encodes a message to other ranks: every number is preserved, including those that are not finite.
fn packed<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(message)
        .map_err(|e| Error::Failed(format!("failed to encode a message to other ranks: {e}")))
}

fn unpacked<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let unlike = |e| {
        Error::Failed(format!("failed to decode a message of another rank: {e}; all ranks must run the same image"))
    };
    rmp_serde::from_slice(bytes).map_err(unlike)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use plumbline_torch::Meeting;
    use serde_json::json;

    use crate::train::means::Means;

    fn rank(rank: usize, size: usize) -> Ranks {
        Ranks { rank, size, group: None }
    }

    /// Lets two ranks, each in a thread of its own, do the same; gives what each found.
    fn two<T: Send + 'static>(work: fn(Ranks) -> T) -> [T; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (own, port) = (Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
        let join = move |rank: usize, listener| {
            let (patience, limit) = (Duration::from_secs(30), Duration::from_secs(30));
            let meeting = Meeting { host: "127.0.0.1", port, own, run: "r", rank, size: 2, patience, limit };
            Ranks { rank, size: 2, group: Some(Group::join(&meeting, listener).unwrap()) }
        };
        let other = thread::spawn(move || work(join(1, None)));
        [work(join(0, Some(listener))), other.join().unwrap()]
    }

    #[test]
    fn shares_are_the_whole_in_order_and_differ_by_one_at_most() {
        for (count, size) in [(7usize, 3), (2, 4), (0, 2), (8, 1)] {
            let items: Vec<usize> = (0..count).collect();
            let shares: Vec<&[usize]> = (0..size).map(|r| rank(r, size).share(&items)).collect();
            assert_eq!(shares.concat(), items);
            let lengths: Vec<usize> = shares.iter().map(|s| s.len()).collect();
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
        }
    }

    #[test]
    fn ranks_of_another_run_or_of_another_attempt_have_another_name() {
        let named = |name: &str, rate: f64, attempt: &str| {
            let spec = json!({"dataset": {"uri": "d"}, "baseModel": {"uri": "m"}, "training": {"learningRate": rate}});
            let resource = json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel",
                "metadata": {"name": name}, "spec": spec});
            let run = json!({"resource": resource, "inputs": [], "output": "o", "work": "w"});
            let attempt = attempt.to_owned();
            let info = RankInfo { rank: 1, size: 2, host: "h".into(), port: 1, attempt };
            super::name(&info, &serde_json::from_value(run).unwrap())
        };
        assert_eq!(named("r", 1e-3, "a"), named("r", 1e-3, "a"));
        for other in [named("s", 1e-3, "a"), named("r", 1e-4, "a"), named("r", 1e-3, "b")] {
            assert_ne!(other, named("r", 1e-3, "a"));
        }
    }

    #[test]
    fn one_process_alone_talks_to_nobody_and_has_everything() {
        let alone = Ranks::alone();
        assert_eq!(alone.gather(3).unwrap(), [3]);
        assert_eq!(alone.broadcast(4).unwrap(), 4);
        assert_eq!(alone.folder(Path::new("w")), Path::new("w"));
        alone.check_same(1, &BTreeMap::new()).unwrap();
        assert!(alone.finish().unwrap());
        assert_eq!(folder(1, Path::new("w")), Path::new("w/rank-1"));
    }

    #[test]
    fn numbers_that_are_not_finite_arrive_unchanged() {
        let found = two(|ranks| {
            let mut means = Means::default();
            means.add("score", [f64::INFINITY, f64::NEG_INFINITY][ranks.rank], 1.0);
            let scores: Vec<f64> = ranks.gather(means).unwrap().iter().filter_map(|m| m.mean("score")).collect();
            (scores, ranks.broadcast(Some(vec![f64::NAN, -0.0])).unwrap())
        });
        for (scores, of_first) in found {
            assert_eq!(scores, [f64::INFINITY, f64::NEG_INFINITY]);
            assert!(matches!(of_first.as_deref(), Some([a, b]) if a.is_nan() && b.is_sign_negative()), "{of_first:?}");
        }
    }

    #[test]
    fn another_bit_or_another_order_is_another_number() {
        let of = |values: &[f32]| bits(&Tensor::from_slice(values), SLICE);
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        assert_eq!(of(&[1.0, 2.0]), of(&[1.0, 2.0]));
        assert_ne!(of(&[1.0, 2.0]), of(&[next, 2.0]));
        assert_ne!(of(&[1.0, 2.0]), of(&[2.0, 1.0]));
        assert_ne!(of(&[0.0]), of(&[-0.0]), "bits, not values");
    }

    #[test]
    fn slices_of_a_tensor_are_the_whole_and_each_has_its_place() {
        let values = Tensor::from_slice(&[1.0f32, -2.0, 3.5, f32::NAN, 1e-40, 6.0, 7.0]);
        for slice in [1, 3, 7] {
            assert_eq!(bits(&values, slice), bits(&values, 100), "in slices of {slice}");
        }
        assert_ne!(bits(&values, 3), bits(&values.roll([3], [0]), 3));
        assert_eq!(bits(&values.narrow(0, 0, 0), 3), 0);
        assert_eq!(bits(&values.narrow(0, 0, 6).view([2, 3]), 4), bits(&values.narrow(0, 0, 6), 4));
    }
}
