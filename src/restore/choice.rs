//! Whether a worktree is made from packs or unpacked from frames: whichever is there sooner.

use crate::limits::{FRAMES_PER_CORE_BYTES_S, PACKS_PER_CORE_BYTES_S};

/// What a snapshot has, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub packs: u64,
    /// Of frames that the worktree is in.
    pub frames: u64,
    /// The same of those that are at hand, and need not come.
    pub had: u64,
}

/// Whether what is `left` of a worktree is made sooner from packs, if so many bytes come in a second. What comes is worked
/// at meanwhile, so the slower of the two says when it ends.
pub(super) fn takes_packs(left: Sizes, rate_bytes_s: f64) -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    takes_packs_with(left, rate_bytes_s, cores)
}

fn takes_packs_with(left: Sizes, rate_bytes_s: f64, cores: usize) -> bool {
    let comes_s = |bytes: u64| bytes as f64 / rate_bytes_s.max(1.0);
    // How large the files are is known from nothing else.
    let work_s = |bytes: u64, per_core: u64| bytes as f64 / (per_core as f64 * cores.max(1) as f64);
    let all = left.frames + left.had;
    let packs_s = comes_s(left.packs).max(work_s(all, PACKS_PER_CORE_BYTES_S));
    let frames_s = comes_s(left.packs + left.frames).max(work_s(all, FRAMES_PER_CORE_BYTES_S));
    packs_s < frames_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_slowly_is_made_and_what_comes_fast_is_unpacked() {
        let linux = Sizes {
            packs: 240 << 20,
            frames: 240 << 20,
            had: 0,
        };
        // 100 Mbit/s and 1 Gbit/s.
        for (rate_bytes_s, cores) in [(12.5e6, 1), (12.5e6, 64), (125e6, 2), (125e6, 8)] {
            assert!(
                takes_packs_with(linux, rate_bytes_s, cores),
                "{rate_bytes_s} {cores}"
            );
        }
        assert!(!takes_packs_with(linux, 5e9, 1));
        assert!(!takes_packs_with(linux, 5e9, 2));
        // Where nothing is known of the rate, what is less.
        assert!(takes_packs_with(linux, 0.0, 2));
        // A long history, and a few files.
        let old = Sizes {
            packs: 300 << 20,
            frames: 10 << 20,
            had: 0,
        };
        assert!(takes_packs_with(old, 125e6, 2));
    }

    #[test]
    fn frames_are_left_off_only_for_what_is_sooner() {
        let left = |frames_mib: u64, rate_bytes_s| {
            let left = Sizes {
                packs: 0,
                frames: frames_mib << 20,
                had: 0,
            };
            takes_packs_with(left, rate_bytes_s, 2)
        };
        // All packs are there: 2 s of work, or a tenth of that.
        assert!(left(200, 12.5e6) && left(200, 60e6) && left(20, 12.5e6));
        assert!(!left(200, 125e6) && !left(20, 125e6));
    }

    /// What a seed has need not come: it is unpacked at any rate, and what it has not is weighed as ever.
    #[test]
    fn what_is_at_hand_does_not_come() {
        let frames = 240 << 20;
        let left = |packs_mib: u64, frames_mib: u64| Sizes {
            packs: packs_mib << 20,
            frames: frames_mib << 20,
            had: frames - (frames_mib << 20),
        };
        let takes_packs = |sizes, rate| takes_packs_with(sizes, rate, 2);
        for rate_bytes_s in [0.0, 12.5e6, 125e6, 5e9] {
            assert!(!takes_packs(left(0, 0), rate_bytes_s), "{rate_bytes_s}");
        }
        assert!(takes_packs(left(0, 240), 12.5e6) && takes_packs(left(0, 240), 0.0));
        assert!(!takes_packs(left(2, 2), 12.5e6));
        assert!(takes_packs(left(240, 240), 12.5e6));
        assert!(!takes_packs(left(240, 240), 5e9));
    }
}
