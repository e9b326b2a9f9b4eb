//! What is asked for by name: exact commits beside the one that is there, a worktree without its history, and a
//! repository that the server has to get first.

use super::gitcgi::Bridge;
use super::measure::{Bench, of};
use super::probe::{self, Manners, Transfer};
use super::push::Pusher;
use super::record::Contestant;
use super::site::{self, State, target, wait_published};
use super::support::server::Server;
use super::usage::Meter;

/// Of the pushes.
const SEED: u64 = 0x7A59_0003;
/// Files that each commit changes.
const FILES: usize = 10;
/// Rounds in which a repository is got anew, at most: each takes as long as a clone.
const COLD_ROUNDS: u32 = 3;

/// Asks for all of it; nothing if the server does not know such a thing.
fn get(server: &Server, target: &str) -> Option<Transfer> {
    let got = probe::get(server.address(), target, Manners::EAGER, &mut |_| true);
    match got {
        Ok(refused) if refused.head.status == 400 => None,
        got => Some(site::expect_whole(got)),
    }
}

fn shallow(name: &str) -> String {
    format!("{}?depth=1", target(name))
}

impl Bench<'_> {
    /// Measures all of it. `state` has a mirror, which `bridge` serves.
    pub fn wants(&mut self, state: &State, bridge: &Bridge) {
        self.exact_commits();
        for round in 0..self.effort.rounds {
            self.say(&format!(
                "depth 1, round {} of {}",
                round + 1,
                self.effort.rounds
            ));
            self.git_shallow(round, bridge);
            self.depth_1(round, state);
        }
        for round in 0..self.effort.rounds.min(COLD_ROUNDS) {
            self.say(&format!("cold, round {}", round + 1));
            self.cold(Contestant::Cold, round, bridge);
            self.cold(Contestant::ColdDepth1, round, bridge);
        }
    }

    /// Commits that the mirror has, each on a branch of its own beside HEAD, of which nothing is cached.
    fn exact_commits(&mut self) {
        self.say("exact commits");
        let upstream = self
            .site
            .copy(self.repository, &format!("wants-{}", self.repository.name));
        let mut pusher = Pusher::new(&upstream.mirror, SEED);
        let branches = pusher.add_branches(self.effort.wants as usize);
        let state = self.site.state("wants", &upstream);
        state.sync();
        let server = state.start();
        site::download(&server, &upstream.name);
        wait_published(&server, &upstream.name);
        let pushed: Vec<_> = branches
            .iter()
            .map(|branch| pusher.change_on(branch, FILES))
            .collect();
        for one in &pushed {
            site::ensure_ref(&server, &upstream.name, &one.reference, &one.commit);
        }
        state.sync();
        for (round, one) in (0..).zip(&pushed) {
            let target = format!("{}?commit={}", target(&upstream.name), one.commit);
            let meter = Meter::start(server.pid());
            let got = site::expect_whole(probe::get(
                server.address(),
                &target,
                Manners::EAGER,
                &mut |_| true,
            ));
            self.push_one(Contestant::Commit, round, of(&got), Some(meter.stop()));
        }
        server.stop();
        state.remove();
        site::remove_tree(&upstream.mirror);
    }

    fn git_shallow(&mut self, round: u32, bridge: &Bridge) {
        let clone = self.site.run_path("clone");
        let (measured, usage) = bridge.clone_once(&self.repository.name, &["--depth", "1"], &clone);
        self.push_one(Contestant::GitShallow, round, measured, Some(usage));
    }

    /// Without history, of a mirror that is there.
    fn depth_1(&mut self, round: u32, state: &State) {
        let name = self.repository.name.clone();
        state.sync();
        let server = state.start();
        let meter = Meter::start(server.pid());
        match get(&server, &shallow(&name)) {
            Some(got) => self.push_one(Contestant::Depth1, round, of(&got), Some(meter.stop())),
            None => self
                .record
                .skip("depth 1: the server does not know depth=1".to_owned()),
        }
        server.stop();
        state.forget_snapshots();
    }

    /// The server has nothing of the repository, and its upstream is git's own server.
    fn cold(&mut self, who: Contestant, round: u32, bridge: &Bridge) {
        let name = self.repository.name.clone();
        let state = self.site.state_without("cold", &bridge.url());
        let server = state.start();
        let target = match who {
            Contestant::Cold => target(&name),
            _ => shallow(&name),
        };
        let meter = Meter::start(server.pid());
        match get(&server, &target) {
            Some(got) => self.push_one(who, round, of(&got), Some(meter.stop())),
            None => self
                .record
                .skip("cold, depth 1: the server does not know depth=1".to_owned()),
        }
        server.stop();
        state.remove();
    }
}
