//! Keeps what the API server serves of the resources in a namespace: each object, in each of its versions. Talks to the API
//! server.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::api::{DynamicObject, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use plumbline_crds::{API_VERSION, Kind};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::until;
use crate::operator::Scene;

/// A record of a scene, from its start until it is finished.
#[derive(Debug)]
pub struct Record {
    kept: Arc<Mutex<Kept>>,
    watches: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Kept {
    objects: Vec<Value>,
    /// Watches that have begun.
    watching: usize,
}

impl Record {
    /// Begins; what happens after this returns is in the record.
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
                        // It is continued where it broke off.
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

    /// What was served so far, in the order of each kind.
    pub fn objects(&self) -> Vec<Value> {
        self.kept.lock().unwrap().objects.clone()
    }

    /// Ends, once everything that is there now is in the record.
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

/// The object with its kind, which a list leaves out.
fn whole(kind: Kind, object: &DynamicObject) -> Value {
    let mut object = serde_json::to_value(object).unwrap();
    object["apiVersion"] = json!(API_VERSION);
    object["kind"] = json!(kind.to_string());
    object
}
