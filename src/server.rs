//! The process: starts the planes, binds the listeners, runs the cores, stops in order.
//!
//! Threads: one core for each CPU (monoio, own listener), the encoders, prefetch threads, one
//! for the background plane, one for the request log, one for the scrub, a builder for each running
//! build; the main thread waits for signals.

use std::future::poll_fn;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use monoio::io::Canceller;
use monoio::net::TcpListener as CoreListener;
use socket2::Socket;
use tokio::sync::{mpsc, watch};

use crate::cache::files::StoreError;
use crate::cache::store::StateDir;
use crate::config::{Config, IoDriver};
use crate::faults::Faults;
use crate::http::conn::{self, Patience};
use crate::http::pulse::Pulse;
use crate::http::service::Service;
use crate::http::socket::CoreSockets;
use crate::io::signal::{StopSignals, ask_to_stop};
use crate::io::{heap, net, sched};
use crate::limits::{
    CONNECTIONS_DESCRIPTORS_PERCENT, CORE_RING_ENTRIES, CUT_OFF_MAX_MS, DESCRIPTORS_MIN,
    DESCRIPTORS_OF_CORE, DESCRIPTORS_OWN, DESCRIPTORS_READY, LISTEN_BACKLOG, TAKEN_RETRY_MS,
    TAKEN_WAIT_MS,
};
use crate::log::{LogError, RequestLog, RequestLogThread};
use crate::metrics::Metrics;
use crate::mirror::maintain;
use crate::serve::Core;
use crate::serve::archive::Archive;
use crate::serve::background;
use crate::serve::prefetch::Prefetch;
use crate::serve::registry::Repo;
use crate::serve::scrub::Scrub;
use crate::serve::shared::{Parts, Shared};
use crate::snapshot::job::EncoderState;
use crate::snapshot::zstd::ring::{Ring, panic_text};

/// Why the server could not start, or not stop as it should.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{0}; choose a directory that this user can write to with --state")]
    State(StoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "this process may open {limit} files and needs {needed}; allow it more, with ulimit -n or LimitNOFILE="
    )]
    Descriptors { limit: u64, needed: u64 },
    #[error("cannot {what}: {source}")]
    Start {
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "--io-driver uring was asked for, but io_uring cannot be used ({0}); use auto or epoll"
    )]
    NoUring(io::Error),
    #[error("a network core could not run: {0}")]
    Core(String),
    #[error("the background plane could not run: {0}")]
    Background(String),
    #[error("mirror {} cannot be recovered: {source}", .path.display())]
    Mirror { path: PathBuf, source: io::Error },
}

fn start(what: &'static str) -> impl Fn(io::Error) -> ServerError {
    move |source| ServerError::Start { what, source }
}

/// Runs the server until one of `signals`, which every thread of the process blocks; `faults` are
/// for tests.
pub fn run(config: Config, faults: Faults, signals: &StopSignals) -> Result<(), ServerError> {
    heap::give_back_large();
    let uring = choose_driver(config.io_driver)?;
    let connections_max = connections_max(raise_descriptor_limit(), config.cores.get())?;
    let (shared, commands) = prepare(config, faults, connections_max)?;
    let log = RequestLogThread::start()?;
    let (stop, stopped) = watch::channel(false);
    let for_plane = shared.clone();
    let mut plane = Background::start_thread(move |stop, ready| {
        background::run(for_plane, commands, stop, uring, ready)
    })?;
    let cores = start_cores(&shared, &log.handle(), &stopped, uring)?;
    let scrub = Scrub::start(shared).map_err(start("start the scrub"))?;
    let signal = signals.wait().map_err(start("wait for signals"))?;
    signals.end_at_second();
    tracing::info!("{signal}: letting running responses finish");
    // The cores stop first: responses that run may still need their builds.
    stop.send_replace(true);
    let mut result = Ok(());
    for core in cores {
        result = result.and(end_of(core).map_err(ServerError::Core));
    }
    result = result.and(plane.end_thread());
    if result.is_ok() {
        scrub.end();
    }
    log.finish();
    result
}

type Thread = JoinHandle<Result<(), String>>;

