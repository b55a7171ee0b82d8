//! Runs code whose cost an unknown file decides (a chat template, the rules of a tokenizer) within bounds of memory, time
//! and stack.
//!
//! Such code runs on a thread of its own. The process's allocator counts what the thread holds and, beyond its bound, does
//! not return: an allocation cannot fail in Rust without ending the process, and a thread cannot be ended from outside, so
//! it is left behind, asleep, with what it holds. The caller has its answer and should not use that file again.

#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What code may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that are allocated at a time.
    pub memory: usize,
    /// How long it may take.
    pub time: Duration,
    /// Bytes of its stack; only what is used becomes memory.
    pub stack: usize,
}

/// Why confined code has no result.
#[derive(Debug)]
pub enum Exceeded {
    /// It needs more memory than it may have, in bytes.
    Memory(usize),
    /// It takes longer than it may.
    Time(Duration),
    /// It panicked, with this message.
    Panicked(String),
    /// There is no thread for it.
    NoThread(io::Error),
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "it needs more than {} MiB of memory", bytes >> 20),
            Self::Time(time) => write!(f, "it takes more than {} s", time.as_secs_f32()),
            Self::Panicked(message) => write!(f, "it fails: {message}"),
            Self::NoThread(error) => write!(f, "no thread can be started: {error}"),
        }
    }
}

impl std::error::Error for Exceeded {}

/// Runs `work` within `limits`.
///
/// # Errors
/// [`Exceeded`] as soon as a limit is exceeded, or if `work` panics.
pub fn confined<T: Send + 'static>(limits: Limits, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Exceeded> {
    keep_panics_quiet();
    let (sender, result) = mpsc::channel();
    let until = Instant::now() + limits.time;
    let given_up = sender.clone();
    let run = move || {
        ON_EXCESS.set(Some(Box::new(move |why| drop(given_up.send(Err(why))))));
        UNTIL.set(Some((until, limits.time)));
        LIMIT.set(limits.memory);
        LEFT.set(isize::try_from(limits.memory).unwrap_or(UNLIMITED - 1));
        let done = panic::catch_unwind(AssertUnwindSafe(work));
        LEFT.set(UNLIMITED);
        drop(sender.send(done.map_err(|payload| Exceeded::Panicked(message(&*payload)))));
    };
    let thread =
        thread::Builder::new().name(NAME.into()).stack_size(limits.stack).spawn(run).map_err(Exceeded::NoThread)?;
    // The thread notices at its next allocation that it is late; code that allocates nothing is not waited for either.
    let grace = Duration::from_millis(200);
    let Ok(found) = result.recv_timeout(limits.time + grace) else {
        return Err(Exceeded::Time(limits.time));
    };
    if found.is_ok() {
        drop(thread.join());
    }
    found
}

const NAME: &str = "confined";
/// [`LEFT`] of a thread that is not confined.
const UNLIMITED: isize = isize::MAX;
/// Allocations between two looks at the clock.
const LOOK: u32 = 4096;

/// Tells the caller of confined code that it has no result.
type Tell = Box<dyn FnOnce(Exceeded)>;

thread_local! {
    /// Bytes that this thread may still allocate.
    static LEFT: Cell<isize> = const { Cell::new(UNLIMITED) };
    static LIMIT: Cell<usize> = const { Cell::new(0) };
    static UNTIL: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
    static ON_EXCESS: Cell<Option<Tell>> = const { Cell::new(None) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, which counts what confined threads hold.
struct Counting;

// SAFETY: every call is the system's allocator with the same arguments; what is done before it neither unwinds nor touches
// the memory. A thread that is over its bound never returns from the call, which an allocator may do.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while one is copied into the other.
        take(size);
        let moved = unsafe { System.realloc(block, layout, size) };
        give_back(layout.size());
        moved
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        give_back(layout.size());
        unsafe { System.dealloc(block, layout) }
    }
}

fn take(bytes: usize) {
    let left = LEFT.get();
    if left == UNLIMITED {
        return;
    }
    let left = left.saturating_sub_unsigned(bytes);
    if left < 0 {
        give_up(Exceeded::Memory(LIMIT.get()));
    }
    LEFT.set(left);
    let allocations = ALLOCATIONS.get().wrapping_add(1);
    ALLOCATIONS.set(allocations);
    if allocations.is_multiple_of(LOOK)
        && let Some((until, time)) = UNTIL.get()
        && Instant::now() >= until
    {
        give_up(Exceeded::Time(time));
    }
}

fn give_back(bytes: usize) {
    let left = LEFT.get();
    if left != UNLIMITED {
        LEFT.set(left.saturating_add_unsigned(bytes).min(UNLIMITED - 1));
    }
}

/// Tells the caller and sleeps for good.
fn give_up(why: Exceeded) -> ! {
    LEFT.set(UNLIMITED);
    if let Some(tell) = ON_EXCESS.take() {
        tell(why);
    }
    loop {
        thread::park();
    }
}

/// A panic of confined code is an answer, not a fault of this program: it is not written to standard error.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if LEFT.get() == UNLIMITED {
                loud(info);
            }
        }));
    });
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it panics").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory: 8 << 20, time: Duration::from_secs(20), stack: 1 << 20 };

    #[test]
    fn what_stays_within_its_limits_has_its_result_and_may_free_what_it_holds() {
        let rounds = confined(LIMITS, || (0..100).map(|i| vec![i; 1 << 20].len()).sum::<usize>());
        assert_eq!(rounds.unwrap(), 100 << 20, "what was freed does not count");
    }

    #[test]
    fn memory_without_end_is_refused_however_it_is_taken() {
        let doubled = || {
            let mut text = "a".to_owned();
            loop {
                text = text.clone() + &text;
            }
        };
        let grown = || {
            let mut numbers = Vec::new();
            loop {
                numbers.push(1u64);
            }
        };
        let at_once = || vec![0u8; usize::MAX >> 2].len();
        assert!(matches!(confined(LIMITS, doubled), Err::<usize, _>(Exceeded::Memory(_))));
        assert!(matches!(confined(LIMITS, grown), Err::<usize, _>(Exceeded::Memory(_))));
        assert!(matches!(confined(LIMITS, at_once), Err(Exceeded::Memory(_))));
        assert_eq!(vec![0u8; 32 << 20].len(), 32 << 20, "other threads are not bounded");
    }

    #[test]
    fn time_without_end_is_refused_with_and_without_allocations() {
        let limits = Limits { time: Duration::from_millis(50), ..LIMITS };
        let allocating = || {
            loop {
                drop(std::hint::black_box(vec![1u8]));
            }
        };
        assert!(matches!(confined::<()>(limits, allocating), Err(Exceeded::Time(_))));
        let (stop, stopped) = mpsc::channel::<()>();
        let waiting = move || stopped.recv().is_err();
        assert!(matches!(confined(limits, waiting), Err(Exceeded::Time(_))));
        drop(stop);
    }

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let Err(Exceeded::Panicked(message)) = confined::<()>(LIMITS, || panic!("bad rule {}", 1)) else {
            unreachable!()
        };
        assert_eq!(message, "bad rule 1");
    }
}
