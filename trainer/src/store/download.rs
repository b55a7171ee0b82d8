//! Brings one file here over HTTP. What has arrived is kept: after a broken connection, and after a kill, it goes on from
//! there (RFC 9110, range requests). Talks to the network and to the file system.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use plumbline_crds::artifact;
use reqwest::header::{CONTENT_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};

use crate::judge::retry::backoff;
use crate::stage::stop;
use crate::{Error, Result};

/// Attempts without a byte between them that are made in all.
const ATTEMPTS: u32 = 6;
const CONNECT: Duration = Duration::from_secs(10);
/// The longest silence of a server in the middle of an answer.
const SILENCE: Duration = Duration::from_mins(1);

/// What is known of a file before it is here.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// Bytes.
    pub size: Option<u64>,
    /// Digest, hexadecimal.
    pub sha256: Option<&'a str>,
}

/// Where files come from.
#[derive(Clone, Debug)]
pub struct Source {
    client: Client,
    token: Option<String>,
}

/// One attempt that failed.
enum Failure {
    /// It may go better next time.
    Passing { why: String, wait: Option<Duration> },
    /// It will not.
    Final(Error),
}

impl Source {
    /// `token` is sent to the server that is asked, and to none that it refers to.
    ///
    /// # Errors
    /// `Failed` where there can be no client.
    pub fn new(token: Option<String>) -> Result<Self> {
        let client = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).build();
        let client = client.map_err(|e| Error::Failed(format!("the HTTP client cannot be built: {e}")))?;
        Ok(Self { client, token })
    }

    /// The text at a URL.
    ///
    /// # Errors
    /// `Data` where the server refuses, `Store` where it does not answer after all attempts.
    pub async fn text(&self, url: &Url) -> Result<String> {
        let get = async || {
            let answer = accepted(self.get(url).send().await, url)?;
            answer.text().await.map_err(|e| passing(&e, url))
        };
        repeat(url, get, || 0).await
    }

    /// Brings a file to `path`. `told` is given the bytes that arrive.
    ///
    /// # Errors
    /// `Data` where the server refuses or sends something else than was expected, `Store` where it does not answer after all
    /// attempts or the file cannot be written.
    pub async fn file(&self, url: &Url, path: &Path, expected: &Expected<'_>, told: impl Fn(u64)) -> Result<()> {
        let aside = path.with_added_extension("part");
        let here = || fs::metadata(&aside).map_or(0, |m| m.len());
        loop {
            let before = here();
            told(before);
            repeat(url, async || self.go_on(url, &aside, here(), &told).await, here).await?;
            let Err(error) = check(&aside, expected) else { break };
            fs::remove_file(&aside).map_err(|e| Error::store(&aside, &e))?;
            // What was here may have been the beginning of something else: it is brought once more, as a whole.
            if before == 0 {
                return Err(error);
            }
            tracing::warn!("{error}");
        }
        fs::rename(&aside, path).map_err(|e| Error::store(path, &e))
    }

    async fn go_on(&self, url: &Url, aside: &Path, here: u64, told: &impl Fn(u64)) -> Result<(), Failure> {
        let request = self.get(url);
        let request = if here > 0 { request.header(RANGE, format!("bytes={here}-")) } else { request };
        let answer = request.send().await;
        if answer.as_ref().is_ok_and(|a| a.status() == StatusCode::RANGE_NOT_SATISFIABLE) {
            // All of it is here.
            return Ok(());
        }
        let mut answer = accepted(answer, url)?;
        let from = format!("bytes {here}-");
        let goes_on = answer.headers().get(CONTENT_RANGE).is_some_and(|r| r.as_bytes().starts_with(from.as_bytes()));
        let store = |e: std::io::Error| Failure::Final(Error::store(aside, &e));
        let mut file = File::options().create(true).append(true).open(aside).map_err(store)?;
        if !goes_on {
            file.set_len(0).map_err(store)?;
        }
        while let Some(chunk) = answer.chunk().await.map_err(|e| passing(&e, url))? {
            file.write_all(&chunk).map_err(store)?;
            told(chunk.len() as u64);
            if stop::requested() {
                return Err(Failure::Final(Error::Interrupted));
            }
        }
        file.sync_all().map_err(store)
    }

    fn get(&self, url: &Url) -> RequestBuilder {
        let request = self.client.get(url.clone());
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// Tries until it works, or until nothing has come of it too often. `here`: bytes that have arrived so far.
async fn repeat<T>(url: &Url, attempt: impl AsyncFn() -> Result<T, Failure>, here: impl Fn() -> u64) -> Result<T> {
    let (mut failed, mut before) = (0, here());
    loop {
        let (why, wait) = match attempt().await {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing { why, wait }) => (why, wait),
        };
        failed = if here() > before { 1 } else { failed + 1 };
        before = here();
        if failed >= ATTEMPTS {
            return Err(Error::Store(format!("{why}; given up after {ATTEMPTS} attempts; run it again to go on")));
        }
        tracing::warn!("{why}; tried again");
        tokio::time::sleep(backoff(url.path(), failed, wait)).await;
        if stop::requested() {
            return Err(Error::Interrupted);
        }
    }
}

/// An answer that says yes.
fn accepted(answer: reqwest::Result<Response>, url: &Url) -> Result<Response, Failure> {
    let answer = answer.map_err(|e| passing(&e, url))?;
    let (status, place) = (answer.status(), place(url));
    let refused = |what: &str| Err(Failure::Final(Error::Data(format!("{place}: {what} ({status})"))));
    match status.as_u16() {
        200..=299 => Ok(answer),
        401 | 403 => refused("the server refuses; it is private, gated or not there: check the name, and set HF_TOKEN"),
        404 => refused("expected something there, found nothing; check name, revision and path"),
        408 | 429 | 500..=599 => {
            let wait = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            let wait = wait.map(Duration::from_secs);
            Err(Failure::Passing { why: format!("{place}: the server answers {status}"), wait })
        }
        _ => refused("the server refuses the request"),
    }
}

fn passing(error: &reqwest::Error, url: &Url) -> Failure {
    let why = if error.is_timeout() { "no answer in time" } else { "the connection broke" };
    Failure::Passing { why: format!("{}: {why}", place(url)), wait: None }
}

/// A URL without what may be secret.
fn place(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn check(file: &Path, expected: &Expected<'_>) -> Result<()> {
    let read = |e| Error::store(file, &e);
    let size = fs::metadata(file).map_err(read)?.len();
    if let Some(wanted) = expected.size.filter(|wanted| *wanted != size) {
        return Err(Error::Data(format!("{}: expected {wanted} bytes, found {size}", file.display())));
    }
    let Some(wanted) = expected.sha256 else { return Ok(()) };
    let found = artifact::digest_path(file)?;
    if found == format!("sha256:{wanted}") {
        return Ok(());
    }
    Err(Error::Data(format!("{}: expected sha256:{wanted}, found {found}", file.display())))
}
