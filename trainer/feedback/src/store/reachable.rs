//! Limits redirects: a server may only redirect a request to addresses that are at least as public as its own. A server
//! on the internet must not make this process send requests into private networks. Computes only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use reqwest::dns::Name;

/// Maximum number of redirects in a row.
const MOST: usize = 10;

/// How local an address is, from public to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The public internet.
    Public,
    /// In a private network (RFC 1918, RFC 4193) or behind a carrier's (RFC 6598).
    Private,
    /// On the same link (RFC 3927, RFC 4291): where clouds serve credentials to machines.
    Link,
    /// This machine, or an unspecified address.
    Machine,
}

/// Why a redirect was rejected.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Reach {
    /// The reach of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, ..] = address.octets();
        match (a, b) {
            (0 | 127 | 224..=255, _) => Self::Machine,
            (169, 254) => Self::Link,
            (10, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) => Self::Private,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let bits = address.to_bits();
        // The IPv4 address in the 32 bits before the last `after`.
        let v4 = |after: u32| Ipv4Addr::from_bits((bits >> after) as u32);
        match address.segments() {
            // An embedded IPv4 address (RFC 4291, RFC 6052, RFC 3056).
            [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Self::of_v4(v4(0)),
            [0x2002, ..] => Self::of_v4(v4(80)),
            // Local NAT64 with a prefix of unknown length (RFC 8215), around bits 64 to 71 (RFC 6052): the most local
            // of the possible addresses, except those that begin with the zero padding of a shorter prefix.
            [0x64, 0xff9b, 1, ..] => {
                let around = |before: u32| {
                    let high = (bits >> 64) as u32 & ((1 << before) - 1);
                    let low = ((bits << 72) >> 96) as u32 >> before;
                    Ipv4Addr::from_bits(high.checked_shl(32 - before).unwrap_or(0) | low)
                };
                let all = [around(16), around(8), around(0), v4(0)].into_iter();
                all.filter(|v4| v4.octets()[0] != 0).map(Self::of_v4).max().unwrap_or(Self::Machine)
            }
            [0, 0, 0, 0, 0, 0, ..] | [0xff00..=0xffff, ..] => Self::Machine,
            [0xfe80..=0xfebf, ..] => Self::Link,
            [0xfc00..=0xfdff, ..] => Self::Private,
            _ => Self::Public,
        }
    }

    /// Whether a server with this reach may redirect a request to an address with another.
    pub(super) fn may_lead_to(self, other: Self) -> bool {
        other == Self::Public || other == self || (self, other) == (Self::Machine, Self::Private)
    }

    /// The reach of a URL whose host is an IP address; `None` for a name.
    pub(super) fn of_url(url: &Url) -> Option<Self> {
        let host = url.host_str()?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse().ok().map(Self::of)
    }
}

/// Checks whether a redirect from one URL to the next may be followed. `origin`: the reach of the first server, if
/// known; `followed`: the number of redirects before this one.
///
/// # Errors
/// The reason for rejecting it.
pub(super) fn check(from: &Url, to: &Url, origin: Option<Reach>, followed: usize) -> Result<(), Refused> {
    let refused = |why: &str| {
        let place = to.host_str().unwrap_or_default();
        Err(Refused(format!("the server redirects to {}://{place}, {why}", to.scheme())))
    };
    if followed > MOST {
        return Err(Refused(format!("the server redirects more than {MOST} times")));
    }
    match to.scheme() {
        "https" => {}
        "http" if from.scheme() == "http" => {}
        "http" => return refused("which can be changed in transit"),
        _ => return refused("expected https://"),
    }
    match (origin, Reach::of_url(to)) {
        (Some(origin), Some(other)) if !origin.may_lead_to(other) => refused(NEARER),
        _ => Ok(()),
    }
}

/// The error for a name that resolves only to addresses that are too local.
pub(super) fn nearer(name: &Name) -> Refused {
    Refused(format!("the server redirects to {}, {NEARER}", name.as_str()))
}

const NEARER: &str = "which is in a private network, while the server itself is on the internet";

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(address: &str) -> Reach {
        Reach::of(address.parse().unwrap())
    }

    #[test]
    fn addresses_have_the_reach_of_their_registries_in_every_form() {
        for (address, expected) in [
            ("127.0.0.1", Reach::Machine),
            ("0.0.0.0", Reach::Machine),
            ("::1", Reach::Machine),
            ("::", Reach::Machine),
            ("::ffff:127.0.0.1", Reach::Machine),
            ("::127.0.0.1", Reach::Machine),
            ("255.255.255.255", Reach::Machine),
            ("169.254.169.254", Reach::Link),
            ("::ffff:169.254.169.254", Reach::Link),
            ("64:ff9b::a9fe:a9fe", Reach::Link),
            ("fe80::1", Reach::Link),
            ("10.1.2.3", Reach::Private),
            ("172.31.0.1", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("fd00:ec2::254", Reach::Private),
            // 6to4 (RFC 3056), local NAT64 (RFC 8215) with a prefix of 48 to 96 bits.
            ("2002:a00:1::", Reach::Private),
            ("2002:a9fe:a9fe::1", Reach::Link),
            ("2002:7f00:1::", Reach::Machine),
            ("64:ff9b:1:a01:2:300::", Reach::Private),
            ("64:ff9b:1:a01:2:300:808:808", Reach::Private),
            ("64:ff9b:1:10a:1:203::", Reach::Private),
            ("64:ff9b:1:1:a:1:203:0", Reach::Private),
            ("64:ff9b:1:1:7f:0:108:808", Reach::Machine),
            ("64:ff9b:1::10.1.2.3", Reach::Private),
            ("64:ff9b:1::a9fe:a9fe", Reach::Link),
            ("2002:808:808::", Reach::Public),
            ("64:ff9b:1::8.8.8.8", Reach::Public),
            ("64:ff9b:1:808:8:800::", Reach::Public),
            ("172.32.0.1", Reach::Public),
            ("8.8.8.8", Reach::Public),
            ("2606:4700::1111", Reach::Public),
        ] {
            assert_eq!(reach(address), expected, "{address}");
        }
    }

    #[test]
    fn redirects_are_followed_to_public_https_servers_only() {
        let url = |text: &str| Url::parse(text).unwrap();
        let follow = |from: &str, to: &str, origin| check(&url(from), &url(to), origin, 1);
        let public = Some(Reach::Public);
        assert!(follow("https://hub/a", "https://cdn/a", public).is_ok());
        assert!(follow("https://10.0.0.1/a", "https://10.0.0.2/a", Some(Reach::Private)).is_ok());
        assert!(follow("http://127.0.0.1:1/a", "http://127.0.0.1:2/a", Some(Reach::Machine)).is_ok());
        for (to, why) in [
            ("http://cdn/a", "in transit"),
            ("ftp://cdn/a", "expected https://"),
            ("file:///etc/passwd", "expected https://"),
            ("https://127.0.0.1/a", "private network"),
            ("https://[::1]/a", "private network"),
            ("https://169.254.169.254/a", "private network"),
            ("https://192.168.0.1/a", "private network"),
            ("https://0x7f000001/a", "private network"),
        ] {
            let error = follow("https://hub/a", to, public).unwrap_err().to_string();
            assert!(error.contains(why), "{to}: {error}");
        }
        assert!(follow("http://127.0.0.1/a", "http://169.254.169.254/a", Some(Reach::Machine)).is_err());
        assert!(check(&url("https://a/"), &url("https://b/"), public, MOST + 1).is_err());
    }
}
