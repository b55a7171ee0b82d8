//! The rotary settings of `config.json`. transformers 5 writes them as one object (`rope_parameters`), earlier versions as
//! two keys (`rope_theta`, `rope_scaling`). Pure.

use serde_json::Value;

use super::keys::{Keys, Range};
use crate::Result;
use crate::model::rotary::scaling::{Llama3Scaling, LongRopeScaling, RotaryPositions, Scaling, YarnScaling};

/// What a family's rotary settings mean beside the settings themselves.
pub(in crate::model) struct RopeForm {
    /// Dimensions per head.
    pub head_dim: i64,
    /// `max_position_embeddings`.
    pub context: i64,
    /// Base of the frequencies if no key has it.
    pub theta: f64,
    /// The key of the base beside `rope_parameters`.
    pub theta_key: &'static str,
    /// The key and the default of the fraction of a head that is rotated, if the family rotates a part.
    pub partial: Option<(&'static str, f64)>,
    /// The original context where no key has it.
    pub original: i64,
    /// Whether `su` and `yarn` are other names of `longrope`.
    pub only_longrope: bool,
}

impl RopeForm {
    /// The form of most families.
    pub(in crate::model) fn usual(head_dim: i64, context: i64) -> Self {
        Self {
            head_dim,
            context,
            theta: 10_000.0,
            theta_key: "rope_theta",
            partial: None,
            original: context,
            only_longrope: false,
        }
    }
}

/// Reads base, rotated dimensions and scaling.
pub(in crate::model) fn read(keys: &Keys, form: &RopeForm) -> Result<RotaryPositions> {
    let theta = keys.number(form.theta_key, Range::FromOne)?.unwrap_or(form.theta);
    let old = keys.object("rope_scaling", "rope_scaling.")?.map(|o| settings(keys, &o, form, theta)).transpose()?;
    let new =
        keys.object("rope_parameters", "rope_parameters.")?.map(|o| settings(keys, &o, form, theta)).transpose()?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(keys.wrong(
            "rope_parameters",
            &format!("the same as `{}` and `rope_scaling` say", form.theta_key),
            keys.get("rope_parameters").unwrap_or(&Value::Null),
        )),
        (Some(found), _) | (_, Some(found)) => Ok(found),
        (None, None) => Ok(RotaryPositions::unscaled(theta, dims(keys, None, form)?)),
    }
}

