//! The stages: what each subcommand does, from top to bottom.

pub mod import;
pub mod inspect;
pub mod serve;
pub mod stop;
