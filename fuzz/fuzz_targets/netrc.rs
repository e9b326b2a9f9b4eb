//! Who asks, as the client reads it: an input is a `.netrc`, the user of a URL, and what is sent is what a server
//! reads. Nobody's entry is taken for another's, and nothing that is read breaks a line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tarpon::access::credential::Credential;
use tarpon::restore::layers::{User, basic, find_in_netrc};

const HOST: &str = "host";

fuzz_target!(|data: &[u8]| {
    for name in [None, Some("u")] {
        let found = find_in_netrc(data, HOST, name);
        if let Some(user) = &found {
            assert!(name.is_none_or(|name| name == user.name));
            sent(user);
        }
        // What others have before it changes nothing, and `default` is for nobody.
        let others = [b"machine other login x password y\n\n", data].concat();
        assert_eq!(find_in_netrc(&others, HOST, name), found);
        let behind = [
            b"default login x password y\nmachine host password z ",
            data,
        ]
        .concat();
        assert_eq!(find_in_netrc(&behind, HOST, name), None);
    }
    // What is quoted is read as it is.
    let plain: Vec<u8> = data
        .iter()
        .copied()
        .filter(|b| !b"nrt".contains(b))
        .collect();
    let quoted: Vec<u8> = plain.iter().flat_map(|byte| [b'\\', *byte]).collect();
    let text = [b"machine host login u password \"", &quoted[..], b"\""].concat();
    let password = std::str::from_utf8(&plain).ok();
    let expected = password.filter(|text| !text.contains(char::is_control));
    let found = find_in_netrc(&text, HOST, None);
    let found = found.as_ref().and_then(|user| user.password.as_ref());
    assert_eq!(found.map(|password| password.text()), expected);
    if let Some(user) = std::str::from_utf8(data).ok().and_then(User::parse) {
        sent(&user);
    }
});

/// What is sent is one line, and a server reads it as the same.
fn sent(user: &User) {
    assert!(!user.name.contains(char::is_control));
    let Some(password) = &user.password else {
        return;
    };
    let line = basic(user).expect("it has a password");
    let value = line.strip_prefix("Authorization: ").expect("a field");
    let read = Credential::read(Some(value.as_bytes())).expect("a server reads it");
    let (name, secret) = read.basic().expect("it is Basic");
    assert_eq!((name, secret), (user.name.as_bytes(), password.bytes()));
}
