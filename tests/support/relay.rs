//! What stands between a client and a server, and breaks off or falls silent.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

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
