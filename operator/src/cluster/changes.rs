//! Changes of the objects that runs consist of and are made from, from now on. Talks to the API server: watches, by metadata
//! alone.
//!
//! What is there already is read by name when a resource is reconciled, and never listed: a list of the ConfigMaps or claims of a
//! cluster holds whatever its tenants wrote, a quarter of a MiB of annotations each. A change is one object at a time.

use std::fmt::{self, Debug};
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, WatchParams};
use kube::core::{PartialObjectMeta, Request, WatchEvent};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Bytes at the beginning of a list, which hold its resource version: its items come after it.
const HEAD: u64 = 64 * 1024;
/// Without an event. The API server ends a watch after 290 s (kube's default): one that is silent for longer has lost its connection.
const SILENCE: Duration = Duration::from_secs(320);
/// For an answer to begin, and for the head of a list.
const ANSWER: Duration = Duration::from_secs(30);
/// After a watch that has ended as it should.
const RENEWAL: Duration = Duration::from_millis(100);
/// After the first of several errors; twice as long after each that follows.
const PAUSE: Duration = Duration::from_secs(1);
/// At most.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Why changes are not known for a moment.
#[derive(Debug, thiserror::Error)]
enum ChangesError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("expected an answer of the API server within {ANSWER:?}, found none")]
    Silent(#[from] Elapsed),
    #[error("the list broke off: {0}")]
    Broken(#[from] std::io::Error),
    #[error("expected a list with metadata.resourceVersion, found none in its first {HEAD} bytes")]
    NoVersion,
}

/// A type that a controller watches.
pub(super) trait Watched:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

/// What is followed.
#[derive(Clone)]
pub(super) struct Followed<K> {
    client: Client,
    api: Api<K>,
    selector: Option<String>,
    silence: Duration,
}

impl<K: Watched> Followed<K> {
    /// The objects that have a label selector; all where there is none.
    pub(super) fn new(client: Client, api: Api<K>, selector: Option<String>) -> Self {
        Self { client, api, selector, silence: SILENCE }
    }

    /// Calls `changed` with each object that is added, changed or deleted, for ever. Calls it with none where it is not known
    /// what changed before: at the beginning, and after an interruption that the API server does not remember.
    pub(super) async fn run(&self, changed: impl AsyncFn(Option<&PartialObjectMeta<K>>)) {
        let (mut version, mut pause) = (None, Duration::ZERO);
        loop {
            let begun = Instant::now();
            match self.watch(&mut version, &changed).await {
                Ok(()) => {
                    pause = Duration::ZERO;
                    tokio::time::sleep(RENEWAL).await;
                }
                Err(error) => {
                    if is_forgotten(&error) {
                        version = None;
                    }
                    tracing::warn!(of = %K::plural(&()), "changes are not known: {error}");
                    pause = next_pause(pause, begun.elapsed());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// One watch, from a version, or from now.
    async fn watch(
        &self,
        version: &mut Option<String>,
        changed: &impl AsyncFn(Option<&PartialObjectMeta<K>>),
    ) -> Result<(), ChangesError> {
        let from = if let Some(version) = version {
            version.clone()
        } else {
            let now = timeout(ANSWER, self.version()).await??;
            *version = Some(now.clone());
            changed(None).await;
            now
        };
        let mut params = WatchParams::default();
        params.label_selector.clone_from(&self.selector);
        let mut events = std::pin::pin!(timeout(ANSWER, self.api.watch_metadata(&params, &from)).await??);
        while let Some(event) = timeout(self.silence, events.try_next()).await.unwrap_or(Ok(None))? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                    *version = object.resource_version().or(version.take());
                    changed(Some(&object)).await;
                }
                WatchEvent::Bookmark(bookmark) => *version = Some(bookmark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            }
        }
        Ok(())
    }

    /// The version of what is there now, from the head of a list: its items are not read.
    async fn version(&self) -> Result<String, ChangesError> {
        let params = ListParams::default().limit(1);
        let request =
            Request::new(self.api.resource_url()).list_metadata(&params).map_err(kube::Error::BuildRequest)?;
        let mut head = Vec::new();
        self.client.request_stream(request).await?.take(HEAD).read_to_end(&mut head).await?;
        version_in(&head).ok_or(ChangesError::NoVersion)
    }
}

/// The pause after an error, from the one before it. A watch that worked for longer than that was another outage.
fn next_pause(last: Duration, worked: Duration) -> Duration {
    if worked > last { PAUSE } else { (last * 2).clamp(PAUSE, LONGEST_PAUSE) }
}

/// Whether the API server does not remember the version any more that a watch was to begin with.
fn is_forgotten(error: &ChangesError) -> bool {
    matches!(error, ChangesError::Api(kube::Error::Api(status)) if status.code == 410)
}

/// `metadata.resourceVersion` of a list that may be cut off after it.
fn version_in(head: &[u8]) -> Option<String> {
    let mut found = None;
    // It ends with an error in any case: where the version is found, or where the text ends.
    let _ = serde_json::Deserializer::from_slice(head).deserialize_map(Head(&mut found));
    found
}

struct Head<'a>(&'a mut Option<String>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: Option<String>,
}

impl<'de> Visitor<'de> for Head<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "metadata" {
                *self.0 = map.next_value::<ListMetadata>()?.resource_version.filter(|version| !version.is_empty());
                return Err(A::Error::custom("the rest is not needed"));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use axum::http::{Request, Response};
    use futures::stream;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    #[test]
    fn the_version_of_a_list_is_read_without_its_items() {
        let whole = r#"{"kind":"L","apiVersion":"v1","metadata":{"resourceVersion":"42","continue":"x"},"items":[{"metadata":{"resourceVersion":"7"}}]}"#;
        assert_eq!(version_in(whole.as_bytes()).as_deref(), Some("42"));
        let cut = &whole[..whole.find("items").unwrap() + 20];
        assert_eq!(version_in(cut.as_bytes()).as_deref(), Some("42"));
        for none in ["", "[]", "{", r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":""}}"#, r#"{"items":[{"#] {
            assert_eq!(version_in(none.as_bytes()), None, "{none}");
        }
    }
    #[test]
    fn pauses_grow_while_nothing_works_and_begin_again_after_a_watch_that_has() {
        let seconds = Duration::from_secs;
        let mut pauses = vec![Duration::ZERO];
        for _ in 0..8 {
            pauses.push(next_pause(pauses[pauses.len() - 1], Duration::ZERO));
        }
        assert_eq!(pauses[1..], [1, 2, 4, 8, 16, 32, 60, 60].map(seconds));
        // A proxy cuts each watch off after a minute and a half: what changes is known a second later all the same.
        assert_eq!(next_pause(LONGEST_PAUSE, seconds(90)), PAUSE);
        assert_eq!(next_pause(LONGEST_PAUSE, seconds(5)), LONGEST_PAUSE, "it was granted, and broke off soon");
    }

    #[tokio::test]
    async fn a_watch_whose_connection_is_gone_is_begun_again_from_where_it_was() {
        let watches = Arc::new(Mutex::new(Vec::new()));
        let begun = watches.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let body = if query.contains("watch=true") {
                begun.lock().unwrap().push(query);
                // The connection is lost without an error.
                axum::body::Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())
            } else {
                r#"{"metadata":{"resourceVersion":"42"},"items":[]}"#.into()
            };
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let client = Client::new(service, "n");
        let mut followed = Followed::<ConfigMap>::new(client.clone(), Api::all(client), None);
        followed.silence = Duration::from_millis(20);
        let lists = AtomicUsize::new(0);
        let listed = followed.run(async |_| {
            lists.fetch_add(1, Ordering::SeqCst);
        });
        let twice = async {
            while watches.lock().unwrap().len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = listed => {}
            () = twice => {}
        }
        assert!(watches.lock().unwrap().iter().all(|query| query.contains("resourceVersion=42")));
        assert_eq!(lists.load(Ordering::SeqCst), 1, "what changed meanwhile is remembered by the API server");
    }
}