/// Waits for the end of a thread of [`live`].
fn end_of(thread: Thread) -> Result<(), String> {
    thread
        .join()
        .unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

/// Hears that a thread works, or why it cannot. Takes nothing that nobody waits for.
type Ready = std_mpsc::SyncSender<Result<(), String>>;

/// Runs `life`, which tells `ready` when it works, on the calling thread; why it ended, if that was
/// before `stopping` turned true. If that is while `ready` listens, it hears of it. If it is later,
/// the server is to stop: without one of its threads it would leave requests without an answer.
fn live(
    stopping: &watch::Receiver<bool>,
    ready: &Ready,
    life: impl FnOnce() -> io::Result<()>,
) -> Result<(), String> {
    let why = match catch_unwind(AssertUnwindSafe(life)) {
        Ok(Ok(())) if *stopping.borrow() => return Ok(()),
        Ok(Ok(())) => "it ended too early".to_owned(),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => panic_text(&*panic),
    };
    if ready.send(Err(why.clone())).is_err() {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        tracing::error!("thread {name} has ended, so the server stops: {why}");
        if !*stopping.borrow() {
            ask_to_stop();
        }
    }
    Err(why)
}

/// Whether another directory would help against this error: not against a disk that is full.
fn is_elsewhere_better(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    [
        NotADirectory,
        NotFound,
        PermissionDenied,
        ReadOnlyFilesystem,
    ]
    .contains(&error.kind())
}

/// Takes what another server may have. If one `has_it`, tries again for a little: one that was killed
/// has it until the kernel has closed its files, some time after its parent has heard of its end.
fn wait_for<T, E>(take: impl Fn() -> Result<T, E>, has_it: impl Fn(&E) -> bool) -> Result<T, E> {
    let deadline = Instant::now() + Duration::from_millis(TAKEN_WAIT_MS);
    loop {
        match take() {
            Err(e) if has_it(&e) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(TAKEN_RETRY_MS));
            }
            taken => return taken,
        }
    }
}

/// Opens the state directory, finds what is in it and starts the helper threads.
fn prepare(
    config: Config,
    faults: Faults,
    connections_max: usize,
) -> Result<(Arc<Shared>, mpsc::UnboundedReceiver<background::Command>), ServerError> {
    let is_locked = |e: &StoreError| matches!(e, StoreError::Locked { .. });
    let state = wait_for(|| StateDir::open(&config.state), is_locked).map_err(|e| match e {
        StoreError::Io { ref source, .. } if is_elsewhere_better(source) => ServerError::State(e),
        e => ServerError::Store(e),
    })?;
    let ring = Ring::start(config.encoders.get(), EncoderState::default)
        .map_err(start("start encoder threads"))?;
    let prefetch = Prefetch::start().map_err(start("start prefetch threads"))?;
    let (background, commands) = mpsc::unbounded_channel();
    // One block for each core, one for everything else.
    let metrics = Metrics::new(config.cores.get() + 1);
    let shared = Shared::new(Parts {
        config,
        state,
        ring,
        prefetch,
        metrics,
        background,
        faults,
        connections_max,
    });
    let found = find_mirrors(&shared)?;
    find_entries(&shared)?;
    shared.tell(background::Command::TakeOver(found));
    Ok((Arc::new(shared), commands))
}

/// Makes the mirrors known. They are not used before they were checked.
fn find_mirrors(shared: &Shared) -> Result<Vec<Arc<Repo>>, ServerError> {
    let mut found = Vec::new();
    for (host, path) in shared.state.mirrors()? {
        let Some(url) = shared.config.upstreams.url_for(&host, &path) else {
            tracing::warn!("mirror {host}/{path} belongs to no upstream and is not used");
            continue;
        };
        let mirror = shared.state.mirror_path(&host, &path);
        if let Err(source) = maintain::recover(&mirror) {
            return Err(ServerError::Mirror {
                path: mirror,
                source,
            });
        }
        let registry = &shared.registry;
        found.push(registry.get_or_add(&host, &path, || mirror, || url));
    }
    Ok(found)
}

