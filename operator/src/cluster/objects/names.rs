//! Names of the objects of a run: the same for the same resource, and never too long. Computes only.

use plumbline_crds::Kind;
use plumbline_crds::artifact::hex;
use sha2::{Digest, Sha256};

use crate::digest::DIGESTS;

/// The longest name of a Job, which becomes a label of its pods, and with `-` and an index below 1024 their host name.
const MOST: usize = 63 - 5;
/// `-` and the digits that stand for the end of a long name.
const SHORTENED: usize = 9;

/// What the name of each run of a resource begins with: its name and stage, as in `helpful-reward`.
pub fn base_name(kind: Kind, name: &str) -> String {
    let stage = kind.stage();
    let room = MOST - DIGESTS - 1 - stage.len();
    if name.len() <= room {
        return format!("{name}-{stage}");
    }
    let start: String = name.chars().take(room - SHORTENED).collect();
    let digest = hex(&Sha256::digest(name.as_bytes())[..4]);
    format!("{}-{digest}-{stage}", start.trim_end_matches('-'))
}

/// Name of what the pods of a resource share: their ServiceAccount, and the Service by which they find each other. A Service's
/// name begins with a letter, a resource's need not.
pub fn shared_name(kind: Kind, name: &str) -> String {
    format!("plumbline-{}", base_name(kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_where_they_fit_and_never_too_long() {
        assert_eq!(base_name(Kind::RewardModel, "helpful"), "helpful-reward");
        for kind in Kind::ALL {
            for length in 1..=52 {
                let name = base_name(kind, &"a".repeat(length));
                assert!(name.len() + DIGESTS <= MOST, "{name}");
            }
        }
    }

    #[test]
    fn long_names_that_differ_only_at_their_end_stay_different() {
        let name = |end: &str| base_name(Kind::PreferenceDataset, &format!("{}{end}", "a".repeat(50)));
        assert_ne!(name("b"), name("c"));
    }
}
