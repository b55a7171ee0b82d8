//! Ids that are hashes of what they identify, and choices derived from hashes: the same on every machine, in any order,
//! after any restart. Computes only.

use plumbline_crds::artifact::hex;
use sha2::{Digest, Sha256};

/// 96 bits of SHA-256 over the parts, each preceded by its length, as 24 hexadecimal digits. Among a billion items the
/// probability of a collision is below 1e-11.
pub fn of<S: AsRef<str>>(parts: &[S]) -> String {
    hex(&digest(parts)[..12])
}

/// 64 bits of the same hash, as a seed.
pub fn key<S: AsRef<str>>(parts: &[S]) -> u64 {
    let bytes = digest(parts);
    bytes[..8].iter().fold(0, |key, b| (key << 8) | u64::from(*b))
}

/// A number in [0, 1) from 53 bits of the same hash.
pub fn unit<S: AsRef<str>>(parts: &[S]) -> f64 {
    (key(parts) >> 11) as f64 / (1_u64 << 53) as f64
}

fn digest<S: AsRef<str>>(parts: &[S]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.as_ref().len() as u64).to_le_bytes());
        hasher.update(part.as_ref().as_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundaries_of_parts_affect_the_id() {
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
        assert_eq!(of(&["a", "b"]).len(), 24);
    }

    #[test]
    fn the_id_of_a_given_content_never_changes_between_versions() {
        // python: hashlib.sha256(b"\x05" + b"\0" * 7 + b"hello").hexdigest()[:24]
        assert_eq!(of(&["hello"]), "fe745503750fdbf3e6ef676d");
    }

    #[test]
    fn hash_draws_are_uniform() {
        let below = (0..10_000).filter(|i| unit(&[&i.to_string()]) < 0.3).count();
        assert!((2_850..3_150).contains(&below), "{below} of 10000 draws were below 0.3");
    }
}
