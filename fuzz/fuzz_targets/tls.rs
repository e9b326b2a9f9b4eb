//! A connection under TLS: an input says, step by step, what a client and we do, how what it sends is cut into pieces, and
//! what somebody on the way does to it. What is read is what was sent, from its beginning and in order; all of it where
//! nobody has meddled; and a client takes what it got for all only where we said so.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use tarpon::config::{self, Command};
use tarpon::http::net::tls::keys::Keys;
use tarpon::http::net::tls::{Opened, Session};
use tarpon_fuzz::Input;
use tarpon_fuzz::certificates::Authority;

/// Changes of keys that are nobody's trouble, whatever is between them.
const KEYS_CHANGED_MAX: u32 = 16;
/// Steps of one input.
const STEPS_MAX: usize = 200;

/// Of both sides; by TLS 1.2 and 1.3.
struct Sides {
    keys: Arc<Keys>,
    clients: [Arc<ClientConfig>; 2],
}

fn sides() -> &'static Sides {
    static SIDES: OnceLock<Sides> = OnceLock::new();
    SIDES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "ca");
        let pair = authority.issue("server", &["a.example"], 1);
        let flags = ["tarpon", "serve", "--state=/x"].map(str::to_owned);
        let flags = flags.into_iter().chain(pair.flags());
        let Ok(Command::Serve(config)) = config::parse(flags, |_| None) else {
            panic!("no configuration");
        };
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(&authority.file).unwrap();
        roots.add(root).unwrap();
        let client = |version| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_protocol_versions(&[version]).unwrap();
            let builder = builder.with_root_certificates(roots.clone());
            Arc::new(builder.with_no_client_auth())
        };
        Sides {
            keys: Arc::new(Keys::from_files(config.listeners.tls.unwrap()).unwrap()),
            clients: [&rustls::version::TLS12, &rustls::version::TLS13].map(client),
        }
    })
}

/// The bytes that either side sends: each tells where it stands.
fn content(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at * 31 / 7) as u8).collect()
}

/// One side's content on its way.
#[derive(Default)]
struct Content {
    sent_bytes: usize,
    got_bytes: usize,
}

impl Content {
    fn take(&mut self, got: &[u8]) {
        assert_eq!(got, content(self.got_bytes, got.len()), "other bytes came");
        self.got_bytes += got.len();
        assert!(self.got_bytes <= self.sent_bytes, "what was not sent yet");
    }
}

struct Talk {
    session: Session,
    ours: UnixStream,
    client: ClientConnection,
    theirs: UnixStream,
    /// What the client has sent and nobody has passed on.
    wire: Vec<u8>,
    up: Content,
    down: Content,
    is_greeted: bool,
    /// Somebody has changed what the client sent, or it has asked for too much.
    is_tampered: bool,
    keys_changed: u32,
    /// We have said that nothing follows.
    is_ended: bool,
    is_broken: bool,
    /// One side has had enough of the other.
    is_over: bool,
}

