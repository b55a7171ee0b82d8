//! Rules between the fields of `compute`: quantities, tolerations, variables. Computes only.

use plumbline_crds::compute::Compute;

use super::Findings;

pub(super) fn compute(compute: &Compute, found: &mut Findings) {
    let resources = compute.resources.clone().unwrap_or_default();
    for (field, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, quantity) in quantities.iter().map(|(name, quantity)| (name, quantity.to_string())) {
            if is_quantity(&quantity) {
                continue;
            }
            found.push(
                format!("spec.compute.resources.{field}.{name}"),
                format!("expected a quantity such as 500m, 8 or 16Gi, found \"{quantity}\"; write a number, or one with a Kubernetes suffix such as Gi"),
            );
        }
    }
    for (i, toleration) in compute.tolerations.iter().enumerate() {
        let path = format!("spec.compute.tolerations[{i}]");
        let exists = toleration.operator.as_deref() == Some("Exists");
        if toleration.key.as_ref().is_none_or(String::is_empty) && !exists {
            found.push(
                format!("{path}.operator"),
                format!(
                    "expected operator Exists for a toleration without a key, found {}; write `operator: Exists` or add `key`",
                    toleration.operator.as_deref().unwrap_or("Equal, the default")
                ),
            );
        }
        if toleration.value.is_some() && exists {
            found.push(format!("{path}.value"), "expected no value with operator Exists; remove one of the two");
        }
        if toleration.toleration_seconds.is_some() && toleration.effect.as_deref() != Some("NoExecute") {
            found.push(
                format!("{path}.tolerationSeconds"),
                format!(
                    "expected tolerationSeconds only with effect NoExecute, found {}; write that effect or remove it",
                    toleration.effect.as_deref().unwrap_or("no effect")
                ),
            );
        }
    }
    for (i, variable) in compute.env.iter().enumerate() {
        let fields = [("value", variable.value.is_some()), ("secretKeyRef", variable.secret_key_ref.is_some())];
        found.at_most_one(&format!("spec.compute.env[{i}]"), &fields);
    }
}

/// Whether Kubernetes reads a text as a quantity: a decimal number and a binary suffix, a decimal one or an exponent.
pub(super) fn is_quantity(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (number, suffix) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let decimal = number.contains(|c: char| c.is_ascii_digit()) && number.matches('.').count() <= 1;
    let exponent = |e: &str| {
        let digits = e.strip_prefix(['+', '-']).unwrap_or(e);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "n", "u", "m", "k", "M", "G", "T", "P", "E"];
    decimal && (suffixes.contains(&suffix) || suffix.strip_prefix(['e', 'E']).is_some_and(exponent))
}
