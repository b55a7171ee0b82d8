//! Ports for programs that need to know their port in advance. Talks to sockets and files.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the ephemeral ports of Linux (`ip_local_port_range`), so that no outgoing connection uses them.
const PORTS: Range<u16> = 20_000..30_000;

/// A free port that no other test gets while this process runs.
pub fn claim() -> u16 {
    let folder = std::env::temp_dir().join("plumbline-ports");
    fs::create_dir_all(&folder).unwrap();
    for port in PORTS {
        let Ok(file) = File::create(folder.join(port.to_string())) else { continue };
        if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            // Keeps the lock until the process exits.
            std::mem::forget(file);
            return port;
        }
    }
    panic!("all ports of {PORTS:?} are taken");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_ports_are_unique_and_not_ephemeral() {
        let [first, second] = [claim(), claim()];
        assert_ne!(first, second);
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let lowest: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        assert!(first < lowest && second < lowest, "{first} and {second}: the kernel hands out ports from {lowest} on");
    }
}
