//! A group of processes that compute together: c10d's Gloo backend over TCP (PyTorch, "Distributed communication package").
//! Talks to the network.
//!
//! Every operation is collective: all processes call it, in the same order. The others notice a lost process as a
//! broken connection, or after a timeout; they never wait for it indefinitely.

use std::ffi::CString;
use std::net::{IpAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::ptr::NonNull;
use std::time::Duration;

use libc::{c_char, c_int, c_void};
use tch::{Device, Kind, Tensor};

use crate::{TensorPointer, TorchError, check};

/// Where and how processes connect to each other.
#[derive(Debug)]
pub struct Meeting<'a> {
    /// Name or address of rank 0.
    pub host: &'a str,
    /// Port of rank 0.
    pub port: u16,
    /// The address at which the others reach this machine.
    pub own: IpAddr,
    /// What the processes of one run have in common, and no others. A process that connects to another run's rank 0 is
    /// turned away, and that run continues unaffected.
    pub run: &'a str,
    /// The rank of this process, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Timeout for all processes to connect.
    pub patience: Duration,
    /// Timeout of one collective operation.
    pub limit: Duration,
}

/// The group that a process belongs to. Dropping it leaves the group: later operations of the others fail.
#[derive(Debug)]
pub struct Group {
    group: NonNull<c_void>,
    size: usize,
}

impl Group {
    /// Connects to the others. `listener`: on rank 0, the socket at `meeting.host` and `meeting.port` that the others
    /// connect to.
    pub fn join(meeting: &Meeting, listener: Option<TcpListener>) -> Result<Self, TorchError> {
        if (meeting.rank == 0) != listener.is_some() || meeting.rank >= meeting.size {
            return Err(TorchError(format!(
                "expected a listener on rank 0 alone, and a rank below {}, found rank {}",
                meeting.size, meeting.rank
            )));
        }
        let text = |t: &str| CString::new(t).map_err(|_| TorchError(format!("expected a name, found {t:?}")));
        let (host, own, run) = (text(meeting.host)?, text(&meeting.own.to_string())?, text(meeting.run)?);
        let seconds = |time: Duration| c_int::try_from(time.as_secs().max(1)).unwrap_or(c_int::MAX);
        let mut group = std::ptr::null_mut();
        // SAFETY: the strings outlive the call; the store owns the listener's descriptor from here on; `group` is written
        // before it is read.
        check(unsafe {
            plumbline_group_join(
                host.as_ptr(),
                c_int::from(meeting.port),
                listener.map_or(-1, IntoRawFd::into_raw_fd),
                own.as_ptr(),
                run.as_ptr(),
                meeting.rank as c_int,
                meeting.size as c_int,
                seconds(meeting.patience),
                seconds(meeting.limit),
                &raw mut group,
            )
        })?;
        let group = NonNull::new(group).ok_or_else(|| TorchError("libtorch gave no group".into()))?;
        Ok(Self { group, size: meeting.size })
    }

    /// Sums a tensor over all processes, in place. Each gets the same bits.
    pub fn all_reduce(&self, tensor: &Tensor) -> Result<(), TorchError> {
        sendable(tensor)?;
        // SAFETY: the group is alive, and the tensor outlives the call, which waits for the end.
        check(unsafe { plumbline_group_all_reduce(self.group.as_ptr(), pointer(tensor)) })
    }

    /// Broadcasts the tensor of the process `from`, in place.
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<(), TorchError> {
        sendable(tensor)?;
        // SAFETY: as for `all_reduce`.
        check(unsafe { plumbline_group_broadcast(self.group.as_ptr(), pointer(tensor), from as c_int) })
    }

