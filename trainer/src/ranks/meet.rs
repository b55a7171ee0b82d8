//! How the ranks find each other. Talks to the network.
//!
//! Rank 0 may be younger than the others, and its name may not be known yet, or still lead to the pod that it replaces.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use plumbline_torch::{Group, Meeting};

use super::place::Place;
use crate::stage::stop;
use crate::{Error, Result, alive};

/// How long the last rank may take to come: its node may have to be started first, and its image pulled.
const PATIENCE: Duration = Duration::from_mins(15);
/// How long one thing that all do together may take. A rank waits for so long while another one reads a model, or rank 0
/// writes a checkpoint.
const LIMIT: Duration = Duration::from_mins(20);
/// Between two tries, and looks at whether the process was asked to stop.
const PAUSE: Duration = Duration::from_millis(200);

/// Meets the other ranks, which bring the same `run`.
///
/// # Errors
/// `PeerLost` where they do not all come in time, or those of another run are met, `Config` for an address that can never be this machine's, `Interrupted`.
pub(super) fn meet(place: &Place, run: String) -> Result<Group> {
    let (own, listener) = own_address(place)?;
    let Place { rank, size, host, port, .. } = place.clone();
    tracing::info!(rank, size, host, port, %own, "waits for the other ranks");
    let (sender, receiver) = channel();
    // The wait itself cannot be interrupted.
    thread::spawn(move || {
        // Rank 0 is its own client; its name may lead elsewhere a little longer.
        let host = if rank == 0 { own.to_string() } else { host };
        let meeting = Meeting { host: &host, port, own, run: &run, rank, size, patience: PATIENCE, limit: LIMIT };
        let _ = sender.send(Group::join(&meeting, listener));
    });
    loop {
        match receiver.recv_timeout(PAUSE) {
            Ok(group) => return group.map_err(|e| not_met(place, &e.to_string())),
            Err(RecvTimeoutError::Timeout) => pause_allowed()?,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Failed("the wait for other ranks ended".into())),
        }
    }
}

/// The address of this machine by which the others reach it; for rank 0, with the socket that they come to.
fn own_address(place: &Place) -> Result<(IpAddr, Option<TcpListener>)> {
    let begun = Instant::now();
    loop {
        let found = if place.rank == 0 {
            listen(place).map(|(ip, listener)| (ip, Some(listener)))
        } else {
            towards(place).map(|ip| (ip, None))
        };
        let error = match found {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) {
            return Err(Error::Config(format!(
                "MASTER_ADDR {} and MASTER_PORT {}: expected an address that rank 0 can listen on: {error}",
                place.host, place.port
            )));
        }
        if begun.elapsed() > PATIENCE {
            return Err(not_met(place, &error.to_string()));
        }
        thread::sleep(PAUSE);
        pause_allowed()?;
    }
}

/// Listens where the others come to. An address that is not of this machine is one that the name led to before.
fn listen(place: &Place) -> std::io::Result<(IpAddr, TcpListener)> {
    let address = resolve(place)?;
    Ok((address.ip(), TcpListener::bind(address)?))
}

/// The address that packets for rank 0 are sent from.
fn towards(place: &Place) -> std::io::Result<IpAddr> {
    let address = resolve(place)?;
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Nothing is sent: the kernel only chooses a route.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

fn resolve(place: &Place) -> std::io::Result<SocketAddr> {
    let mut found = (place.host.as_str(), place.port).to_socket_addrs()?;
    found.next().ok_or_else(|| std::io::Error::new(ErrorKind::NotFound, "the name has no address"))
}

/// Waiting is no standing still, and ends when the process is asked to stop.
fn pause_allowed() -> Result<()> {
    alive::beat();
    if stop::requested() { Err(Error::Interrupted) } else { Ok(()) }
}

fn not_met(place: &Place, why: &str) -> Error {
    Error::PeerLost(format!(
        "rank {} of {}: the ranks did not all meet at {}:{} within {} min: {why}; look for a pod that does not start, or a \
         network that does not let pods reach each other",
        place.rank,
        place.size,
        place.host,
        place.port,
        PATIENCE.as_secs() / 60
    ))
}
