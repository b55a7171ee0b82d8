//! Tells the operator how far the stage is, while it runs: what `progress.json` says, every few seconds. Talks to the work
//! folder and to the network.
//!
//! The run is the work, this is a courtesy: an operator that is away, slow or refuses changes nothing of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plumbline_crds::run::PROGRESS_FILE;

use super::beside::Beside;

/// Environment variable with the base URL of the operator.
const URL: &str = "PLUMBLINE_PROGRESS_URL";
/// Environment variable with the file of the token to send. Its content is renewed while the pod runs.
const TOKEN: &str = "PLUMBLINE_PROGRESS_TOKEN";
/// Least time between two messages. The operator writes a status every 15 s at most.
const EVERY: Duration = Duration::from_secs(5);
/// How long one message may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a stage that ends is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Starts telling of a work folder, if whoever started the stage wants to be told.
pub fn start(work: &Path) -> Option<Beside> {
    let (url, token) = (std::env::var(URL).ok()?, PathBuf::from(std::env::var_os(TOKEN)?));
    let file = work.join(PROGRESS_FILE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Some(Beside::start(move |done| match runtime {
        Ok(runtime) => runtime.block_on(tell(&url, &token, &file, done)),
        Err(error) => tracing::warn!("could not report progress to the operator: {error}"),
    }))
}

async fn tell(url: &str, token: &Path, file: &Path, done: &AtomicBool) {
    let client = match reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build() {
        Ok(client) => client,
        Err(error) => return tracing::warn!("could not report progress to the operator: {error}"),
    };
    let url = format!("{}/v1/progress", url.trim_end_matches('/'));
    let (mut told, mut last, mut warned) = (Vec::new(), Instant::now(), false);
    while !done.load(Ordering::Relaxed) {
        tokio::time::sleep(TICK).await;
        if last.elapsed() < EVERY {
            continue;
        }
        last = Instant::now();
        let Ok(report) = fs::read(file) else { continue };
        if report == told {
            continue;
        }
        match send(&client, &url, token, &report).await {
            Ok(()) => told = report,
            Err(error) if !warned => {
                tracing::warn!("the operator rejected a progress report, the run continues: {error}");
                warned = true;
            }
            Err(_) => {}
        }
    }
}

async fn send(client: &reqwest::Client, url: &str, token: &Path, report: &[u8]) -> Result<(), String> {
    let token = fs::read_to_string(token).map_err(|e| format!("its token cannot be read: {e}"))?;
    let request = client.post(url).bearer_auth(token.trim()).header("content-type", "application/json");
    let answer = request.body(report.to_vec()).send().await.map_err(|e| e.without_url().to_string())?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status())) }
}
