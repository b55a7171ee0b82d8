//! Takes what looks like a key out of text that people will see. Computes only.

use std::sync::LazyLock;

use regex::Regex;

/// Forms that keys are written in. The first group, where there is one, stays.
const KEYS: [&str; 6] = [
    r"(?i)\b(bearer\s+)[^\s,;]{8,}",
    r#"(?i)((?:api[-_]?key|access[-_]?key|secret|password|passwd|token)["']?\s*[=:]\s*["']?)[^\s"',;]{8,}"#,
    r"\b()(?:sk|pk|rk)-[A-Za-z0-9_-]{8,}",
    r"\b()(?:hf|ghp|gho|glpat|xoxb)[_-][A-Za-z0-9_-]{8,}",
    r"\b()(?:AKIA|ASIA)[A-Z0-9]{12,}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+",
    r"(://[^/\s:@]+:)[^/\s@]+@",
];

/// Compiled once: a status is looked through at every reconcile of its resource.
static COMPILED: LazyLock<Vec<Regex>> = LazyLock::new(|| KEYS.iter().filter_map(|k| Regex::new(k).ok()).collect());

/// The text without the given secrets and without anything that has the form of a key.
pub fn redact(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        text = text.replace(secret.as_str(), "[redacted]");
    }
    for regex in COMPILED.iter() {
        text = regex.replace_all(&text, "${1}[redacted]").into_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_out_in_every_form_and_the_rest_stays() {
        let cases = [
            ("Authorization: Bearer abcdef123456", "Authorization: Bearer [redacted]"),
            ("api_key=abcdef123456, url=x", "api_key=[redacted], url=x"),
            (r#"{"token": "abcdef123456"}"#, r#"{"token": "[redacted]"}"#),
            ("got sk-abcdefgh1234 back", "got [redacted] back"),
            ("hf_abcdefgh1234", "[redacted]"),
            ("AKIAABCDEFGHIJKLMNOP", "[redacted]"),
            ("eyJhbGciOiJI.eyJzdWIi.c2ln", "[redacted]"),
            ("https://user:pass@host/", "https://user:[redacted]host/"),
            ("my-own-secret here", "[redacted] here"),
            ("tokens: 4096 of 8192", "tokens: 4096 of 8192"),
            ("sha256:0123456789abcdef0123456789abcdef", "sha256:0123456789abcdef0123456789abcdef"),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text, &["my-own-secret".into()]), expected);
        }
    }

    #[test]
    fn every_pattern_compiles() {
        for pattern in KEYS {
            Regex::new(pattern).unwrap();
        }
    }
}
