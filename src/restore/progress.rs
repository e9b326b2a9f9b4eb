//! How far a restore is: counters that every thread adds to, a line for people, and a summary.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::fitted::{columns, fitted};
use super::said::Said;
use super::summary::{CheckedOut, Phases, SOURCE_SNAPSHOT, Summary, size};
use super::waited::{self, Waited};
use crate::io::say::line;

/// How often the line on a terminal is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// Where there is no terminal: when it is said first that there is a wait, and how often it is said
/// how far the restore is.
const SAID_FIRST: Duration = Duration::from_secs(5);
/// The same while nothing comes, after that.
const SAID_WAITING: Duration = Duration::from_secs(10);
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// See [`Progress::aged`].
const NO_AGE: u64 = u64::MAX;

/// Empties the line that a terminal's cursor is on.
const CLEAR: &str = "\r\x1b[K";

/// The counters.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
    total_bytes: AtomicU64,
    received_bytes: AtomicU64,
    entries: AtomicU64,
    resumes: AtomicU64,
    signs: AtomicU64,
    /// Bytes of parts that a seed had.
    seed_bytes: AtomicU64,
    /// Parts that come, and those of them that are there.
    parts: [AtomicU64; 2],
    /// Downloads that were begun and have not ended.
    downloads: AtomicU64,
    first_byte_us: AtomicU64,
    /// How old the server says that its snapshot is; [`NO_AGE`] where it does not.
    age_s: AtomicU64,
    /// What was not tracked and is removed.
    cleaned: OnceLock<u64>,
    downloaded_us: AtomicU64,
    made_us: AtomicU64,
    proven_us: AtomicU64,
    submodules_us: AtomicU64,
    decode_us: AtomicU64,
    write_us: AtomicU64,
    /// How long the server that was reached and asked may take; zero before.
    limit_s: AtomicU64,
    /// Whether there is any content of the archive.
    has_content: AtomicBool,
    /// Whether a clone takes the place of the archive.
    clones: AtomicBool,
    finished: Mutex<bool>,
    ends: Condvar,
    /// What the server says that it waits for.
    waits_for: Mutex<Option<Waited>>,
    /// Whose turn it is to write to the terminal.
    turn: Mutex<()>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            start: Instant::now(),
            total_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            resumes: AtomicU64::new(0),
            signs: AtomicU64::new(0),
            seed_bytes: AtomicU64::new(0),
            parts: Default::default(),
            downloads: AtomicU64::new(0),
            first_byte_us: AtomicU64::new(0),
            age_s: AtomicU64::new(NO_AGE),
            cleaned: OnceLock::new(),
            downloaded_us: AtomicU64::new(0),
            made_us: AtomicU64::new(0),
            proven_us: AtomicU64::new(0),
            submodules_us: AtomicU64::new(0),
            decode_us: AtomicU64::new(0),
            write_us: AtomicU64::new(0),
            limit_s: AtomicU64::new(0),
            has_content: AtomicBool::new(false),
            clones: AtomicBool::new(false),
            finished: Mutex::new(false),
            ends: Condvar::new(),
            waits_for: Mutex::default(),
            turn: Mutex::new(()),
        }
    }
}

/// See [`Progress::downloading`].
pub(super) struct Downloading<'p>(&'p Progress);

