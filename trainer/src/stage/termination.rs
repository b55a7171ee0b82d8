//! The result of a stage as a pod's termination message, of which Kubernetes keeps 4096 bytes. Pure but for `write`.

use std::fs;

use plumbline_crds::run::StageResult;

use crate::{Error, Result};

/// Environment variable with the file to write to.
const FILE: &str = "PLUMBLINE_TERMINATION_LOG";
/// The longest termination message, in bytes (Kubernetes, "Customizing the termination message").
const MOST: usize = 4096;

/// Writes the result to where Kubernetes reads it, if the caller of the stage named a file.
pub fn write(result: &StageResult) -> Result<()> {
    let Some(file) = std::env::var_os(FILE) else { return Ok(()) };
    let text = fitted(result, MOST)?;
    // Not replaced as other files are: the file is a mount of its own.
    fs::write(&file, text).map_err(|e| Error::disk(file.as_ref(), e))
}

/// The result in at most `most` bytes: the least important parts are dropped first. The outcome and the artifact are
/// always kept.
fn fitted(result: &StageResult, most: usize) -> Result<String> {
    let mut result = result.clone();
    let cuts: [fn(&mut StageResult); 6] = [
        |_| {},
        |r| r.seconds.clear(),
        |r| r.metrics.clear(),
        |r| {
            r.bias.clear();
            r.agreement.clear();
        },
        |r| {
            r.counts.clear();
            r.evaluation.clear();
        },
        |r| {
            r.inputs.clear();
            r.message = r.message.chars().take(200).collect();
        },
    ];
    let mut text = String::new();
    for cut in cuts {
        cut(&mut result);
        text = serde_json::to_string(&result).map_err(|e| Error::Failed(format!("cannot write the result: {e}")))?;
        if text.len() <= most {
            break;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::conditions::Reason;
    use plumbline_crds::status::{ArtifactRef, InputRef, Metric};

    fn result(many: usize) -> StageResult {
        let numbers = || (0..many).map(|i| (format!("number_{i}"), "0.123456".to_owned()));
        StageResult {
            artifact: Some(ArtifactRef {
                uri: "/a".repeat(400),
                digest: format!("sha256:{}", "0".repeat(64)),
                size_bytes: 1,
                created_time: "2026-01-01T00:00:00Z".into(),
            }),
            inputs: vec![InputRef { role: "r".into(), name: "n".into(), digest: "d".into() }],
            metrics: numbers().map(|(name, value)| Metric { name, value }).collect(),
            evaluation: numbers().collect(),
            bias: numbers().collect(),
            ..StageResult::new(Reason::Completed, "é".repeat(1024))
        }
    }

    #[test]
    fn a_result_that_fits_is_whole_and_a_longer_one_loses_what_tells_least() {
        let whole: StageResult = serde_json::from_str(&fitted(&result(2), MOST).unwrap()).unwrap();
        assert_eq!(whole, result(2));
        let text = fitted(&result(32), MOST).unwrap();
        let cut: StageResult = serde_json::from_str(&text).unwrap();
        assert!(text.len() <= MOST && cut.metrics.is_empty() && !cut.evaluation.is_empty(), "{text}");
        let text = fitted(&result(500), MOST).unwrap();
        let cut: StageResult = serde_json::from_str(&text).unwrap();
        assert!(text.len() <= MOST);
        assert_eq!((cut.reason, cut.artifact), (Reason::Completed, result(1).artifact));
    }
}