/// Reads one object of settings; `theta`: the base if the object has none.
pub(in crate::model) fn settings(file: &Keys, object: &Keys, form: &RopeForm, theta: f64) -> Result<RotaryPositions> {
    let theta = object.number("rope_theta", Range::FromOne)?.unwrap_or(theta);
    let kind = match object.text("rope_type")? {
        Some(kind) => Some(kind),
        None => object.text("type")?,
    };
    let kind = match kind {
        Some("su" | "yarn") if form.only_longrope => Some("longrope"),
        Some("llama3" | "linear" | "dynamic") if form.only_longrope => return Err(unsupported_type(object)),
        kind => kind,
    };
    let known: &[&str] = match kind {
        // Without a family that rotates parts of heads, transformers rotates whole heads, whatever the factor is.
        None | Some("default") => &["partial_rotary_factor"],
        Some("linear" | "dynamic") => &["factor"],
        Some("llama3") => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        Some("yarn") => &[
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
        Some("longrope") => {
            &["factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"]
        }
        Some(_) => return Err(unsupported_type(object)),
    };
    let always = ["rope_type", "type", "rope_theta"];
    let partial = form.partial.map(|_| "partial_rotary_factor");
    let unknown = |key: &str| !always.contains(&key) && !known.contains(&key) && partial != Some(key);
    if let Some((key, found)) = object.entries().find(|(key, found)| unknown(key) && !found.is_null()) {
        return Err(object.not_computed(key, found));
    }
    let dims = dims(file, Some(object), form)?;
    let scaling = match kind {
        Some("linear") => Scaling::Linear { factor: required(object, "factor", Range::FromOne)? },
        Some("dynamic") => dynamic(object, form, dims)?,
        Some("llama3") => Scaling::Llama3(llama3(file, object)?),
        Some("yarn") => Scaling::Yarn(yarn(file, object, form, theta)?),
        Some("longrope") => Scaling::LongRope(longrope(file, object, form, dims)?),
        _ => Scaling::None,
    };
    Ok(RotaryPositions { theta, dims, scaling })
}

/// The number of dimensions of a head that are rotated.
fn dims(file: &Keys, object: Option<&Keys>, form: &RopeForm) -> Result<i64> {
    let Some((key, default)) = form.partial else { return Ok(form.head_dim) };
    let inside = object.map_or(Ok(None), |o| o.number_or_null("partial_rotary_factor", Range::Positive))?;
    let outside = file.number_or_null(key, Range::Positive)?;
    if let (Some(inside), Some(outside)) = (inside, outside)
        && inside.to_bits() != outside.to_bits()
    {
        return Err(file.wrong(key, &format!("what `rope_parameters` says ({inside})"), &outside.into()));
    }
    let factor = inside.or(outside).unwrap_or(default);
    let dims = (form.head_dim as f64 * factor) as i64;
    if dims < 2 || dims % 2 != 0 || dims > form.head_dim {
        let expected = format!("a fraction of which times {} is an even number from 2 on", form.head_dim);
        return Err(file.wrong(key, &expected, &factor.into()));
    }
    Ok(dims)
}

fn unsupported_type(object: &Keys) -> crate::Error {
    let key = if object.set("rope_type").is_some() { "rope_type" } else { "type" };
    object.not_computed(key, object.get(key).unwrap_or(&Value::Null))
}

fn required(object: &Keys, key: &str, range: Range) -> Result<f64> {
    object.number(key, range)?.ok_or_else(|| object.wrong(key, range.text(), &Value::Null))
}

fn dynamic(object: &Keys, form: &RopeForm, dims: i64) -> Result<Scaling> {
    if dims < 4 {
        return Err(object.not_computed("rope_type", &"dynamic".into()));
    }
    Ok(Scaling::Dynamic { factor: required(object, "factor", Range::FromOne)?, original: form.context as f64 })
}

fn llama3(file: &Keys, object: &Keys) -> Result<Llama3Scaling> {
    let original = required(object, "original_max_position_embeddings", Range::FromOne)?;
    let found = Llama3Scaling {
        factor: required(object, "factor", Range::FromOne)?,
        low_freq_factor: required(object, "low_freq_factor", Range::Positive)?,
        high_freq_factor: required(object, "high_freq_factor", Range::Positive)?,
        original_max_position_embeddings: original,
    };
    if found.high_freq_factor <= found.low_freq_factor {
        let expected = format!("a number above `low_freq_factor` ({})", found.low_freq_factor);
        return Err(object.wrong("high_freq_factor", &expected, &found.high_freq_factor.into()));
    }
    // transformers gives the top-level key precedence.
    refuse_another_original(file, original)?;
    Ok(found)
}

fn yarn(file: &Keys, object: &Keys, form: &RopeForm, theta: f64) -> Result<YarnScaling> {
    if theta <= 1.0 {
        return Err(object.wrong("rope_theta", "a number above 1", &theta.into()));
    }
    let original = original(file, object, form)?;
    let factor = match object.get("factor") {
        Some(Value::Null) => form.context as f64 / original,
        _ => required(object, "factor", Range::FromOne)?,
    };
    let number = |key: &str| object.number_or_null(key, Range::Moderate);
    let stretch = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let attention_factor = match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
        (Some(given), ..) => given,
        (None, Some(scale), Some(all)) => stretch(scale) / stretch(all),
        _ => stretch(1.0),
    };
    let beta_fast = number("beta_fast")?.unwrap_or(32.0);
    let beta_slow = number("beta_slow")?.unwrap_or(1.0);
    if beta_fast < beta_slow {
        let expected = format!("a number of at least `beta_slow` ({beta_slow})");
        return Err(object.wrong("beta_fast", &expected, &beta_fast.into()));
    }
    let truncate = object.flag_or("truncate", true)?;
    Ok(YarnScaling { factor, original, attention_factor, beta_fast, beta_slow, truncate })
}

fn longrope(file: &Keys, object: &Keys, form: &RopeForm, dims: i64) -> Result<LongRopeScaling> {
    let original = original(file, object, form)?;
    let factor = match object.number_or_null("factor", Range::Moderate)? {
        Some(factor) => factor,
        None => form.context as f64 / original,
    };
    let attention_factor = match object.number_or_null("attention_factor", Range::Moderate)? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    let count = (dims / 2) as usize;
    let (short, long) = (object.numbers("short_factor", count)?, object.numbers("long_factor", count)?);
    Ok(LongRopeScaling { short, long, original, attention_factor })
}

/// The original context, in tokens.
fn original(file: &Keys, object: &Keys, form: &RopeForm) -> Result<f64> {
    const KEY: &str = "original_max_position_embeddings";
    let inside = object.number_or_null(KEY, Range::FromTwo)?;
    if let Some(inside) = inside {
        refuse_another_original(file, inside)?;
    }
    Ok(inside.or(file.number_or_null(KEY, Range::FromTwo)?).unwrap_or(form.original as f64))
}

/// Rejects a top-level original context that differs from that of the rotary settings.
fn refuse_another_original(file: &Keys, original: f64) -> Result<()> {
    match file.set("original_max_position_embeddings") {
        Some(outside) if outside.as_f64() != Some(original) => Err(file.wrong(
            "original_max_position_embeddings",
            &format!("what the rotary settings say ({original})"),
            outside,
        )),
        _ => Ok(()),
    }
}
