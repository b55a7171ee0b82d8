//! Runs code whose cost an untrusted file controls (a chat template, the rules of a tokenizer) within limits of memory,
//! time and stack.
//!
//! Such code runs on its own thread. The process's allocator counts the thread's memory and never returns once the
//! limit is exceeded: an allocation cannot fail in Rust without aborting the process, and a thread cannot be terminated
//! from outside, so the thread is left asleep with its memory. The caller gets its error, and [`Confinement`] runs no
//! more code of that file.
//!
//! The time limit is on the thread's CPU time. Wall-clock time would exceed the limit for valid files when the process
//! is stopped, the machine is suspended, or the CPU is busy.

#![allow(unsafe_code, reason = "an allocator cannot be written without, nor a thread's clock read")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The limits of confined code.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum memory allocated at any time, in bytes.
    pub memory: usize,
    /// Maximum CPU time.
    pub time: Duration,
    /// Stack size in bytes; only what is used becomes memory.
    pub stack: usize,
}

/// Why confined code has no result.
#[derive(Debug)]
pub enum Exceeded {
    /// The memory limit in bytes was exceeded.
    Memory(usize),
    /// The time limit was exceeded.
    Time(Duration),
    /// The code panicked, with this message.
    Panicked(String),
    /// No thread could be started. The cause is not the code, and may be transient.
    NoThread(io::Error),
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "it needs more than {} MiB of memory", bytes >> 20),
            Self::Time(time) => write!(f, "it takes more than {} s", time.as_secs_f32()),
            Self::Panicked(message) => write!(f, "it fails: {message}"),
            Self::NoThread(error) => write!(f, "no thread with a stack for it can be started: {error}"),
        }
    }
}

impl std::error::Error for Exceeded {}

/// Where the code of one file runs. After it has exceeded a limit, it never runs again: its memory is not freed, and a
/// file that exceeds the limit repeatedly would exhaust the memory.
#[derive(Clone, Debug, Default)]
pub struct Confinement(Arc<State>);

#[derive(Debug, Default)]
struct State {
    spent: OnceLock<Spent>,
    /// Idle threads for code of the same file: most calls take less time than starting a thread.
    idle: Mutex<Vec<Worker>>,
}

/// The limit that a file's code has exceeded.
#[derive(Clone, Copy, Debug)]
enum Spent {
    Memory(usize),
    Time(Duration),
}

impl Confinement {
    /// Runs `work` within `limits`.
    ///
    /// # Errors
    /// [`Exceeded`] as soon as a limit is exceeded, if `work` panics, or if a limit was exceeded before.
    pub fn run<T: Send + 'static>(
        &self,
        limits: Limits,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Exceeded> {
        match self.0.spent.get() {
            Some(Spent::Memory(bytes)) => return Err(Exceeded::Memory(*bytes)),
            Some(Spent::Time(time)) => return Err(Exceeded::Time(*time)),
            None => {}
        }
        let found = self.confined(limits, work);
        let spent = match found {
            Err(Exceeded::Memory(bytes)) => Spent::Memory(bytes),
            Err(Exceeded::Time(time)) => Spent::Time(time),
            _ => return found,
        };
        self.0.spent.get_or_init(|| spent);
        found
    }