/// The newest entry of each repository is served; older ones go.
fn find_entries(shared: &Shared) -> Result<(), ServerError> {
    let (found, rejected) = shared.state.scan()?;
    for rejected in rejected {
        tracing::warn!(removed = rejected.removed, "entry not used: {rejected:?}");
    }
    for entry in found {
        let repository = &entry.meta.repository;
        let known = repository.split_once('/').and_then(|(host, path)| {
            let url = shared.config.upstreams.url_for(host, path)?;
            Some((host, path, url))
        });
        let Some((host, path, url)) = known else {
            // Nobody could ask for it, and what is not known is never evicted.
            tracing::warn!(repository, "entry removed: it belongs to no upstream");
            if let Err(e) = shared.state.remove(&entry.dir) {
                tracing::error!(repository, "an entry of no upstream stays: {e}");
            }
            continue;
        };
        let mirror = || shared.state.mirror_path(host, path);
        let repo = shared.registry.get_or_add(host, path, mirror, || url);
        if repo.current().is_some() {
            // It is not served; the next start tries again.
            if let Err(e) = shared.state.remove(&entry.dir) {
                tracing::error!(repository = &*repo.name, "a superseded entry stays: {e}");
            }
            continue;
        }
        // The first sweep counts again.
        shared.add_to_cache(shared.state.entry_bytes(&entry.dir).unwrap_or(0));
        let archive = Arc::new(Archive::found(entry.dir, entry.meta));
        repo.publish(archive, repo.moves());
    }
    Ok(())
}

/// Whether io_uring is used. Says so once if it was wanted and cannot be had.
fn choose_driver(wanted: IoDriver) -> Result<bool, ServerError> {
    if wanted == IoDriver::Epoll {
        return Ok(false);
    }
    match crate::io::probe_uring() {
        Ok(()) => Ok(true),
        Err(e) if wanted == IoDriver::Uring => Err(ServerError::NoUring(e)),
        Err(e) => {
            let cause = match e.raw_os_error() {
                Some(libc::EPERM) => {
                    "a container's seccomp profile or kernel.io_uring_disabled forbids it"
                }
                Some(libc::ENOSYS) => "the kernel or a seccomp profile does not have it",
                Some(libc::ENOMEM) => "the limit of locked memory is too low",
                _ => "the kernel is too old or forbids it",
            };
            tracing::warn!("io_uring cannot be used ({e}; likely {cause}): going on with epoll");
            Ok(false)
        }
    }
}

/// Each connection and each open entry needs descriptors: takes as many as are allowed. Gives
/// their number; `None` if it is not limited.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
    let limit = getrlimit(Resource::Nofile).current;
    // The kernel's table of them grows with a wait for all processors (tens of milliseconds on a
    // busy machine) in whichever thread opens one too many. It grows now, and stays.
    let ready = limit.map_or(DESCRIPTORS_READY, |limit| limit.min(DESCRIPTORS_READY));
    let highest = ready.saturating_sub(1);
    // Not fatal: it grows later then.
    drop(rustix::io::fcntl_dupfd_cloexec(
        io::stderr(),
        highest as i32,
    ));
    limit
}

/// How many connections are served at a time: accepting must not take the descriptors that are
/// needed to answer. Fails where there are not enough to work with.
fn connections_max(descriptors: Option<u64>, cores: usize) -> Result<usize, ServerError> {
    let Some(limit) = descriptors else {
        return Ok(usize::MAX);
    };
    let own = DESCRIPTORS_OWN + DESCRIPTORS_OF_CORE * cores as u64;
    let needed = own + DESCRIPTORS_MIN;
    if limit < needed {
        return Err(ServerError::Descriptors { limit, needed });
    }
    Ok(((limit - own).saturating_mul(CONNECTIONS_DESCRIPTORS_PERCENT) / 100) as usize)
}

/// The background plane's thread; dropping it stops and joins it.
struct Background {
    stop: watch::Sender<bool>,
    thread: Option<Thread>,
}

impl Drop for Background {
    fn drop(&mut self) {
        // Whoever wants to know how it ended has asked.
        let _ = self.end_thread();
    }
}

impl Background {
    /// Starts the thread, and returns when the plane works. `run` gets what says that it is to
    /// stop, and what it calls when it works.
    fn start_thread<F>(run: F) -> Result<Background, ServerError>
    where
        F: FnOnce(watch::Receiver<bool>, Box<dyn FnOnce()>) -> io::Result<()> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = std_mpsc::sync_channel(0);
        let builder = std::thread::Builder::new().name("background".into());
        let thread = builder.spawn(move || {
            sched::be_prompt();
            let (stopping, works) = (stopped.clone(), ready.clone());
            let works = Box::new(move || drop(works.send(Ok(()))));
            live(&stopping, &ready, || run(stopped, works))
        });
        let plane = Background {
            stop,
            thread: Some(thread.map_err(start("start the background thread"))?),
        };
        let started = is_ready.recv();
        let started = started.unwrap_or_else(|_| Err("it ended at once".into()));
        started.map(|()| plane).map_err(ServerError::Background)
    }

    /// Stops the plane and waits for its end; fails if that came before its time.
    fn end_thread(&mut self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        match self.thread.take() {
            Some(thread) => end_of(thread).map_err(ServerError::Background),
            None => Ok(()),
        }
    }
}