impl Talk {
    fn new(version: u8) -> Talk {
        let sides = sides();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let config = sides.clients[usize::from(version % 2)].clone();
        let name = ServerName::try_from("a.example").unwrap();
        Talk {
            session: Session::new(sides.keys.clone()).unwrap(),
            ours,
            client: ClientConnection::new(config, name).unwrap(),
            theirs,
            wire: Vec::new(),
            up: Content::default(),
            down: Content::default(),
            is_greeted: false,
            is_tampered: false,
            keys_changed: 0,
            is_ended: false,
            is_broken: false,
            is_over: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 12 {
            0 | 1 => self.client_says(usize::from(input.u16())),
            2 | 3 => self.pass_on(usize::from(input.u16())),
            4 | 5 => self.go_on(usize::from(input.u16())),
            6 => self.answer(usize::from(input.u16()), input.u8() % 2 == 1),
            7 => self.client_reads(),
            8 => self.meddle(input),
            9 => self.change_keys(input.u8()),
            10 => self.session.renew(),
            _ => self.end(input.u8()),
        }
    }

    fn client_says(&mut self, len: usize) {
        let bytes = content(self.up.sent_bytes, len);
        // It takes so much at a time, and nothing after an error.
        self.up.sent_bytes += self.client.writer().write(&bytes).unwrap_or(0);
    }

    /// Passes on some of what the client has sent.
    fn pass_on(&mut self, most: usize) {
        while self.client.wants_write() && self.client.write_tls(&mut self.wire).is_ok() {}
        let piece = &self.wire[..self.wire.len().min(most)];
        if let Ok(count) = self.theirs.write(piece) {
            self.wire.drain(..count);
        }
    }

    /// We read once, if there is something.
    fn go_on(&mut self, most: usize) {
        if self.is_over {
            return;
        }
        if !self.is_greeted {
            match self.session.greet(self.ours.as_fd()) {
                Ok(is_done) => self.is_greeted = is_done,
                Err(e) => self.expect(e),
            }
            return;
        }
        let (mut buffer, mut got) = (vec![0; most.clamp(1, 4096)], Vec::new());
        let received = self
            .session
            .receive(self.ours.as_fd(), &mut buffer, &mut got);
        self.up.take(&got);
        match received {
            Ok(Opened::Content(count)) => {
                assert_eq!(count, got.len());
                // Nothing ends what a client sends in this talk.
                assert!(count > 0 || self.is_tampered);
            }
            Ok(Opened::Nothing) => {}
            Err(e) => self.expect(e),
        }
    }

    /// Whether an error is one that may be.
    fn expect(&mut self, error: std::io::Error) {
        if error.kind() == ErrorKind::WouldBlock {
            return;
        }
        assert!(self.is_tampered, "{error}");
        self.is_over = true;
        // What was wrong is no end of what we send.
        self.is_broken |= !self.is_ended;
    }

    fn answer(&mut self, len: usize, more: bool) {
        if !self.is_greeted || self.is_over || self.is_ended {
            return;
        }
        let bytes = content(self.down.sent_bytes, len);
        match self.session.send(self.ours.as_fd(), &bytes, more) {
            Ok(count) => self.down.sent_bytes += count,
            Err(e) => self.expect(e),
        }
    }

    fn client_reads(&mut self) {
        let mut got = Vec::new();
        loop {
            match self.client.read_tls(&mut self.theirs) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if self.client.process_new_packets().is_err() {
                assert!(self.is_tampered, "what we send is no TLS");
                self.is_over = true;
                break;
            }
            let read = self.client.reader().read_to_end(&mut got);
            if read.is_ok() {
                assert!(self.is_ended && !self.is_broken, "it takes that for all");
                break;
            }
        }
        self.down.take(&got);
    }

    /// What somebody on the way can do: turn a bit, lose bytes, add some.
    fn meddle(&mut self, input: &mut Input<'_>) {
        while self.client.wants_write() && self.client.write_tls(&mut self.wire).is_ok() {}
        let at = usize::from(input.u16()).min(self.wire.len());
        self.is_tampered = true;
        match input.u8() % 3 {
            0 => {
                if let Some(byte) = self.wire.get_mut(at) {
                    *byte ^= 1 << (input.u8() % 8);
                }
            }
            1 => drop(
                self.wire
                    .drain(at..self.wire.len().min(at + usize::from(input.u8()))),
            ),
            _ => drop(self.wire.splice(at..at, input.text().iter().copied())),
        }
    }

    fn change_keys(&mut self, times: u8) {
        for _ in 0..times {
            if self.client.refresh_traffic_keys().is_ok() {
                self.keys_changed += 1;
            }
        }
        self.is_tampered |= self.keys_changed > KEYS_CHANGED_MAX;
    }

    fn end(&mut self, how: u8) {
        if !self.is_greeted {
            return;
        }
        match how % 4 {
            0 => {
                self.session.break_off();
                self.is_broken |= !self.is_ended;
            }
            1 => {
                self.session.seal_end();
                self.is_ended = true;
            }
            _ => drop(self.session.flush(self.ours.as_fd())),
        }
    }

    /// All that is on its way arrives.
    fn finish(mut self) {
        let rounds = if self.is_tampered { 50 } else { 10_000 };
        for _ in 0..rounds {
            self.pass_on(usize::MAX);
            self.session.renew();
            self.go_on(4096);
            if !self.is_over {
                let _ = self.session.flush(self.ours.as_fd());
            }
            self.client_reads();
            let is_up = self.up.got_bytes == self.up.sent_bytes;
            let is_down = self.down.got_bytes == self.down.sent_bytes;
            if self.is_over || self.is_greeted && is_up && is_down {
                return;
            }
        }
        assert!(self.is_tampered, "something is lost on the way");
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut talk = Talk::new(input.u8());
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        talk.step(&mut input);
    }
    talk.finish();
});
