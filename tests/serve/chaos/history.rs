//! All that the upstream ever had, and whether an answer is one of these states.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::lab::{self, Lab};
use crate::support::rng::Rng;
use crate::support::{compare, git, repos};

/// The repository.
pub const NAME: &str = "small";

/// So many bytes of each state are nowhere else.
const OWN_BYTES: usize = 3000;

struct State {
    commit: String,
    tree: String,
    worktree: PathBuf,
    /// Some of what is nowhere else.
    own: Vec<u8>,
}

/// What an archive is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// The state that is checked out.
    pub head: usize,
    /// The state that the default branch has.
    pub main: usize,
}

/// See the module's text.
pub struct History {
    upstream: PathBuf,
    /// Where nothing is ever lost.
    all: PathBuf,
    scratch: PathBuf,
    states: Mutex<Vec<State>>,
    /// The upstream has this one, or a later one.
    pushed: AtomicUsize,
    /// Archives that were looked at, and what they are of.
    seen: Mutex<HashMap<u64, Looked>>,
    looked: AtomicUsize,
}

impl History {
    pub fn new(lab: &Lab) -> History {
        let history = History {
            upstream: lab.upstream(NAME),
            all: lab.scratch("all.git"),
            scratch: lab.scratch("looked"),
            states: Mutex::default(),
            pushed: AtomicUsize::new(0),
            seen: Mutex::default(),
            looked: AtomicUsize::new(0),
        };
        lab::create_dir(&history.scratch);
        git::clone_mirror(&lab.url(NAME), &history.all);
        let commit = git::text(&history.all, &["rev-parse", "main"]);
        history.note(commit, Vec::new());
        history
    }

    /// The newest state that the upstream is known to have.
    pub fn pushed(&self) -> usize {
        self.pushed.load(Ordering::SeqCst)
    }

    pub fn commit(&self, number: usize) -> String {
        self.states.lock().unwrap()[number].commit.clone()
    }

    fn note(&self, commit: String, own: Vec<u8>) -> usize {
        let number = self.states.lock().unwrap().len();
        let worktree = self.scratch.join(format!("state{number}"));
        lab::create_dir(&worktree);
        let work_tree = format!("--work-tree={}", worktree.display());
        git::run(
            &self.all,
            &[&work_tree, "checkout", "-q", "-f", &commit, "--", "."],
        );
        let tree = git::text(&self.all, &["rev-parse", &format!("{commit}^{{tree}}")]);
        self.states.lock().unwrap().push(State {
            commit,
            tree,
            worktree,
            own,
        });
        number
    }

    /// Pushes a new state onto that one, by one write.
    pub fn push(&self, onto: usize, rng: &mut Rng) -> usize {
        let (base, number) = (self.commit(onto), self.states.lock().unwrap().len());
        let branch = format!("state{number}");
        git::run(&self.all, &["branch", "-f", &branch, &base]);
        let own = rng.bytes(OWN_BYTES);
        let path = format!("own/{number}.bin");
        let commit = repos::add_commit(&self.all, &branch, &path, &own);
        // Somebody may see it before the push has ended.
        assert_eq!(self.note(commit, own), number);
        let to = self.upstream.to_string_lossy();
        let what = format!("+{branch}:main");
        git::run(&self.all, &["push", "-q", &to, &what]);
        self.pushed.store(number, Ordering::SeqCst);
        number
    }

    /// The states that nothing of the upstream leads to.
    pub fn left(&self) -> Vec<usize> {
        let newest = self.commit(self.pushed());
        let leads = |number: &usize| {
            let of = self.commit(*number);
            let asked = ["merge-base", "--is-ancestor", &of, &newest];
            git::output(&self.all, &asked).status.success()
        };
        (0..=self.pushed())
            .filter(|number| !leads(number))
            .collect()
    }

    /// Has the upstream give out nothing of these any more.
    pub fn forget(&self) {
        git::run(&self.upstream, &["gc", "--quiet", "--prune=now"]);
    }

    /// What is nowhere but in that state.
    pub fn own(&self, number: usize) -> Vec<u8> {
        let own = &self.states.lock().unwrap()[number].own;
        own[OWN_BYTES / 3..OWN_BYTES / 3 + 100].to_vec()
    }

    pub fn number_of(&self, commit: &str) -> Option<usize> {
        let states = self.states.lock().unwrap();
        states.iter().position(|state| state.commit == commit)
    }

    /// Looks at a whole archive: of which state it is, or what is wrong with it.
    pub fn look(&self, archive: &[u8]) -> Result<Looked, String> {
        let mut hasher = DefaultHasher::new();
        archive.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(looked) = self.seen.lock().unwrap().get(&hash) {
            return Ok(*looked);
        }
        let number = self.looked.fetch_add(1, Ordering::SeqCst);
        let file = self.scratch.join(format!("{number}.tar.zst"));
        let into = self.scratch.join(format!("unpacked{number}"));
        std::fs::write(&file, archive).map_err(|e| e.to_string())?;
        lab::unpack_file(&file, &into);
        let looked = self.look_into(&into)?;
        std::fs::remove_dir_all(&into).map_err(|e| e.to_string())?;
        std::fs::remove_file(&file).map_err(|e| e.to_string())?;
        self.seen.lock().unwrap().insert(hash, looked);
        Ok(looked)
    }

    fn look_into(&self, unpacked: &Path) -> Result<Looked, String> {
        let asked = [
            "rev-parse",
            "HEAD",
            "HEAD^{tree}",
            "refs/remotes/origin/main",
        ];
        let said = git::text(unpacked, &asked);
        let said: Vec<&str> = said.lines().collect();
        let [commit, tree, main] = said[..] else {
            return Err(format!("it has {said:?}"));
        };
        let number_of = |commit: &str| {
            let number = self.number_of(commit);
            number.ok_or_else(|| format!("no state of the upstream has {commit}"))
        };
        let (number, main) = (number_of(commit)?, number_of(main)?);
        let (known_tree, worktree) = {
            let state = &self.states.lock().unwrap()[number];
            (state.tree.clone(), state.worktree.clone())
        };
        if tree != known_tree {
            return Err(format!("state {number} has {tree}"));
        }
        let others = compare::differences(&worktree, unpacked, &[".git"]);
        if !others.is_empty() {
            return Err(format!("state {number}: {others:?}"));
        }
        for asked in [
            &["fsck", "--full", "--strict", "--no-dangling"][..],
            &["diff-index", "--cached", "--exit-code", "HEAD"],
            &["diff-files", "--exit-code"],
        ] {
            let output = git::output(unpacked, asked);
            if !output.status.success() {
                return Err(format!("state {number}: git {asked:?}: {output:?}"));
            }
        }
        Ok(Looked { head: number, main })
    }
}
