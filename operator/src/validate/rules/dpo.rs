//! Rules between the fields of `spec.dpo`: which loss reads what. Computes only.

use plumbline_crds::dpo::{Dpo, DpoLoss};
use plumbline_crds::training::LabelKind;

use super::Findings;

pub(super) fn dpo(settings: &Dpo, found: &mut Findings) {
    let fields = [("loss", settings.loss.is_some()), ("losses", !settings.losses.is_empty())];
    found.at_most_one("spec.dpo", &fields);
    let losses: Vec<DpoLoss> = settings.losses().iter().map(|l| l.loss).collect();
    if losses == [DpoLoss::Sft] {
        found.push(
            "spec.dpo",
            "expected another loss beside Sft, which learns nothing from the rejected response; add one to \
             spec.dpo.losses, or use spec.method SFT",
        );
    }
    labels(settings, &losses, found);
    let mut only = |field: &str, is_set: bool, loss: DpoLoss| {
        if is_set && !losses.contains(&loss) {
            found.push(
                format!("spec.dpo.{field}"),
                format!("expected no {field}, which is for the loss {loss:?} only; remove it or use that loss"),
            );
        }
    };
    only("simpoGamma", settings.simpo_gamma.is_some(), DpoLoss::Simpo);
    only("discopopTau", settings.discopop_tau.is_some(), DpoLoss::Discopop);
    if settings.reference_model.is_some() && !settings.uses_reference() {
        found.push(
            "spec.dpo.referenceModel",
            format!(
                "expected no referenceModel with {}, which has no reference; remove it or change the loss",
                losses.iter().map(|l| format!("{l:?}")).collect::<Vec<_>>().join(" and ")
            ),
        );
    }
}

/// Labels that are no certainties, and the losses that are defined for them.
fn labels(settings: &Dpo, losses: &[DpoLoss], found: &mut Findings) {
    let smoothing = settings.label_smoothing;
    // Sft beside another loss has no label.
    let mut others = losses.iter().copied().filter(|l| *l != DpoLoss::Sft);
    if settings.labels == LabelKind::Soft
        && let Some(loss) = others.clone().find(|l| !l.accepts_probabilities())
    {
        found.push(
            "spec.dpo.labels",
            format!("expected Hard with the loss {loss:?}, which is not defined for probabilities, found Soft; remove it or change the loss"),
        );
    }
    if smoothing > 0.0
        && let Some(loss) = others.find(|l| !l.reads_label_smoothing())
    {
        found.push(
            "spec.dpo.labelSmoothing",
            format!("expected 0 with the loss {loss:?}, which is not defined for smoothed labels, found {smoothing}; remove it or change the loss"),
        );
    }
    if losses.contains(&DpoLoss::ExoPair) && smoothing <= 0.0 {
        found.push(
            "spec.dpo.labelSmoothing",
            "expected more than 0 with the loss ExoPair, which is infinite for a certain label, found 0; the paper's is 0.001",
        );
    }
    if losses.contains(&DpoLoss::Robust) && smoothing >= 0.5 {
        found.push(
            "spec.dpo.labelSmoothing",
            "expected less than 0.5 with the loss Robust, which is infinite if half of the labels are wrong, found 0.5; lower it",
        );
    }
}
