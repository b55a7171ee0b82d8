//! The rules of `spec.dpo`, as `validate/rules/dpo` has them. Computes only.

use plumbline_crds::dpo::DpoLoss;

use super::{Reason, Rules, model};

/// The names of the losses.
const LOSSES: &str = "(has(self.losses) ? self.losses.map(l, l.loss) : has(self.loss) ? [self.loss] : ['Sigmoid'])";

pub(super) fn dpo(rules: &mut Rules) {
    let mut rule = |field: &str, reason, holds: String, message: String| {
        rules.push("spec.dpo", field, reason, holds, message);
    };
    rule(
        "",
        Reason::Invalid,
        "!has(self.loss) || !has(self.losses)".into(),
        "expected only one of loss or losses; remove one of the two".into(),
    );
    rule(
        "",
        Reason::Invalid,
        format!("{LOSSES} != ['Sft']"),
        "expected another loss beside Sft; add one to losses, or use method SFT".into(),
    );
    // Sft beside another loss has no label.
    let accepting = names(|l| l.accepts_probabilities() || l == DpoLoss::Sft);
    let reading = names(|l| l.reads_label_smoothing() || l == DpoLoss::Sft);
    let all = |names: &[String]| format!("{LOSSES}.all(l, l in {})", list(names));
    rule(
        "labels",
        Reason::Invalid,
        format!("self.labels == 'Hard' || {}", all(&accepting)),
        format!(
            "expected Hard, as only {} are defined for probabilities; remove it or change the loss",
            accepting.join(", ")
        ),
    );
    rule(
        "labelSmoothing",
        Reason::Invalid,
        format!("self.labelSmoothing == 0.0 || {}", all(&reading)),
        format!(
            "expected 0, as only {} are defined for smoothed labels; remove it or change the loss",
            reading.join(", ")
        ),
    );
    rule(
        "labelSmoothing",
        Reason::Invalid,
        format!("self.labelSmoothing > 0.0 || !('ExoPair' in {LOSSES})"),
        "expected more than 0 with the loss ExoPair; the paper's is 0.001".into(),
    );
    rule(
        "labelSmoothing",
        Reason::Invalid,
        format!("self.labelSmoothing < 0.5 || !('Robust' in {LOSSES})"),
        "expected less than 0.5 with the loss Robust; lower it".into(),
    );
    for (field, loss) in [("simpoGamma", "Simpo"), ("discopopTau", "Discopop")] {
        rule(
            field,
            Reason::Forbidden,
            format!("!has(self.{field}) || '{loss}' in {LOSSES}"),
            format!("expected no {field}, which is for the loss {loss} only; remove it or use that loss"),
        );
    }
    rule(
        "referenceModel",
        Reason::Forbidden,
        format!("!has(self.referenceModel) || {LOSSES}.exists(l, l in {})", list(&names(DpoLoss::uses_reference))),
        "expected no referenceModel with losses that have no reference; remove it or change the loss".into(),
    );
    model("spec.dpo.referenceModel", rules);
}

/// The losses of which something is true.
fn names(is: impl Fn(DpoLoss) -> bool) -> Vec<String> {
    DpoLoss::ALL.into_iter().filter(|l| is(*l)).map(|l| format!("{l:?}")).collect()
}

/// A list of names in CEL.
fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}