    /// The tensors of all processes, in order of rank. They have the same shape everywhere.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, TorchError> {
        sendable(tensor)?;
        let gathered: Vec<Tensor> = (0..self.size).map(|_| tensor.zeros_like()).collect();
        let list: Vec<TensorPointer> = gathered.iter().map(pointer).collect();
        // SAFETY: as for `all_reduce`; the array holds one pointer a process.
        check(unsafe {
            plumbline_group_all_gather(self.group.as_ptr(), list.as_ptr(), list.len() as c_int, pointer(tensor))
        })?;
        Ok(gathered)
    }

    /// Waits until all processes have reached this call.
    pub fn barrier(&self) -> Result<(), TorchError> {
        // SAFETY: the group is alive.
        check(unsafe { plumbline_group_barrier(self.group.as_ptr()) })
    }
}

// SAFETY: c10d's group is bound to no thread, and without `Sync` one thread has it at a time.
unsafe impl Send for Group {}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `plumbline_group_join`, and nobody has it after this.
        unsafe { plumbline_group_leave(self.group.as_ptr()) }
    }
}

/// Gloo sums half-precision numbers slowly and inaccurately, and needs contiguous memory.
fn sendable(tensor: &Tensor) -> Result<(), TorchError> {
    let (kind, device) = (tensor.kind(), tensor.device());
    let known = matches!(kind, Kind::Float | Kind::Double | Kind::Int64 | Kind::Uint8);
    if known && device == Device::Cpu && tensor.is_contiguous() {
        return Ok(());
    }
    Err(TorchError(format!(
        "expected a contiguous tensor on the CPU of Float, Double, Int64 or Uint8, found {kind:?} on {device:?}"
    )))
}

fn pointer(tensor: &Tensor) -> TensorPointer {
    tensor.as_ptr().cast_mut().cast()
}

