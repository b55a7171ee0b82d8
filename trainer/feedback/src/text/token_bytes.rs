//! The bytes of tokens. Pure.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The bytes that the printable characters of a byte-level vocabulary (GPT-2) represent: printable Latin-1 characters
/// represent themselves, and the 68 others are U+0100 onwards in order.
pub static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255u8).filter(|b| !printable(b)).zip('\u{100}'..).map(|(byte, c)| (c, byte));
    (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte)).chain(others).collect()
});

/// The bytes of a token of a byte-level vocabulary; none if one of its characters represents no byte.
pub(super) fn byte_level_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| BYTES.get(&c).copied()).collect()
}

/// The byte of a fallback token (`<0x0A>`).
pub(super) fn byte_token(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}
