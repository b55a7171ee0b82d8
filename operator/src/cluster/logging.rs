//! The operator's log: one JSON object a line on the standard error, each with the resource that it is about. Writes to
//! the standard error.
//!
//! No token and no value of a Secret is logged: nothing of ours that holds one can be printed, and the libraries that
//! carry them are kept from telling every byte.

use plumbline_crds::Kind;
use tracing::Span;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged where `RUST_LOG` does not say.
const DEFAULT: &str = "info,kube_runtime=warn,kube_client=warn";
/// Libraries that see headers and bodies, and the most they may say.
const CARRIERS: [&str; 6] = ["h2=info", "hyper=info", "hyper_util=info", "rustls=info", "reqwest=info", "tower=info"];

/// Begins to log, to the level of `RUST_LOG` (the syntax of `tracing_subscriber::EnvFilter`). Only the first call counts.
pub fn init() {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let _ = tracing::subscriber::set_global_default(subscriber(&wanted, std::io::stderr));
}

/// The span of one reconcile: every line within it names the resource.
pub fn span(kind: Kind, namespace: &str, name: &str) -> Span {
    tracing::info_span!("reconcile", %kind, namespace, resource = name)
}

fn subscriber<W>(wanted: &str, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = if wanted.trim().is_empty() { DEFAULT } else { wanted };
    let mut filter = EnvFilter::builder().parse_lossy(wanted);
    for carrier in CARRIERS {
        if let Ok(directive) = carrier.parse::<Directive>() {
            filter = filter.add_directive(directive);
        }
    }
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(writer)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(wanted: &str, what: impl FnOnce()) -> Vec<serde_json::Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(wanted, move || writer.clone()), what);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_line_of_a_reconcile_names_its_resource() {
        let lines = logged("", || {
            let _entered = span(Kind::RewardModel, "team", "helpful").entered();
            tracing::info!(attempt = 2, "started");
        });
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        let span = serde_json::json!({"resource": "helpful", "kind": "RewardModel", "namespace": "team"});
        for (key, value) in span.as_object().unwrap() {
            assert_eq!(&line["span"][key], value, "{line}");
        }
        assert_eq!((&line["message"], &line["attempt"]), (&"started".into(), &2.into()));
    }

    #[test]
    fn no_level_makes_the_libraries_tell_what_they_carry() {
        let lines = logged("trace", || {
            tracing::trace!(target: "hyper::proto", "authorization: Bearer abc");
            tracing::debug!(target: "h2", "a frame");
            tracing::debug!("ours");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["message"], "ours");
    }
}
