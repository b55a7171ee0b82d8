//! Downloads one file over HTTP. Received bytes are kept: a download resumes after a broken connection or a kill (RFC
//! 9110, range requests). It never receives more bytes than announced, or more than fit on the disk. Talks to the
//! network and to the file system.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use reqwest::header::{
    AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE, RETRY_AFTER, TRANSFER_ENCODING,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, Version};

use super::redirects;
use crate::backoff::{PATIENCE, backoff};
use crate::shutdown;
use crate::{Error, Result, heartbeat};

/// Maximum number of consecutive attempts that receive nothing.
pub(super) const ATTEMPTS: u32 = 6;
/// Maximum size in bytes of a file whose size is not listed: prompts, texts and preferences, which have to fit in
/// memory.
const MOST: u64 = 16 << 30;
/// Maximum size in bytes of a text: the listing of a repository with a hundred thousand files.
const MOST_TEXT: u64 = 32 << 20;
/// Interval at which a waiting download checks for a request to stop.
const SLICE: Duration = Duration::from_millis(200);

/// What is known about a file before the download.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// Size in bytes.
    pub size: Option<u64>,
    /// SHA-256, hexadecimal.
    pub sha256: Option<&'a str>,
}

/// A server to download files from.
#[derive(Clone, Debug)]
pub struct Source {
    client: Client,
    authorization: Option<HeaderValue>,
}

/// One attempt that failed.
enum Failure {
    /// It may succeed when retried.
    Passing { why: String, wait: Option<Duration> },
    /// A retry cannot succeed.
    Final(Error),
}

impl Source {
    /// Files at and below `origin`. `token` is sent only to the server of the request, and never to a server that it
    /// redirects to.
    ///
    /// # Errors
    /// `Failed` if the client cannot be created, `Config` for an invalid token.
    pub fn new(origin: &Url, token: Option<&str>) -> Result<Self> {
        let authorization = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let mut authorization = authorization.map_err(|_| {
            let what = "the request cannot be built; check that the token variable contains nothing but the token";
            Error::Config(format!("{}: {what}", place(origin)))
        })?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        Ok(Self { client: redirects::client(origin)?, authorization })
    }

