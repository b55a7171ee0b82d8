//! How a controller learns that a resource has progress to write: one bounded queue for each kind. Talks over channels.

use std::collections::BTreeMap;

use plumbline_crds::Kind;
use tokio::sync::mpsc;

use crate::cluster::progress::Owner;

/// Resources that wait to be reconciled for their progress.
const QUEUE: usize = 1024;

/// The sending ends.
#[derive(Clone, Debug)]
pub struct Triggers {
    queues: BTreeMap<Kind, mpsc::Sender<Owner>>,
}

impl Triggers {
    /// The queues, and what comes out of each, for the controller of its kind.
    pub fn new() -> (Self, BTreeMap<Kind, mpsc::Receiver<Owner>>) {
        let (mut queues, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for kind in Kind::ALL {
            let (queue, end) = mpsc::channel(QUEUE);
            queues.insert(kind, queue);
            ends.insert(kind, end);
        }
        (Self { queues }, ends)
    }

    /// Asks for a reconcile. False where the queue is full or nobody listens.
    pub(super) fn send(&self, owner: Owner) -> bool {
        self.queues.get(&owner.kind).is_some_and(|queue| queue.try_send(owner).is_ok())
    }
}
