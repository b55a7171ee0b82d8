//! The command line: arguments in, exit code out.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use plumbline_crds::Kind;
use plumbline_crds::exit_code::ExitCode as Code;
use plumbline_crds::unsupported::Target;
use tracing_subscriber::EnvFilter;

use crate::cluster::settings::Settings;
use crate::cluster::{logging, rbac, wait_for_leader};
use crate::crds::reference;
use crate::local::{self, Options, tied};
use crate::manifest::read;
use crate::validate::references::Elsewhere;
use crate::{cluster, crds, printable, validate};

/// Align language models with AI feedback: preference data, reward models and tuned policies from manifests.
#[derive(Debug, Parser)]
#[command(name = "plumbline", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the operator reads from its environment.
const OPERATOR_ENVIRONMENT: &str = "\
Environment:
  KUBECONFIG  kubeconfig file [default: ~/.kube/config; without one, the service account of the pod]
  RUST_LOG    log filter: error, warn, info, debug, or a level for each module [default: info]";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check manifests and print every problem, one per line.
    Validate {
        #[command(flatten)]
        manifests: Manifests,
        /// Accept references to resources that the manifests do not contain.
        #[arg(long)]
        allow_missing_references: bool,
        /// Check the manifests for a cluster instead of a local run; locations and supported fields differ.
        #[arg(long)]
        cluster: bool,
    },
    /// Print what `run` would do, and why, without running it.
    Plan {
        #[command(flatten)]
        manifests: Manifests,
        #[command(flatten)]
        work_dir: WorkDirArgs,
    },
    /// Run all manifests on this machine; run the same command again to resume.
    Run {
        #[command(flatten)]
        manifests: Manifests,
        #[command(flatten)]
        work_dir: WorkDirArgs,
        /// Trainer executable [default: plumbline-trainer beside this executable, else on the PATH].
        #[arg(long, value_name = "PATH")]
        trainer: Option<PathBuf>,
    },
    /// Run the controller until it is stopped.
    #[command(after_help = OPERATOR_ENVIRONMENT)]
    Operator(Box<Settings>),
    /// Wait until an operator replica is the elected leader.
    WaitForLeader {
        /// Metrics address of the operator. If the address is a Service, one of its replicas must be the leader.
        #[arg(long, value_name = "HOST:PORT")]
        address: String,
        /// Longest time to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout_seconds: u64,
    },
    /// Print the operator's ServiceAccount and RBAC rules.
    Rbac {
        /// Namespace that the operator runs in.
        #[arg(long, value_name = "NAME", default_value = "plumbline")]
        operator_namespace: String,
        /// Only namespace that the operator watches, as for `operator --watch-namespace` [default: all].
        #[arg(long, value_name = "NAME")]
        watch_namespace: Option<String>,
        /// Allow the operator to read Kueue Workloads, as for `operator --kueue`.
        #[arg(long)]
        kueue: bool,
    },
    /// Print the CustomResourceDefinitions.
    Crds {
        /// Write one file per definition into this directory instead.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Write the reference of all fields into this directory instead, as Markdown.
        #[arg(long, value_name = "DIR", conflicts_with = "out")]
        reference: Option<PathBuf>,
    },
    /// Run a program that is terminated when its parent exits.
    #[command(hide = true)]
    RunTiedToParent(tied::Args),
}

