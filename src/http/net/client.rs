//! Whose connections count together, where one client may have a part only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Proxies;
use crate::io::address::Address;

/// Whose they are; `None` for those that are not counted.
pub(crate) type Client = Option<IpAddr>;

/// Who counts as the client at an address: for IPv6 the first 64 bits of it, of which one client has all.
/// 127.0.0.1 and ::1 may have everything: who connects from there is a reverse proxy of this machine,
/// behind which everybody is, or a process that may use the machine as it likes.
pub(crate) fn client_of(address: IpAddr) -> Client {
    match address.to_canonical() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => None,
        IpAddr::V4(address) => Some(address.into()),
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Some(Ipv6Addr::from_bits(network).into())
        }
    }
}

/// Who counts as the client of a connection from there: nobody where it is a proxy's that is believed, behind
/// which everybody is.
pub(crate) fn client_at(address: Address, proxies: &Proxies) -> Client {
    match proxies.trusts(address) {
        true => None,
        false => client_of(address.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_addresses_are_one_client() {
        let client = |text: &str| client_of(text.parse().unwrap());
        assert_eq!(client("127.0.0.1"), None);
        assert_eq!(client("::1"), None);
        assert_eq!(client("::ffff:127.0.0.1"), None);
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.2"), client("10.0.0.1"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::2:3:4:5"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8::1"));
    }
}
