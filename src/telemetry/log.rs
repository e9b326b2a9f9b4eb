//! The log: one subscriber for the process, and one line per request that no core writes itself.
//!
//! A core pushes a [`RequestRecord`] into a bounded queue ([`RequestLog::push`]); a thread of its
//! own ([`RequestLogThread`]) turns records into `tracing` events. Lines, of this and every other
//! thread, go through a queue to one that writes them ([`lines`]). A log that nobody reads (a full
//! pipe on standard error) so costs records, which are counted, and never another thread's time.

mod lines;

pub use lines::WrittenOnDrop;

use crate::config::{LOG_VARIABLE, LogFormat};
use crate::io::address::Address;
use crate::limits::{LOG_FINISH_MAX_MS, LOG_QUEUE_LINES, LOG_QUEUE_RECORDS};
use crate::telemetry::metrics::{Event, Meter, Outcome};
use crossbeam::queue::ArrayQueue;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::reload;

/// Variables that hold a filter, the first one that is set wins.
const FILTER_VARIABLES: [&str; 2] = [LOG_VARIABLE, "RUST_LOG"];
const FILTER_DEFAULT: &str = "info";
/// `tracing` target of the request lines, so that a filter can name them.
const REQUEST_TARGET: &str = "tarpon::request";

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A filter that does not parse.
    #[error(
        "{variable} = {value:?} is not a log filter: {source}; allowed: error, warn, info, debug, \
         trace or off, or parts of the program such as tarpon::mirror=debug, joined by commas"
    )]
    Filter {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a subscriber already.
    #[error("the log was started twice")]
    Twice(#[from] dispatcher::SetGlobalDefaultError),
    /// The thread that writes request lines did not start.
    #[error("cannot start the log thread: {0}")]
    Thread(#[source] io::Error),
}

/// Starts the process's log on standard error. `env` looks up one environment variable:
/// `TARPON_LOG` or else `RUST_LOG` filter (default `info`), `NO_COLOR` turns colours off. Keep what
/// is returned until the end.
///
/// # Errors
/// [`LogError::Filter`], [`LogError::Twice`] or [`LogError::Thread`].
pub fn init(
    format: LogFormat,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<WrittenOnDrop, LogError> {
    let style = Style::choose(
        format,
        io::stderr().is_terminal(),
        env("NO_COLOR").is_some(),
    );
    let filter = filter(env)?;
    let (lines, written) = lines::start(io::stderr(), LOG_QUEUE_LINES).map_err(LogError::Thread)?;
    let (dispatch, change) = dispatch(style, filter, lines);
    dispatcher::set_global_default(dispatch)?;
    // It was not set before, or the line above has failed.
    let _ = CHANGE.set(change);
    Ok(written)
}

/// Exchanges the filter of the process's log.
type Change = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Filters the process's log otherwise, as its variable would have it.
///
/// # Errors
/// It is no filter, or there is no log.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let parsed = EnvFilter::builder().parse(filter);
    let parsed = parsed.map_err(|why| format!("not a log filter: {why}"))?;
    let change = CHANGE.get().ok_or("there is no log")?;
    change(parsed).map_err(|why| why.to_string())?;
    tracing::info!(filter, "the log is filtered otherwise");
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Human { colour: bool },
    Json,
}

impl Style {
    fn choose(format: LogFormat, is_terminal: bool, no_colour: bool) -> Self {
        let human = Self::Human {
            colour: is_terminal && !no_colour,
        };
        match format {
            LogFormat::Human => human,
            LogFormat::Json => Self::Json,
            LogFormat::Auto if is_terminal => human,
            LogFormat::Auto => Self::Json,
        }
    }
}

fn filter(env: impl Fn(&str) -> Option<OsString>) -> Result<EnvFilter, LogError> {
    let given = FILTER_VARIABLES.into_iter().find_map(|variable| {
        let value = env(variable).filter(|value| !value.is_empty())?;
        Some((variable, value.to_string_lossy().into_owned()))
    });
    match given {
        None => Ok(EnvFilter::new(FILTER_DEFAULT)),
        Some((variable, value)) => {
            EnvFilter::builder()
                .parse(&value)
                .map_err(|source| LogError::Filter {
                    variable,
                    value,
                    source,
                })
        }
    }
}

fn dispatch<W>(style: Style, filter: EnvFilter, writer: W) -> (Dispatch, Change)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Or a log that cannot be written is reported by a print to the same place, which panics.
        .log_internal_errors(false)
        .with_writer(writer);
    match style {
        Style::Human { colour } => {
            let builder = builder.with_ansi(colour).with_filter_reloading();
            let handle = builder.reload_handle();
            let change = Box::new(move |filter| handle.reload(filter));
            (Dispatch::new(builder.finish()), change)
        }
        Style::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            let change = Box::new(move |filter| handle.reload(filter));
            (Dispatch::new(builder.finish()), change)
        }
    }
}

