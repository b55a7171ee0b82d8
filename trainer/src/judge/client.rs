//! One attempt to ask an OpenAI-compatible endpoint over HTTP (IO). What the response means is decided in `classify`.

use std::error::Error as _;
use std::time::Duration;

use jiff::Timestamp;
use plumbline_crds::judge::JudgeLimits;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;

use super::classify::{Class, Fault, HttpResponse, classify};
use crate::{Error, Result};

/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one endpoint.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<Secret>,
}

/// An API key. It is shown nowhere: not in a log, an error or a debug print.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// A text without the key, for servers that repeat it in their errors.
    fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[key]")
    }
}

impl Client {
    /// A client of `base` (`https://host/v1`) for one path below it. Must be called within a Tokio runtime.
    pub fn new(base: &str, path: &str, key: Option<Secret>, limits: &JudgeLimits) -> Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.0)).map_err(|_| {
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
    pub async fn attempt(&self, body: &Value) -> Class {
        let class = match self.send(body).await {
            Ok(response) => classify(&response, Timestamp::now()),
            Err(e) => Class::RetryBackoff(fault(&e), explain(&e)),
        };
        self.redacted(class)
    }

    async fn send(&self, body: &Value) -> Result<HttpResponse, reqwest::Error> {
        let response = self.http.post(&self.url).json(body).send().await?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(HttpResponse {
            status: response.status().as_u16(),
            retry_after_ms: header("retry-after-ms"),
            retry_after: header("retry-after"),
            body: String::from_utf8_lossy(&response.bytes().await?).into_owned(),
        })
    }

    fn redacted(&self, class: Class) -> Class {
        let Some(key) = &self.key else { return class };
        match class {
            Class::RetryAfter(wait, why) => Class::RetryAfter(wait, key.redact(&why)),
            Class::RetryBackoff(fault, why) => Class::RetryBackoff(fault, key.redact(&why)),
            Class::FatalPair { filtered, why } => Class::FatalPair { filtered, why: key.redact(&why) },
            Class::FatalJob(why) => Class::FatalJob(key.redact(&why)),
            Class::Answer(_) => class,
        }
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
        let class = client.redacted(Class::FatalJob("Incorrect API key provided: sk-very-secret".into()));
        assert_eq!(class, Class::FatalJob("Incorrect API key provided: [key]".into()));
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
