//! A bucket behind links, an upstream that can be taken away, and servers with disks of their own.

use super::bucket_server::BucketServer;
use super::link::{Link, Shared};
use super::probe::{self, Manners, Transfer};
use super::push::Pusher;
use super::site::{Repository, Site, expect_whole, remove_tree, target};
use super::support::client::Conn;
use super::support::server::{Server, Settings};
use super::support::wait;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The name under which it is served.
pub const NAME: &str = "stored";
/// So many requests at once the plain download makes, of so many bytes.
const PLAIN_AT_ONCE: usize = 8;
const PLAIN_BYTES: u64 = 4 << 20;

/// See the module's text.
pub struct Farm<'s> {
    pub site: &'s Site,
    pub bucket: BucketServer,
    pub repository: Repository,
    pub pusher: Pusher,
    root: PathBuf,
    upstream: PathBuf,
    all: Shared,
    servers: u32,
}

/// A server and its way to the bucket.
pub struct Member {
    pub server: Server,
    pub link: Link,
    pub state: PathBuf,
}

impl<'s> Farm<'s> {
    pub fn new(site: &'s Site, repository: &Repository, name: &str) -> Farm<'s> {
        let root = site.run_path(&format!("s3-{name}"));
        let repository = site.copy(repository, NAME);
        let farm = Farm {
            site,
            bucket: BucketServer::start(&root),
            pusher: Pusher::new(&repository.mirror, 11),
            upstream: site.run_path("away.git"),
            repository,
            root,
            all: Arc::new(Mutex::new(Instant::now())),
            servers: 0,
        };
        farm.site.offer(&farm.repository.mirror, NAME);
        farm
    }

    /// What lies in the bucket.
    pub fn objects(&self) -> PathBuf {
        self.root.join("farm")
    }

    /// The upstream cannot be reached, or can again.
    pub fn set_away(&self, is_away: bool) {
        let (from, to) = match is_away {
            true => (&self.repository.mirror, &self.upstream),
            false => (&self.upstream, &self.repository.mirror),
        };
        std::fs::rename(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }

    /// One with an empty disk.
    pub fn start(&mut self, arguments: &[&str], fault: Option<&str>) -> Member {
        self.servers += 1;
        let state = self.site.run_path(&format!("state-{}", self.servers));
        remove_tree(&state);
        let link = self.way();
        let settings = self.site.settings(state.clone());
        let mut settings = Settings {
            environment: BucketServer::environment_at(link.address()),
            ..settings
        };
        if let Some(fault) = fault {
            settings = settings.with_fault(fault);
        }
        let settings = settings.with(&["--store", "s3://farm"]).with(arguments);
        Member {
            server: settings.start(),
            link,
            state,
        }
    }

    /// One with an empty disk has built it, and all is in the bucket.
    pub fn start_shared(&mut self, arguments: &[&str], fault: Option<&str>) -> Member {
        let member = self.start(arguments, fault);
        member.get();
        member.wait_shared(1);
        member
    }

    /// The head of the one repository.
    pub fn head(&self) -> serde_json::Value {
        let dirs = std::fs::read_dir(self.objects().join("v1/repos"));
        let mut dirs = dirs.unwrap_or_else(|e| panic!("the bucket: {e}")).flatten();
        let dir = dirs.next().unwrap_or_else(|| panic!("nothing is shared"));
        let head = std::fs::read(dir.path().join("head.json"));
        let head = head.unwrap_or_else(|e| panic!("the head: {e}"));
        serde_json::from_slice(&head).unwrap_or_else(|e| panic!("the head: {e}"))
    }

    /// Keys and lengths of the parts that the head names, of which the name begins so.
    pub fn named(&self, begins: &str) -> Vec<(String, u64)> {
        let head = self.head();
        let parts = head["parts"].as_array().cloned().unwrap_or_default();
        let one = |part: &serde_json::Value| {
            let key = part["key"].as_str()?.to_owned();
            Some((key, part["bytes"].as_u64()?))
        };
        let parts = parts.iter().filter_map(one);
        parts.filter(|(key, _)| key.starts_with(begins)).collect()
    }

    /// A way to the bucket that is no server's.
    pub fn way(&self) -> Link {
        Link::new(&self.bucket, &self.root, &self.all)
    }

    /// Downloads parts without any server: ranges of them, several at once. How long it took.
    pub fn plain(&self, parts: &[(String, u64)]) -> Duration {
        let link = self.way();
        let dir = self.parts_dir();
        let mut ranges: Vec<(String, u64, u64)> = Vec::new();
        for (key, bytes) in parts {
            let firsts = (0..*bytes).step_by(PLAIN_BYTES as usize);
            ranges.extend(firsts.map(|first| {
                let last = bytes.min(&(first + PLAIN_BYTES)) - 1;
                (format!("/farm/v1/repos/{dir}/parts/{key}"), first, last)
            }));
        }
        ranges.reverse();
        let (left, began) = (Mutex::new(ranges), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..PLAIN_AT_ONCE {
                scope.spawn(|| {
                    let mut conn = Conn::open(link.address());
                    loop {
                        let next = left.lock().unwrap_or_else(|e| panic!("{e}")).pop();
                        let Some((path, first, last)) = next else {
                            break;
                        };
                        let range = format!("Range: bytes={first}-{last}");
                        conn.request("GET", &path, &[&range]);
                        let body = conn.response("GET").expect(206).body;
                        assert_eq!(body.len() as u64, last + 1 - first);
                    }
                });
            }
        });
        began.elapsed()
    }

    fn parts_dir(&self) -> String {
        let dirs = std::fs::read_dir(self.objects().join("v1/repos"));
        let mut dirs = dirs.unwrap_or_else(|e| panic!("the bucket: {e}")).flatten();
        let dir = dirs.next().unwrap_or_else(|| panic!("nothing is shared"));
        dir.file_name().to_string_lossy().into_owned()
    }
}

impl Member {
    /// The whole archive.
    pub fn get(&self) -> Transfer {
        self.transfer(Manners::EAGER)
    }

