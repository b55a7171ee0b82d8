//! The rotary settings of `config.json`. transformers 5 writes them as one object (`rope_parameters`), earlier versions as
//! two keys (`rope_theta`, `rope_scaling`). Pure.

use serde_json::Value;

use super::keys::{Keys, Range};
use crate::Result;
use crate::model::architecture::{Llama3Scaling, RotaryPositions};

/// Default base of the frequencies.
const DEFAULT_THETA: f64 = 10_000.0;

/// Reads base and scaling.
pub(in crate::model) fn read(keys: &Keys) -> Result<RotaryPositions> {
    let theta = keys.number("rope_theta", Range::FromOne)?.unwrap_or(DEFAULT_THETA);
    let old = keys.object("rope_scaling", "rope_scaling.")?.map(|o| settings(keys, &o, theta)).transpose()?;
    let new = keys.object("rope_parameters", "rope_parameters.")?.map(|o| settings(keys, &o, theta)).transpose()?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(keys.wrong(
            "rope_parameters",
            "the same as `rope_theta` and `rope_scaling` say",
            keys.get("rope_parameters").unwrap_or(&Value::Null),
        )),
        (old, new) => Ok(old.or(new).unwrap_or(RotaryPositions { theta, scaling: None })),
    }
}

fn settings(file: &Keys, object: &Keys, theta: f64) -> Result<RotaryPositions> {
    let theta = object.number("rope_theta", Range::FromOne)?.unwrap_or(theta);
    let kind = match object.text("rope_type")? {
        Some(kind) => Some(kind),
        None => object.text("type")?,
    };
    let known: &[&str] = match kind {
        // With this type transformers rotates whole heads, whatever the factor is.
        None | Some("default") => &["partial_rotary_factor"],
        Some("llama3") => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        Some(_) => {
            let key = if object.set("rope_type").is_some() { "rope_type" } else { "type" };
            return Err(object.not_computed(key, object.get(key).unwrap_or(&Value::Null)));
        }
    };
    let unknown = |key: &str| !["rope_type", "type", "rope_theta"].contains(&key) && !known.contains(&key);
    if let Some((key, found)) = object.entries().find(|(key, found)| unknown(key) && !found.is_null()) {
        return Err(object.not_computed(key, found));
    }
    let scaling = (kind == Some("llama3")).then(|| llama3(file, object)).transpose()?;
    Ok(RotaryPositions { theta, scaling })
}

fn llama3(file: &Keys, object: &Keys) -> Result<Llama3Scaling> {
    let number = |key: &str, range: Range| {
        object.number(key, range)?.ok_or_else(|| object.wrong(key, range.text(), &Value::Null))
    };
    let found = Llama3Scaling {
        factor: number("factor", Range::FromOne)?,
        low_freq_factor: number("low_freq_factor", Range::Positive)?,
        high_freq_factor: number("high_freq_factor", Range::Positive)?,
        original_max_position_embeddings: number("original_max_position_embeddings", Range::FromOne)?,
    };
    if found.high_freq_factor <= found.low_freq_factor {
        let expected = format!("a number above `low_freq_factor` ({})", found.low_freq_factor);
        return Err(object.wrong("high_freq_factor", &expected, &found.high_freq_factor.into()));
    }
    // transformers gives the top-level key precedence.
    match file.set("original_max_position_embeddings") {
        Some(outside) if outside.as_f64() != Some(found.original_max_position_embeddings) => Err(file.wrong(
            "original_max_position_embeddings",
            &format!("what the rotary settings say ({})", found.original_max_position_embeddings),
            outside,
        )),
        _ => Ok(found),
    }
}
