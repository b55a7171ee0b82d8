//! `serve`: a model behind an OpenAI-compatible API, for judges that run next to a stage and for trying a model out.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use plumbline_crds::training::Precision;
use plumbline_feedback::files;
use plumbline_feedback::shutdown;
use plumbline_feedback::text::tokenizer::Tokenizer;
use tokio::net::TcpListener;

use super::run::threads;
use crate::generate::engine::{Engine, Limits};
use crate::load::hugging_face::ModelFolder;
use crate::model::config::Config;
use crate::serve::listen::Patience;
use crate::serve::model::{Loaded, Shape};
use crate::serve::parent::Parent;
use crate::serve::server::{self, Options};
use crate::{Error, Result, device};

/// How long requests may take to finish after SIGTERM. Kubernetes kills after 30 s by default.
const DRAIN: Duration = Duration::from_secs(25);

/// Arguments of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Directory of the model (config.json, safetensors, tokenizer.json).
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on. With 0, the system selects a free one; the log names it, and so does --port-file.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// File to write the port to when the server is ready; an existing file is removed first.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// Name of the model in requests [default: the name of the directory].
    #[arg(long)]
    pub name: Option<String>,
    /// Data type of weights and activations.
    #[arg(long, default_value = "float32", value_parser = precision())]
    pub precision: Precision,
    /// Number of accelerators: 1 for a GPU, 0 for the CPU.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub accelerators: u8,
    /// Number of CPU threads [default: the CPUs that the process may use].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Maximum number of sequences that are computed together.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub max_active: u16,
    /// Maximum number of queued sequences; more are rejected with 503.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_waiting: u16,
    /// Maximum length of a prompt with its response, in tokens [default: the model's context].
    #[arg(long, value_name = "N")]
    pub max_context: Option<usize>,
    /// Exit when the process with this id exits.
    #[arg(long, value_name = "PID")]
    pub parent_pid: Option<u32>,
}

fn precision() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(["float32", "bfloat16"])
        .map(|name| if name == "float32" { Precision::Float32 } else { Precision::BFloat16 })
}

/// Serves until SIGTERM, SIGINT, or the exit of the parent.
pub fn run(args: &ServeArgs) -> Result<()> {
    if let Some(file) = &args.port_file {
        remove_stale(file)?;
    }
    files::check_folder(&args.model).map_err(|e| e.within("--model"))?;
    let parent = match args.parent_pid {
        None => None,
        Some(pid) => {
            Some(Parent::find(pid).ok_or_else(|| Error::Config(format!("--parent-pid {pid}: no such process")))?)
        }
    };
    let name = args.name.clone().unwrap_or_else(|| folder_name(&args.model));
    tch::set_num_threads(threads(args.threads.map(i64::from)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::Failed(format!("cannot start the server's threads: {e}")))?;
    let result = runtime.block_on(async {
        let listener = TcpListener::bind((args.host.as_str(), args.port)).await.map_err(|e| {
            Error::Config(format!("cannot listen on {}:{}: {e}; choose another --host or --port", args.host, args.port))
        })?;
        let capacity = usize::from(args.max_active) + usize::from(args.max_waiting);
        let options = Options { name: name.clone(), capacity, drain: DRAIN, patience: Patience::default() };
        let load = {
            let args = args.clone();
            move || load(&args)
        };
        let on_ready = |address| ready(args.port_file.as_deref(), &name, address);
        server::serve(listener, options, load, on_ready, asked_to_stop(parent)).await
    });
    // Aborts connections that are still open after the drain.
    runtime.shutdown_background();
    result
}

fn load(args: &ServeArgs) -> Result<Loaded<Engine>> {
    let started = std::time::Instant::now();
    let device = device::with_accelerators(args.accelerators.into())?;
    let tokenizer = Tokenizer::load(&args.model)?;
    let folder = ModelFolder::open(&args.model)?;
    let shape = shape(&folder.config, args.max_context, tokenizer.longest_token())?;
    let model = folder.decoder(args.precision, device)?;
    let limits = Limits { max_active: args.max_active.into(), max_context: shape.context, ..Limits::default() };
    let sampler = Engine::new(model, tokenizer.eos_ids().to_vec(), limits);
    tracing::info!("loaded {} in {:.1} s", args.model.display(), started.elapsed().as_secs_f64());
    Ok(Loaded { sampler, tokenizer: Arc::new(tokenizer), shape })
}

fn ready(port_file: Option<&Path>, name: &str, address: SocketAddr) -> Result<()> {
    tracing::info!("serving `{name}` on http://{address}/v1");
    match port_file {
        None => Ok(()),
        Some(file) => files::replace(file, format!("{}\n", address.port()).as_bytes()),
    }
}

async fn asked_to_stop(parent: Option<Parent>) {
    let gone = async {
        match parent {
            None => std::future::pending().await,
            Some(parent) => parent.gone().await,
        }
    };
    tokio::select! {
        () = shutdown::asked() => tracing::info!("stop requested"),
        () = gone => tracing::info!("the parent process has exited"),
    }
}

fn folder_name(folder: &Path) -> String {
    let name = folder.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    name.unwrap_or_else(|| "model".to_owned())
}

/// The limits for requests: the model's own, or a shorter context.
fn shape(config: &Config, max_context: Option<usize>, longest_token: usize) -> Result<Shape> {
    let architecture = &config.architecture;
    let (own, vocabulary) = (architecture.sampling_context() as usize, architecture.vocab_size as usize);
    match max_context {
        Some(asked) if !(2..=own).contains(&asked) => {
            Err(Error::Config(format!("--max-context must be from 2 to {own}, the model's own, found {asked}")))
        }
        asked => Ok(Shape { context: asked.unwrap_or(own), vocabulary, longest_token }),
    }
}

fn remove_stale(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::disk(file, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn only_the_model_must_be_given() {
        let args = Command::try_parse_from(["serve", "--model", "m"]).ok().unwrap().serve;
        assert_eq!((args.host.as_str(), args.port, args.precision), ("127.0.0.1", 0, Precision::Float32));
        let args = Command::try_parse_from(["serve", "--model", "m", "--precision", "bfloat16"]).ok().unwrap().serve;
        assert_eq!(args.precision, Precision::BFloat16);
        for bad in [["--precision", "int4"], ["--threads", "0"], ["--max-active", "0"], ["--port", "70000"]] {
            assert!(Command::try_parse_from(["serve", "--model", "m"].into_iter().chain(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_context_is_at_most_the_models() {
        let raw = serde_json::json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 100, "rms_norm_eps": 1e-5, "max_position_embeddings": 50,
        });
        let config = Config::from_json(raw.as_object().unwrap().clone()).unwrap();
        assert_eq!(shape(&config, None, 7).unwrap(), Shape { context: 50, vocabulary: 100, longest_token: 7 });
        assert_eq!(shape(&config, Some(20), 7).unwrap().context, 20);
        for bad in [1, 51] {
            assert!(matches!(shape(&config, Some(bad), 7), Err(Error::Config(_))));
        }
    }

    #[test]
    fn a_port_file_of_an_earlier_server_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("port");
        remove_stale(&file).unwrap();
        files::replace(&file, b"1\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
        remove_stale(&file).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left aside");
    }
}