#[derive(Debug, Args)]
struct Manifests {
    /// Manifest file, directory of manifests, or `-` for standard input; may be repeated.
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct WorkDirArgs {
    /// Directory of state and artifacts.
    #[arg(long, value_name = "DIR", default_value = ".plumbline")]
    work_dir: PathBuf,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Operator(_)) {
        logging::init();
    } else {
        let level = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
        let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(level);
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
    ExitCode::from(match cli.command {
        Command::Validate { manifests, allow_missing_references, cluster } => {
            let target = if cluster { Target::Cluster } else { Target::Local };
            validate_command(&manifests, allow_missing_references, target)
        }
        Command::Plan { manifests, work_dir } => plan_command(manifests, work_dir),
        Command::Run { manifests, work_dir, trainer } => run_command(manifests, work_dir, trainer),
        Command::Operator(settings) => operator_command(*settings),
        Command::WaitForLeader { address, timeout_seconds } => {
            match wait_for_leader::wait(&address, Duration::from_secs(timeout_seconds)) {
                Ok(()) => Code::Done.number(),
                Err(error) => fail(&error, Code::Failed),
            }
        }
        Command::Rbac { operator_namespace, watch_namespace, kueue } => {
            rbac_command(&operator_namespace, watch_namespace.as_deref(), kueue)
        }
        Command::Crds { reference: Some(folder), .. } => reference_command(&folder),
        Command::Crds { out, .. } => crds_command(out.as_deref()),
        Command::RunTiedToParent(args) => tied::become_program(&args),
    })
}

fn validate_command(manifests: &Manifests, anything: bool, target: Target) -> u8 {
    let sources = match read::read(&manifests.files) {
        Ok(sources) => sources,
        Err(error) => return fail(&error, Code::Config),
    };
    match validate::validate(&sources, &Elsewhere { anything, can_be_allowed: true, ..Elsewhere::default() }, target) {
        Ok(manifests) => {
            for manifest in manifests {
                println!("{}", printable::line(&format!("{}: {} is valid", manifest.file, manifest.resource.id())));
            }
            Code::Done.number()
        }
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            Code::Config.number()
        }
    }
}

fn plan_command(manifests: Manifests, work_dir: WorkDirArgs) -> u8 {
    match local::explain(&Options { files: manifests.files, work_dir: work_dir.work_dir, trainer: None }) {
        Ok(explained) => {
            for line in explained.lines {
                println!("{}", printable::line(&line));
            }
            for problem in &explained.problems {
                eprintln!("{problem}");
            }
            if explained.problems.is_empty() { Code::Done.number() } else { Code::Config.number() }
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn run_command(manifests: Manifests, work_dir: WorkDirArgs, trainer: Option<PathBuf>) -> u8 {
    let options = Options { files: manifests.files, work_dir: work_dir.work_dir, trainer };
    // One thread: children ask to end with the thread that started them, so that must be the one that lasts.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, Code::Failed),
    };
    match runtime.block_on(local::run(&options)) {
        Ok(code) => code,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn operator_command(settings: Settings) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, Code::Failed),
    };
    match runtime.block_on(cluster::run::run(settings)) {
        Ok(()) => Code::Done.number(),
        Err(error) => {
            tracing::error!("{error}");
            Code::Failed.number()
        }
    }
}

fn rbac_command(namespace: &str, watched: Option<&str>, kueue: bool) -> u8 {
    for manifest in rbac::manifests(namespace, watched, kueue) {
        let text = match serde_yaml::to_string(&manifest) {
            Ok(text) => text,
            Err(error) => return fail(&error, Code::Failed),
        };
        if write!(std::io::stdout(), "---\n{text}").is_err() {
            break;
        }
    }
    Code::Done.number()
}

fn crds_command(out: Option<&Path>) -> u8 {
    for kind in Kind::ALL {
        let text = match crds::yaml(kind) {
            Ok(text) => text,
            Err(error) => return fail(&error, Code::Failed),
        };
        let Some(folder) = out else {
            // Whoever reads may have seen enough: `crds | head`.
            if write!(std::io::stdout(), "---\n{text}").is_err() {
                break;
            }
            continue;
        };
        if let Err(error) = write_file(folder, &crds::file_name(kind), &text) {
            return fail(&error, Code::Failed);
        }
    }
    Code::Done.number()
}

fn reference_command(folder: &Path) -> u8 {
    let kinds = Kind::ALL.map(|kind| (reference::page_name(kind), reference::page(kind)));
    for (name, page) in kinds.into_iter().chain([(reference::STATUS_PAGE.to_owned(), reference::status_page())]) {
        let written = page.map_err(|error| error.to_string()).and_then(|text| write_file(folder, &name, &text));
        if let Err(error) = written {
            return fail(&error, Code::Failed);
        }
    }
    Code::Done.number()
}

fn write_file(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let file = folder.join(name);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&file, text))
        .map_err(|error| format!("{}: cannot be written: {}", file.display(), printable::cause(&error)))?;
    println!("{}", file.display());
    Ok(())
}

fn fail(error: &dyn std::fmt::Display, code: Code) -> u8 {
    eprintln!("{}", printable::text(&error.to_string()));
    code.number()
}