impl Drop for Downloading<'_> {
    fn drop(&mut self) {
        self.0.download_ends();
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Progress {
    /// The server was asked for the archive, and may take so long to answer.
    pub(super) fn asked(&self, limit: Duration) {
        self.waits_lock()
            .take_if(|waited| matches!(waited, Waited::Unreached { .. }));
        self.limit_s.store(limit.as_secs().max(1), Relaxed);
    }

    /// Something of the archive is there.
    pub(super) fn content(&self) {
        self.has_content.store(true, Relaxed);
    }

    /// Whether nothing of the archive is there, and nothing else in its place.
    fn waits(&self) -> bool {
        !self.has_content.load(Relaxed)
    }

    /// A clone takes the place of the archive.
    pub(super) fn clones(&self) {
        self.clones.store(true, Relaxed);
    }

    /// The head of the first answer is there.
    pub(super) fn answered(&self) {
        // What it was waited for is over.
        *self.waits_lock() = None;
        self.first_byte_us
            .store(micros(self.start.elapsed()), Relaxed);
    }

    /// The same of an answer that is not always the first one.
    pub(super) fn answered_too(&self) {
        if !self.has_answer() {
            self.answered();
        }
    }

    /// The server says how old its snapshot is, if it does.
    pub(super) fn aged(&self, age_s: Option<u64>) {
        self.age_s.store(age_s.unwrap_or(NO_AGE), Relaxed);
    }

    /// So much that is not tracked was removed.
    pub(super) fn cleaned(&self, count: u64) {
        let _ = self.cleaned.set(count);
    }

    /// Whether any answer came.
    pub(super) fn has_answer(&self) -> bool {
        self.first_byte_us.load(Relaxed) > 0
    }

    /// The archive is asked for again, from its beginning: nothing of what came counts.
    pub(super) fn begins_again(&self) {
        let bytes = [&self.total_bytes, &self.received_bytes, &self.seed_bytes];
        let counters = [&self.entries, &self.downloads, &self.downloaded_us];
        for counter in bytes.into_iter().chain(counters).chain(&self.parts) {
            counter.store(0, Relaxed);
        }
        self.has_content.store(false, Relaxed);
    }

    /// The archive's length is known.
    pub(super) fn set_total(&self, bytes: u64) {
        self.total_bytes.store(bytes, Relaxed);
    }

    /// More of it is downloaded than was known.
    pub(super) fn add_total(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Relaxed);
    }

    /// So much that was to be downloaded is not.
    pub(super) fn takes_back(&self, bytes: u64) {
        self.total_bytes.fetch_sub(self.left().min(bytes), Relaxed);
    }

    /// Bytes that have come.
    pub(super) fn bytes(&self) -> u64 {
        self.received_bytes.load(Relaxed)
    }

    /// Bytes that are known to come.
    pub(super) fn left(&self) -> u64 {
        let total = self.total_bytes.load(Relaxed);
        total.saturating_sub(self.bytes())
    }

    /// Bytes that have come in a second, since the first answer.
    pub(super) fn rate_bytes_s(&self) -> f64 {
        let began = Duration::from_micros(self.first_byte_us.load(Relaxed));
        let took = self.start.elapsed().saturating_sub(began).as_secs_f64();
        self.received_bytes.load(Relaxed) as f64 / took.max(0.001)
    }

    /// Bytes of the archive came.
    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A broken transfer goes on.
    pub(super) fn resumed(&self) {
        self.resumes.fetch_add(1, Relaxed);
    }

    /// The server has nothing to send yet, but says so.
    pub(super) fn lives(&self) {
        self.signs.fetch_add(1, Relaxed);
    }

    fn waits_lock(&self) -> MutexGuard<'_, Option<Waited>> {
        self.waits_for.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// It says what it waits for, and how much of that has come.
    pub(super) fn waits_for(&self, what: &str, received_bytes: u64) {
        *self.waits_lock() = Some(Waited::Server {
            words: what.to_owned(),
            received_bytes,
        });
    }

    /// It is busy, and has said when to come again; that may go on for `limit`.
    pub(super) fn is_put_off(&self, why: Said<'_>, limit: Duration) {
        let why = match why {
            Said::Line(why) | Said::Page(why) => why,
            Said::Nothing => "",
        };
        *self.waits_lock() = Some(Waited::Busy {
            why: why.to_owned(),
            limit_s: limit.as_secs_f64().ceil() as u64,
        });
    }

    /// It cannot be reached.
    pub(super) fn is_not_reached(&self, why: &std::io::Error) {
        *self.waits_lock() = Some(Waited::unreached(why));
    }

    /// How often it has said so.
    pub(super) fn signs(&self) -> &AtomicU64 {
        &self.signs
    }

    /// Parts come.
    pub(super) fn parts_come(&self, count: usize) {
        self.parts[0].fetch_add(count as u64, Relaxed);
    }

    /// One of them is there.
    pub(super) fn part_is_there(&self) {
        self.parts[1].fetch_add(1, Relaxed);
    }

    /// Bytes came from a seed.
    pub(super) fn came_from_seed(&self, bytes: u64) {
        self.seed_bytes.fetch_add(bytes, Relaxed);
    }

    /// One more download begins: all is there once each of them has ended.
    pub(super) fn download_begins(&self) {
        self.downloads.fetch_add(1, Relaxed);
        self.downloaded_us.store(0, Relaxed);
    }

    /// The same of one that ends when this is dropped, also where it fails.
    pub(super) fn downloading(&self) -> Downloading<'_> {
        self.download_begins();
        Downloading(self)
    }

    /// A download has ended.
    pub(super) fn download_ends(&self) {
        if self.downloads.fetch_sub(1, Relaxed) == 1 {
            self.mark(&self.downloaded_us);
        }
    }

    /// All that an update has to fetch is there.
    pub(super) fn fetched(&self) {
        self.mark(&self.downloaded_us);
    }

    /// The working copy is made, and nothing of it is proven or in its place.
    pub(super) fn made(&self) {
        self.mark(&self.made_us);
    }

    /// What was to be proven is.
    pub(super) fn proven(&self) {
        self.mark(&self.proven_us);
    }

    /// Its submodules are restored.
    pub(super) fn has_submodules(&self) {
        self.mark(&self.submodules_us);
    }

    fn mark(&self, at: &AtomicU64) {
        at.store(micros(self.start.elapsed()), Relaxed);
    }

    fn phases(&self) -> Phases {
        let ends_us = [
            &self.first_byte_us,
            &self.downloaded_us,
            &self.made_us,
            &self.proven_us,
            &self.submodules_us,
        ];
        let ends_us = ends_us.map(|end| end.load(Relaxed));
        Phases::of(ends_us, micros(self.start.elapsed()))
    }

    /// A worker decoded for so long.
    pub(super) fn decoded(&self, time: Duration) {
        self.decode_us.fetch_add(micros(time), Relaxed);
    }

    /// So many entries are written once more.
    pub(super) fn takes_back_entries(&self, entries: u64) {
        self.entries.fetch_sub(entries, Relaxed);
    }

    /// A worker wrote entries.
    pub(super) fn written(&self, entries: usize, time: Duration) {
        self.entries.fetch_add(entries as u64, Relaxed);
        self.write_us.fetch_add(micros(time), Relaxed);
    }

    /// The counters as a summary; who, where and what is the caller's.
    pub(super) fn summary(&self, repository: &dyn Display, directory: &str) -> Summary {
        let ms = |us: &AtomicU64| us.load(Relaxed) as f64 / 1000.0;
        Summary {
            repository: repository.to_string(),
            directory: directory.to_owned(),
            origin: String::new(),
            source: SOURCE_SNAPSHOT,
            head: CheckedOut::default(),
            verified: None,
            note: None,
            bundle_applied: false,
            bytes: Some(self.received_bytes.load(Relaxed)),
            seed_bytes: self.seed_bytes.load(Relaxed),
            worktree: None,
            entries: Some(self.entries.load(Relaxed)),
            cleaned: self.cleaned.get().copied(),
            submodules: None,
            resumes: self.resumes.load(Relaxed),
            age_s: Some(self.age_s.load(Relaxed)).filter(|age_s| *age_s != NO_AGE),
            first_byte_ms: self.has_answer().then(|| ms(&self.first_byte_us)),
            download_ms: ms(&self.downloaded_us),
            decode_ms: ms(&self.decode_us),
            write_ms: ms(&self.write_us),
            phases_ms: self.phases(),
            total_ms: micros(self.start.elapsed()) as f64 / 1000.0,
        }
    }

    /// The same once all is done, what was removed behind it included.
    pub(super) fn ended(&self, summary: Summary) -> Summary {
        Summary {
            phases_ms: self.phases(),
            total_ms: micros(self.start.elapsed()) as f64 / 1000.0,
            ..summary
        }
    }

    /// What is waited for while nothing comes.
    fn wait_line(&self, in_short: bool) -> String {
        let times_s = (self.start.elapsed().as_secs(), self.limit_s.load(Relaxed));
        let what = match (times_s.1, self.has_answer(), self.signs.load(Relaxed)) {
            (0, _, _) => "connecting to the server",
            (_, false, _) => "waiting for the server's first byte",
            (_, true, 0) => "the server has answered; waiting for what it sends",
            _ => "the server says that it is at work; waiting for what it sends",
        };
        waited::line_of((self.waits_lock().as_ref(), what), times_s, in_short)
    }

    /// How far it is, in a line; in a short one if it is to be so.
    fn line(&self, in_short: bool) -> String {
        let received = self.received_bytes.load(Relaxed) as f64;
        let waited_s = self.start.elapsed().as_secs();
        if self.clones.load(Relaxed) {
            return format!("cloning from the upstream, {waited_s} s");
        }
        if self.waits() {
            return self.wait_line(in_short);
        }
        if self.downloaded_us.load(Relaxed) > 0 {
            let received = size(self.received_bytes.load(Relaxed));
            return format!(
                "all of the archive is there, {received}; making it ready, {waited_s} s"
            );
        }
        let total = self.total_bytes.load(Relaxed) as f64;
        let rate = received / self.start.elapsed().as_secs_f64().max(0.001);
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let entries = self.entries.load(Relaxed);
        let parts = match self.parts.each_ref().map(|count| count.load(Relaxed)) {
            [0, _] => String::new(),
            [all, there] => format!(", {there} of {all} parts"),
        };
        let of = match total > 0.0 {
            true => format!(" of {:.1}", mib(total)),
            false => String::new(),
        };
        let left = match total > received && rate > 0.0 {
            true => format!(", {:.0} s left", (total - received) / rate),
            false => String::new(),
        };
        format!(
            "{:.1}{of} MiB, {:.1} MiB/s, {entries} files{parts}{left}",
            mib(received),
            mib(rate)
        )
    }

    /// Ends [`show`](Progress::show).
    pub(super) fn finish(&self) {
        *self.finished.lock().unwrap_or_else(|p| p.into_inner()) = true;
        self.ends.notify_all();
    }

    /// Waits for so long; whether the restore ends before.
    fn finishes(&self, limit: Duration) -> bool {
        let finished = self.finished.lock().unwrap_or_else(|p| p.into_inner());
        let waits = |finished: &mut bool| !*finished;
        let finished = self.ends.wait_timeout_while(finished, limit, waits);
        *finished.unwrap_or_else(|p| p.into_inner()).0
    }

    /// Says something on a line of its own.
    pub(super) fn say(&self, text: &str) {
        let _turn = self.turn.lock();
        let mut out = std::io::stderr();
        let clear = if out.is_terminal() { CLEAR } else { "" };
        let _ = writeln!(out, "{clear}tarpon: {}", line(text));
    }

    /// Says how far it is until the restore ends: on a terminal in one line, anywhere else now and
    /// then.
    pub(super) fn show(&self) {
        let mut out = std::io::stderr();
        if !out.is_terminal() {
            return self.show_plainly();
        }
        while !self.finishes(DRAW) {
            let _turn = self.turn.lock();
            let columns = columns();
            let mut line = self.line(false);
            if fitted(&line, columns).len() < line.len() {
                line = self.line(true);
            }
            let _ = write!(out, "{CLEAR}{}", fitted(&line, columns));
            let _ = out.flush();
        }
        let _ = write!(out, "{CLEAR}");
    }

    /// A log shows what is waited for; a server that nobody reaches has an error instead.
    fn show_plainly(&self) {
        let mut said = Instant::now();
        let mut pause = SAID_FIRST;
        while !self.finishes(SAID_FIRST) {
            let waits = self.waits() || self.clones.load(Relaxed);
            let is_asked = self.limit_s.load(Relaxed) > 0;
            let due = if waits { pause } else { SAID_AGAIN };
            if said.elapsed() >= due && (!waits || is_asked || said.elapsed() >= SAID_AGAIN) {
                self.say(&self.line(false));
                (said, pause) = (Instant::now(), SAID_WAITING);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::preamble::Waits;

    #[test]
    fn the_line_says_that_it_waits_until_something_came() {
        let progress = Progress::default();
        assert_eq!(progress.line(false), "connecting to the server, 0 s");
        let why = std::io::Error::other("cannot connect: Connection refused");
        progress.is_not_reached(&why);
        let again = "the server is asked again (\"cannot connect: Connection refused\"), 0 s";
        assert_eq!(progress.line(false), again);
        assert_eq!(progress.line(true), "the server is asked again, 0 s");
        progress.asked(Duration::from_secs(300));
        let expected = "waiting for the server's first byte, 0 s of at most 300";
        assert_eq!(progress.line(false), expected);
        // The head of an answer may come long before its first byte.
        progress.answered();
        progress.set_total(2 << 20);
        assert!(
            progress
                .line(false)
                .starts_with("the server has answered; waiting")
        );
        // What says that the server lives is nothing of the archive.
        progress.received(100);
        progress.lives();
        assert!(progress.line(false).starts_with("the server says"));
        progress.received((1 << 20) - 100);
        progress.content();
        let line = progress.line(false);
        assert!(line.starts_with("1.0 of 2.0 MiB, "), "{line}");
    }

    #[test]
    fn a_line_fits_into_a_narrow_terminal() {
        let line = "12.3 of 45.6 MiB, 10.0 MiB/s, 1234 files, 3 s left";
        for (columns, shown) in [
            (80, line),
            (51, line),
            (50, "12.3 of 45.6 MiB, 10.0 MiB/s, 1234 files"),
            (30, "12.3 of 45.6 MiB, 10.0 MiB/s"),
            (29, "12.3 of 45.6 MiB, 10.0 MiB/s"),
            (28, "12.3 of 45.6 MiB"),
            (10, "12.3 of 4"),
            (1, ""),
            (0, ""),
            (usize::MAX, line),
        ] {
            assert_eq!(fitted(line, columns), shown, "{columns}");
        }
        assert_eq!(fitted("試試試, 1 s", 6), "試試");
    }

    #[test]
    fn what_the_server_waits_for_is_shown_as_far_as_there_is_room() {
        let progress = Progress::default();
        progress.asked(Duration::from_secs(300));
        progress.answered();
        progress.waits_for(Waits::Clone.words(), 1_288_490_189);
        let long = "the server waits for the first clone of the repository: 1.2 GiB so far, 0 s of at most 300";
        assert_eq!(progress.line(false), long);
        assert_eq!(
            fitted(&progress.line(true), 30),
            "cloning: 1.2 GiB so far, 0 s"
        );
        progress.waits_for(Waits::Turn.words(), 0);
        assert_eq!(fitted(&progress.line(true), 30), "waiting to be built, 0 s");
        // What a server says that is not known yet.
        progress.waits_for("the weather\u{1b}[2J", 0);
        let line = progress.line(true);
        assert!(
            line.starts_with("the server waits for the weather\\u{1b}[2J, "),
            "{line}"
        );
    }

    #[test]
    fn a_busy_server_has_its_reason_shown() {
        let progress = Progress::default();
        progress.asked(Duration::from_secs(300));
        progress.is_put_off(
            Said::Line("the upstream\u{1b}[2J is silent; try again"),
            Duration::from_secs(60),
        );
        let long = "the restore was told to come again (\"the upstream\\u{1b}[2J is silent; try again\"), 0 s of at most 60";
        assert_eq!(progress.line(false), long);
        assert_eq!(
            fitted(&progress.line(true), 45),
            "put off: the upstream\\u{1b}[2J is silent"
        );
        progress.is_put_off(Said::Nothing, Duration::from_secs(600));
        assert!(
            progress
                .line(false)
                .starts_with("the restore waits for its turn, ")
        );
        // It has something else to say by now.
        progress.answered();
        assert!(progress.line(false).starts_with("the server has answered"));
    }

    #[test]
    fn sizes_say_what_is_there() {
        let shown = [0, 1023, 1024, 50 << 10, 1 << 20, 13 << 30].map(size);
        let expected = [
            "0 bytes",
            "1023 bytes",
            "1.0 KiB",
            "50.0 KiB",
            "1.0 MiB",
            "13.0 GiB",
        ];
        assert_eq!(shown, expected);
    }
}
