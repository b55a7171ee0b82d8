//! An API key, and its removal from texts. Computes only.

use std::sync::Arc;

/// Replacement for the key.
const SHOWN: &str = "[key]";
/// Minimum length of a key that is treated as secret, in bytes: servers without authentication get "EMPTY" or "none",
/// which may occur as a word in an answer.
const LEAST_BYTES: usize = 8;
/// Characters of base64, in both alphabets.
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// An API key. It never appears in a log, an error or debug output.
#[derive(Clone)]
pub struct Secret {
    key: String,
    /// Lower-case forms that are searched ignoring case, longest first: the key itself, percent-encoded, in
    /// hexadecimal.
    any_case: Arc<[String]>,
    /// Base64 substrings of any encoded text that contains the key, one per alignment to three bytes.
    base64: Arc<[String]>,
}

impl Secret {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        let key = key.into();
        let (mut any_case, mut base64) = (Vec::new(), Vec::new());
        if key.len() >= LEAST_BYTES {
            any_case = vec![hex(&key), percent_encoded(&key).to_lowercase(), key.to_lowercase()];
            any_case.dedup();
            base64 = (0..3).map(|before| base64_within(key.as_bytes(), before)).collect();
            base64.extend(base64.clone().iter().map(|core| core.replace('+', "-").replace('/', "_")));
            base64.dedup();
        }
        Self { key, any_case: any_case.into(), base64: base64.into() }
    }

    /// The value of the `Authorization` header.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.key)
    }

    /// Removes the key from a text: verbatim in any case, percent-encoded, in hexadecimal, or within anything encoded
    /// in base64 (such as the header). Keys of fewer than eight bytes are not removed.
    pub fn redact(&self, text: &str) -> String {
        let mut text = self.any_case.iter().fold(text.to_owned(), |text, needle| without(&text, needle));
        for core in self.base64.iter() {
            text = without_base64(&text, core);
        }
        text
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(SHOWN)
    }
}

/// Replaces a needle, ignoring ASCII case.
fn without(text: &str, needle: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for (at, found) in lower.match_indices(needle) {
        out.push_str(&text[from..at]);
        out.push_str(SHOWN);
        from = at + found.len();
    }
    out + &text[from..]
}

/// Replaces each run of base64 that contains `core`.
fn without_base64(text: &str, core: &str) -> String {
    let of_run = |c: char| c.is_ascii_alphanumeric() || "+/-_=".contains(c);
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(core) {
        let before = rest[..at].trim_end_matches(of_run);
        out.push_str(before);
        out.push_str(SHOWN);
        rest = rest[at + core.len()..].trim_start_matches(of_run);
    }
    out + rest
}

/// The base64 characters that depend only on `bytes`, if they are preceded by `before` bytes (0 to 2) of the same group
/// of three.
fn base64_within(bytes: &[u8], before: usize) -> String {
    let padded: Vec<u8> = std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
    let bits = |at: usize| -> u8 {
        let (byte, shift) = (at * 6 / 8, at * 6 % 8);
        let pair = u16::from(padded[byte]) << 8 | u16::from(padded.get(byte + 1).copied().unwrap_or_default());
        ((pair >> (10 - shift)) & 0x3f) as u8
    };
    // The first character that contains no bits of the bytes before, and the last without bits of the bytes after.
    let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    (first..last).map(|at| char::from(BASE64[usize::from(bits(at))])).collect()
}

fn hex(text: &str) -> String {
    plumbline_crds::artifact::hex(text.as_bytes())
}

fn percent_encoded(text: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if unreserved(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-SECRET+KEY/abcdef0123456789";

    #[test]
    fn a_key_is_removed_in_every_encoding() {
        let secret = Secret::new(KEY);
        // python: base64.b64encode(b"Bearer " + key), b64encode(key), urlsafe_b64encode(b"u:" + key), key.hex(), quote(key, safe="")
        for form in [
            KEY.to_owned(),
            KEY.to_uppercase(),
            KEY.to_lowercase(),
            format!("Bearer {KEY}"),
            "QmVhcmVyIHNrLVNFQ1JFVCtLRVkvYWJjZGVmMDEyMzQ1Njc4OQ==".to_owned(),
            "c2stU0VDUkVUK0tFWS9hYmNkZWYwMTIzNDU2Nzg5".to_owned(),
            "dTpzay1TRUNSRVQrS0VZL2FiY2RlZjAxMjM0NTY3ODk=".to_owned(),
            "736b2d5345435245542b4b45592f61626364656630313233343536373839".to_owned(),
            "sk-SECRET%2BKEY%2Fabcdef0123456789".to_owned(),
            "sk-secret%2bkey%2fabcdef0123456789".to_owned(),
        ] {
            let shown = secret.redact(&format!("before {form}, after"));
            assert!(shown.starts_with("before ") && shown.ends_with(", after") && shown.contains("[key]"), "{shown}");
            assert!(shown.len() <= "before Bearer [key], after".len(), "nothing of {form} is left: {shown}");
        }
        assert_eq!(secret.redact("A. Response A keeps its words."), "A. Response A keeps its words.");
        assert!(!format!("{secret:?}").contains("SECRET"));
    }

    #[test]
    fn a_short_key_is_not_removed_from_answers() {
        for key in ["A", "no", "EMPTY", "none"] {
            assert_eq!(Secret::new(key).redact("no, A is EMPTY; none"), "no, A is EMPTY; none");
        }
    }
}
