//! `X-Forwarded-For`: whom a request has come from by way of proxies.

use std::net::{IpAddr, SocketAddr};

use super::FieldLines;

/// The last address that is none of a trusted proxy's: each proxy adds behind the others whom it has got the
/// request from, so that what stands before that one is only what somebody says. `None` if there is none, or
/// something behind it is no address.
pub fn asker(lines: &FieldLines<'_>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let items = lines
        .iter()
        .rev()
        .flat_map(|line| line.rsplit(|byte| *byte == b','));
    let mut addresses = items.map(|item| address(item.trim_ascii()));
    addresses
        .find(|address| address.is_none_or(|address| !is_trusted(address)))
        .flatten()
}

/// An address, with or without a port; of version 6 with or without brackets.
fn address(item: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(item).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse().ok();
    let address = address.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[&str]) -> Option<String> {
        let mut fields = FieldLines::default();
        for line in lines {
            assert!(fields.push(line.as_bytes()));
        }
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
        asker(&fields, is_trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_last_that_is_not_trusted_counts() {
        for (lines, expected) in [
            (&["1.1.1.1"][..], Some("1.1.1.1")),
            (&["9.9.9.9, 1.1.1.1, 10.0.0.1"], Some("1.1.1.1")),
            (
                &["9.9.9.9", "1.1.1.1", "10.0.0.1,10.0.0.2"],
                Some("1.1.1.1"),
            ),
            (&["1.1.1.1:80"], Some("1.1.1.1")),
            (&["[2001:db8::1]:80 , 10.0.0.1"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["::ffff:1.1.1.1"], Some("1.1.1.1")),
            // What a proxy of ours says must be whole.
            (&["1.1.1.1, unknown, 10.0.0.1"], None),
            (&["1.1.1.1,"], None),
            (&["10.0.0.3, 10.0.0.1"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(found(lines).as_deref(), expected, "{lines:?}");
        }
    }
}
