//! The stages: what each subcommand does, from top to bottom.

pub mod serve;
pub mod stop;