/// What a snapshot is of, as whoever knows that shows it.
#[derive(Clone)]
pub struct Wanted(pub Arc<dyn fmt::Display + Send + Sync>);

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One answered request, as the log shows it.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// `host/path` of the repository; empty when the request named none.
    pub repository: Arc<str>,
    /// The ref or commit of a snapshot that was asked for by one.
    pub want: Option<Wanted>,
    /// The path of one that was refused and named none, or the beginning of it.
    pub path: Option<Box<str>>,
    /// Why it was refused, or why nothing came of it.
    pub reason: Option<Box<str>>,
    /// By what name the server knows who asked: that of a token or a client certificate.
    pub who: Option<Arc<str>>,
    /// The HTTP method.
    pub method: &'static str,
    /// How it was answered.
    pub outcome: Outcome,
    /// The HTTP status.
    pub status: u16,
    /// Bytes of body that were sent.
    pub bytes: u64,
    /// Whether the whole response was sent.
    pub complete: bool,
    /// From the end of the request's head to the first byte of body, in microseconds; `None` when
    /// there was no body.
    pub ttfb_us: Option<u64>,
    /// From the end of the request's head to the end of the response, in microseconds.
    pub total_us: u64,
    /// Who asked.
    pub peer: Address,
}

impl RequestRecord {
    fn emit(&self) {
        let ms = |us: u64| us as f64 / 1e3;
        tracing::info!(
            target: REQUEST_TARGET,
            repository = &*self.repository,
            want = self.want.as_ref().map(|want| tracing::field::display(&want.0)),
            path = self.path.as_deref(),
            reason = self.reason.as_deref(),
            who = self.who.as_deref(),
            method = self.method,
            outcome = self.outcome.name(),
            status = self.status,
            bytes = self.bytes,
            complete = self.complete,
            ttfb_ms = self.ttfb_us.map(ms),
            total_ms = ms(self.total_us),
            peer = %self.peer,
            "request"
        );
    }
}

/// What the cores and the log thread share.
///
/// Invariant: whoever pushes a record or sets `stop` unparks the thread afterwards, and the thread
/// reads `stop` before it empties the queue. So nothing waits in the queue while the thread
/// sleeps, and what was pushed before `stop` is written.
#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<RequestRecord>,
    /// Records that did not fit since the start.
    dropped: AtomicU64,
    stop: AtomicBool,
}

/// A core's end of the request log.
#[derive(Debug, Clone)]
pub struct RequestLog {
    shared: Arc<Shared>,
    thread: Thread,
}

impl RequestLog {
    /// Whether requests are written as the log is filtered now: it may be otherwise when the thread comes to them.
    pub fn is_wanted() -> bool {
        tracing::enabled!(target: REQUEST_TARGET, tracing::Level::INFO)
    }