unsafe extern "C" {
    fn plumbline_group_join(
        host: *const c_char,
        port: c_int,
        listener: c_int,
        own: *const c_char,
        run: *const c_char,
        rank: c_int,
        size: c_int,
        meet_seconds: c_int,
        work_seconds: c_int,
        out: *mut *mut c_void,
    ) -> c_int;
    fn plumbline_group_leave(group: *mut c_void);
    fn plumbline_group_all_reduce(group: *mut c_void, tensor: TensorPointer) -> c_int;
    fn plumbline_group_broadcast(group: *mut c_void, tensor: TensorPointer, from: c_int) -> c_int;
    fn plumbline_group_all_gather(
        group: *mut c_void,
        outputs: *const TensorPointer,
        count: c_int,
        input: TensorPointer,
    ) -> c_int;
    fn plumbline_group_barrier(group: *mut c_void) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Instant;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A meeting of two on this machine.
    fn meeting(run: &str, port: u16, rank: usize, patience: u64) -> Meeting<'_> {
        let (patience, limit) = (Duration::from_secs(patience), Duration::from_secs(patience));
        Meeting { host: "127.0.0.1", port, own: LOCAL, run, rank, size: 2, patience, limit }
    }

    /// Runs every rank of a group in a thread of its own; gives what each returned.
    fn together<T: Send + 'static>(size: usize, limit: u64, work: fn(usize, Group) -> T) -> Vec<T> {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut listener = Some(listener);
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let listener = listener.take();
                std::thread::spawn(move || {
                    let limit = Duration::from_secs(limit);
                    let meeting = Meeting { size, limit, ..meeting("run", port, rank, 30) };
                    work(rank, Group::join(&meeting, listener).unwrap())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    }

    fn floats(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn sums_gathers_and_broadcasts_are_the_same_bits_everywhere() {
        let found = together(3, 30, |rank, group| {
            let own = [0.1f32, 0.2, 0.3][rank];
            let sum = Tensor::from_slice(&[own, 1e8, own * 10.0]);
            group.all_reduce(&sum).unwrap();
            let from_first = Tensor::from_slice(&[rank as i64 + 7]);
            group.broadcast(&from_first, 0).unwrap();
            let all = group.all_gather(&Tensor::from_slice(&[rank as i64; 4])).unwrap();
            group.barrier().unwrap();
            let all: Vec<i64> = all.iter().map(|t| t.int64_value(&[0])).collect();
            (floats(&sum).into_iter().map(f32::to_bits).collect::<Vec<_>>(), from_first.int64_value(&[0]), all)
        });
        assert!(found.iter().all(|f| *f == found[0]), "{found:?}");
        assert_eq!((found[0].1, &found[0].2), (7, &vec![0, 1, 2]));
        let sums: Vec<f32> = found[0].0.iter().map(|bits| f32::from_bits(*bits)).collect();
        let close = |found: f32, expected: f32| (found - expected).abs() <= 1e-6 * expected;
        assert!(close(sums[0], 0.6) && close(sums[1], 3e8) && close(sums[2], 6.0), "{sums:?}");
    }

    #[test]
    fn a_process_that_leaves_is_noticed_at_once() {
        let ends = together(2, 60, |rank, group| {
            group.barrier().unwrap();
            if rank == 1 {
                return None;
            }
            let started = Instant::now();
            let error = group.all_reduce(&Tensor::ones([4], FLOAT)).unwrap_err().to_string();
            Some((error, started.elapsed()))
        });
        let (error, took) = ends[0].clone().unwrap();
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        assert!(took < Duration::from_secs(20), "{took:?}: {error}");
    }

    #[test]
    fn a_process_that_does_nothing_is_waited_for_as_long_as_was_said_and_no_longer() {
        let ends = together(2, 2, |rank, group| {
            group.barrier().unwrap();
            if rank == 1 {
                std::thread::sleep(Duration::from_secs(6));
                return None;
            }
            let started = Instant::now();
            let error = group.all_reduce(&Tensor::ones([4], FLOAT)).unwrap_err().to_string();
            Some((error, started.elapsed()))
        });
        let (error, took) = ends[0].clone().unwrap();
        assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{took:?}: {error}");
    }

    #[test]
    fn who_never_comes_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let meeting = meeting("run", port, 0, 1);
        let error = Group::join(&meeting, Some(listener)).unwrap_err().to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        assert!(Group::join(&meeting, None).unwrap_err().to_string().contains("listener"));
    }

    #[test]
    fn a_process_of_another_run_is_turned_away_and_nobody_else_notices() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sum = |group: Group| {
            let ones = Tensor::ones([1], FLOAT);
            group.all_reduce(&ones).map(|()| floats(&ones))
        };
        let first = std::thread::spawn(move || Group::join(&meeting("one", port, 0, 30), Some(listener)).and_then(sum));
        let error = Group::join(&meeting("another", port, 1, 30), None).unwrap_err().to_string();
        assert!(error.contains("another run"), "{error}");
        assert_eq!(Group::join(&meeting("one", port, 1, 30), None).and_then(sum).unwrap(), [2.0]);
        assert_eq!(first.join().unwrap().unwrap(), [2.0]);
    }

    #[test]
    fn the_last_one_may_come_later_than_one_thing_may_take() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let join = move |rank, listener| {
            let meeting = Meeting { size: 3, limit: Duration::from_secs(2), ..meeting("run", port, rank, 60) };
            Group::join(&meeting, listener).and_then(|group| group.barrier())
        };
        let early = [std::thread::spawn(move || join(0, Some(listener))), std::thread::spawn(move || join(1, None))];
        std::thread::sleep(Duration::from_secs(5));
        join(2, None).unwrap();
        for rank in early {
            rank.join().unwrap().unwrap();
        }
    }

    #[test]
    fn what_gloo_would_misread_is_refused() {
        assert!(sendable(&Tensor::ones([2, 3], FLOAT)).is_ok());
        assert!(sendable(&Tensor::ones([2, 3], FLOAT).transpose(0, 1)).is_err());
        assert!(
            sendable(&Tensor::ones([2], (Kind::BFloat16, Device::Cpu))).unwrap_err().to_string().contains("BFloat16")
        );
    }
}
