//! How a controller learns that a resource is to be reconciled for something that its own watch does not tell: one bounded queue
//! for each kind. Talks over channels.

use std::collections::BTreeMap;

use plumbline_crds::Kind;
use tokio::sync::mpsc;

use crate::cluster::dependents::Id;

/// Resources that wait to be reconciled.
const QUEUE: usize = 1024;

/// The sending ends.
#[derive(Clone, Debug)]
pub struct Triggers {
    queues: BTreeMap<Kind, mpsc::Sender<Id>>,
}

impl Triggers {
    /// The queues, and what comes out of each, for the controller of its kind.
    pub fn new() -> (Self, BTreeMap<Kind, mpsc::Receiver<Id>>) {
        let (mut queues, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for kind in Kind::ALL {
            let (queue, end) = mpsc::channel(QUEUE);
            queues.insert(kind, queue);
            ends.insert(kind, end);
        }
        (Self { queues }, ends)
    }

    /// Asks for a reconcile, as soon as the queue has room for it.
    pub async fn ask(&self, id: Id) {
        if let Some(queue) = self.queues.get(&id.kind) {
            // A controller that does not listen any more is being stopped.
            let _ = queue.send(id).await;
        }
    }

    /// Asks for a reconcile now. False where the queue is full or the controller does not listen.
    pub(super) fn send(&self, id: Id) -> bool {
        self.queues.get(&id.kind).is_some_and(|queue| queue.try_send(id).is_ok())
    }
}