    /// Hands a record to the log thread. Never blocks; when the queue is full the record is
    /// dropped and counted by `meter`.
    pub fn push(&self, record: RequestRecord, meter: &Meter) {
        if self.shared.queue.push(record).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            meter.add(Event::LogRecordDropped, 1);
        }
        // A system call only when the thread sleeps.
        self.thread.unpark();
    }
}

/// The thread that writes request lines. Dropped or asked to finish, it writes what is left and
/// ends.
#[derive(Debug)]
pub struct RequestLogThread {
    log: RequestLog,
    /// Nothing is ever sent: the thread hangs up when it ends.
    ended: Receiver<Infallible>,
    handle: Option<JoinHandle<()>>,
}

impl RequestLogThread {
    /// Starts it. It writes to the subscriber in force here: call [`init`] before.
    ///
    /// # Errors
    /// [`LogError::Thread`] when the system has no more threads.
    pub fn start() -> Result<Self, LogError> {
        Self::start_with(LOG_QUEUE_RECORDS)
    }

    fn start_with(capacity_records: usize) -> Result<Self, LogError> {
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(capacity_records),
            dropped: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let dispatch = dispatcher::get_default(Dispatch::clone);
        let theirs = Arc::clone(&shared);
        let (hangs_up, ended) = mpsc::channel();
        let handle = thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                let _hangs_up = hangs_up;
                // Records wait in their own queue, and are counted when that is full.
                lines::wait_for_room();
                dispatcher::with_default(&dispatch, || drain(&theirs));
            })
            .map_err(LogError::Thread)?;
        let log = RequestLog {
            shared,
            thread: handle.thread().clone(),
        };
        Ok(Self {
            log,
            ended,
            handle: Some(handle),
        })
    }

    /// A handle for one core.
    pub fn handle(&self) -> RequestLog {
        self.log.clone()
    }

    /// Writes what was pushed before, ends the thread and waits for it; at most
    /// [`LOG_FINISH_MAX_MS`], because a log that nobody reads must not keep the process from
    /// ending. End the cores first: what they push later is lost.
    pub fn finish(self) {
        self.finish_within(Duration::from_millis(LOG_FINISH_MAX_MS));
    }

    fn finish_within(mut self, limit: Duration) {
        self.end_thread(limit);
    }

    fn end_thread(&mut self, limit: Duration) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        self.log.shared.stop.store(true, Ordering::Release);
        self.log.thread.unpark();
        if self.ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected) {
            // It fails only if the thread panicked, which the panic hook has reported.
            let _ = handle.join();
        }
    }
}

impl Drop for RequestLogThread {
    fn drop(&mut self) {
        self.end_thread(Duration::from_millis(LOG_FINISH_MAX_MS));
    }
}

