//! Secrets outside a cluster: environment variables that the trainer inherits. Reads the environment only; a value is
//! never written anywhere.

use crate::inputs;
use crate::validate::{Manifest, Problem};

/// The values of every Secret that the manifests name, or the problem of each that is missing.
pub fn collect(manifests: &[Manifest]) -> Result<Vec<String>, Vec<Problem>> {
    let (mut values, mut problems) = (Vec::new(), Vec::new());
    for manifest in manifests {
        for (role, judge) in inputs::judges(&manifest.resource.spec) {
            let Some(reference) = judge.endpoint.as_ref().and_then(|e| e.api_key_secret_ref.as_ref()) else { continue };
            let variable = reference.variable();
            match std::env::var(&variable) {
                Ok(value) if !value.is_empty() => values.push(value),
                _ => problems.push(manifest.problem(
                    &format!("spec.{role}.endpoint.apiKeySecretRef"),
                    format!(
                        "expected the API key in the environment variable {variable}, found it unset or empty; \
                         export it before the run"
                    ),
                )),
            }
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}
