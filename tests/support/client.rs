//! A small blocking HTTP/1.1 client that knows a whole body from a truncated one.
//!
//! Written for tests: it sends any bytes, reads as slowly as told, leaves early, and never
//! retries. Every socket has a time limit, so that a test never hangs.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest silence of a server that the client accepts.
const SILENCE: Duration = Duration::from_secs(60);
const HEAD_BYTES_MAX: usize = 256 << 10;

/// Status line and header fields of one response.
#[derive(Debug, Clone)]
pub struct Head {
    pub version: String,
    pub status: u16,
    /// Names in lower case, in the order received.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of the first field called `name` (lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// `Content-Length` as a number.
    pub fn content_length(&self) -> Option<u64> {
        self.get("content-length").and_then(|v| v.parse().ok())
    }

    /// Whether the body comes in chunks.
    pub fn is_chunked(&self) -> bool {
        self.get("transfer-encoding")
            .is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }

    /// The entity tag; panics when there is none.
    pub fn etag(&self) -> &str {
        self.get("etag")
            .unwrap_or_else(|| panic!("no ETag in {self:?}"))
    }
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every byte that the framing promised is here.
    Complete,
    /// The connection ended first.
    Truncated,
}

/// A response with its whole body in memory.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
    pub end: End,
}

impl Response {
    /// The body, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Panics unless the status is `status` and the body whole; gives itself.
    pub fn expect(self, status: u16) -> Self {
        let shown = if self.body.len() < 2000 {
            self.text()
        } else {
            String::new()
        };
        assert_eq!(self.head.status, status, "{:?} {shown}", self.head);
        assert_eq!(self.end, End::Complete, "truncated: {:?}", self.head);
        self
    }
}

/// What still has to come of the body that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Done,
    Length(u64),
    /// Inside a chunk with this many bytes left; a chunk's own line ending follows.
    Chunk(u64),
    /// Before a chunk's own line ending. It may come long after the chunk's bytes, which are
    /// good without it.
    ChunkEnd,
    /// Before a chunk's size line.
    ChunkSize,
    UntilClose,
}

/// One connection.
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    position: usize,
    rest: Rest,
}

