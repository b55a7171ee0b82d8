//! Sums gradients over ranks in buckets: many small tensors are sent as a few large ones. Computes, and talks to the
//! group.

use std::collections::BTreeMap;

use plumbline_feedback::heartbeat;
use plumbline_torch::{Group, TorchError, set_grads};
use tch::{Device, Kind, Tensor};

/// Numbers in a bucket: 25 MiB in Float32, the default of PyTorch's DistributedDataParallel (`bucket_cap_mb`).
const BUCKET: usize = 25 * (1 << 20) / 4;

/// Replaces the gradients of parameters by their sums over all ranks, in Float32. A parameter without a gradient on any
/// rank stays without one.
pub(super) fn sum(group: &Group, params: &BTreeMap<String, Tensor>) -> Result<(), TorchError> {
    let params: Vec<&Tensor> = params.values().collect();
    let took_part: Vec<i64> = params.iter().map(|p| i64::from(p.grad().defined())).collect();
    let took_part = Tensor::from_slice(&took_part);
    group.all_reduce(&took_part)?;
    let wanted: Vec<&Tensor> =
        params.into_iter().zip(0..).filter(|(_, i)| took_part.int64_value(&[*i]) > 0).map(|(p, _)| p).collect();
    for bucket in buckets(&wanted) {
        let flat: Vec<Tensor> = bucket.iter().map(|p| gradient(p).flatten(0, -1)).collect();
        let sum = Tensor::cat(&flat, 0);
        group.all_reduce(&sum)?;
        heartbeat::beat();
        let mut start = 0;
        let summed = bucket.iter().map(|p| {
            let part = sum.narrow(0, start, p.numel() as i64).view_as(p).to_device(p.device()).to_kind(p.kind());
            start += p.numel() as i64;
            // A copy: a view would keep the whole bucket in memory.
            part.copy()
        });
        let summed: Vec<Tensor> = summed.collect();
        let owned: Vec<Tensor> = bucket.iter().map(|p| p.shallow_clone()).collect();
        set_grads(&owned, &summed)?;
    }
    Ok(())
}

/// On the CPU, where the group sums; zeros for a parameter that only has gradients on other ranks.
fn gradient(param: &Tensor) -> Tensor {
    let grad = param.grad();
    if grad.defined() {
        grad.detach().to_device(Device::Cpu).to_kind(Kind::Float)
    } else {
        Tensor::zeros(param.size(), (Kind::Float, Device::Cpu))
    }
}

/// Parameters in their order, as many as fit into a bucket; a larger one has its own bucket.
fn buckets<'a>(params: &[&'a Tensor]) -> Vec<Vec<&'a Tensor>> {
    let mut buckets: Vec<Vec<&Tensor>> = Vec::new();
    let mut room = 0;
    for param in params {
        let count = param.numel();
        if let Some(bucket) = buckets.last_mut().filter(|_| count <= room) {
            bucket.push(param);
        } else {
            buckets.push(vec![param]);
            room = BUCKET;
        }
        room = room.saturating_sub(count);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_filled_and_never_overfilled_but_by_one_that_fits_none() {
        let of = |count: usize| Tensor::zeros([count as i64], (Kind::Uint8, Device::Cpu));
        let params = [of(10), of(BUCKET - 10), of(1), of(BUCKET + 5), of(2), of(3)];
        let sizes: Vec<Vec<usize>> = buckets(&params.iter().collect::<Vec<_>>())
            .iter()
            .map(|bucket| bucket.iter().map(|p| p.numel()).collect())
            .collect();
        assert_eq!(sizes, [vec![10, BUCKET - 10], vec![1], vec![BUCKET + 5], vec![2, 3]]);
    }
}
