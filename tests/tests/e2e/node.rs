//! The one node that tests share, and who may do what to it. Talks to the cluster kit.
//!
//! | a test that | asks for |
//! |---|---|
//! | adds resources of its own, or looks at what others made | [`shared`] |
//! | harms the node, the operator or what others look at | [`exclusive`] |
//! | starts a node itself | [`none`] |

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use plumbline_tests::cluster::NodeCluster;

use crate::installation::Installation;
use crate::machine::Machine;

/// Where a node has its files.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/node");

/// The node with Plumbline on it, and what the machine was before. Without one, the next test starts it.
type Node = Option<(Machine, Installation)>;

static NODE: RwLock<Node> = RwLock::new(None);

/// The installation of all tests, with others that leave it as it is.
pub(crate) struct Shared(RwLockReadGuard<'static, Node>);

/// The installation of all tests, for one of them alone.
pub(crate) struct Exclusive(RwLockWriteGuard<'static, Node>);

/// The installation, together with others.
pub(crate) fn shared() -> Shared {
    let held = NODE.read().unwrap_or_else(PoisonError::into_inner);
    if held.is_some() {
        return Shared(held);
    }
    drop(held);
    Shared(RwLockWriteGuard::downgrade(exclusive().0))
}

/// The installation, alone. It is left as others need it.
pub(crate) fn exclusive() -> Exclusive {
    let mut held = NODE.write().unwrap_or_else(PoisonError::into_inner);
    held.get_or_insert_with(|| {
        let before = Machine::look();
        (before, Installation::new(NodeCluster::start_in(Path::new(FOLDER))))
    });
    Exclusive(held)
}

/// No node, and none that is started, for as long as this is held. Of the one that there was nothing is left.
pub(crate) fn none() -> RwLockWriteGuard<'static, Node> {
    let mut held = NODE.write().unwrap_or_else(PoisonError::into_inner);
    if let Some((before, installed)) = held.take() {
        let folder = installed.cluster.folder().to_owned();
        drop(installed);
        before.until_the_same(&folder);
    }
    held
}

/// What both are.
const HELD: &str = "an installation is there as long as it is held";

impl Deref for Shared {
    type Target = Installation;

    fn deref(&self) -> &Installation {
        &self.0.as_ref().expect(HELD).1
    }
}

impl Deref for Exclusive {
    type Target = Installation;

    fn deref(&self) -> &Installation {
        &self.0.as_ref().expect(HELD).1
    }
}

impl DerefMut for Exclusive {
    fn deref_mut(&mut self) -> &mut Installation {
        &mut self.0.as_mut().expect(HELD).1
    }
}
