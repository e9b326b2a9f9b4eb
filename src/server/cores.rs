//! The network cores: a thread each, which accepts connections and serves them until the server stops.

use std::future::poll_fn;
use std::io::{self, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use monoio::io::Canceller;
use monoio::net::TcpListener as CoreListener;

use super::error::{ServerError, start};
use super::listeners::listen;
use super::taken::wait_for;
use super::threads::{Ready, Thread, live};
use crate::api::{Admitted, Core, CoreContext};
use crate::http::net::conn::{self, Patience};
use crate::http::net::pulse::Pulse;
use crate::http::net::service::{Entrance, Identity, Peer, Service};
use crate::http::net::socket::CoreSockets;
use crate::io::address::Address;
use crate::io::sched;
use crate::limits::{CORE_RING_ENTRIES, CUT_OFF_MAX_MS};
use crate::snapshot::ring::panic_text;

/// Binds a listener for each core and starts the cores; says where once all of them accept.
pub(super) fn start_cores(context: &CoreContext, uring: bool) -> Result<Vec<Thread>, ServerError> {
    let count = context.config.cores.get();
    let wanted = context.config.listen;
    let is_in_use = |e: &io::Error| e.kind() == io::ErrorKind::AddrInUse;
    let listening = wait_for(|| listen(wanted, count), is_in_use);
    let (address, listeners) = listening.map_err(|source| ServerError::Listen {
        address: wanted,
        source,
    })?;
    let (ready, are_ready) = std_mpsc::sync_channel(0);
    let mut cores = Vec::with_capacity(count);
    for (index, listener) in listeners.into_iter().enumerate() {
        let (context, closing) = (context.clone(), context.closing.clone());
        let ready = ready.clone();
        let builder = std::thread::Builder::new().name(format!("core-{index}"));
        let core = builder.spawn(move || {
            sched::be_prompt();
            let core = Core::new(context, index);
            live(&closing, &ready, || {
                run_core(core, index, listener, uring, &ready)
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
    let connections_max = context.door.admission.max();
    tracing::info!(%address, cores = count, driver, connections_max, state = %context.catalog.state.root().display(), "ready");
    // For people and scripts; nobody has to read it.
    let _ = writeln!(io::stdout(), "listening on http://{address}");
    Ok(cores)
}

fn run_core(
    core: Core,
    index: usize,
    listener: TcpListener,
    uring: bool,
    ready: &Ready,
) -> io::Result<()> {
    if uring {
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(CORE_RING_ENTRIES)
            .enable_timer()
            .build()?;
        runtime.block_on(serve_core(core, index, listener, false, ready))
    } else {
        let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .with_entries(CORE_RING_ENTRIES)
            .enable_timer()
            .build()?;
        runtime.block_on(serve_core(core, index, listener, true, ready))
    }
}

/// A core's life: accepts until the server stops, then lets responses finish.
async fn serve_core(
    core: Core,
    index: usize,
    listener: TcpListener,
    epoll: bool,
    ready: &Ready,
) -> io::Result<()> {
    let listener = CoreListener::from_std(listener)?;
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
    while !core.is_closing() {
        match listener.cancelable_accept(handle.clone()).await {
            Ok((stream, peer)) => {
                assert!(!core.panics(), "fault injected");
                let newcomer = Newcomer {
                    core: core.clone(),
                    stream,
                    peer: Peer {
                        address: Address::Tcp(peer),
                        entrance: Entrance::Public,
                        identity: Identity::None,
                    },
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
    drop(listener);
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
    stream: monoio::net::TcpStream,
    peer: Peer,
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
            let told = conn::turn_away(self.stream, self.peer, self.core, self.sockets, place);
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
        patience,
        sockets,
    } = newcomer;
    let from = peer.address;
    let connection = conn::serve(stream, peer, core.clone(), patience, sockets);
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
