use super::worth::Worth;
use super::*;
use crate::config::{self, Command, Config, TlsFiles};
use certificates::{Authority, Issued};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

#[path = "../../../../tests/support/certificates.rs"]
mod certificates;

/// What a server's flags say.
fn files(flags: &[String]) -> TlsFiles {
    let all = ["tarpon", "serve", "--state=/x"].map(str::to_owned);
    match config::parse(all.iter().chain(flags), |_| None) {
        Ok(Command::Serve(config)) => {
            let Config { listeners, .. } = *config;
            listeners.tls.unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn keys(flags: &[String]) -> Arc<Keys> {
    Arc::new(Keys::from_files(files(flags)).unwrap())
}

/// A client that believes an authority, and may have a certificate of its own.
fn client(authority: &Authority, own: Option<&Issued>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(&authority.file).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let cert = CertificateDer::from_pem_file(&own.cert).unwrap();
            let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    })
}

/// Both ends of a connection, on one thread.
struct Both {
    session: Session,
    ours: UnixStream,
    client: ClientConnection,
    theirs: UnixStream,
}

impl Both {
    fn new(keys: &Arc<Keys>, client: &Arc<ClientConfig>, name: &str) -> Both {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = ClientConnection::new(client.clone(), name).unwrap();
        let session = Session::new(keys.clone()).unwrap();
        Both {
            session,
            ours,
            client,
            theirs,
        }
    }

    /// What the client has to say is sent, and what has come for it is read. At the end of the connection it says
    /// so.
    fn client_goes_on(&mut self) -> Result<bool, rustls::Error> {
        while self.client.wants_write() && self.client.write_tls(&mut self.theirs).is_ok() {}
        self.client_reads()
    }

    fn client_reads(&mut self) -> Result<bool, rustls::Error> {
        while let Ok(count) = self.client.read_tls(&mut self.theirs) {
            self.client.process_new_packets()?;
            if count == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Shakes hands; gives what is wrong with it.
    fn shake(&mut self) -> Result<Option<Holder>, String> {
        for _ in 0..100 {
            let client = self.client_goes_on();
            match self.session.greet(self.ours.as_fd()) {
                Ok(true) => {
                    let holder = self.session.holder().map_err(|e| e.to_string());
                    self.client_goes_on().map_err(|e| e.to_string())?;
                    return holder;
                }
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e.to_string()),
                _ => client.map_err(|e| e.to_string())?,
            };
        }
        panic!("no end of shaking hands");
    }

    /// The client reads all that there is.
    fn read(&mut self, got: &mut Vec<u8>) -> io::Result<()> {
        loop {
            // So much at a time as it holds.
            let had = got.len();
            self.client_goes_on().unwrap();
            match self.client.reader().read_to_end(got) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && got.len() > had => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => return other.map(drop),
            }
        }
    }

    /// Sends all of `bytes` to the client.
    fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (mut at, mut got) = (0, Vec::new());
        while at < bytes.len() {
            match self.session.send(self.ours.as_fd(), &bytes[at..], false) {
                Ok(sent) => at += sent,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
            self.read(&mut got).unwrap();
        }
        while self.session.flush(self.ours.as_fd()).is_err() {
            self.read(&mut got).unwrap();
        }
        self.read(&mut got).unwrap();
        got
    }
}

fn content() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i / 7) as u8).collect()
}

#[test]
fn what_is_sealed_arrives_whole_and_its_end_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let keys = keys(&authority.issue("a", &["a.example"], 1).flags());
    let client = client(&authority, None);
    for is_broken in [false, true] {
        let mut both = Both::new(&keys, &client, "a.example");
        assert!(both.shake().unwrap().is_none());
        assert_eq!(
            both.client.protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
        let content = content();
        assert!(both.send(&content) == content);
        // The first half of what another begins with.
        assert_eq!(
            both.session.send(both.ours.as_fd(), b"half", true).unwrap(),
            4
        );
        let mut got = Vec::new();
        both.read(&mut got).unwrap();
        assert_eq!(got, b"", "it is sent with what follows");
        if is_broken {
            both.session.break_off();
        }
        both.session.seal_end();
        both.session.flush(both.ours.as_fd()).unwrap();
        drop(both.ours.shutdown(std::net::Shutdown::Both));
        let end = both
            .client_goes_on()
            .map(|_| both.client.reader().read_to_end(&mut got));
        match is_broken {
            false => assert_eq!((end.unwrap().unwrap(), &*got), (4, &b"half"[..])),
            true => assert_eq!(
                end.unwrap().unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof
            ),
        }
    }
}