    /// The text at a URL.
    ///
    /// # Errors
    /// `Data` if the server denies access or never ends its reply, `Store` if it does not respond after all attempts.
    pub async fn text(&self, url: &Url) -> Result<String> {
        let too_long = || {
            Failure::Final(Error::Data(format!(
                "{}: expected a text of at most {MOST_TEXT} bytes, found more",
                place(url)
            )))
        };
        let get = async || {
            let mut answer = accepted(self.get(url).send().await, url)?;
            let mut text = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|e| failed(&e, url))? {
                heartbeat::beat();
                text.extend_from_slice(&chunk);
                if text.len() as u64 > MOST_TEXT {
                    return Err(too_long());
                }
            }
            let not_text = |_| Failure::Final(Error::Data(format!("{}: expected a text in UTF-8", place(url))));
            String::from_utf8(text).map_err(not_text)
        };
        repeat(url, get, || 0).await
    }

    /// Downloads a file to `path`. `told` is called with the number of bytes received so far.
    ///
    /// # Errors
    /// `Data` if the server denies access or sends something unexpected, `Store` if it does not respond after all
    /// attempts or the file cannot be written.
    pub async fn file(&self, url: &Url, path: &Path, expected: &Expected<'_>, told: impl Fn(u64)) -> Result<()> {
        let aside = path.with_added_extension("part");
        let version = RefCell::new(None);
        let is_known = expected.size.is_some() || expected.sha256.is_some();
        let here = || fs::metadata(&aside).map_or(0, |m| m.len());
        let go_on = async || {
            if !is_known && version.borrow().is_none() && aside.exists() {
                // Without an identifier of the content, the received part may belong to another file.
                fs::remove_file(&aside).map_err(|e| Failure::Final(Error::disk(&aside, e)))?;
            }
            self.go_on(url, &aside, (here(), expected.size), &version, &told).await
        };
        loop {
            let before = here();
            told(before);
            repeat(url, &go_on, &here).await?;
            let Err(error) = check(&aside, expected) else { break };
            fs::remove_file(&aside).map_err(|e| Error::disk(&aside, e))?;
            // The received part may have belonged to another file: download it again from the start.
            if before == 0 {
                return Err(error);
            }
            tracing::warn!("{error}");
        }
        fs::rename(&aside, path).map_err(|e| Error::disk(path, e))
    }

    /// One attempt to continue from `size` bytes received in `here`. `version`: the server's identifier of the content,
    /// which ensures that the rest belongs to the same content.
    async fn go_on(
        &self,
        url: &Url,
        aside: &Path,
        (here, size): (u64, Option<u64>),
        version: &RefCell<Option<HeaderValue>>,
        told: &impl Fn(u64),
    ) -> Result<(), Failure> {
        let mut request = self.get(url);
        if here > 0 {
            request = request.header(RANGE, format!("bytes={here}-"));
            if let Some(tag) = version.borrow().as_ref() {
                request = request.header(IF_RANGE, tag);
            }
        }
        let answer = request.send().await;
        let all = |answer: &Response| {
            let total = format!("bytes */{here}");
            answer.headers().get(CONTENT_RANGE).is_none_or(|range| range.as_bytes() == total.as_bytes())
        };
        if let Ok(answer) = &answer
            && answer.status() == StatusCode::RANGE_NOT_SATISFIABLE
        {
            if all(answer) {
                return Ok(());
            }
            fs::remove_file(aside).map_err(|e| Failure::Final(Error::disk(aside, e)))?;
            return Err(Failure::Passing {
                why: format!("{}: it was changed during the download", place(url)),
                wait: None,
            });
        }
        let mut answer = accepted(answer, url)?;
        // A weak tag (RFC 9110, 8.8.1) does not guarantee identical bytes.
        version.replace(answer.headers().get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).cloned());
        let from = format!("bytes {here}-");
        let goes_on = answer.headers().get(CONTENT_RANGE).is_some_and(|r| r.as_bytes().starts_with(from.as_bytes()));
        let store = |e: std::io::Error| Failure::Final(Error::disk(aside, e));
        let here = if goes_on { here } else { 0 };
        let most = most(&answer, url, aside, (here, size)).map_err(Failure::Final)?;
        let mut file = File::options().create(true).append(true).open(aside).map_err(store)?;
        if !goes_on {
            file.set_len(0).map_err(store)?;
        }
        let mut arrived = here;
        while let Some(chunk) = answer.chunk().await.map_err(|e| failed(&e, url))? {
            arrived += chunk.len() as u64;
            if arrived > most {
                fs::remove_file(aside).map_err(store)?;
                return Err(Failure::Final(Error::Data(format!(
                    "{}: expected at most {most} bytes, found more; {}",
                    place(url),
                    if size.is_some() { "it is not the file that was listed" } else { LONG }
                ))));
            }
            file.write_all(&chunk).map_err(store)?;
            told(chunk.len() as u64);
            if shutdown::requested() {
                return Err(Failure::Final(Error::Interrupted));
            }
        }
        file.sync_all().map_err(store)
    }

    fn get(&self, url: &Url) -> RequestBuilder {
        let request = self.client.get(url.clone());
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }
}

/// Retries until success, or until too many consecutive attempts have received nothing. `here`: bytes received so far.
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
            return Err(Error::Store(format!("{why}; giving up after {ATTEMPTS} attempts; run again to resume")));
        }
        tracing::warn!("{why}; retrying");
        if let Some(wait) = wait.filter(|wait| *wait > PATIENCE) {
            return Err(Error::Store(format!("{why} and asks to wait for {} s; run again after that", wait.as_secs())));
        }
        pause(backoff(url.path(), failed, wait)).await?;
    }
}

