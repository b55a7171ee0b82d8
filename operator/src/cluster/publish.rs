//! Publishes events. Talks to the API server.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};

/// Patience with one event.
const LONGEST: Duration = Duration::from_secs(5);

/// Publishes events of the operator. There is one for the whole process, as it knows which events are repeats.
#[derive(Clone)]
pub struct Publisher {
    recorder: Recorder,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

impl Publisher {
    /// A publisher that signs with the operator's name and `instance`, as a rule the name of its pod. It needs `create` and
    /// `patch` of `events` (events.k8s.io).
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: "plumbline".into(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes. An event that cannot be published is logged and lost: nothing depends on it.
    pub async fn publish(&self, event: &Event, of: &ObjectReference) {
        let error = match tokio::time::timeout(LONGEST, self.recorder.publish(event, of)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the API server did not answer within {LONGEST:?}"),
        };
        tracing::warn!(reason = event.reason, error, "an event was not published");
    }
}