impl Conn {
    /// Connects; panics when the server does not accept.
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"))
    }

    /// Connects.
    pub fn try_open(address: SocketAddr) -> io::Result<Self> {
        Self::on(TcpStream::connect_timeout(&address, SILENCE)?)
    }

    /// Connects from another address of this machine, such as 127.0.0.2; panics when that fails.
    pub fn open_from(from: IpAddr, address: SocketAddr) -> Self {
        let connect = || {
            let domain = socket2::Domain::for_address(address);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&address.into(), SILENCE)?;
            Self::on(socket.into())
        };
        connect().unwrap_or_else(|e| panic!("connect to {address} from {from}: {e}"))
    }

    fn on(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Conn {
            stream,
            buffer: Vec::new(),
            position: 0,
            rest: Rest::Done,
        })
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request without a body; `fields` are whole lines without their line ending.
    pub fn request(&mut self, method: &str, target: &str, fields: &[&str]) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head.as_bytes())
            .unwrap_or_else(|e| panic!("{method} {target}: {e}"));
    }

    /// Sends a request with a body of a known length.
    pub fn post(&mut self, target: &str, fields: &[&str], body: &[u8]) {
        let length = format!("Content-Length: {}", body.len());
        self.request("POST", target, &[fields, &[&length]].concat());
        self.send(body)
            .unwrap_or_else(|e| panic!("POST {target}: {e}"));
    }

    /// Another handle of the same socket, to write from another thread.
    pub fn writer(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Reads the next head. `method` is the request's: an answer to HEAD has no body.
    /// `UnexpectedEof` when the server closed instead.
    pub fn read_head(&mut self, method: &str) -> io::Result<Head> {
        assert_eq!(self.rest, Rest::Done, "the body before was not read");
        let end = loop {
            let pending = &self.buffer[self.position..];
            if let Some(at) = find(pending, b"\r\n\r\n") {
                break self.position + at + 4;
            }
            if pending.len() > HEAD_BYTES_MAX {
                return Err(invalid("a head without end"));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = parse_head(&self.buffer[self.position..end])?;
        self.position = end;
        self.rest = rest_of(&head, method);
        Ok(head)
    }

    /// Reads some of the body; 0 at its end. A connection that ends before the framing says so
    /// is `UnexpectedEof`, whatever way it ended.
    pub fn read_body(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match self.rest {
                Rest::Done => return Ok(0),
                Rest::ChunkSize => self.read_chunk_size()?,
                Rest::ChunkEnd => self.read_chunk_end()?,
                Rest::Length(left) => {
                    let count = self.take(out, left)?;
                    self.rest = match left - count as u64 {
                        0 => Rest::Done,
                        left => Rest::Length(left),
                    };
                    return Ok(count);
                }
                Rest::Chunk(left) => {
                    let count = self.take(out, left)?;
                    self.rest = match left - count as u64 {
                        0 => Rest::ChunkEnd,
                        left => Rest::Chunk(left),
                    };
                    return Ok(count);
                }
                Rest::UntilClose => return self.take_until_close(out),
            }
        }
    }

    fn take_until_close(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.take(out, u64::MAX) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.rest = Rest::Done;
                Ok(0)
            }
            result => result,
        }
    }

    fn read_chunk_size(&mut self) -> io::Result<()> {
        let line = self.read_line()?;
        let digits = line.split(|&b| b == b';').next().unwrap_or_default();
        let text = std::str::from_utf8(digits).map_err(|_| invalid("chunk size"))?;
        let size = u64::from_str_radix(text.trim(), 16).map_err(|_| invalid("chunk size"))?;
        if size > 0 {
            self.rest = Rest::Chunk(size);
            return Ok(());
        }
        while !self.read_line()?.is_empty() {}
        self.rest = Rest::Done;
        Ok(())
    }

    fn read_chunk_end(&mut self) -> io::Result<()> {
        if !self.read_line()?.is_empty() {
            return Err(invalid("no line ending after a chunk"));
        }
        self.rest = Rest::ChunkSize;
        Ok(())
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let pending = &self.buffer[self.position..];
            if let Some(at) = find(pending, b"\r\n") {
                let line = pending[..at].to_vec();
                self.position += at + 2;
                return Ok(line);
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, out: &mut [u8], limit: u64) -> io::Result<usize> {
        let want = out.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        let pending = self.buffer.len() - self.position;
        if pending > 0 {
            let count = pending.min(want);
            out[..count].copy_from_slice(&self.buffer[self.position..self.position + count]);
            self.position += count;
            return Ok(count);
        }
        match self.read_socket(want, Some(out))? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.position == self.buffer.len() {
            self.buffer.clear();
            self.position = 0;
        }
        self.read_socket(16 << 10, None)
    }

    /// Reads from the socket into `out`, or into the buffer. A reset is an end like any other.
    fn read_socket(&mut self, want: usize, out: Option<&mut [u8]>) -> io::Result<usize> {
        let mut scratch = [0; 16 << 10];
        let into_buffer = out.is_none();
        let target = match out {
            Some(out) => &mut out[..want],
            None => &mut scratch[..want.min(16 << 10)],
        };
        let result = loop {
            match self.stream.read(target) {
                // With a read timeout, stopping and continuing the process ends the call
                // (signal(7)).
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let count = match result {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
            other => other?,
        };
        if into_buffer {
            self.buffer.extend_from_slice(&scratch[..count]);
        }
        Ok(count)
    }

    /// Reads the rest of the body into `sink`; gives how it ended and the number of bytes.
    /// Only a silent server or a broken framing is an error.
    pub fn copy_body(&mut self, sink: &mut dyn Write) -> io::Result<(End, u64)> {
        let mut block = vec![0; 256 << 10];
        let mut total = 0;
        loop {
            match self.read_body(&mut block) {
                Ok(0) => return Ok((End::Complete, total)),
                Ok(count) => {
                    sink.write_all(&block[..count])?;
                    total += count as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok((End::Truncated, total));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads `count` bytes of the body, or fewer if it ends before.
    pub fn read_some(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read_body(&mut out[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(e),
            }
        }
        out.truncate(filled);
        Ok(out)
    }

    /// Reads the whole response to a request that was sent with `method`.
    pub fn response(&mut self, method: &str) -> Response {
        let head = self
            .read_head(method)
            .unwrap_or_else(|e| panic!("no response: {e}"));
        let mut body = Vec::new();
        let (end, _) = self
            .copy_body(&mut body)
            .unwrap_or_else(|e| panic!("{head:?}: {e}"));
        Response { head, body, end }
    }

    /// Whether the server closes the connection within `limit`, whatever it sends before.
    pub fn closes_within(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        let step = Duration::from_millis(50);
        let mut scratch = [0; 4096];
        let mut closed = false;
        while !closed && start.elapsed() < limit {
            closed = self.stream.set_read_timeout(Some(step)).is_err();
            closed |= match self.stream.read(&mut scratch) {
                Ok(0) => true,
                Ok(_) => false,
                Err(e) => !is_timeout(&e) && e.kind() != io::ErrorKind::Interrupted,
            };
        }
        // A closed socket may refuse options; what matters is known already.
        drop(self.stream.set_read_timeout(Some(SILENCE)));
        closed
    }

    /// Changes how long the server may stay silent.
    pub fn limit_silence(&self, limit: Duration) {
        let set = self.stream.set_read_timeout(Some(limit));
        set.unwrap_or_else(|e| panic!("read timeout: {e}"));
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        // The server may have closed already, which is as good.
        drop(self.stream.shutdown(Shutdown::Write));
    }
}

/// Reads a body at most at `bytes_per_s`, in small steps, so that the server sees a slow reader
/// rather than a stalled one.
pub struct Paced<'a> {
    conn: &'a mut Conn,
    bytes_per_s: u64,
    started: Instant,
    total: u64,
}

impl<'a> Paced<'a> {
    /// Starts the clock.
    pub fn new(conn: &'a mut Conn, bytes_per_s: u64) -> Self {
        Paced {
            conn,
            bytes_per_s,
            started: Instant::now(),
            total: 0,
        }
    }

    /// Reads the next step into `sink`; `false` when the body has ended. Sleeps as long as the
    /// rate demands.
    pub fn step(&mut self, sink: &mut dyn Write) -> io::Result<bool> {
        let mut block = [0; 16 << 10];
        let count = self.conn.read_body(&mut block)?;
        sink.write_all(&block[..count])?;
        self.total += count as u64;
        let due = Duration::from_secs_f64(self.total as f64 / self.bytes_per_s as f64);
        if let Some(early) = due.checked_sub(self.started.elapsed()) {
            std::thread::sleep(early);
        }
        Ok(count > 0)
    }
}

/// One request on its own connection.
pub fn fetch(address: SocketAddr, method: &str, target: &str, fields: &[&str]) -> Response {
    let mut conn = Conn::open(address);
    conn.request(method, target, fields);
    conn.response(method)
}

/// `GET target` on its own connection.
pub fn get(address: SocketAddr, target: &str) -> Response {
    fetch(address, "GET", target, &[])
}

/// `POST target` on its own connection.
pub fn post(address: SocketAddr, target: &str, fields: &[&str], body: &[u8]) -> Response {
    let mut conn = Conn::open(address);
    conn.post(target, fields, body);
    conn.response("POST")
}

fn rest_of(head: &Head, method: &str) -> Rest {
    if method == "HEAD" || head.status == 204 || head.status == 304 || head.status < 200 {
        Rest::Done
    } else if head.is_chunked() {
        Rest::ChunkSize
    } else {
        match head.content_length() {
            Some(0) => Rest::Done,
            Some(length) => Rest::Length(length),
            None => Rest::UntilClose,
        }
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Head> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("head is not text"))?;
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let mut start = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = start.next().unwrap_or_default().to_owned();
    let status = start
        .next()
        .and_then(|s| s.parse().ok())
        .ok_or(invalid("status line"))?;
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(invalid("field line"))?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Head {
        version,
        status,
        fields,
    })
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