fn drain(shared: &Shared) {
    let mut reported = 0;
    loop {
        let stop = shared.stop.load(Ordering::Acquire);
        while let Some(record) = shared.queue.pop() {
            record.emit();
        }
        let dropped = shared.dropped.load(Ordering::Relaxed);
        if dropped > reported {
            let records = dropped - reported;
            tracing::warn!(
                target: REQUEST_TARGET,
                records,
                "requests are missing from the log: it is not read fast enough"
            );
            reported = dropped;
        }
        if stop {
            return;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Gauges, Metrics};
    use std::io::Write;
    use std::sync::mpsc::Sender;
    use std::sync::{Mutex, MutexGuard};

    /// A log that is written to memory, and that can be made to block.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    struct Guard<'a>(MutexGuard<'a, Vec<u8>>);

    impl Write for Guard<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Memory {
        type Writer = Guard<'a>;
        fn make_writer(&'a self) -> Guard<'a> {
            Guard(self.0.lock().unwrap())
        }
    }

    fn record(status: u16) -> RequestRecord {
        RequestRecord {
            repository: "github.com/a/b".into(),
            want: None,
            path: None,
            reason: None,
            who: None,
            method: "GET",
            outcome: Outcome::Hit,
            status,
            bytes: 1 << 40,
            complete: true,
            ttfb_us: Some(1500),
            total_us: 2_000_000,
            peer: Address::Tcp("[::1]:9".parse().unwrap()),
        }
    }

    fn none(_: &str) -> Option<OsString> {
        None
    }

    fn in_memory(style: Style) -> (Memory, Dispatch) {
        let memory = Memory::default();
        let (dispatch, _) = dispatch(style, filter(none).unwrap(), memory.clone());
        (memory, dispatch)
    }

    fn lines(memory: &Memory) -> Vec<serde_json::Value> {
        memory
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn dropped(metrics: &Metrics) -> u64 {
        let mut out = String::new();
        metrics.render(&Gauges::default(), [], &mut out);
        let name = "tarpon_log_records_dropped_total ";
        out.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .parse()
            .unwrap()
    }

    #[test]
    fn a_record_is_one_json_line_with_its_fields() {
        let (memory, dispatch) = in_memory(Style::Json);
        let metrics = Metrics::new(1);
        dispatcher::with_default(&dispatch, || {
            let thread = RequestLogThread::start().unwrap();
            thread.handle().push(record(200), &metrics.meter(0));
            let without_body = RequestRecord {
                ttfb_us: None,
                want: Some(Wanted(Arc::new("refs/heads/a"))),
                ..record(304)
            };
            thread.handle().push(without_body, &metrics.meter(0));
            thread.finish();
        });
        let lines = lines(&memory);
        assert_eq!(lines.len(), 2, "{lines:?}");
        let expected = serde_json::json!({
            "level": "INFO", "target": REQUEST_TARGET, "message": "request",
            "repository": "github.com/a/b", "method": "GET", "outcome": "hit", "status": 200,
            "bytes": 1u64 << 40, "complete": true, "ttfb_ms": 1.5, "total_ms": 2000.0,
            "peer": "[::1]:9",
        });
        let mut first = lines[0].clone();
        let time = first.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
        assert_eq!(first, expected);
        assert!(lines[1].get("ttfb_ms").is_none(), "{:?}", lines[1]);
        assert_eq!(lines[1]["want"], "refs/heads/a");
    }

    #[test]
    fn what_was_pushed_is_written_without_being_asked_to_finish() {
        let (sender, receiver): (Sender<()>, Receiver<()>) = mpsc::channel();
        let told = move || Telling(sender.clone());
        let (dispatch, _) = dispatch(Style::Json, filter(none).unwrap(), told);
        let metrics = Metrics::new(1);
        dispatcher::with_default(&dispatch, || {
            let thread = RequestLogThread::start().unwrap();
            let log = thread.handle();
            for _ in 0..100 {
                log.push(record(200), &metrics.meter(0));
                receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            }
        });
    }

    /// Tells that a line was written.
    struct Telling(Sender<()>);

    impl Write for Telling {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A test that has seen enough has hung up.
            let _ = self.0.send(());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn records_of_several_threads_are_all_written_at_the_end() {
        let (memory, dispatch) = in_memory(Style::Json);
        let metrics = Metrics::new(4);
        dispatcher::with_default(&dispatch, || {
            let thread = RequestLogThread::start().unwrap();
            thread::scope(|scope| {
                for writer in 0..4 {
                    let (log, meter) = (thread.handle(), metrics.meter(writer));
                    scope.spawn(move || (0..500).for_each(|_| log.push(record(200), &meter)));
                }
            });
        });
        assert_eq!(lines(&memory).len(), 2000);
        assert_eq!(dropped(&metrics), 0);
    }

    #[test]
    fn a_log_that_blocks_costs_records_and_never_the_caller() {
        let (memory, dispatch) = in_memory(Style::Json);
        let metrics = Metrics::new(1);
        let blocked = memory.0.lock().unwrap();
        let thread =
            dispatcher::with_default(&dispatch, || RequestLogThread::start_with(8).unwrap());
        let (log, meter) = (thread.handle(), metrics.meter(0));
        // The log thread cannot write: at most 8 wait, and one is in its hands.
        (0..100).for_each(|_| log.push(record(200), &meter));
        let lost = dropped(&metrics);
        assert!((91..=92).contains(&lost), "{lost}");
        drop(blocked);
        thread.finish();
        let lines = lines(&memory);
        let (warnings, requests): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| line["level"] == "WARN");
        assert_eq!(requests.len() as u64 + lost, 100);
        let told: u64 = warnings
            .iter()
            .map(|line| line["records"].as_u64().unwrap())
            .sum();
        assert_eq!(told, lost);
    }

    #[test]
    fn a_log_that_nobody_reads_does_not_keep_the_process_from_ending() {
        let (memory, dispatch) = in_memory(Style::Json);
        let metrics = Metrics::new(1);
        let blocked = memory.0.lock().unwrap();
        let thread = dispatcher::with_default(&dispatch, || RequestLogThread::start().unwrap());
        thread.handle().push(record(200), &metrics.meter(0));
        // Returning at all is the test: the thread cannot end while the log is blocked.
        thread.finish_within(Duration::from_millis(1));
        drop(blocked);
    }

    #[test]
    fn the_human_format_has_colour_only_if_asked() {
        let written = |colour| {
            let (memory, dispatch) = in_memory(Style::Human { colour });
            dispatcher::with_default(&dispatch, || {
                record(200).emit();
                tracing::warn!(path = "/x", "disk is full");
            });
            memory.text()
        };
        let plain = written(false);
        assert!(
            plain.contains("outcome=\"hit\"") && plain.contains("disk is full"),
            "{plain}"
        );
        assert!(!plain.contains('\u{1b}'), "{plain}");
        assert!(written(true).contains('\u{1b}'));
    }

    #[test]
    fn the_format_follows_the_terminal_unless_given() {
        let colour = Style::Human { colour: true };
        let plain = Style::Human { colour: false };
        assert_eq!(Style::choose(LogFormat::Auto, true, false), colour);
        assert_eq!(Style::choose(LogFormat::Auto, true, true), plain);
        assert_eq!(Style::choose(LogFormat::Auto, false, false), Style::Json);
        assert_eq!(Style::choose(LogFormat::Human, false, false), plain);
        assert_eq!(Style::choose(LogFormat::Json, true, false), Style::Json);
    }

    #[test]
    fn filters_come_from_the_environment() {
        let shown = |variables: &[(&str, &str)]| {
            let env = |name: &str| {
                variables
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| value.into())
            };
            filter(env).map(|filter| filter.to_string())
        };
        assert_eq!(shown(&[]).unwrap(), "info");
        assert_eq!(shown(&[("RUST_LOG", "warn")]).unwrap(), "warn");
        assert_eq!(
            shown(&[("RUST_LOG", "warn"), ("TARPON_LOG", "debug")]).unwrap(),
            "debug"
        );
        assert_eq!(
            shown(&[("TARPON_LOG", ""), ("RUST_LOG", "warn")]).unwrap(),
            "warn"
        );
        let error = shown(&[("TARPON_LOG", "tarpon=loud")])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("TARPON_LOG = \"tarpon=loud\" is not a log filter"),
            "{error}"
        );
    }

    #[test]
    fn a_filter_hides_request_lines_by_name() {
        let memory = Memory::default();
        let env = |name: &str| (name == "TARPON_LOG").then(|| "info,tarpon::request=off".into());
        let (dispatch, _) = dispatch(Style::Json, filter(env).unwrap(), memory.clone());
        dispatcher::with_default(&dispatch, || {
            record(200).emit();
            tracing::info!("started");
        });
        let lines = lines(&memory);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["message"], "started");
    }
}