/// Waits; returns early if the process is asked to stop.
pub(super) async fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if shutdown::requested() {
            return Err(Error::Interrupted);
        }
        heartbeat::beat();
        tokio::time::sleep(SLICE.min(until.saturating_duration_since(Instant::now()))).await;
    }
    Ok(())
}

/// A successful response.
fn accepted(answer: reqwest::Result<Response>, url: &Url) -> Result<Response, Failure> {
    let answer = answer.map_err(|e| failed(&e, url))?;
    let (status, place) = (answer.status(), place(url));
    let refused = |what: &str| Err(Failure::Final(Error::Data(format!("{place}: {what} ({status})"))));
    match status.as_u16() {
        200..=299 => Ok(answer),
        401 | 403 => refused(
            "the server denies access; the repository is private, gated or does not exist: check its \
                              name, and set HF_TOKEN",
        ),
        404 => refused("not found; check name, revision and path"),
        408 | 429 | 500..=599 => {
            let wait = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            let wait = wait.map(Duration::from_secs);
            Err(Failure::Passing { why: format!("{place}: the server returned {status}"), wait })
        }
        _ => refused("the server rejected the request"),
    }
}

/// What went wrong while receiving.
fn failed(error: &reqwest::Error, url: &Url) -> Failure {
    if let Some(refused) = redirects::refused(error) {
        return Failure::Final(Error::Data(format!("{}: {refused}; use the URL that it redirects to", place(url))));
    }
    if error.is_builder() || error.is_redirect() {
        return Failure::Final(Error::Data(format!("{}: the server redirects to an invalid URL", place(url))));
    }
    let why = if error.is_timeout() { "no reply in time" } else { "the connection was lost" };
    Failure::Passing { why: format!("{}: {why}", place(url)), wait: None }
}

/// Advice for a file that exceeds the limit.
const LONG: &str = "put it in a bucket or a repository of a hub, where its length is known beforehand";

/// The maximum size of a file of which `here` bytes have been received: the size that a listing or the server
/// announced; without one, [`MOST`] and half of the free space.
fn most(answer: &Response, url: &Url, aside: &Path, (here, size): (u64, Option<u64>)) -> Result<u64> {
    let rest = answer.content_length();
    let is_framed = answer.version() >= Version::HTTP_2 || answer.headers().contains_key(TRANSFER_ENCODING);
    if rest.is_none() && !is_framed && size.is_none() {
        return Err(Error::Data(format!(
            "{}: the server sends neither the length nor the end of the file, so a truncated file would go unnoticed; \
             use another server",
            place(url)
        )));
    }
    let announced = size.or(rest.map(|rest| here.saturating_add(rest)));
    if let Some(announced) = announced.filter(|announced| size.is_none() && *announced > MOST) {
        let what = format!("expected at most {MOST} bytes, found {announced}; {LONG}");
        return Err(Error::Data(format!("{}: {what}", place(url))));
    }
    let folder = aside.parent().unwrap_or(Path::new("."));
    let free = super::free(folder)?;
    match announced {
        Some(announced) => {
            super::fits(announced.saturating_sub(here), folder)?;
            Ok(announced)
        }
        None => Ok(MOST.min(here.saturating_add(free / 2))),
    }
}

/// A URL without parts that may be secret.
fn place(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn check(file: &Path, expected: &Expected<'_>) -> Result<()> {
    let read = |e| Error::disk(file, e);
    let size = fs::metadata(file).map_err(read)?.len();
    if let Some(wanted) = expected.size.filter(|wanted| *wanted != size) {
        return Err(Error::Data(format!("{}: expected {wanted} bytes, found {size}", file.display())));
    }
    let Some(wanted) = expected.sha256 else { return Ok(()) };
    let found = artifact::digest_path_telling(file, &heartbeat::beat)?;
    if found == format!("sha256:{wanted}") {
        return Ok(());
    }
    Err(Error::Data(format!("{}: expected sha256:{wanted}, found {found}", file.display())))
}