    fn confined<T: Send + 'static>(
        &self,
        limits: Limits,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Exceeded> {
        keep_panics_quiet();
        let waiting = lock(&self.0.idle).pop().filter(|worker| worker.stack >= limits.stack);
        let refused = match waiting.map_or_else(|| Worker::start(limits.stack), Ok) {
            Ok(worker) => {
                let (found, took) = worker.run(limits, work);
                // A thread that ran long may have much memory in use, above all the touched part of its stack.
                if took < SHORT && found.is_ok() {
                    lock(&self.0.idle).push(worker);
                }
                return found;
            }
            Err(refused) => refused,
        };
        // Freeing nested data needs stack: with a smaller stack, the memory limit is lowered too.
        let less = Limits { memory: limits.memory / LESS, stack: limits.stack / LESS, ..limits };
        let Ok(worker) = Worker::start(less.stack) else { return Err(Exceeded::NoThread(refused)) };
        match worker.run(less, work).0 {
            // With the full limits the code might have succeeded, so the cause is the missing thread.
            Err(Exceeded::Memory(_)) => Err(Exceeded::NoThread(refused)),
            found => found,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread for confined code; dropping this ends it.
#[derive(Debug)]
struct Worker {
    stack: usize,
    jobs: Sender<Box<dyn FnOnce() + Send>>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(stack: usize) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let thread = thread::Builder::new().name(NAME.into()).stack_size(stack);
        let thread = thread.spawn(move || received.into_iter().for_each(|job| job()))?;
        Ok(Self { stack, jobs, thread })
    }

    /// Runs `work` within `limits`; also returns its computing time.
    fn run<T: Send + 'static>(
        &self,
        limits: Limits,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (Result<T, Exceeded>, Duration) {
        let (sender, result) = mpsc::channel();
        let given_up = sender.clone();
        let before = cpu_time_of(&self.thread).unwrap_or_default();
        let job = Box::new(move || {
            ON_EXCESS.set(Some(Box::new(move |why| drop(given_up.send(Err(why))))));
            TIME.set(read(libc::CLOCK_THREAD_CPUTIME_ID).map(|begun| (limits.time, begun)));
            LIMIT.set(limits.memory);
            LEFT.set(isize::try_from(limits.memory).unwrap_or(UNLIMITED - 1));
            let done = panic::catch_unwind(AssertUnwindSafe(work));
            LEFT.set(UNLIMITED);
            ON_EXCESS.set(None);
            drop(sender.send(done.map_err(|payload| Exceeded::Panicked(message(&*payload)))));
        });
        let computed = || Some(cpu_time_of(&self.thread)?.saturating_sub(before));
        if self.jobs.send(job).is_err() {
            return (Err(Exceeded::Panicked("its thread has ended".into())), Duration::MAX);
        }
        // The thread itself checks its time at allocations; code that does not allocate is stopped by this loop.
        let mut watch = Watch::default();
        loop {
            match result.recv_timeout(LOOK) {
                Ok(found) => return (found, computed().unwrap_or(Duration::MAX)),
                Err(RecvTimeoutError::Timeout) if watch.is_late(computed(), limits.time) => {
                    return (Err(Exceeded::Time(limits.time)), Duration::MAX);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return (Err(Exceeded::Panicked("its thread ends".into())), Duration::MAX);
                }
            }
        }
    }
}

/// Tracks a thread's progress. Time in which the thread does not compute is measured in number of checks, so that time
/// in which the process is stopped does not count.
#[derive(Debug, Default)]
struct Watch {
    computed: Duration,
    waited: Duration,
}

impl Watch {
    /// Whether the thread has used its time, or has not computed for a multiple of it. `computed`: its CPU time so far,
    /// if known.
    fn is_late(&mut self, computed: Option<Duration>, time: Duration) -> bool {
        let computed = computed.unwrap_or(self.computed);
        self.waited = if computed > self.computed { Duration::ZERO } else { self.waited + LOOK };
        self.computed = computed;
        self.computed >= time + GRACE || self.waited >= time * PATIENCE
    }
}

/// The CPU time of a thread; none if it has ended.
fn cpu_time_of<T>(thread: &JoinHandle<T>) -> Option<Duration> {
    let mut clock = 0;
    // SAFETY: the thread has not been joined, so its handle is valid, and the clock id is written to `clock`.
    let status = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
    if status == 0 { read(clock) } else { None }
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` has the size of what is written to it, and is only read if it was written.
    let time = unsafe { (libc::clock_gettime(clock, time.as_mut_ptr()) == 0).then(|| time.assume_init()) }?;
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

const NAME: &str = "confined";
/// The value of [`LEFT`] for a thread that is not confined.
const UNLIMITED: isize = isize::MAX;
/// Number of allocations between two checks of a thread's clock.
const ALLOCATIONS_A_LOOK: u32 = 4096;
/// Interval of the caller's checks.
const LOOK: Duration = Duration::from_millis(20);
/// Extra time that the caller waits beyond the thread's own limit.
const GRACE: Duration = Duration::from_millis(200);
/// A thread may be without a CPU, or wait (for memory that is swapped out, for example), for this multiple of its time
/// limit.
const PATIENCE: u32 = 4;
/// A thread is reused if its code has computed for less than this.
const SHORT: Duration = Duration::from_millis(5);
/// If no thread with the requested stack can be started, the limits are divided by this.
const LESS: usize = 8;

/// Notifies the caller of confined code that there is no result.
type Tell = Box<dyn FnOnce(Exceeded)>;

thread_local! {
    /// Bytes that this thread may still allocate.
    static LEFT: Cell<isize> = const { Cell::new(UNLIMITED) };
    static LIMIT: Cell<usize> = const { Cell::new(0) };
    /// The time limit, and the thread's CPU time at the start.
    static TIME: Cell<Option<(Duration, Duration)>> = const { Cell::new(None) };
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
    static ON_EXCESS: Cell<Option<Tell>> = const { Cell::new(None) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, which counts the memory of confined threads.
struct Counting;

// SAFETY: every call is forwarded to the system's allocator with the same arguments; the accounting before it neither
// unwinds nor touches the memory. A thread over its limit never returns from the call, which an allocator is allowed to
// do.
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
        // Both blocks exist while one is copied to the other.
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
    if allocations.is_multiple_of(ALLOCATIONS_A_LOOK)
        && let Some((time, begun)) = TIME.get()
        && read(libc::CLOCK_THREAD_CPUTIME_ID).is_some_and(|now| now.saturating_sub(begun) >= time)
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

/// Notifies the caller and sleeps forever.
fn give_up(why: Exceeded) -> ! {
    LEFT.set(UNLIMITED);
    if let Some(tell) = ON_EXCESS.take() {
        tell(why);
    }
    loop {
        thread::park();
    }
}

/// Suppresses the message of a panic in confined code: it is a result, not a bug of this program.
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
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    const LIMITS: Limits = Limits { memory: 8 << 20, time: Duration::from_secs(20), stack: 1 << 20 };

    fn confined<T: Send + 'static>(limits: Limits, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Exceeded> {
        Confinement::default().run(limits, work)
    }

    #[test]
    fn short_calls_share_a_thread_and_each_has_the_full_limits() {
        let (file, limits) = (Confinement::default(), Limits { time: Duration::from_millis(200), ..LIMITS });
        let thread = || file.run(limits, || thread::current().id()).unwrap();
        let first = thread();
        assert_eq!((thread(), file.0.idle.lock().unwrap().len()), (first, 1));
        assert!(matches!(file.run(limits, || panic!("no")), Err::<(), _>(Exceeded::Panicked(_))));
        // Together they take more time and memory than one call may.
        let threads: std::collections::HashSet<_> = (0..200)
            .map(|_| {
                let some_of_it = || {
                    let begun = read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap();
                    while read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap() < begun + Duration::from_millis(2) {
                        drop(std::hint::black_box(vec![1u8]));
                    }
                    (vec![0u8; 5 << 20], thread::current().id())
                };
                file.run(limits, some_of_it).unwrap().1
            })
            .collect();
        assert!(threads.len() < 100, "{} threads", threads.len());
        let inner = file.clone();
        let nested = file.run(limits, move || inner.run(LIMITS, || 7).unwrap());
        assert_eq!(nested.unwrap(), 7, "one that is busy is not waited for");
    }

    #[test]
    fn code_within_its_limits_returns_its_result_and_may_free_it() {
        let rounds = confined(LIMITS, || (0..100).map(|i| vec![i; 1 << 20].len()).sum::<usize>());
        assert_eq!(rounds.unwrap(), 100 << 20, "what was freed does not count");
    }

    #[test]
    fn unbounded_memory_is_stopped_however_it_is_allocated() {
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
    fn unbounded_time_is_stopped_with_and_without_allocations() {
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
    fn only_time_in_which_a_thread_computes_or_its_process_runs_counts() {
        let second = Duration::from_secs(1);
        let mut watch = Watch::default();
        assert!(!watch.is_late(Some(second * 9), second * 10));
        let looks = u32::try_from((second * 10 * PATIENCE).as_millis() / LOOK.as_millis()).unwrap();
        assert!((1..looks).all(|_| !watch.is_late(Some(second * 9), second * 10)), "it waits");
        assert!(!watch.is_late(Some(second * 9 + LOOK), second * 10), "and computes again");
        assert!((1..looks).all(|_| !watch.is_late(None, second * 10)));
        assert!(watch.is_late(None, second * 10));
        assert!(Watch::default().is_late(Some(second * 10 + GRACE), second * 10));
    }

    /// Set in a process that a test starts to run itself in.
    const INSIDE: &str = "PLUMBLINE_TEST_INSIDE";

    /// Starts a test, by its name here, in a process of its own, whose output is piped.
    fn start(test: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("tests::{test}"), "--nocapture"]);
        command.env(INSIDE, "1").stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_process_that_is_stopped_for_longer_than_code_may_take_goes_on_with_it() {
        let limits = Limits { time: Duration::from_millis(300), ..LIMITS };
        if std::env::var_os(INSIDE).is_some() {
            let half_of_it = || {
                println!("begun");
                while read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap() < Duration::from_millis(150) {
                    drop(std::hint::black_box(vec![1u8]));
                }
            };
            return confined(limits, half_of_it).unwrap();
        }
        let mut child = start("a_process_that_is_stopped_for_longer_than_code_may_take_goes_on_with_it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("begun")));
        let signal = |signal| {
            let process = libc::pid_t::try_from(child.id()).unwrap();
            // SAFETY: the child has not been waited for, so its process id is still valid.
            assert_eq!(unsafe { libc::kill(process, signal) }, 0);
        };
        signal(libc::SIGSTOP);
        thread::sleep(limits.time * (PATIENCE + 1));
        signal(libc::SIGCONT);
        assert!(lines.any(|line| line.unwrap().contains("1 passed")));
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn without_a_thread_of_the_wanted_stack_a_smaller_one_does_what_it_can() {
        const NAME: &str = "without_a_thread_of_the_wanted_stack_a_smaller_one_does_what_it_can";
        if std::env::var_os(INSIDE).is_none() {
            let child = start(NAME).wait_with_output().unwrap();
            let printed = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success() && printed.contains("1 passed"), "{printed}");
            return;
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        let most = (size << 10) + (512 << 20);
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: `limit` is read only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);

        let limits = Limits { stack: 1 << 30, ..LIMITS };
        assert_eq!(confined(limits, || 1).unwrap(), 1, "it has 128 MiB");
        let found = confined(limits, || vec![0u8; 4 << 20].len());
        assert!(matches!(found, Err(Exceeded::NoThread(_))), "it would be within its limits: {found:?}");
        let found = confined(Limits { stack: 1 << 40, ..LIMITS }, || 1);
        assert!(matches!(found, Err(Exceeded::NoThread(_))), "{found:?}");
    }

    #[test]
    fn code_that_exceeded_a_limit_never_runs_again() {
        let confinement = Confinement::default();
        assert_eq!(confinement.run(LIMITS, || 1).unwrap(), 1);
        assert!(confinement.run(LIMITS, || -> u8 { panic!("of this text") }).is_err());
        assert_eq!(confinement.run(LIMITS, || 2).unwrap(), 2, "a panic leaves nothing behind");
        let (sender, runs) = mpsc::channel();
        for _ in 0..100 {
            let sender = sender.clone();
            let found = confinement.run(LIMITS, move || {
                sender.send(()).unwrap();
                vec![1u8; 9 << 20].len()
            });
            assert!(matches!(found, Err(Exceeded::Memory(bytes)) if bytes == LIMITS.memory), "{found:?}");
        }
        assert_eq!(runs.try_iter().count(), 1);
        assert!(Confinement::default().run(LIMITS, || 1).is_ok(), "other files are");
    }

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let Err(Exceeded::Panicked(message)) = confined::<()>(LIMITS, || panic!("bad rule {}", 1)) else {
            unreachable!()
        };
        assert_eq!(message, "bad rule 1");
    }
}
