//! The stages: what each subcommand does, from top to bottom.

mod beside;
pub mod evaluate;
pub mod fetch;
pub mod import;
pub mod inspect;
pub mod label;
pub mod reward;
pub mod run;
pub mod serve;
pub mod tell;
pub mod termination;
pub mod tune;
mod watchdog;

/// Numbers under the names that a status has for them.
fn in_status<T>(numbers: std::collections::BTreeMap<String, T>) -> std::collections::BTreeMap<String, T> {
    numbers.into_iter().map(|(name, value)| (plumbline_feedback::report::status_name(&name), value)).collect()
}
