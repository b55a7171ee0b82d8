//! The one node that tests share, and who may do what to it. Talks to the cluster kit.
//!
//! | a test that | asks for |
//! |---|---|
//! | adds resources of its own, or looks at what others made | [`shared`] |
//! | harms the node, the operator or what others look at | [`exclusive`] |
//! | leaves it unfit for others | [`last`], then [`Exclusive::end`] |
//! | starts a node itself | [`none`] |

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::thread::sleep;
use std::time::Duration;

use plumbline_testkit::cluster::NodeCluster;

use crate::installation::Installation;
use crate::machine::Machine;

/// Where a node has its files.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/node");

/// Between two looks at whether the node is free.
const PAUSE: Duration = Duration::from_millis(100);

/// The node with Plumbline on it, and what the machine was before. Without one, the next test starts it.
type Node = Option<(Machine, Installation)>;

static NODE: RwLock<Node> = RwLock::new(None);

/// The order of those who want the node alone: a node is dear to start, so whoever ends it comes after those who need it.
#[derive(Clone, Copy)]
enum Turn {
    Exclusive,
    Last,
    None,
}

/// How many tests wait for each turn.
static WAITING: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

/// The installation of all tests, with others that leave it as it is.
pub(crate) struct Shared(RwLockReadGuard<'static, Node>);

/// The installation of all tests, for one of them alone.
pub(crate) struct Exclusive(RwLockWriteGuard<'static, Node>);

/// The installation, together with others.
pub(crate) fn shared() -> Shared {
    loop {
        let held = NODE.read().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Shared(held);
        }
        drop(held);
        if let Some(held) = alone() {
            return Shared(RwLockWriteGuard::downgrade(started(held)));
        }
        sleep(PAUSE);
    }
}

/// The installation, alone. It is left as others need it.
pub(crate) fn exclusive() -> Exclusive {
    Exclusive(started(until_alone(Turn::Exclusive)))
}

/// The installation, alone, after all who wait for it.
pub(crate) fn last() -> Exclusive {
    Exclusive(started(until_alone(Turn::Last)))
}

/// No node, and none that is started, for as long as this is held. Of the one that there was nothing is left.
pub(crate) fn none() -> RwLockWriteGuard<'static, Node> {
    let mut held = until_alone(Turn::None);
    end(&mut held);
    held
}

/// Ends the node, if there is one, and waits until nothing is left of it.
fn end(node: &mut Node) {
    if let Some((before, installed)) = node.take() {
        let folder = installed.cluster.folder().to_owned();
        drop(installed);
        before.until_the_same(&folder);
    }
}

/// Waits until nobody has the node, and nobody waits for it whose turn is earlier. Whoever shares it need not wait for whoever
/// waits here: otherwise each that does would split those that can go on together.
fn until_alone(turn: Turn) -> RwLockWriteGuard<'static, Node> {
    let (earlier, rest) = WAITING.split_at(turn as usize);
    rest[0].fetch_add(1, Ordering::SeqCst);
    loop {
        if earlier.iter().all(|waiting| waiting.load(Ordering::SeqCst) == 0)
            && let Some(held) = alone()
        {
            rest[0].fetch_sub(1, Ordering::SeqCst);
            return held;
        }
        sleep(PAUSE);
    }
}

/// The node for one test, if nobody has it.
fn alone() -> Option<RwLockWriteGuard<'static, Node>> {
    match NODE.try_write() {
        Ok(held) => Some(held),
        Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Starts the node if there is none.
fn started(mut held: RwLockWriteGuard<'static, Node>) -> RwLockWriteGuard<'static, Node> {
    held.get_or_insert_with(|| {
        let before = Machine::look();
        (before, Installation::new(NodeCluster::start_in(Path::new(FOLDER))))
    });
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

impl Exclusive {
    /// Ends the node, and waits until nothing is left of it.
    pub(crate) fn end(mut self) {
        end(&mut self.0);
    }
}

impl DerefMut for Exclusive {
    fn deref_mut(&mut self) -> &mut Installation {
        &mut self.0.as_mut().expect(HELD).1
    }
}
