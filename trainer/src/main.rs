//! The trainer's command line: one subcommand per stage. It sets up logs and signals, and exits with a code of the
//! contract in `plumbline_crds::exit_code`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use plumbline_feedback::store::work_dir_sync::FETCHED;
use plumbline_feedback::{Result, shutdown};
use plumbline_trainer::stage::{evaluate, fetch, import, inspect, label, reward, run, serve, tune};
use tracing_subscriber::EnvFilter;

/// Create preference data, reward models and tuned policies; serve, convert and inspect models.
#[derive(Parser)]
#[command(name = "plumbline-trainer", version)]
struct Cli {
    /// Format of the log on standard error. RUST_LOG filters it.
    #[arg(long, global = true, value_enum, default_value_t = Log::Human)]
    log: Log,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Log {
    /// Text, in colour on a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Download the remote inputs of a run.
    Fetch(run::RunArgs),
    /// Sample responses, ask judges which are better, and write preference data.
    Label(run::RunArgs),
    /// Train a scalar reward model on preference data.
    Reward(run::RunArgs),
    /// Tune a policy, and evaluate it against the model that it started from.
    Tune(run::RunArgs),
    /// Evaluate a finished tuning again, without changing its artifact.
    ///
    /// For a judge with a model of its own, first start `plumbline-trainer serve` with the port and the name that the run
    /// document has for it in `servedJudges`.
    Evaluate(run::RunArgs),
    /// Serve a model behind an OpenAI-compatible API.
    Serve(serve::ServeArgs),
    /// Convert a GGUF file into a Hugging Face directory.
    Import(import::ImportArgs),
    /// Print a model's dimensions and its most likely next tokens, or a reward model's score.
    Inspect(inspect::InspectArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    set_up_log(cli.log);
    match shutdown::install().and_then(|()| dispatch(&cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code().number())
        }
    }
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Fetch(args) => run::prepare(args, FETCHED, fetch::run),
        Command::Label(args) => run::run(args, label::run),
        Command::Reward(args) => run::run(args, reward::run),
        Command::Tune(args) => run::run(args, tune::run),
        Command::Evaluate(args) => run::run_in(args, evaluate::FOLDER, evaluate::run),
        Command::Serve(args) => serve::run(args),
        Command::Import(args) => import::run(args),
        Command::Inspect(args) => inspect::run(args),
    }
}

fn set_up_log(log: Log) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log {
        Log::Human => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        Log::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