#[test]
fn what_a_client_sends_is_read_as_far_as_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let keys = keys(&authority.issue("a", &["a.example"], 1).flags());
    let mut both = Both::new(&keys, &client(&authority, None), "a.example");
    both.shake().unwrap();
    let sent = content();
    both.client.writer().write_all(&sent[..60_000]).unwrap();
    let mut got = Vec::new();
    while got.len() < 60_000 {
        both.client_goes_on().unwrap();
        let mut buffer = [0; 1000];
        match both
            .session
            .receive(both.ours.as_fd(), &mut buffer, &mut got)
        {
            Ok(Opened::Content(count)) => assert!((1..=1000).contains(&count)),
            Ok(Opened::Nothing) => {}
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert!(got == sent[..60_000]);
    both.client.send_close_notify();
    both.client_goes_on().unwrap();
    let end = both
        .session
        .receive(both.ours.as_fd(), &mut [0; 10], &mut got);
    assert!(matches!(end, Ok(Opened::Content(0))));
}

/// The names of the certificate that a client is shown.
fn shown(both: &Both) -> Vec<String> {
    let own = &both.client.peer_certificates().unwrap()[0];
    let own = webpki::EndEntityCert::try_from(own).unwrap();
    own.valid_dns_names().map(str::to_owned).collect()
}

#[test]
fn a_client_is_shown_the_certificate_of_the_name_that_it_wants() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let named = |file, names: &[&str]| authority.issue(file, names, 1).flags();
    let flags = [
        named("default", &["d.example", "10.0.0.1"]),
        named("second", &["s.example", "*.Wild.example"]),
    ];
    let keys = keys(&flags.concat());
    let client = client(&authority, None);
    for (name, expected) in [
        ("d.example", Some("d.example")),
        ("S.example", Some("s.example")),
        ("a.wild.example", Some("s.example")),
        ("10.0.0.1", Some("d.example")),
        ("b.a.wild.example", None),
        ("wild.example", None),
        ("other.example", None),
    ] {
        let mut both = Both::new(&keys, &client, name);
        let shaken = both.shake();
        match expected {
            Some(expected) => assert_eq!(shown(&both)[0], expected, "{name}"),
            // It is shown the default, which it does not believe.
            None => assert!(shaken.is_err(), "{name}"),
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_the_names_of_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let pairs = ["one", "two"].map(|name| authority.issue(name, &["a.example"], 1));
    let said = |cert: &Path, key: &Path| {
        let flags = [flag("tls-cert", cert), flag("tls-key", key)];
        Keys::from_files(files(&flags)).unwrap_err().to_string()
    };
    let swapped = said(&pairs[0].cert, &pairs[1].key);
    assert!(
        swapped.contains("two.key of --tls-key has not the key")
            && swapped.ends_with("one.pem of --tls-cert"),
        "{swapped}"
    );
    assert!(said(&pairs[0].key, &pairs[0].key).contains("has no certificate"));
    assert!(said(&pairs[0].cert, &pairs[0].cert).contains("has no key"));
    let none = dir.path().join("none");
    let named = |setting: &str| format!("none of {setting} cannot be read: ");
    assert!(said(&none, &pairs[0].key).contains(&named("--tls-cert")));
    assert!(said(&pairs[0].cert, &none).contains(&named("--tls-key")));
    for (ca, crl, setting) in [
        (&none, &authority.file, "--tls-client-ca"),
        (&authority.file, &none, "--tls-client-crl"),
    ] {
        let clients = [
            flag("tls-client-ca", ca),
            flag("tls-client-crl", crl),
            "--tls-client-san=*.example".to_owned(),
        ];
        let flags = [&pairs[0].flags()[..], &clients].concat();
        let said = Keys::from_files(files(&flags)).unwrap_err().to_string();
        assert!(said.contains(&named(setting)), "{said}");
    }
    let wrong = dir.path().join("wrong");
    std::fs::write(
        &wrong,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(said(&wrong, &pairs[0].key).contains("cannot be used"));
}

#[test]
fn a_reload_takes_all_or_nothing_and_leaves_connections_and_tickets() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let keys = keys(
        &authority
            .issue("a", &["a.example", "old.example"], 1)
            .flags(),
    );
    let client = client(&authority, None);
    let mut before = Both::new(&keys, &client, "a.example");
    before.shake().unwrap();
    assert_eq!(before.client.handshake_kind(), Some(HandshakeKind::Full));
    let half_way = {
        let mut both = Both::new(&keys, &client, "old.example");
        both.client_goes_on().unwrap();
        both
    };
    let other = authority.issue("b", &["b.example"], 2);
    std::fs::copy(&other.cert, dir.path().join("a.pem")).unwrap();
    let refused = keys.anew_from_files().unwrap_err().to_string();
    assert!(refused.contains("has not the key of"), "{refused}");
    let mut still = Both::new(&keys, &client, "old.example");
    still.shake().unwrap();
    authority.issue("a", &["a.example", "new.example"], 3);
    keys.take(keys.anew_from_files().unwrap());
    let mut after = Both::new(&keys, &client, "new.example");
    after.shake().unwrap();
    assert_eq!(shown(&after), ["a.example", "new.example"]);
    let mut half_way = half_way;
    half_way.shake().unwrap();
    assert_eq!(
        shown(&half_way),
        ["a.example", "old.example"],
        "it has begun before"
    );
    let content = content();
    assert!(before.send(&content) == content, "a download goes on");
    let mut again = Both::new(&keys, &client, "a.example");
    again.shake().unwrap();
    assert_eq!(again.client.handshake_kind(), Some(HandshakeKind::Resumed));
    assert!(again.send(&content) == content);
}

#[test]
fn a_client_certificate_is_an_identity_until_it_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| Authority::new(dir.path(), name));
    let good = ours.issue("good", &["x.example", "r1.ci.example"], 1);
    let by_uri = ours.issue("uri", &["spiffe://example/farm/one"], 2);
    let revoked = ours.issue("revoked", &["r2.ci.example"], 3);
    let unknown = ours.issue("unknown", &["*.ci.example", "r.other.example"], 4);
    let foreign = theirs.issue("foreign", &["r1.ci.example"], 5);
    let list = ours.revoke("list", &[&revoked]);
    let ca = dir.path().join("believed.pem");
    std::fs::copy(&ours.file, &ca).unwrap();
    let mut flags = ours.issue("server", &["a.example"], 9).flags().to_vec();
    flags.extend([flag("tls-client-ca", &ca), flag("tls-client-crl", &list)]);
    flags.extend(
        ["*.ci.example", "spiffe://example/farm/*"].map(|p| format!("--tls-client-san={p}")),
    );
    let keys = keys(&flags);
    let shake = |own: Option<&Issued>| {
        let mut both = Both::new(&keys, &client(&ours, own), "a.example");
        (both.shake(), both)
    };
    assert!(shake(None).0.unwrap().is_none());
    let holder = |own| shake(Some(own)).0.unwrap().unwrap();
    assert_eq!(holder(&by_uri).name(), "spiffe://example/farm/one");
    let (first, second) = (holder(&good), holder(&good));
    assert_eq!(first.name(), "r1.ci.example");
    for (wrong, why) in [
        (&revoked, "Revoked"),
        (&unknown, "ApplicationVerification"),
        (&foreign, "UnknownIssuer"),
    ] {
        let said = shake(Some(wrong)).0.unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    // With a certificate nobody comes back without it.
    let client = client(&ours, Some(&good));
    for _ in 0..2 {
        let mut both = Both::new(&keys, &client, "a.example");
        both.shake().unwrap();
        assert_eq!(both.client.handshake_kind(), Some(HandshakeKind::Full));
    }
    assert!(first.is_believed() && second.is_believed());
    ours.revoke("list", &[&revoked, &by_uri]);
    keys.take(keys.anew_from_files().unwrap());
    assert!(first.is_believed(), "nothing of it has changed");
    ours.revoke("list", &[&revoked, &good]);
    assert!(first.is_believed(), "nobody has read that");
    keys.take(keys.anew_from_files().unwrap());
    assert!(!first.is_believed() && !first.is_believed());
    ours.revoke("list", &[&revoked]);
    keys.take(keys.anew_from_files().unwrap());
    assert!(first.is_believed() && second.is_believed());
    // An authority that is believed no more.
    std::fs::copy(&theirs.file, &ca).unwrap();
    theirs.revoke("list", &[]);
    keys.take(keys.anew_from_files().unwrap());
    assert!(!first.is_believed());
    assert!(shake(Some(&good)).0.is_err());
    assert_eq!(holder(&foreign).name(), "r1.ci.example");
}

#[test]
fn what_is_no_tls_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let keys = keys(&authority.issue("a", &["a.example"], 1).flags());
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut session = Session::new(keys).unwrap();
    theirs
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let refused = session.greet(ours.as_fd()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    session.seal_end();
    assert!(session.flush(ours.as_fd()).is_ok());
    drop(ours);
    let mut said = Vec::new();
    // It had more to say than was read.
    let _ = theirs.read_to_end(&mut said);
    assert_eq!(said.first(), Some(&21), "an alert: {said:?}");
}

/// Whoever changes keys again and again, with a byte of content between so that it is not asked to stop, is let go;
/// content in as small pieces is not.
#[test]
fn what_is_no_content_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let keys = keys(&authority.issue("a", &["a.example"], 1).flags());
    let client = client(&authority, None);
    for changes in [0, 2] {
        let mut both = Both::new(&keys, &client, "a.example");
        both.shake().unwrap();
        let mut got = Vec::new();
        let refused = (0..4000).find_map(|_| {
            for _ in 0..changes {
                both.client.refresh_traffic_keys().unwrap();
            }
            both.client.writer().write_all(b"x").unwrap();
            both.client_goes_on().unwrap();
            let mut buffer = [0; INPUT];
            let socket = both.ours.as_fd();
            let received = both.session.receive(socket, &mut buffer, &mut got);
            received.err()
        });
        match changes {
            0 => assert!(refused.is_none() && got.len() == 4000, "{refused:?}"),
            _ => assert_eq!(refused.unwrap().kind(), io::ErrorKind::InvalidData),
        }
        // With the next request it begins anew.
        if changes > 0 {
            assert!(got.len() > 1000, "{}", got.len());
            both.session.renew();
            both.client.writer().write_all(b"x").unwrap();
            both.client_goes_on().unwrap();
            let socket = both.ours.as_fd();
            let received = both.session.receive(socket, &mut [0; INPUT], &mut got);
            assert!(
                matches!(received, Ok(Opened::Content(_))),
                "{:?}",
                received.err()
            );
        }
    }
}

