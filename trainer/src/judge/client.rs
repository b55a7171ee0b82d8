//! One attempt to ask an OpenAI-compatible endpoint over HTTP (IO). What the response means is decided in `classify`.

use std::error::Error as _;
use std::time::Duration;

use jiff::Timestamp;
use plumbline_crds::judge::JudgeLimits;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;

use super::body::Body;
use super::classify::{Class, Fault, HttpResponse, classify};
use super::dialect::Dialect;
use super::secret::Secret;
use crate::printable::printable;
use crate::{Error, Result};

/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a body. A reply of a few tokens with twenty alternatives each has some 10 kB.
const MOST_BYTES: usize = 1 << 20;

/// A client of one endpoint.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<Secret>,
}

impl Client {
    /// A client of `base` (`https://host/v1`) for one path below it. Must be called within a Tokio runtime.
    pub fn new(base: &str, path: &str, key: Option<Secret>, limits: &JudgeLimits) -> Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            let mut value = HeaderValue::from_str(&key.bearer()).map_err(|_| {
                Error::Config("the judge's API key holds a character that an HTTP header cannot".into())
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
    pub async fn attempt(&self, body: &Value, dialect: Dialect) -> Class {
        match self.send(body).await {
            Ok(Some(response)) => classify(&response, dialect, Timestamp::now()),
            Ok(None) => Class::RetryBackoff(
                Fault::Question,
                format!("the body is longer than {} MiB, which no reply to a question is", MOST_BYTES >> 20),
            ),
            Err(e) => Class::RetryBackoff(fault(&e), self.shown(&explain(&e))),
        }
    }

    /// The response; `None` if its body is too long, of which no more is read.
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

    /// What the connection said, fit to be shown.
    fn shown(&self, text: &str) -> String {
        printable(&self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.redact(text)))
    }
}

/// No connection is the endpoint's fault; a connection that ends early or takes too long can be the question's.
fn fault(error: &reqwest::Error) -> Fault {
    if error.is_connect() || error.is_builder() { Fault::Endpoint } else { Fault::Question }
}

/// The innermost reason: "Connection refused" rather than "error sending request".
fn explain(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    let mut reason = error.source();
    while let Some(deeper) = reason.and_then(std::error::Error::source) {
        reason = Some(deeper);
    }
    reason.map_or_else(|| what.to_owned(), |r| format!("{what}: {r}"))
}

/// Whether a URL is about this machine, which no proxy can reach for us.
fn is_loopback(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_nowhere() {
        let secret = Secret::new("sk-very-secret");
        assert!(!format!("{secret:?}").contains("very"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in = runtime.enter();
        let client = Client::new("http://127.0.0.1:1/v1", "x", Some(secret), &JudgeLimits::default()).unwrap();
        assert!(!format!("{client:?}").contains("very"), "{client:?}");
        assert_eq!(client.shown("invalid header: sk-very-secret\u{1b}"), "invalid header: [key]\u{fffd}");
    }

    #[test]
    fn only_this_machine_goes_without_a_proxy() {
        for url in ["http://127.0.0.1:80/v1", "http://localhost:8080/v1", "http://[::1]:1/v1"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in ["https://api.example.com/v1", "http://10.0.0.1/v1", "http://localhost.example.com/v1", "nonsense"] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
