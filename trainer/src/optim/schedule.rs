//! Learning rates over time. Pure.

use plumbline_crds::training::{Schedule, ScheduleType};

/// The learning rate of step `step` (the first is 0) of `total`: a linear rise over the warm-up, then the shape of the
/// schedule down to 0 at the end.
pub fn learning_rate(peak: f64, schedule: &Schedule, step: i64, total: i64) -> f64 {
    let (step, total) = (step as f64, total.max(1) as f64);
    let warmup = (schedule.warmup_fraction * total).ceil();
    if step < warmup {
        return peak * (step + 1.0) / warmup;
    }
    let done = ((step - warmup) / (total - warmup).max(1.0)).clamp(0.0, 1.0);
    peak * match schedule.kind {
        ScheduleType::Constant => 1.0,
        ScheduleType::Linear => 1.0 - done,
        ScheduleType::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleType, warmup_fraction: f64) -> Vec<f64> {
        let schedule = Schedule { kind, warmup_fraction };
        (0..4).map(|step| learning_rate(1.0, &schedule, step, 4)).collect()
    }

    #[test]
    fn shapes() {
        assert_eq!(rates(ScheduleType::Constant, 0.0), [1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rates(ScheduleType::Linear, 0.0), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(ScheduleType::Linear, 0.5), [0.5, 1.0, 1.0, 0.5]);
        let cosine = rates(ScheduleType::Cosine, 0.0);
        assert!((cosine[2] - 0.5).abs() < 1e-12 && cosine[1] > 0.75);
    }

    #[test]
    fn no_step_has_a_rate_of_zero_in_the_warm_up() {
        assert!(rates(ScheduleType::Linear, 1.0)[0] > 0.0);
    }
}
