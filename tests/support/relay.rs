//! What stands between a client and a server, and breaks off or falls silent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Has `serve` take every connection to a port of its own, each in a thread, until the test ends.
pub fn listen(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
    let address = listener
        .local_addr()
        .unwrap_or_else(|e| panic!("address: {e}"));
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || {
                serve(&socket);
                drop(socket.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    address
}

/// Says nothing any more, for as long as the tests run: a time that is over while the machine stood
/// still would be an answer.
pub fn be_silent() -> ! {
    loop {
        std::thread::park();
    }
}

/// How an answer ends.
pub enum Ends {
    Whole,
    /// The connection breaks after so many bytes, the head among them.
    Cut(u64),
    /// Nothing more comes after so many bytes, until the client goes.
    Stall(u64),
}

/// Stands between the client and `server` like [`relay`]; `ends` says of the n-th connection how
/// its answer ends.
pub fn interrupt(
    server: SocketAddr,
    ends: impl Fn(usize) -> Ends + Send + Sync + 'static,
) -> SocketAddr {
    switch(move |number| (server, ends(number)))
}

/// The same, with a server chosen for each connection.
pub fn switch(choose: impl Fn(usize) -> (SocketAddr, Ends) + Send + Sync + 'static) -> SocketAddr {
    let count = std::sync::atomic::AtomicUsize::new(0);
    listen(move |socket| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (server, ends) = choose(number);
        drop(interrupt_one(socket, server, ends));
    })
}

fn interrupt_one(client: &TcpStream, server: SocketAddr, ends: Ends) -> std::io::Result<()> {
    let upstream = TcpStream::connect(server)?;
    let (limit, stalls) = match ends {
        Ends::Whole => (u64::MAX, false),
        Ends::Cut(limit) => (limit, false),
        Ends::Stall(limit) => (limit, true),
    };
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let mut to = client;
            let copied = std::io::copy(&mut (&upstream).take(limit), &mut to);
            if !stalls || copied.is_ok_and(|len| len < limit) {
                drop(client.shutdown(std::net::Shutdown::Both));
            }
        });
        let (mut from, mut to) = (client, &upstream);
        drop(std::io::copy(&mut from, &mut to));
        // The client is gone, or was made to go.
        drop(upstream.shutdown(std::net::Shutdown::Both));
        drop(answers.join());
    });
    Ok(())
}

/// Stands between clients and `server` like a link: `bytes_s` says how many bytes may come from the server in a second, on
/// all connections together, once so many have come.
pub fn paced(
    server: SocketAddr,
    bytes_s: impl Fn(u64) -> Option<u64> + Send + Sync + 'static,
) -> SocketAddr {
    let link = Mutex::new((Instant::now(), 0));
    listen(move |client| drop(pace_one(client, server, &link, &bytes_s)))
}

/// When the link is free, and how much went over it.
type Link = Mutex<(Instant, u64)>;

fn pace_one(
    client: &TcpStream,
    server: SocketAddr,
    link: &Link,
    bytes_s: &dyn Fn(u64) -> Option<u64>,
) -> std::io::Result<()> {
    let upstream = TcpStream::connect(server)?;
    // A thread for each way; the one of the requests ends with the client.
    let (from, to) = (client.try_clone()?, upstream.try_clone()?);
    let asks = std::thread::spawn(move || {
        drop(std::io::copy(&mut (&from), &mut (&to)));
        drop(to.shutdown(std::net::Shutdown::Both));
    });
    let mut piece = vec![0; 256 << 10];
    let mut to = client;
    loop {
        let got = (&upstream).read(&mut piece)?;
        if got == 0 {
            break;
        }
        let free = {
            let mut link = link.lock().unwrap_or_else(|e| e.into_inner());
            link.1 += got as u64;
            if let Some(bytes_s) = bytes_s(link.1) {
                let takes = Duration::from_secs_f64(got as f64 / bytes_s as f64);
                link.0 = link.0.max(Instant::now()) + takes;
            }
            link.0
        };
        std::thread::sleep(free.saturating_duration_since(Instant::now()));
        to.write_all(&piece[..got])?;
    }
    drop(client.shutdown(std::net::Shutdown::Both));
    drop(asks.join());
    Ok(())
}