    /// The archive, by a client of such manners.
    pub fn transfer(&self, manners: Manners) -> Transfer {
        let address = self.server.address();
        let got = probe::get(address, &target(NAME), manners, &mut |_| true);
        match manners.leave_after_bytes {
            None => expect_whole(got),
            Some(_) => got.unwrap_or_else(|e| panic!("a client: {e}")),
        }
    }

    /// Asks for what the upstream has now, and leaves with the head; gives the commit.
    pub fn fresh(&self) -> String {
        let mut conn = Conn::open(self.server.address());
        conn.request("GET", &target(NAME), &["Cache-Control: max-age=0"]);
        let head = conn.read_head("GET").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(head.status, 200, "{head:?}");
        commit_of(&head)
    }

    /// Waits until it has shared what it serves, or has found that another one has.
    pub fn settle(&self) {
        let limit = Duration::from_secs(600);
        wait::until_within("it has what it serves", limit, || {
            let answer = self.server.fetch("HEAD", &target(NAME), &[]);
            let id = answer
                .head
                .get("etag")
                .unwrap_or_default()
                .trim_matches('"');
            let said = format!("\"shared\",\"repository\":\"bench/{NAME}\",\"id\":\"{id}\"");
            let is_there = answer.head.status == 200 && self.server.log().contains(&said);
            if !is_there {
                // The log is long.
                std::thread::sleep(Duration::from_millis(50));
            }
            is_there.then_some(())
        });
    }

    /// How often something was counted.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.server.metrics().count(name, labels)
    }

    /// Waits until it has shared something so often.
    pub fn wait_shared(&self, times: u64) {
        let limit = Duration::from_secs(600);
        wait::until_within("it is shared", limit, || {
            let done = self.count("tarpon_offers_total", &[("result", "done")]);
            (done >= times).then_some(())
        });
    }

    /// Ends it and removes its disk.
    pub fn end(mut self) {
        self.server.kill();
        remove_tree(&self.state);
    }
}

/// Of which commit an answer says it is.
pub fn commit_of(head: &super::support::client::Head) -> String {
    let commit = head.get("x-cachew-snapshot-commit");
    commit.unwrap_or_default().to_owned()
}

/// Whether bytes stand in some file below a directory.
pub fn is_below(dir: &Path, bytes: &[u8]) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else {
        let file = std::fs::read(dir).unwrap_or_default();
        return file.windows(bytes.len()).any(|part| part == bytes);
    };
    entries
        .flatten()
        .any(|entry| is_below(&entry.path(), bytes))
}
