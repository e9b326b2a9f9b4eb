//! What the query of a snapshot's URL names: a branch, tag or ref, a commit, and how much of its history.
//!
//! A value is percent-decoded once; `+` is a `+`. The path of a URL takes no escapes
//! ([`super::route`]).

use gix::bstr::BString;

use super::Reject;
use crate::manifest::want::{Named, Shape, full_id};

const KEYS: Reject = Reject::new(
    400,
    "unknown key in the query; a snapshot takes ref=NAME, commit=FULL-ID and depth=1",
);
const TWICE: Reject = Reject::new(400, "a key of the query is there twice; name it once");
const ESCAPE: Reject = Reject::new(
    400,
    "a % in the query is not followed by two hex digits; write %25 for %",
);
const NAME: Reject = Reject::new(
    400,
    "ref= is no name that git allows; name a branch, a tag or a full refs/...",
);
const COMMIT: Reject = Reject::new(
    400,
    "commit= takes all 40 or 64 hex digits of a commit's id",
);
const DEPTH: Reject = Reject::new(
    400,
    "depth= takes 1; without it the snapshot has all of the history",
);

/// Reads a query. Without one nothing is allocated.
pub(super) fn snapshot_query(query: &str) -> Result<Named, Reject> {
    let (mut name, mut commit, mut shape) = (None, None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_first = match key {
            "ref" => name.replace(decoded(value)?).is_none(),
            "commit" => {
                let id = full_id(&decoded(value)?).ok_or(COMMIT)?;
                commit.replace(id).is_none()
            }
            "depth" if decoded(value)? == "1" => shape.replace(Shape::Tip).is_none(),
            "depth" => return Err(DEPTH),
            _ => return Err(KEYS),
        };
        if !is_first {
            return Err(TWICE);
        }
    }
    let named = Named::new(name, commit).ok_or(NAME)?;
    Ok(named.shaped(shape.unwrap_or_default()))
}

/// Reads what a bundle leads to. Other keys mean nothing there, as they always have.
pub(super) fn bundle_query(query: &str) -> Result<Named, Reject> {
    let is_known = |pair: &&str| pair.starts_with("ref=") || pair.starts_with("commit=");
    let known: Vec<&str> = query.split('&').filter(is_known).collect();
    snapshot_query(&known.join("&"))
}

/// A target is bounded, and so is what its query gives.
fn decoded(value: &str) -> Result<BString, Reject> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let mut out = BString::default();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(ESCAPE),
            },
            byte => byte,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789ABCDEF01234567";

    #[test]
    fn values_are_decoded_once() {
        let rows = [
            ("ref=main", "main"),
            ("ref=fix/%237%26x", "fix/#7&x"),
            ("ref=%C3%BC", "ü"),
            ("ref=a+b", "a+b"),
            ("ref=a%2Bb", "a+b"),
            ("ref=a%2520b", "a%20b"),
            ("ref=refs/pull/7/merge", "refs/pull/7/merge"),
            ("&ref=a=b&", "a=b"),
        ];
        for (query, name) in rows {
            let asked = Named::new(Some(name.into()), None);
            assert_eq!(snapshot_query(query), Ok(asked.unwrap()), "{query}");
        }
        let tip = |named: Named| named.shaped(Shape::Tip);
        assert_eq!(snapshot_query("depth=1"), Ok(tip(Named::default())));
        let both = tip(Named::new(Some("a".into()), None).unwrap());
        assert_eq!(snapshot_query("depth=1&ref=a"), Ok(both));
        for query in ["", "&", "&&"] {
            assert_eq!(snapshot_query(query), Ok(Named::default()), "{query}");
        }
        let both = snapshot_query(&format!("commit={ID}&ref=a")).unwrap();
        let id = full_id(ID.as_bytes());
        assert!(id.is_some());
        assert_eq!((both.name(), both.commit()), (Some("a".into()), id));
        let long = format!("commit={}", "ab".repeat(32));
        assert!(snapshot_query(&long).unwrap().commit().is_some());
    }

    #[test]
    fn what_is_refused() {
        let rows = [
            ("x", KEYS),
            ("x=1", KEYS),
            ("Ref=main", KEYS),
            ("%72ef=main", KEYS),
            ("ref=main&x=1", KEYS),
            ("ref=a&ref=a", TWICE),
            (&format!("commit={ID}&commit={ID}"), TWICE),
            ("ref=a%", ESCAPE),
            ("ref=a%2", ESCAPE),
            ("ref=a%+1", ESCAPE),
            ("ref", NAME),
            ("ref=", NAME),
            ("ref=a%00", NAME),
            ("ref=a%0A", NAME),
            ("ref=a..b", NAME),
            ("ref=a%20b", NAME),
            (&format!("ref={}", "a".repeat(256)), NAME),
            (&format!("commit={}", &ID[..39]), COMMIT),
            (&format!("commit={ID}0"), COMMIT),
            ("commit=", COMMIT),
            ("commit=HEAD", COMMIT),
            ("depth", DEPTH),
            ("depth=", DEPTH),
            ("depth=0", DEPTH),
            ("depth=2", DEPTH),
            ("depth=01", DEPTH),
            ("depth=1x", DEPTH),
            ("Depth=1", KEYS),
            ("depth=1&depth=1", TWICE),
            (&format!("commit=+{}", &ID[1..]), COMMIT),
        ];
        for (query, reject) in rows {
            assert_eq!(snapshot_query(query), Err(reject), "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_name_that_git_allows_can_be_asked_for(name in "\\PC{1,40}") {
            let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let read = snapshot_query(&format!("ref={encoded}"));
            let asked = Named::new(Some(name.as_str().into()), None);
            prop_assert_eq!(read.ok(), asked);
        }
    }
}
