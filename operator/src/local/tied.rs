//! `plumbline run-tied-to-parent --parent PID -- PROGRAM ARG...`: becomes the program, which is asked to stop when the parent ends.
//!
//! The parent cannot ask for that itself without `unsafe`, and a child whose parent was killed would work on unseen.
//! The kernel keeps the request across `exec`. Where there is no such request, this only becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Arguments of `plumbline run-tied-to-parent`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process that the program must not outlive.
    #[arg(long)]
    pub parent: i32,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Returns only if the program cannot be started: with the exit code to end with.
pub fn become_program(args: &Args) -> u8 {
    #[cfg(target_os = "linux")]
    {
        use plumbline_crds::exit_code::ExitCode;
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        let tied = set_parent_process_death_signal(Some(Signal::TERM));
        // The parent may have ended before the request.
        if tied.is_ok() && getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(args.parent) {
            return ExitCode::Interrupted.number();
        }
    }
    let Some((program, rest)) = args.command.split_first() else { return 2 };
    let error = Command::new(program).args(rest).exec();
    eprintln!("{}: cannot be started: {error}", program.display());
    2
}
