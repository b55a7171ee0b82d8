//! What a work folder holds, and so what names it. A stage first makes what is slow or paid for (responses, a trained
//! model) and then measures it. What measuring reads can be changed or repaired without making the first part again: the
//! run is another one, in the same work folder.

use crate::resource::Kind;

/// Fields of a spec that the state in a work folder does not depend on, by the name below `spec`. Whatever else they make
/// is kept under a hash of what it was made from: replies of judges by their question, responses of an evaluation by what
/// was asked of which model.
pub const fn measuring(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::PreferenceDataset => &["pairs", "judges", "order", "aggregation", "review", "gates", "output"],
        Kind::RewardModel => &["gates", "referenceLabels", "output"],
        Kind::PolicyTuning => &["evaluation", "output"],
    }
}

/// Whether an input is one that only measuring reads. `role` is the spec field that names it (`evaluation.prompts`).
pub fn is_measuring(kind: Kind, role: &str) -> bool {
    let below =
        |field: &str| role.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    measuring(kind).iter().any(|field| below(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_measuring_by_its_whole_first_field() {
        for role in ["evaluation.prompts", "evaluation.judge.model", "evaluation.lexicons[0]"] {
            assert!(is_measuring(Kind::PolicyTuning, role), "{role}");
        }
        for role in ["policyModel", "prompts", "rewardModelRef", "datasetRef"] {
            assert!(!is_measuring(Kind::PolicyTuning, role), "{role}");
        }
        assert!(is_measuring(Kind::RewardModel, "referenceLabels") && !is_measuring(Kind::RewardModel, "dataset"));
        assert!(is_measuring(Kind::PreferenceDataset, "judges[0].model"));
        assert!(!is_measuring(Kind::PreferenceDataset, "generator.model"));
        assert!(!is_measuring(Kind::PreferenceDataset, "judgesOther"));
    }
}
