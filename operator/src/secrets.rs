//! How a Secret's key reaches the trainer: as an environment variable, on a cluster as on a laptop. Computes only.

use plumbline_crds::source::KeyRef;

/// The environment variable of a Secret's key: `PLUMBLINE_SECRET_<NAME>_<KEY>`, upper case, `-` and `.` as `_`.
pub fn variable(reference: &KeyRef) -> String {
    let text = format!("PLUMBLINE_SECRET_{}_{}", reference.name, reference.key).to_uppercase();
    text.replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_named_after_the_secret_and_its_key() {
        let reference = KeyRef { name: "judge-1".into(), key: "api.key".into() };
        assert_eq!(variable(&reference), "PLUMBLINE_SECRET_JUDGE_1_API_KEY");
    }
}
