//! Proxies that are believed when they say who asks.
use crate::io::address::Address;
use std::net::IpAddr;

/// Who is believed: networks, and whoever comes by a socket file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    networks: Vec<Network>,
    unix: bool,
}

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

/// An item of `--trust-proxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proxy {
    Unix,
    At(Trusted),
}

/// See [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trusted(Network);

pub(super) fn proxy(text: &str) -> Result<Proxy, String> {
    if text == "unix" {
        return Ok(Proxy::Unix);
    }
    let allowed =
        "an IP address, a network such as 10.0.0.0/8 or fd00::/8, or unix for unix: listeners";
    let (address, bits) = text
        .split_once('/')
        .map_or((text, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().map_err(|_| allowed)?;
    let address = address.to_canonical();
    let most = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let bits = match bits {
        None => most,
        // No sign, no space.
        Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
            bits.parse().map_err(|_| allowed)?
        }
        Some(_) => return Err(allowed.into()),
    };
    let network = Network { address, bits };
    // A network with other bits is a slip of whoever wrote it.
    let is_plain = bits <= most && network.of(address) == Some(0);
    is_plain
        .then_some(Proxy::At(Trusted(network)))
        .ok_or_else(|| allowed.into())
}

impl Network {
    /// What an address has behind the network's bits; `None` if it is not inside.
    fn of(self, address: IpAddr) -> Option<u128> {
        // Both at the upper end, so that one shift is right for both kinds.
        let (own, other) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (
                u128::from(own.to_bits()) << 96,
                u128::from(other.to_bits()) << 96,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits()),
            _ => return None,
        };
        let rest = u128::MAX.checked_shr(self.bits).unwrap_or(0);
        ((own ^ other) & !rest == 0).then_some(other & rest)
    }
}

impl Proxies {
    pub(super) fn new(given: Vec<Proxy>) -> Proxies {
        let mut proxies = Proxies::default();
        for proxy in given {
            match proxy {
                Proxy::Unix => proxies.unix = true,
                Proxy::At(Trusted(network)) => proxies.networks.push(network),
            }
        }
        proxies
    }

    /// Whether none is believed.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether what comes from there is from a proxy that is believed.
    pub fn trusts(&self, address: Address) -> bool {
        match address {
            Address::Unix => self.unix,
            Address::Tcp(_) | Address::Forwarded(_) => self.has(address.ip()),
        }
    }

    /// Whether a proxy that is believed has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.of(address).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(given: &[&str]) -> Proxies {
        Proxies::new(given.iter().map(|text| proxy(text).unwrap()).collect())
    }

    #[test]
    fn who_is_believed() {
        let proxies = proxies(&["10.1.0.0/16", "192.0.2.7", "fd00:1::/32"]);
        let has = |text: &str| proxies.has(text.parse().unwrap());
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "fd00:1:2::3"] {
            assert!(has(inside), "{inside}");
        }
        for outside in ["10.2.0.1", "192.0.2.8", "fd00:2::1", "::1", "127.0.0.1"] {
            assert!(!has(outside), "{outside}");
        }
        assert!(!proxies.trusts(Address::Unix));
        assert!(self::proxies(&["unix"]).trusts(Address::Unix));
        assert!(self::proxies(&["0.0.0.0/0"]).has([8, 8, 8, 8].into()));
        assert!(!Proxies::default().has([127, 0, 0, 1].into()));
    }

    #[test]
    fn what_is_no_network() {
        for wrong in [
            "",
            "x",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "::1/129",
        ] {
            assert!(proxy(wrong).is_err(), "{wrong}");
        }
    }
}
