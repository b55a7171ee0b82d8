//! Records every version of every resource in a namespace, as returned by the API server. Talks to the API server.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::api::{DynamicObject, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use plumbline_crds::{API_VERSION, Kind};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::until;
use crate::operator::Scene;

/// A recording, from its start until it is finished.
#[derive(Debug)]
pub struct Record {
    kept: Arc<Mutex<Kept>>,
    watches: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Kept {
    objects: Vec<Value>,
    /// Number of watches that have started.
    watching: usize,
}

impl Record {
    /// Starts recording; all changes after this returns are recorded.
    pub async fn start(scene: &Scene) -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let watches = Kind::ALL.map(|kind| {
            let changes = watcher(scene.api(kind), watcher::Config::default()).default_backoff();
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut changes = Box::pin(changes);
                let mut begun = false;
                while let Some(change) = changes.next().await {
                    let mut kept = kept.lock().unwrap();
                    match change {
                        Ok(watcher::Event::Init) => assert!(!begun, "a watch that lists again has missed something"),
                        Ok(watcher::Event::InitDone) => {
                            begun = true;
                            kept.watching += 1;
                        }
                        Ok(
                            watcher::Event::InitApply(object)
                            | watcher::Event::Apply(object)
                            | watcher::Event::Delete(object),
                        ) => kept.objects.push(whole(kind, &object)),
                        // The watch resumes where it broke off.
                        Err(_) => {}
                    }
                }
            })
        });
        let record = Self { kept, watches: watches.into() };
        until("the watches have begun", async || {
            (record.kept.lock().unwrap().watching == Kind::ALL.len()).then_some(())
        })
        .await;
        record
    }

    /// The objects recorded so far, in order for each kind.
    pub fn objects(&self) -> Vec<Value> {
        self.kept.lock().unwrap().objects.clone()
    }

    /// Finishes once the current version of every resource is recorded.
    pub async fn finish(self, scene: &Scene) -> Vec<Value> {
        for kind in Kind::ALL {
            for object in scene.api(kind).list(&ListParams::default()).await.unwrap() {
                let version = &whole(kind, &object)["metadata"]["resourceVersion"];
                let is_it = |o: &Value| o["metadata"]["resourceVersion"] == *version;
                until(&format!("{kind} of version {version} is in the record"), async || {
                    self.kept.lock().unwrap().objects.iter().any(is_it).then_some(())
                })
                .await;
            }
        }
        assert!(self.watches.iter().all(|watch| !watch.is_finished()), "a watch has ended");
        self.objects()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.watches.iter().for_each(JoinHandle::abort);
    }
}

/// The object with its kind, which lists omit.
fn whole(kind: Kind, object: &DynamicObject) -> Value {
    let mut object = serde_json::to_value(object).unwrap();
    object["apiVersion"] = json!(API_VERSION);
    object["kind"] = json!(kind.to_string());
    object
}
