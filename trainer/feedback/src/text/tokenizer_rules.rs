//! What is rejected in a `tokenizer.json` before it is used. Pure: bytes in, a verdict out.
//!
//! Encoding is limited in memory and time. Decoding happens too often for such limits, so the decoder is checked once,
//! here.

use serde::Deserialize;
use serde_json::Value;

/// Maximum growth of a token by a decoder's replacements. `U+2581` for a space and back is one.
const MOST_GROWTH: usize = 256;

#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Model,
}

#[derive(Default, Deserialize)]
struct Model {
    dropout: Option<f64>,
}

/// Checks the content of a `tokenizer.json`.
///
/// # Errors
/// What is wrong, and what to do.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let rules: Rules = serde_json::from_slice(bytes).map_err(|e| format!("not a tokenizer: {e}"))?;
    if let Some(dropout) = rules.model.dropout.filter(|dropout| *dropout != 0.0) {
        return Err(format!(
            "model.dropout is {dropout}, so a text would be tokenised differently each time; set it to null, as for \
             inference"
        ));
    }
    let growth = growth(&rules.decoder)?;
    if growth > MOST_GROWTH {
        return Err(format!(
            "decoder: its replacements make a token {growth} times as long; at most {MOST_GROWTH} times is allowed"
        ));
    }
    Ok(())
}

/// Maximum growth of a text by a decoder.
fn growth(decoder: &Value) -> Result<usize, String> {
    match decoder["type"].as_str() {
        Some("Sequence") => {
            let parts = decoder["decoders"].as_array().map_or(&[][..], Vec::as_slice);
            parts.iter().try_fold(1usize, |product, part| Ok(product.saturating_mul(growth(part)?)))
        }
        Some("Replace") => {
            let content = decoder["content"].as_str().map_or(0, str::len);
            match decoder["pattern"]["String"].as_str() {
                Some("") => Err("decoder: a Replace has an empty pattern, which matches everywhere".to_owned()),
                Some(pattern) => Ok(content.div_ceil(pattern.len()).max(1)),
                None => {
                    Err("decoder: a Replace has a regular expression; only a fixed text is supported there".to_owned())
                }
            }
        }
        _ => Ok(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(model: &Value, decoder: &Value) -> String {
        check(json!({"model": model, "decoder": decoder}).to_string().as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn what_would_be_random_or_endless_is_refused_by_name_and_what_models_have_is_not() {
        let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
        let long = replace("a", &"a".repeat(100));
        let llama = json!({"type": "Sequence", "decoders": [replace("\u{2581}", " "), {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let plain = json!({"dropout": null});
        assert_eq!(verdict(&plain, &llama), "");
        assert_eq!(verdict(&json!({"dropout": 0.0}), &Value::Null), "");
        assert!(verdict(&json!({"dropout": 0.9}), &llama).contains("model.dropout is 0.9"));
        assert!(verdict(&plain, &replace("", "x")).contains("empty pattern"));
        assert!(verdict(&plain, &json!({"type": "Sequence", "decoders": [long, long]})).contains("10000 times"));
        assert!(
            verdict(&plain, &json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}))
                .contains("regular")
        );
    }
}
