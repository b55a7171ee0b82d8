//! Connects to object stores, retries failed requests, and translates errors. Requests, credentials and the first
//! retries are left to the library (`object_store`).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStore};
use reqwest::Url;

use crate::backoff::{PATIENCE, backoff};
use crate::shutdown;
use crate::{Error, Result, heartbeat};

/// Prefixes of the environment variables that configure stores.
const SETTINGS: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
/// Checksum that is sent to S3 with all data and verified there, unless the environment configures another.
const CHECKSUM: (&str, &str) = ("AWS_CHECKSUM_ALGORITHM", "SHA256");
/// Maximum delay between two attempts.
const WAIT: Duration = Duration::from_secs(10);
/// Maximum time to wait for an unreachable store after a request to stop; a pod has two minutes to exit.
const STOPPING: Duration = Duration::from_secs(90);
/// Minimum time between two heartbeats while waiting.
const SLICE: Duration = Duration::from_millis(200);
/// Maximum length of a store's own error text in a message, in characters.
const MOST_SHOWN: usize = 200;

/// The store of a URI as configured in the environment, and the key in it.
pub(super) fn open(uri: &str) -> Result<(Arc<dyn ObjectStore>, Key)> {
    let url = Url::parse(uri).map_err(|e| Error::Config(format!("the URI of the store is invalid: {e}")))?;
    // A value that is not valid UTF-8 cannot be a setting, and must not be shown.
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let given = texts.filter(|(name, _)| SETTINGS.iter().any(|start| name.starts_with(start)));
    let given: BTreeMap<String, String> = given.collect();
    let names: Vec<String> = given.keys().cloned().collect();
    // A later setting overrides an earlier one.
    let settings = [(CHECKSUM.0.to_owned(), CHECKSUM.1.to_owned())].into_iter().chain(given);
    let (store, key) = object_store::parse_url_opts(&url, settings).map_err(|e| not_configured(&e, &names))?;
    Ok((store.into(), key))
}

/// The error of a store that cannot be used with the settings of these names. Their values may be secret.
fn not_configured(why: &StoreError, names: &[String]) -> Error {
    let remedy = match names {
        [] => "set the environment variables of the store (AWS_*, GOOGLE_* or AZURE_*)".to_owned(),
        names => format!("check the environment variables {}, or set the one that is missing", names.join(", ")),
    };
    Error::Config(format!("the settings of the store are invalid: {}; {remedy}", first_line(why)))
}

/// Retries until success, or until it has failed for too long. `id` seeds the jitter.
///
/// # Errors
/// The last error; immediately if it is not `Store`.
pub(super) async fn persist<T>(id: &str, attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    persist_while(id, || 0, attempt).await
}

/// The same; the time limit starts again whenever `done` increases.
pub(super) async fn persist_while<T>(
    id: &str,
    done: impl Fn() -> u64,
    attempt: impl AsyncFn() -> Result<T>,
) -> Result<T> {
    let (mut begun, mut before, mut failed) = (Instant::now(), done(), 0);
    loop {
        let ended = attempt().await;
        if done() > before {
            (begun, before, failed) = (Instant::now(), done(), 0);
        }
        match ended {
            Err(Error::Store(why)) if !is_over(begun) => {
                failed += 1;
                tracing::warn!("{why}; retrying");
                let until = Instant::now() + backoff(id, failed, None).min(WAIT);
                // If the process is asked to stop during the wait, retry immediately, for the last time.
                let stopping = shutdown::requested();
                while Instant::now() < until && shutdown::requested() == stopping {
                    heartbeat::beat();
                    tokio::time::sleep(SLICE.min(until.saturating_duration_since(Instant::now()))).await;
                }
            }
            ended => return ended,
        }
    }
}

/// Whether an operation that started at this time has exceeded the time limit.
fn is_over(begun: Instant) -> bool {
    static ASKED: OnceLock<Instant> = OnceLock::new();
    if shutdown::requested() {
        ASKED.get_or_init(Instant::now).elapsed() > STOPPING
    } else {
        begun.elapsed() > PATIENCE
    }
}

/// The error of a failed read.
pub(super) fn read_error(error: &StoreError) -> Error {
    match error {
        StoreError::NotFound { path, .. } => Error::Data(format!("expected an object at {path}, found none")),
        StoreError::PermissionDenied { path, .. } | StoreError::Unauthenticated { path, .. } => Error::Data(format!(
            "access denied reading {path}; check the credentials in the environment (AWS_*, GOOGLE_* or AZURE_*) and what they allow"
        )),
        StoreError::Precondition { path, .. } => Error::Store(format!("{path} was changed while it was being fetched")),
        // Retrying cannot make an invalid key valid.
        StoreError::InvalidPath { source } => {
            Error::Data(format!("the store lists a key that is not a path: {}", source.to_string().escape_debug()))
        }
        other => Error::Store(format!("reading from the store failed: {}", first_line(other))),
    }
}

/// The error of a failed write.
pub(super) fn write_error(error: &StoreError) -> Error {
    match error {
        StoreError::NotFound { .. } => {
            Error::Config("expected an existing bucket or container, found none; create it, or correct the URI".into())
        }
        StoreError::PermissionDenied { path, .. } | StoreError::Unauthenticated { path, .. } => Error::Config(format!(
            "access denied writing {path}; check the credentials (spec.output.credentialsSecretRef, or AWS_*, GOOGLE_* or AZURE_* in the environment) and what they allow"
        )),
        other => Error::Store(format!("upload failed: {}", first_line(other))),
    }
}

fn first_line(error: &StoreError) -> String {
    error.to_string().lines().next().unwrap_or_default().chars().take(MOST_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_used_are_named_and_their_values_are_not() {
        let why = || StoreError::Generic { store: "S3", source: "Missing SecretAccessKey".into() };
        let names = ["AWS_ACCESS_KEY_ID", "AWS_REGION"].map(str::to_owned);
        let said = not_configured(&why(), &names).to_string();
        assert!(
            said.contains("Missing SecretAccessKey; check the environment variables AWS_ACCESS_KEY_ID, AWS_REGION")
        );
        let none = not_configured(&why(), &[]);
        assert!(matches!(&none, Error::Config(text) if text.contains("set the environment variables of the store")));
    }
}
