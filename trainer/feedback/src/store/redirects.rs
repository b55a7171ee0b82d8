//! The HTTP client for inputs: it follows only the redirects that `reachable` permits. Resolves names.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::reachable::{self, Reach, Refused};
use crate::{Error, Result};

const CONNECT: Duration = Duration::from_secs(10);
/// Maximum time without data in the middle of a response.
const SILENCE: Duration = Duration::from_mins(1);
/// Environment variables for a proxy. A proxy resolves names itself, and its operator decides what it can reach.
const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// A client for `origin` and the redirects from there.
///
/// # Errors
/// `Failed` if it cannot be created.
pub(super) fn client(origin: &Url) -> Result<Client> {
    let reach = Arc::<OnceLock<Reach>>::default();
    if let Some(known) = Reach::of_url(origin) {
        let _ = reach.set(known);
    }
    let known = reach.clone();
    let follow = Policy::custom(move |attempt| {
        let previous = attempt.previous();
        let Some(from) = previous.last() else { return attempt.stop() };
        match reachable::check(from, attempt.url(), known.get().copied(), previous.len()) {
            Ok(()) => attempt.follow(),
            Err(refused) => attempt.error(refused),
        }
    });
    let mut client = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).redirect(follow);
    if !PROXIES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        let origin = origin.host_str().unwrap_or_default().to_owned();
        client = client.dns_resolver(Arc::new(Addresses { origin, reach }));
    }
    client.build().map_err(|e| Error::Failed(format!("the HTTP client cannot be built: {e}")))
}

/// The reason why a redirect was rejected, if that is the cause of an error.
pub(super) fn refused(error: &reqwest::Error) -> Option<&Refused> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}

/// Resolves names: to all addresses for the requested server, and for others only to those that it may redirect to.
struct Addresses {
    origin: String,
    reach: Arc<OnceLock<Reach>>,
}

impl Resolve for Addresses {
    fn resolve(&self, name: Name) -> Resolving {
        let (is_origin, reach) = (name.as_str() == self.origin, self.reach.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let reach_of = |address: &SocketAddr| Reach::of(address.ip());
            if is_origin {
                // A server with at least one public address counts as public.
                let is_public = found.iter().any(|address| reach_of(address) == Reach::Public);
                if let Some(first) = found.first() {
                    let _ = reach.set(if is_public { Reach::Public } else { reach_of(first) });
                }
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            let from = reach.get().copied().unwrap_or(Reach::Public);
            let allowed: Vec<SocketAddr> = found.into_iter().filter(|a| from.may_lead_to(reach_of(a))).collect();
            if allowed.is_empty() {
                return Err(reachable::nearer(&name).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    fn resolve(origin: &str, reach: Option<Reach>, name: &str) -> Result<Vec<SocketAddr>, String> {
        let cell = OnceLock::new();
        if let Some(reach) = reach {
            cell.set(reach).unwrap();
        }
        let addresses = Addresses { origin: origin.into(), reach: Arc::new(cell) };
        let runtime = crate::store::runtime().unwrap();
        let found = runtime.block_on(addresses.resolve(name.parse().unwrap()));
        found.map(Iterator::collect).map_err(|e| e.to_string())
    }

    #[test]
    fn a_local_name_is_resolved_only_if_it_was_requested() {
        assert!(!resolve("localhost", None, "localhost").unwrap().is_empty());
        assert!(!resolve("127.0.0.1", Some(Reach::Machine), "localhost").unwrap().is_empty());
        for reach in [Reach::Public, Reach::Private] {
            let error = resolve("hub.example", Some(reach), "localhost").unwrap_err();
            assert!(error.contains("localhost") && error.contains("private network"), "{error}");
        }
    }
}
