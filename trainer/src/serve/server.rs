//! The life cycle of a server: listen, load the model, report readiness, answer, drain, exit. Talks to the network.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::listen::{self, Patience};
use super::metrics::Metrics;
use super::model::{Loaded, Sample};
use super::routes::{App, Ready, router};
use super::scheduler::{self, Message};
use crate::{Error, Result};

/// Grace period for a model that is still loading.
const UNLOADED: Duration = Duration::from_millis(500);

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's name in requests.
    pub name: String,
    /// Maximum number of running and queued sequences; more are rejected.
    pub capacity: usize,
    /// Timeout for requests in progress once the server was asked to stop.
    pub drain: Duration,
    /// Timeouts for clients, and the limit of connections.
    pub patience: Patience,
}

/// Serves until `stop` completes, then accepts no more requests, lets active ones finish (for at most `options.drain`)
/// and returns.
///
/// `load` runs on the thread that will own the model. `on_ready` is called once, when requests can be answered. An
/// error of either, or of the model later, ends the server.
pub async fn serve<S, L, R, F>(listener: TcpListener, options: Options, load: L, on_ready: R, stop: F) -> Result<()>
where
    S: Sample + 'static,
    L: FnOnce() -> Result<Loaded<S>> + Send + 'static,
    R: FnOnce(SocketAddr) -> Result<()>,
    F: Future<Output = ()>,
{
    let failed = |what: &str, e: std::io::Error| Error::Failed(format!("{what}: {e}"));
    let address = listener.local_addr().map_err(|e| failed("the socket has no address", e))?;
    let (work, inbox) = mpsc::channel();
    let (drain, patience) = (options.drain, options.patience);
    let app = Arc::new(App::new(options.name, options.capacity, patience, Metrics::new()?, work.clone()));
    let (say_loaded, loaded) = oneshot::channel();
    let (say_ended, mut ended) = oneshot::channel();
    let model = {
        let app = Arc::clone(&app);
        move || {
            let result = load().and_then(|model| {
                let Loaded { sampler, tokenizer, shape } = model;
                // Only this thread sets it, once.
                app.ready.get_or_init(|| Ready { tokenizer: Arc::clone(&tokenizer), shape });
                let _ = say_loaded.send(());
                scheduler::run(sampler, &tokenizer, &inbox, &app.metrics)
            });
            // Waiting requests must see the channel close before the server learns why.
            drop(inbox);
            let _ = say_ended.send(result);
        }
    };
    std::thread::Builder::new()
        .name("model".into())
        .spawn(model)
        .map_err(|e| failed("cannot start the model's thread", e))?;

    let (close, closing) = oneshot::channel::<()>();
    let closing = async { drop(closing.await) };
    let refused = {
        let app = Arc::clone(&app);
        move || app.metrics.connection_refused()
    };
    let loads = Arc::clone(&app);
    let http = tokio::spawn(listen::serve(listener, router(app), patience, refused, closing, drain));

    let outcome = tokio::select! {
        result = &mut ended => result.unwrap_or_else(|_| Err(Error::Failed("the model's thread panicked".into()))),
        () = stop => Ok(()),
        result = async {
            if loaded.await.is_ok() {
                on_ready(address)?;
            }
            pending().await
        } => result,
    };

    // A model that could not be loaded has answered none.
    if loads.ready.get().is_some() {
        tracing::info!("no longer accepting requests");
    }
    let _ = close.send(());
    if !http.await.unwrap_or(false) {
        tracing::warn!("dropping requests that did not finish within {} s", drain.as_secs());
    }
    let _ = work.send(Message::Stop);
    if !ended.is_terminated() {
        // A model that is still loading cannot receive the stop message.
        let patience = if loads.ready.get().is_some() { drain } else { UNLOADED };
        let _ = tokio::time::timeout(patience, &mut ended).await;
    }
    outcome
}
