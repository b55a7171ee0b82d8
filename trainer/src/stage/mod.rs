//! The stages: what each subcommand does, from top to bottom.

mod background;
pub mod evaluate;
pub mod fetch;
pub mod import;
mod inputs;
pub mod inspect;
pub mod label;
pub mod progress_reporter;
pub mod reward;
pub mod run;
pub mod serve;
pub mod termination;
pub mod tune;
mod watchdog;

/// Numbers under their names in a status.
fn in_status<T>(numbers: std::collections::BTreeMap<String, T>) -> std::collections::BTreeMap<String, T> {
    numbers.into_iter().map(|(name, value)| (plumbline_feedback::report::status_name(&name), value)).collect()
}
