//! Reports the progress of a running stage to the operator: `progress.json`, every few seconds. Reads the work
//! directory and talks to the network.
//!
//! Reports are informational: an operator that is down, slow or rejects them does not affect the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plumbline_crds::run::PROGRESS_FILE;

use super::background::BackgroundThread;

/// Environment variable with the base URL of the operator.
const URL: &str = "PLUMBLINE_PROGRESS_URL";
/// Environment variable with the file of the token to send. Its content is renewed while the pod runs.
const TOKEN: &str = "PLUMBLINE_PROGRESS_TOKEN";
/// Shortest time between two reports. The operator writes a status at most every 15 s.
const EVERY: Duration = Duration::from_secs(5);
/// Timeout of one report.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the thread checks whether the stage has ended.
const TICK: Duration = Duration::from_millis(100);

/// Starts reporting the progress in a work directory, if the environment names an operator to report to.
pub fn start(work: &Path) -> Option<BackgroundThread> {
    let (url, token) = (std::env::var(URL).ok()?, PathBuf::from(std::env::var_os(TOKEN)?));
    let file = work.join(PROGRESS_FILE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Some(BackgroundThread::start(move |done| match runtime {
        Ok(runtime) => runtime.block_on(report(&url, &token, &file, done)),
        Err(error) => tracing::warn!("could not report progress to the operator: {error}"),
    }))
}

async fn report(url: &str, token: &Path, file: &Path, done: &AtomicBool) {
    let client = match reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build() {
        Ok(client) => client,
        Err(error) => return tracing::warn!("could not report progress to the operator: {error}"),
    };
    let url = format!("{}/v1/progress", url.trim_end_matches('/'));
    let (mut sent, mut last, mut warned) = (Vec::new(), Instant::now(), false);
    while !done.load(Ordering::Relaxed) {
        tokio::time::sleep(TICK).await;
        if last.elapsed() < EVERY {
            continue;
        }
        last = Instant::now();
        let Ok(progress) = fs::read(file) else { continue };
        if progress == sent {
            continue;
        }
        match send(&client, &url, token, &progress).await {
            Ok(()) => sent = progress,
            Err(error) if !warned => {
                tracing::warn!("the operator rejected a progress report, the run continues: {error}");
                warned = true;
            }
            Err(_) => {}
        }
    }
}

async fn send(client: &reqwest::Client, url: &str, token: &Path, progress: &[u8]) -> Result<(), String> {
    let token = fs::read_to_string(token).map_err(|e| format!("its token cannot be read: {e}"))?;
    let request = client.post(url).bearer_auth(token.trim()).header("content-type", "application/json");
    let response = request.body(progress.to_vec()).send().await.map_err(|e| e.without_url().to_string())?;
    if response.status().is_success() { Ok(()) } else { Err(format!("it responded with {}", response.status())) }
}
