//! The network cores: a thread each, which accepts connections and serves them until the server stops.

use std::future::poll_fn;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use monoio::io::{CancelHandle, Canceller};
use monoio::net::{TcpListener, TcpStream, UnixListener};

use super::error::{ServerError, start};
use super::exposed::who_reaches;
use super::listeners::{Listener, ListenerSocket, listen_all};
use super::socket_files::SocketFile;
use super::threads::{Ready, Thread, live};
use crate::api::{Admitted, Core, CoreContext};
use crate::git::credential_helpers;
use crate::http::net::conn::{self, Patience};
use crate::http::net::pulse::Pulse;
use crate::http::net::service::{Entrance, Identity, Peer, Service};
use crate::http::net::socket::CoreSockets;
use crate::http::net::tls::keys::Keys;
use crate::io::address::Address;
use crate::io::{net, sched};
use crate::limits::{CORE_RING_ENTRIES, CUT_OFF_MAX_MS};
use crate::snapshot::ring::panic_text;

/// Binds listeners for each core and starts the cores; says where once all of them accept. With them it gives
/// what is to go when they have ended.
pub(super) fn start_cores(
    context: &CoreContext,
    keys: Option<&Arc<Keys>>,
    uring: bool,
) -> Result<(Vec<Thread>, Vec<SocketFile>), ServerError> {
    let count = context.config.cores.get();
    let listening = listen_all(&context.config, keys, count)?;
    let (ready, are_ready) = std_mpsc::sync_channel(0);
    let mut cores = Vec::with_capacity(count);
    for (index, listeners) in listening.of_cores.into_iter().enumerate() {
        let (context, closing) = (context.clone(), context.closing.clone());
        let ready = ready.clone();
        let builder = std::thread::Builder::new().name(format!("core-{index}"));
        let core = builder.spawn(move || {
            sched::be_prompt();
            let core = Core::new(context, index);
            live(&closing, &ready, || {
                run_core(core, index, listeners, uring, &ready)
            })
        });
        cores.push(core.map_err(start("start a core's thread"))?);
    }
    drop(ready);
    for _ in 0..count {
        match are_ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(ServerError::Core(why)),
            Err(_) => return Err(ServerError::Core("it ended at once".into())),
        }
    }
    let driver = if uring { "io_uring" } else { "epoll" };
    say_ready(context, driver, &listening.told);
    Ok((cores, listening.files))
}

/// Says where the server listens, and who may read.
fn say_ready(context: &CoreContext, driver: &str, told: &[String]) {
    let (config, cores) = (&context.config, context.config.cores);
    let connections_max = context.door.admission.max();
    let credential_helpers = credential_helpers().unwrap_or_else(|e| {
        tracing::warn!("cannot ask git for its credential helpers: {e}");
        Vec::new()
    });
    let credential_helpers = credential_helpers.join(", ");
    tracing::info!(address = told.join(" "), cores, driver, connections_max, credential_helpers, state = %context.catalog.state.root().display(), "ready");
    if let Some(who) = who_reaches(config) {
        tracing::info!("{who}");
    }
    for told in told {
        // For people and scripts; nobody has to read it.
        let _ = writeln!(io::stdout(), "listening on {told}");
    }
}

fn run_core(
    core: Core,
    index: usize,
    listeners: Vec<Listener>,
    uring: bool,
    ready: &Ready,
) -> io::Result<()> {
    if uring {
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(CORE_RING_ENTRIES)
            .enable_timer()
            .build()?;
        runtime.block_on(serve_core(core, index, listeners, false, ready))
    } else {
        let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .with_entries(CORE_RING_ENTRIES)
            .enable_timer()
            .build()?;
        runtime.block_on(serve_core(core, index, listeners, true, ready))
    }
}

/// A core's life: accepts until the server stops, then lets responses finish.
async fn serve_core(
    core: Core,
    index: usize,
    listeners: Vec<Listener>,
    epoll: bool,
    ready: &Ready,
) -> io::Result<()> {
    let doors = listeners.into_iter().map(Door::new);
    let doors = doors.collect::<io::Result<Vec<Door>>>()?;
    drop(ready.send(Ok(())));
    let core = Rc::new(core);
    let config = core.config();
    let patience = Patience {
        idle: config.idle_timeout,
        stall: config.stall_timeout,
    };
    let grace = config.shutdown_grace;
    let sockets = core.sockets(index, epoll.then(Pulse::start));
    let canceller = Canceller::new();
    let handle = canceller.handle();
    let stopping = core.clone();
    monoio::spawn(async move {
        stopping.closing().await;
        drop(canceller.cancel());
    });
    let accepting = doors.into_iter().map(|door| {
        let newcomers = (core.clone(), sockets.clone());
        Box::pin(accept(door, newcomers, patience, handle.clone()))
    });
    // In this task, so that a panic ends the core.
    all_ended(accepting.collect()).await;
    let deadline = Instant::now() + grace;
    wait_closed(&core, deadline).await;
    if core.open() > 0 {
        core.cut_off();
        wait_closed(
            &core,
            Instant::now() + Duration::from_millis(CUT_OFF_MAX_MS),
        )
        .await;
    }
    Ok(())
}

