//! Rendezvous of the ranks. Talks to the network.
//!
//! Rank 0 may start after the others, and its name may not resolve yet, or still resolve to the pod that it replaces.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use plumbline_feedback::heartbeat;
use plumbline_feedback::shutdown;
use plumbline_torch::{Group, Meeting};

use super::rank_info::RankInfo;
use crate::{Error, Result};

/// How long to wait for the last rank: its node may have to be started first, its image pulled, its inputs fetched, and
/// on rank 0 the work directory restored from a store, which is hundreds of gigabytes for a large model. Giving up
/// sooner would mean starting all of that again.
const PATIENCE: Duration = Duration::from_hours(1);
/// Timeout of one collective operation. A rank waits this long while another one reads a model, or rank 0 writes a
/// checkpoint.
const LIMIT: Duration = Duration::from_mins(20);
/// Delay between two attempts, and between two checks whether the process was asked to stop.
const PAUSE: Duration = Duration::from_millis(200);

/// The address of rank 0 if all ranks are on one machine, where no other machine should reach it.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Connects to the other ranks, which have the same `run`.
///
/// # Errors
/// `PeerLost` if not all connect in time, or ranks of another run do, `Config` for an address that can never be this
/// machine's, `Interrupted`.
pub(super) fn meet(info: &RankInfo, run: String) -> Result<Group> {
    let begun = Instant::now();
    let (own, listener) = own_address(info, begun)?;
    let RankInfo { rank, size, host, port, .. } = info.clone();
    tracing::info!(rank, size, host, port, %own, "waiting for the other ranks");
    let (sender, receiver) = channel();
    let patience = PATIENCE.saturating_sub(begun.elapsed());
    // The wait itself cannot be interrupted.
    thread::spawn(move || {
        // Rank 0 is its own client; its name may lead elsewhere a little longer.
        let host = if rank == 0 { own.to_string() } else { host };
        let meeting = Meeting { host: &host, port, own, run: &run, rank, size, patience, limit: LIMIT };
        let _ = sender.send(Group::join(&meeting, listener));
    });
    loop {
        match receiver.recv_timeout(PAUSE) {
            Ok(group) => return group.map_err(|e| not_met(info, begun, &e.to_string())),
            Err(RecvTimeoutError::Timeout) => pause_allowed()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Failed("stopped waiting for the other ranks".into()));
            }
        }
    }
}

/// The address at which the others reach this machine; for rank 0, with the listening socket.
fn own_address(info: &RankInfo, begun: Instant) -> Result<(IpAddr, Option<TcpListener>)> {
    loop {
        let found = if info.rank == 0 {
            listen(info).map(|(ip, listener)| (ip, Some(listener)))
        } else {
            towards(info).map(|ip| (ip, None))
        };
        let error = match found {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) {
            return Err(Error::Config(format!(
                "MASTER_ADDR {} and MASTER_PORT {}: expected an address that rank 0 can listen on: {error}",
                info.host, info.port
            )));
        }
        if begun.elapsed() > PATIENCE {
            return Err(not_met(info, begun, &error.to_string()));
        }
        thread::sleep(PAUSE);
        pause_allowed()?;
    }
}

/// Listens for the other ranks.
fn listen(info: &RankInfo) -> io::Result<(IpAddr, TcpListener)> {
    let named = resolve(info)?;
    // An address that is not of this machine is one that the name led to before.
    UdpSocket::bind((named.ip(), 0))?;
    if LOCAL.contains(&info.host.as_str()) {
        return Ok((named.ip(), TcpListener::bind(named)?));
    }
    let own = if named.ip().is_loopback() { outward(named) } else { named.ip() };
    Ok((own, TcpListener::bind((unspecified(named), info.port))?))
}

/// The local address of packets to rank 0.
fn towards(info: &RankInfo) -> io::Result<IpAddr> {
    let first = resolve(info)?;
    let own = route(first)?;
    Ok(if own.is_loopback() && !LOCAL.contains(&info.host.as_str()) { outward(first) } else { own })
}

/// The address of this machine in its network: its own host name may resolve to a loopback address, as on Debian to
/// 127.0.1.1. Without a network, the loopback address is all there is.
fn outward(named: SocketAddr) -> IpAddr {
    // Addresses for documentation (RFC 5737, RFC 3849): of no machine, behind the route that leads to most.
    let elsewhere: IpAddr = if named.is_ipv4() {
        Ipv4Addr::new(192, 0, 2, 1).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    };
    route((elsewhere, named.port()).into()).unwrap_or(named.ip())
}

/// The local address of packets to another address.
fn route(address: SocketAddr) -> io::Result<IpAddr> {
    // Nothing is sent: the kernel only chooses a route.
    let socket = UdpSocket::bind((unspecified(address), 0))?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn resolve(info: &RankInfo) -> io::Result<SocketAddr> {
    let mut found = (info.host.as_str(), info.port).to_socket_addrs()?;
    found.next().ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the host name does not resolve"))
}

/// Waiting counts as progress, and ends when the process is asked to stop.
fn pause_allowed() -> Result<()> {
    heartbeat::beat();
    if shutdown::requested() { Err(Error::Interrupted) } else { Ok(()) }
}

fn not_met(info: &RankInfo, begun: Instant, why: &str) -> Error {
    Error::PeerLost(format!(
        "rank {} of {}: the ranks did not all connect to {}:{} within {} s: {why}; look for a pod that does not \
         start, or a network policy that blocks traffic between pods",
        info.rank,
        info.size,
        info.host,
        info.port,
        begun.elapsed().as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    /// Rank 0 of two, on a port that is free.
    fn first(host: &str) -> RankInfo {
        RankInfo { rank: 0, size: 2, host: host.into(), port: 0, attempt: String::new() }
    }

    #[test]
    fn a_name_that_leads_a_machine_to_itself_does_not_keep_others_out() {
        // As Debian's hosts file has it for a machine's own name; the others reach the machine by another address.
        let (own, listener) = listen(&first("127.0.1.1")).unwrap();
        TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap();
        let network = outward("127.0.1.1:1".parse().unwrap());
        assert_eq!(own, network);
        let other = RankInfo { rank: 1, port: 29_500, ..first("127.0.1.1") };
        assert_eq!(towards(&other).unwrap().is_loopback(), network.is_loopback(), "one of its other ranks neither");
    }

    #[test]
    fn ranks_of_one_machine_are_reached_from_nowhere_else() {
        for host in ["localhost", "127.0.0.1"] {
            let (own, listener) = listen(&first(host)).unwrap();
            assert!(own.is_loopback() && listener.local_addr().unwrap().ip().is_loopback(), "{host}: {own}");
        }
    }

    #[test]
    fn an_error_says_how_long_was_waited_and_no_more() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = thread::spawn(move || {
            let (own, time) = (Ipv4Addr::LOCALHOST.into(), Duration::from_secs(5));
            let host = "127.0.0.1";
            let meeting = Meeting { host, port, own, run: "other", rank: 0, size: 2, patience: time, limit: time };
            Group::join(&meeting, Some(listener)).map(drop)
        });
        let info = RankInfo { rank: 1, port, ..first("127.0.0.1") };
        let error = meet(&info, "ours".into()).unwrap_err();
        let said = matches!(&error, Error::PeerLost(text) if text.contains("another run") && !text.contains("min"));
        assert!(said, "{error}");
        assert!(other.join().unwrap().is_err(), "it still waits for its own rank");
    }

    #[test]
    fn a_name_that_still_leads_to_another_machine_is_looked_up_again() {
        let error = listen(&first("192.0.2.7")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    }
}
