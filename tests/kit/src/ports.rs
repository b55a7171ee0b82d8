//! Ports for programs that are told where to listen before they do. Talks to sockets and files.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below those that Linux hands out by itself (`ip_local_port_range`): a connection of somebody else takes none of them.
const PORTS: Range<u16> = 20_000..30_000;

/// A port that nobody listens on, and that no other test is given while this process lives.
pub fn claim() -> u16 {
    let folder = std::env::temp_dir().join("plumbline-ports");
    fs::create_dir_all(&folder).unwrap();
    for port in PORTS {
        let Ok(file) = File::create(folder.join(port.to_string())) else { continue };
        if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            // Locked until the process ends.
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
    fn no_port_is_given_twice_or_by_the_kernel() {
        let [first, second] = [claim(), claim()];
        assert_ne!(first, second);
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let lowest: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        assert!(first < lowest && second < lowest, "{first} and {second}: the kernel hands out ports from {lowest} on");
    }
}
