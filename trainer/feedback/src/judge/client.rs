//! One request to an OpenAI-compatible endpoint over HTTP (IO). `classify` interprets the response.

use std::error::Error as _;
use std::time::Duration;

use jiff::Timestamp;
use plumbline_crds::judge::JudgeLimits;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;

use super::body::Body;
use super::classify::{AttemptOutcome, Fault, HttpResponse, classify};
use super::dialect::Dialect;
use super::runtime::Target;
use super::secret::Secret;
use crate::clock;
use crate::printable::printable;
use crate::{Error, Result};

/// Timeout for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of a body. A reply of a few tokens with twenty alternatives each has about 10 kB.
const MOST_BYTES: usize = 1 << 20;

/// A client of one endpoint.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<Secret>,
}

impl Client {
    /// A client for one path below a target's URL. Must be called within a Tokio runtime.
    pub fn new(target: &Target, path: &str, limits: &JudgeLimits) -> Result<Self> {
        let (base, key) = (&target.url, target.key.clone());
        let mut headers = HeaderMap::new();
        if let Some(time) = target.time {
            let value = HeaderValue::from_str(&time.to_string())
                .map_err(|e| Error::Failed(format!("the run's time cannot be sent: {e}")))?;
            headers.insert(clock::HEADER, value);
        }
        if let Some(key) = &key {
            let mut value = HeaderValue::from_str(&key.bearer()).map_err(|_| {
                Error::Config("the judge's API key contains a character that an HTTP header cannot carry".into())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(Duration::from_secs(limits.timeout_seconds.max(1) as u64))
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers);
        if is_loopback(base) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| Error::Failed(format!("the HTTP client cannot be built: {e}")))?;
        Ok(Self { http, url: format!("{}/{path}", base.trim_end_matches('/')), key })
    }

    /// Sends a question once.
    pub async fn attempt(&self, body: &Value, dialect: Dialect) -> AttemptOutcome {
        match self.send(body).await {
            Ok(Some(response)) => classify(&response, dialect, Timestamp::now()),
            Ok(None) => AttemptOutcome::RetryBackoff(
                Fault::Question,
                format!("the body is longer than {} MiB, the limit for a reply", MOST_BYTES >> 20),
            ),
            Err(e) => AttemptOutcome::RetryBackoff(fault(&e), self.shown(&explain(&e))),
        }
    }

    /// The response; `None` if its body is too long, in which case reading stops.
    async fn send(&self, body: &Value) -> Result<Option<HttpResponse>, reqwest::Error> {
        let mut response = self.http.post(&self.url).json(body).send().await?;
        if response.content_length().is_some_and(|length| length > MOST_BYTES as u64) {
            return Ok(None);
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (retry_after_ms, retry_after) = (header("retry-after-ms"), header("retry-after"));
        let (status, mut bytes) = (response.status().as_u16(), Vec::new());
        while let Some(chunk) = response.chunk().await? {
            if bytes.len() + chunk.len() > MOST_BYTES {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(HttpResponse { status, retry_after_ms, retry_after, body: Body::read(&bytes, self.key.as_ref()) }))
    }

    /// A connection's error message, safe to show.
    fn shown(&self, text: &str) -> String {
        printable(&self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.redact(text)))
    }
}

/// Who is at fault: the endpoint if there is no connection, possibly the question if the connection ends early or times
/// out.
fn fault(error: &reqwest::Error) -> Fault {
    if error.is_connect() || error.is_builder() { Fault::Endpoint } else { Fault::Question }
}

/// The innermost cause: "Connection refused" rather than "error sending request".
fn explain(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no reply in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection was lost"
    };
    let mut reason = error.source();
    while let Some(deeper) = reason.and_then(std::error::Error::source) {
        reason = Some(deeper);
    }
    reason.map_or_else(|| what.to_owned(), |r| format!("{what}: {r}"))
}

/// Whether a URL points to this machine, which a proxy cannot reach for us.
fn is_loopback(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn target(url: &str) -> Target {
        Target { url: url.into(), model: "m".into(), key: None, time: None }
    }

    /// The header lines of the request that a question is sent with.
    fn head(time: Option<jiff::civil::DateTime>) -> Vec<String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream).lines().map(Result::unwrap);
            lines.take_while(|line| !line.is_empty()).collect()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::new(&Target { time, ..target(&url) }, "x", &JudgeLimits::default()).unwrap();
            client.attempt(&Value::Null, Dialect::default()).await;
        });
        asked.join().unwrap()
    }

    #[test]
    fn only_a_server_of_the_run_receives_the_time_of_the_run() {
        let line = "x-plumbline-time: 2026-02-03T04:05:06".to_owned();
        assert!(head(Some(jiff::civil::datetime(2026, 2, 3, 4, 5, 6, 0))).contains(&line));
        assert!(!head(None).iter().any(|line| line.starts_with(clock::HEADER)));
    }

    #[test]
    fn a_key_is_never_shown() {
        let secret = Secret::new("sk-very-secret");
        assert!(!format!("{secret:?}").contains("very"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in = runtime.enter();
        let target = Target { key: Some(secret), ..target("http://127.0.0.1:1/v1") };
        let client = Client::new(&target, "x", &JudgeLimits::default()).unwrap();
        assert!(!format!("{client:?}").contains("very"), "{client:?}");
        assert_eq!(client.shown("invalid header: sk-very-secret\u{1b}"), "invalid header: [key]\u{fffd}");
    }

    #[test]
    fn only_this_machine_is_reached_without_a_proxy() {
        for url in ["http://127.0.0.1:80/v1", "http://localhost:8080/v1", "http://[::1]:1/v1"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in ["https://api.example.com/v1", "http://10.0.0.1/v1", "http://localhost.example.com/v1", "nonsense"] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