/// A listener as the core's runtime has it.
struct Door {
    listener: Accepting,
    entrance: Entrance,
    keys: Option<Arc<Keys>>,
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    fn new(listener: Listener) -> io::Result<Door> {
        let Listener {
            socket,
            entrance,
            keys,
        } = listener;
        let listener = match socket {
            ListenerSocket::Tcp(socket) => Accepting::Tcp(TcpListener::from_std(socket)?),
            ListenerSocket::Unix(socket) => Accepting::Unix(UnixListener::from_std(socket)?),
        };
        Ok(Door {
            listener,
            entrance,
            keys,
        })
    }

    async fn accept(&self, cancelled: CancelHandle) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = match &self.listener {
            Accepting::Tcp(listener) => {
                let (stream, address) = listener.cancelable_accept(cancelled).await?;
                (stream, Address::Tcp(address))
            }
            Accepting::Unix(listener) => {
                let (stream, _) = listener.cancelable_accept(cancelled).await?;
                (net::as_tcp(stream)?, Address::Unix)
            }
        };
        let peer = Peer {
            address,
            entrance: self.entrance,
            identity: Identity::None,
        };
        Ok((stream, peer))
    }
}

/// Accepts at one door until the server stops.
async fn accept(
    door: Door,
    (core, sockets): (Rc<Core>, Rc<CoreSockets>),
    patience: Patience,
    cancelled: CancelHandle,
) {
    while !core.is_closing() {
        match door.accept(cancelled.clone()).await {
            Ok((stream, peer)) => {
                assert!(!core.panics(), "fault injected");
                let newcomer = Newcomer {
                    core: core.clone(),
                    stream,
                    peer,
                    keys: door.keys.clone(),
                    patience,
                    sockets: sockets.clone(),
                };
                newcomer.receive();
                // However many come, those who are there have a turn after each, and end if told to.
                monoio::spawn(std::future::ready(())).await;
                core.wait_for_newcomers().await;
            }
            Err(_) if core.is_closing() => break,
            Err(e) => pause_accepting(&e).await,
        }
    }
}

/// Waits until all have ended.
async fn all_ended(mut running: Vec<Pin<Box<impl Future<Output = ()>>>>) {
    poll_fn(|context| {
        running.retain_mut(|one| one.as_mut().poll(context).is_pending());
        match running.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// Waits until no connection is open, at most until `deadline`.
async fn wait_closed(core: &Core, deadline: Instant) {
    while core.open() > 0 && Instant::now() < deadline {
        monoio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// After a failed accept: the client's own failures do not count; without descriptors or
/// memory, waits for some to come back.
async fn pause_accepting(error: &io::Error) {
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    ) {
        tracing::warn!("cannot accept a connection: {error}");
        monoio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A connection that was accepted.
struct Newcomer {
    core: Rc<Core>,
    stream: TcpStream,
    peer: Peer,
    keys: Option<Arc<Keys>>,
    patience: Patience,
    sockets: Rc<CoreSockets>,
}

impl Newcomer {
    /// Has it served or turned away. It is not waited for: all others who come would wait as well.
    fn receive(self) {
        match self.core.admit(&self.peer) {
            Admitted::Now => self.serve(),
            Admitted::Not => self.turn_away(),
            Admitted::Soon(look) => drop(monoio::spawn(async move {
                match self.core.admit_soon(look).await {
                    true => self.serve(),
                    false => self.turn_away(),
                }
            })),
        }
    }

    fn serve(self) {
        monoio::spawn(serve_connection(self));
    }

    fn turn_away(self) {
        let Some(place) = self.core.refusal() else {
            return;
        };
        monoio::spawn(async move {
            let from = self.peer.address;
            let told = conn::turn_away(
                self.stream,
                (self.peer, self.keys),
                self.core,
                self.sockets,
                place,
            );
            let mut told = std::pin::pin!(told);
            poll_fn(|context| poll_contained(told.as_mut(), from, context)).await;
        });
    }
}

/// Polls what serves a connection; a panic in it ends that alone.
fn poll_contained(
    task: Pin<&mut impl Future<Output = ()>>,
    peer: Address,
    context: &mut Context<'_>,
) -> Poll<()> {
    let polled = catch_unwind(AssertUnwindSafe(|| task.poll(context)));
    polled.unwrap_or_else(|panic| {
        let text = panic_text(&*panic);
        tracing::error!(%peer, "a connection's task panicked: {text}");
        Poll::Ready(())
    })
}

/// Serves a connection until it ends or is cut off; a panic in it ends only this connection.
async fn serve_connection(newcomer: Newcomer) {
    let Newcomer {
        core,
        stream,
        peer,
        keys,
        patience,
        sockets,
    } = newcomer;
    let from = peer.address;
    let connection = conn::serve(stream, (peer, keys), core.clone(), patience, sockets);
    {
        let mut connection = std::pin::pin!(connection);
        let mut cut = std::pin::pin!(core.cut());
        poll_fn(
            |context| match poll_contained(connection.as_mut(), from, context) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => cut.as_mut().poll(context),
            },
        )
        .await;
        // What was cut off is dropped here, before it counts as closed.
    }
    core.closed();
}
