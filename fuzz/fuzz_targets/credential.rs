//! Credentials: an input is the value of a header. What is read says the same when it is written again, and
//! what is not read is refused: no input is taken for no credential.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tarpon::access::credential::Credential;

fuzz_target!(|data: &[u8]| {
    let Ok(read) = Credential::read(Some(data)) else {
        return;
    };
    assert!(!read.is_none() && read.secret().is_some());
    let value = read.header_value().unwrap();
    assert!(value.bytes().all(|byte| (b' '..0x7f).contains(&byte)));
    let again = Credential::read(Some(value.as_bytes())).unwrap();
    assert!(again == read && again.mark() == read.mark());
    assert_ne!(read.mark(), Credential::NONE.mark());
    assert_eq!(
        again.is_or_looks_like_token(),
        read.is_or_looks_like_token()
    );
    match (read.basic(), read.bearer()) {
        (Some((user, password)), None) => {
            assert!(!user.contains(&b':'));
            let all = [user, password].concat();
            assert!(!all.iter().any(u8::is_ascii_control));
        }
        (None, Some(token)) => {
            assert!(token.iter().all(u8::is_ascii_graphic));
            assert!(value.ends_with(std::str::from_utf8(token).unwrap()));
        }
        _ => panic!("it is one of two"),
    }
});