/// What a client sends, `pieces` of it at a time and again from the first, with a bit of one byte turned. Gives what
/// the other side has read, and whether it was content with all.
fn in_pieces(
    both: &mut Both,
    sent: &[u8],
    pieces: &[usize],
    turned: Option<(usize, u8)>,
) -> (Vec<u8>, bool) {
    let (mut wire, mut at, mut got) = (Vec::new(), 0, Vec::new());
    let mut shaken = false;
    both.client.writer().write_all(sent).unwrap();
    for piece in pieces.iter().cycle().take(200_000) {
        // What it is told may be told too late for it to mind.
        let _ = both.client_reads();
        while both.client.wants_write() && both.client.write_tls(&mut wire).is_ok() {}
        if let Some((position, bit)) = turned
            && (at..wire.len().min(at + piece)).contains(&position)
        {
            wire[position] ^= 1 << bit;
        }
        let until = wire.len().min(at + piece);
        both.theirs.write_all(&wire[at..until]).unwrap();
        at = until;
        let tried = match shaken {
            false => both
                .session
                .greet(both.ours.as_fd())
                .map(|done| shaken = done),
            true => {
                let mut buffer = [0; INPUT];
                let received = both
                    .session
                    .receive(both.ours.as_fd(), &mut buffer, &mut got);
                received.map(drop)
            }
        };
        match tried {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return (got, false),
            _ if got.len() == sent.len() && shaken => return (got, true),
            _ => {}
        }
    }
    (got, false)
}