/// Binds a listener for each core and starts the cores; says where once all of them accept.
fn start_cores(
    shared: &Arc<Shared>,
    log: &RequestLog,
    closing: &watch::Receiver<bool>,
    uring: bool,
) -> Result<Vec<Thread>, ServerError> {
    let count = shared.config.cores.get();
    let wanted = shared.config.listen;
    let is_in_use = |e: &io::Error| e.kind() == io::ErrorKind::AddrInUse;
    let listening = wait_for(|| listen(wanted, count), is_in_use);
    let (address, listeners) = listening.map_err(|source| ServerError::Listen {
        address: wanted,
        source,
    })?;
    let (ready, are_ready) = std_mpsc::sync_channel(0);
    let mut cores = Vec::with_capacity(count);
    for (index, listener) in listeners.into_iter().enumerate() {
        let (shared, log, closing) = (shared.clone(), log.clone(), closing.clone());
        let ready = ready.clone();
        let builder = std::thread::Builder::new().name(format!("core-{index}"));
        let core = builder.spawn(move || {
            sched::be_prompt();
            let core = Core::new(shared, index, log, closing.clone());
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
    let connections_max = shared.admission.max();
    tracing::info!(%address, cores = count, driver, connections_max, state = %shared.state.root().display(), "ready");
    // For people and scripts; nobody has to read it.
    let _ = writeln!(io::stdout(), "listening on http://{address}");
    Ok(cores)
}

/// A congestion control that every Linux has and that every user may choose (tcp(7)).
const UNPACED: &str = "reno";

/// `count` listeners that share `address`, and the address; where port 0 was asked for it has the
/// port that they got. Fails if somebody else listens there.
///
/// Sockets of one user may share a port if all of them say so, those of two servers as well. So the
/// first one says so only once it listens: another server's first, which does not share, cannot be
/// bound from then on, and if it was bound before, it cannot listen.
fn listen(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = listener(address, false)?;
    first.set_reuse_port(true)?;
    let first = TcpListener::from(first);
    let address = first.local_addr()?;
    let others = (1..count).map(|_| Ok(listener(address, true)?.into()));
    let all = std::iter::once(Ok(first)).chain(others);
    Ok((address, all.collect::<io::Result<_>>()?))
}

/// Listens at `address`, where others may listen if all of them are `shared`.
fn listener(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = net::tcp_socket(address)?;
    // For what a server that has ended leaves: connections that wait for their last packets.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    if address.ip().is_loopback() {
        // Whoever connects is on this machine, a proxy for one, where nothing is congested. A
        // congestion control that paces (bbr) spends timers on it: four fifths of the processor time
        // of a hit. If the system refuses, everything works all the same.
        let _ = rustix::net::sockopt::set_tcp_congestion(&socket, UNPACED);
    }
    socket.listen(LISTEN_BACKLOG)?;
    // The epoll driver needs it; a poll on the ring does not mind.
    socket.set_nonblocking(true)?;
    Ok(socket)
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
    monoio::spawn(sockets.idle.clone().obey());
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
                if core.admit().await {
                    let connection =
                        serve_connection(core.clone(), stream, peer, patience, sockets.clone());
                    monoio::spawn(connection);
                } else if let Some(place) = core.refusal() {
                    let (core, sockets) = (core.clone(), sockets.clone());
                    monoio::spawn(async move {
                        let told = conn::turn_away(stream, peer, core, sockets, place);
                        let mut told = std::pin::pin!(told);
                        poll_fn(|context| poll_contained(told.as_mut(), peer, context)).await;
                    });
                }
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

/// Polls what serves a connection; a panic in it ends that alone.
fn poll_contained(
    task: Pin<&mut impl Future<Output = ()>>,
    peer: SocketAddr,
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
async fn serve_connection(
    core: Rc<Core>,
    stream: monoio::net::TcpStream,
    peer: SocketAddr,
    patience: Patience,
    sockets: Rc<CoreSockets>,
) {
    let connection = conn::serve(stream, peer, core.clone(), patience, sockets);
    {
        let mut connection = std::pin::pin!(connection);
        let mut cut = std::pin::pin!(core.cut());
        poll_fn(
            |context| match poll_contained(connection.as_mut(), peer, context) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => cut.as_mut().poll(context),
            },
        )
        .await;
        // What was cut off is dropped here, before it counts as closed.
    }
    core.closed();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_plane_that_cannot_start_is_an_error() {
        let start = |run: fn(Box<dyn FnOnce()>) -> io::Result<()>| {
            Background::start_thread(move |_, ready| run(ready)).map(drop)
        };
        let refused = start(|_| Err(io::Error::other("no ring"))).unwrap_err();
        assert!(refused.to_string().ends_with("could not run: no ring"));
        let refused = start(|_| panic!("no memory")).unwrap_err();
        assert!(refused.to_string().ends_with("could not run: no memory"));
        let refused = start(|_| Ok(())).unwrap_err();
        assert!(refused.to_string().ends_with("it ended too early"));
    }

    /// One that works stops when it is told to.
    #[test]
    fn a_background_plane_that_works_is_told_to_stop() {
        let started = Background::start_thread(|mut stop, ready| {
            ready();
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            let stopped = runtime.block_on(stop.wait_for(|stop| *stop));
            stopped.map(drop).map_err(io::Error::other)
        });
        started.unwrap().end_thread().unwrap();
    }

    #[test]
    fn nothing_is_paced_on_the_machine_itself() {
        let chosen = |address: &str| {
            let (_, listeners) = listen(address.parse().unwrap(), 2).unwrap();
            let chosen = |listener| rustix::net::sockopt::tcp_congestion(listener).unwrap();
            listeners.iter().map(chosen).collect::<Vec<_>>()
        };
        assert_eq!(chosen("127.0.0.1:0"), [UNPACED; 2]);
        let system = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        assert_eq!(chosen("0.0.0.0:0"), [system.trim(); 2]);
    }

    /// Of this machine itself, in all families of addresses that it has.
    fn own_addresses() -> impl Iterator<Item = SocketAddr> {
        let all = ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse().unwrap());
        let is_there =
            |address: &SocketAddr| address.is_ipv4() || TcpListener::bind(address).is_ok();
        all.into_iter().filter(is_there)
    }

    /// Whatever the order in which two servers take the steps to their listeners, one gets them
    /// and the other none.
    #[test]
    fn of_two_servers_one_has_the_port() {
        for address in own_addresses() {
            // The other one comes when all is done.
            let (taken, listeners) = listen(address, 2).unwrap();
            assert!(listen(taken, 2).is_err());
            drop(listeners);
            // It was bound when the first was not yet.
            let bound = net::tcp_socket(taken).unwrap();
            bound.set_reuse_address(true).unwrap();
            bound.bind(&taken.into()).unwrap();
            let (_, listeners) = listen(taken, 2).unwrap();
            assert!(bound.listen(LISTEN_BACKLOG).is_err());
            drop((bound, listeners));
            // It was bound when the first listened alone.
            let first = listener(taken, false).unwrap();
            assert!(listen(taken, 2).is_err());
            first.set_reuse_port(true).unwrap();
            assert!(listen(taken, 2).is_err());
        }
    }

    /// Servers that start at the same moment.
    #[test]
    fn of_many_servers_one_has_the_port() {
        for _ in 0..50 {
            let (address, free) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
            drop(free);
            let barrier = std::sync::Barrier::new(4);
            let start = || {
                barrier.wait();
                let listeners = listen(address, 2);
                // None is closed before all have tried.
                barrier.wait();
                listeners.is_ok()
            };
            let listening = std::thread::scope(|scope| {
                let servers = [(); 4].map(|()| scope.spawn(start));
                servers.map(|server| server.join().unwrap())
            });
            let count = listening.iter().filter(|is| **is).count();
            assert!(count <= 1, "{count} servers share a port");
        }
    }

    #[test]
    fn listeners_share_the_connections() {
        for address in own_addresses() {
            let (address, listeners) = listen(address, 4).unwrap();
            let connect = |_| std::net::TcpStream::connect(address).unwrap();
            let clients: Vec<_> = (0..400).map(connect).collect();
            let accepted = listeners.iter().map(|listener| {
                let next = || listener.accept().ok();
                std::iter::from_fn(next).count()
            });
            let accepted: Vec<usize> = accepted.collect();
            assert_eq!(accepted.iter().sum::<usize>(), clients.len());
            assert!(accepted.iter().all(|count| *count > 50), "{accepted:?}");
        }
    }
}
