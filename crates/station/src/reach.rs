//! Which addresses URLs that came by the API may lead to: not into the station's own
//! network, unless that is allowed. The addresses that a name has are checked when the station
//! connects, so that a name cannot change between check and use.

use std::net::{IpAddr, Ipv4Addr};

use pap_process::url::Url;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// What is said of an address to which the station may not connect.
pub const FORBIDDEN: &str = "it leads to a private address, which ALLOW_PRIVATE_TARGETS forbids";

/// A network, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse().ok()?, Some(bits.parse().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { address, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        let (ours, theirs, most) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (ours.to_bits().into(), theirs.to_bits().into(), 32),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        let differing: u128 = ours ^ theirs;
        differing.checked_shr(most - u32::from(self.bits)).unwrap_or(0) == 0
    }
}

/// To which private addresses the station may connect (`ALLOW_PRIVATE_TARGETS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// None.
    Public,
    /// All but link-local ones, where services of clouds give away keys.
    Private,
    /// Those in these networks.
    Networks(Vec<Network>),
}

impl Reach {
    /// What the setting says; None if it is none of its forms.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "false" => Some(Self::Public),
            "true" => Some(Self::Private),
            list => {
                let networks = list.split(',').map(|part| Network::parse(part.trim()));
                networks.collect::<Option<_>>().map(Self::Networks)
            }
        }
    }

    /// Whether plain http is taken too.
    pub fn takes_http(&self) -> bool {
        *self != Self::Public
    }

    /// Whether the station may connect to an address.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if is_public(address) {
            return true;
        }
        match self {
            Self::Public => false,
            Self::Private => !is_link_local(address) && !is_nobody(address),
            Self::Networks(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }
}

/// Addresses that nobody has: unspecified, multicast, broadcast.
fn is_nobody(address: IpAddr) -> bool {
    address.is_unspecified()
        || address.is_multicast()
        || matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether an address is of the public Internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    if is_nobody(address) || is_link_local(address) || address.is_loopback() {
        return false;
    }
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_special = a == 0 || a >= 240 || (a, b, c) == (192, 0, 0) || (a == 198 && (b & 0xfe) == 18);
            !(address.is_private() || address.is_documentation() || is_shared || is_special)
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            // An address of version 4 may be written inside: compatible, NAT64, 6to4.
            let inner = match segments {
                [0, 0, 0, 0, 0, 0, high, low]
                | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
                | [0x2002, high, low, ..] => {
                    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
                }
                _ => None,
            };
            let is_special = segments[0] & 0xfe00 == 0xfc00
                || segments[0] & 0xffc0 == 0xfec0
                || segments[..2] == [0x2001, 0xdb8]
                || segments[..2] == [0x2001, 0]
                || segments[..3] == [0x64, 0xff9b, 1];
            !is_special && inner.is_none_or(|inner| is_public(inner.into()))
        }
    }
}

/// The address in a URL that has one instead of a name.
pub fn literal_address(url: &Url) -> Option<IpAddr> {
    let uri: Uri = url.as_str().parse().ok()?;
    uri.host()?.trim_matches(['[', ']']).parse().ok()
}

/// Looks names up, and leaves out addresses to which the station may not connect.
#[derive(Debug)]
pub struct Guarded {
    reach: Reach,
    inner: DefaultResolver,
}

impl Guarded {
    /// A resolver that keeps within `reach`.
    pub fn new(reach: Reach) -> Self {
        Self { reach, inner: DefaultResolver::default() }
    }
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in found.iter().filter(|address| self.reach.allows(address.ip())) {
            allowed.push(*address);
        }
        if allowed.is_empty() { Err(ureq::Error::Other(FORBIDDEN.into())) } else { Ok(allowed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(reach: &str, address: &str) -> bool {
        Reach::parse(reach).unwrap().allows(address.parse().unwrap())
    }

    #[test]
    fn private_addresses_are_known_in_all_their_forms() {
        for private in [
            "127.0.0.1",
            "127.0.0.2",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:a00:1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
        ] {
            assert!(!allows("false", private), "{private}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"] {
            assert!(allows("false", public), "{public}");
        }
    }

    #[test]
    fn what_is_allowed_is_allowed() {
        assert!(allows("true", "127.0.0.1") && allows("true", "fd00::1"));
        assert!(
            !allows("true", "169.254.169.254") && !allows("true", "fe80::1") && !allows("true", "0.0.0.0")
        );
        let some = "10.0.0.0/8, 192.168.7.1,fd00::/8,169.254.0.0/16";
        assert!(allows(some, "10.9.9.9") && allows(some, "192.168.7.1") && allows(some, "fd12::1"));
        assert!(allows(some, "::ffff:10.0.0.1") && allows(some, "169.254.1.1") && allows(some, "8.8.8.8"));
        assert!(!allows(some, "192.168.7.2") && !allows(some, "127.0.0.1"));
        assert!(allows("0.0.0.0/0", "127.0.0.1"));
        for wrong in ["", "yes", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.0/8,"] {
            assert_eq!(Reach::parse(wrong), None, "{wrong}");
        }
    }
}