const INPUT: usize = 4096;

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// However a client's bytes are cut, what it sends is read; and of what somebody on the way has changed nothing
    /// is read that it has not sent.
    #[test]
    fn only_what_was_sent_is_read_however_it_is_cut(
        pieces in proptest::collection::vec(1usize..3000, 1..20),
        len in 1usize..50_000,
        turned in proptest::option::of((0usize..20_000, 0u8..8)),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "ca");
        let keys = keys(&authority.issue("a", &["a.example"], 1).flags());
        let mut both = Both::new(&keys, &client(&authority, None), "a.example");
        let sent = &content()[..len];
        let (got, is_whole) = in_pieces(&mut both, sent, &pieces, turned);
        proptest::prop_assert!(sent.starts_with(&got));
        if turned.is_none() {
            proptest::prop_assert!(is_whole);
        }
    }
}

#[test]
fn what_a_certificate_is_worth() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let worth = |path: &Path| {
        let file = super::files::Named::cert(path);
        let chain = super::files::certificates(&file).unwrap();
        Worth::of(&file, &chain[0], &provider).unwrap()
    };
    // The beginnings of 2025 and of 2026.
    let (begins, ends) = (1_735_689_600, 1_767_225_600);
    let own = worth(&ours.issue_for("own", &["a.example"], 1, (2025, 2026)).cert);
    assert_eq!(own.ends_unix_s, ends);
    assert_eq!(own.complaint(begins), None);
    assert_eq!(own.complaint(ends), None);
    let said = |worth: &Worth, at| worth.complaint(at).unwrap();
    assert!(said(&own, ends + 1).contains("it has run out"));
    assert!(said(&own, begins - 1).contains("it is not valid yet"));
    assert!(said(&worth(&ours.file), begins).contains("an authority"));
    let of = |file: &str, names: &[&str]| worth(&ours.issue(file, names, 1).cert);
    let dns = "dns:127.0.0.1";
    let looked_for = said(&of("misnamed", &[dns, "a.example"]), begins);
    assert!(
        looked_for.contains("subjectAltName=IP:127.0.0.1"),
        "{looked_for}"
    );
    assert_eq!(of("both", &[dns, "127.0.0.1"]).complaint(begins), None);
    assert!(said(&of("nameless", &[]), begins).contains("no name that is looked at"));
}
