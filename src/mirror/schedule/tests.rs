use super::*;

impl Key for &'static str {
    fn host(&self) -> &str {
        self.split('/').next().unwrap_or_default()
    }
}

impl Key for u64 {
    fn host(&self) -> &str {
        ""
    }
}

fn policy(running_max: usize) -> Policy {
    Policy {
        interval_ms: 1000,
        in_use_ms: 50,
        in_use_max_ms: 200,
        hooked_max_ms: 800,
        young_hosts: BTreeSet::new(),
        retry_ms: 100,
        retry_max_ms: 1500,
        running_max,
        host_rate: 1000,
        seed: 7,
    }
}

fn schedule(running_max: usize) -> Schedule<&'static str> {
    Schedule::new(policy(running_max))
}

/// Reports a comparison of something that nobody uses, and ends it.
fn end<K: Key>(s: &mut Schedule<K>, key: K, shown: Shown, now_ms: u64) {
    s.compared(&key, shown, false, now_ms);
    s.ended(&key, now_ms);
}

#[test]
fn what_is_new_is_due_within_the_interval_and_then_after_it() {
    let mut s = schedule(4);
    assert_eq!((s.start(0), s.wake_at_ms()), (None, None));
    s.add("a", None, 50);
    let due_ms = s.wake_at_ms().unwrap();
    assert!((50..1050).contains(&due_ms), "{due_ms}");
    assert_eq!(s.start(1050), Some("a"));
    assert_eq!((s.start(1050), s.wake_at_ms()), (None, None), "it runs");
    end(&mut s, "a", Shown::Same, 1060);
    let due_ms = s.wake_at_ms().unwrap();
    assert!((1960..=2160).contains(&due_ms), "{due_ms}");
    assert_eq!(s.start(due_ms - 1), None);
    assert_eq!(s.start(due_ms), Some("a"));
}

/// Many mirrors of unknown or of too great an age are spread over the interval.
#[test]
fn what_is_added_together_is_not_due_together() {
    let mut s: Schedule<u64> = Schedule::new(policy(4));
    let now_ms = 100_000;
    for key in 0..2000 {
        s.add(key, (key % 2 == 0).then_some(5), now_ms);
    }
    let due: Vec<u64> = s.plans.values().map(|plan| plan.due_ms).collect();
    assert!(due.iter().all(|at| (now_ms..now_ms + 1000).contains(at)));
    for tenth in 0..10 {
        let from = now_ms + 100 * tenth;
        let count = due.iter().filter(|at| (from..from + 100).contains(at));
        let count = count.count();
        assert!((120..280).contains(&count), "{count} from {from} on");
    }
}

/// A known age keeps its due time; one in the future counts as now.
#[test]
fn a_known_age_is_kept() {
    let mut s = schedule(4);
    s.add("a", Some(9_500), 10_000);
    let due_ms = s.wake_at_ms().unwrap();
    assert!((10_400..=10_600).contains(&due_ms), "{due_ms}");
    let mut s = schedule(4);
    s.add("a", Some(u64::MAX), 10_000);
    let due_ms = s.wake_at_ms().unwrap();
    assert!((10_900..=11_100).contains(&due_ms), "{due_ms}");
}

#[test]
fn jitter_stays_within_ten_percent_and_spreads() {
    let mut s = schedule(1);
    let waits: Vec<u64> = (0..1000).map(|_| s.jittered(&"a", 1000)).collect();
    assert!(waits.iter().all(|w| (900..=1100).contains(w)));
    let distinct: std::collections::HashSet<_> = waits.iter().collect();
    assert!(distinct.len() > 150, "{}", distinct.len());
    let mean = waits.iter().sum::<u64>() / 1000;
    assert!((990..=1010).contains(&mean), "{mean}");
    let mut again = schedule(1);
    assert!(
        waits.iter().all(|w| again.jittered(&"a", 1000) == *w),
        "the seed decides"
    );
    assert_eq!(s.jittered(&"a", 0), 0);
    s.jittered(&"a", u64::MAX);
}

#[test]
fn failures_double_the_wait_up_to_the_cap_and_success_resets_it() {
    let mut s = schedule(1);
    s.add("a", None, 0);
    let mut now_ms = 1000;
    for base in [100, 200, 400, 800, 1500, 1500] {
        assert_eq!(s.start(now_ms), Some("a"));
        end(&mut s, "a", Shown::Failed, now_ms);
        let wait = s.due_ms(&"a").unwrap() - now_ms;
        assert!(
            (base * 9 / 10..=base * 11 / 10).contains(&wait),
            "{base}: {wait}"
        );
        now_ms += wait;
    }
    assert_eq!(s.start(now_ms), Some("a"));
    end(&mut s, "a", Shown::Moved, now_ms);
    assert!(s.due_ms(&"a").unwrap() >= now_ms + 900);
    assert_eq!(s.start(now_ms + 2000), Some("a"));
    end(&mut s, "a", Shown::Failed, now_ms + 2000);
    assert!(s.due_ms(&"a").unwrap() <= now_ms + 2110);
    assert_eq!(backoff_ms(&policy(1), u32::MAX), 1500);
}

/// In use it is compared often; less often while nothing moves, and where webhooks say what does.
#[test]
fn what_is_in_use_is_compared_often() {
    let mut s = schedule(4);
    s.add("a", Some(0), 0);
    let wait = |s: &mut Schedule<_>, shown, in_use| {
        s.compared(&"a", shown, in_use, 10_000);
        s.due_ms(&"a").unwrap() - 10_000
    };
    let near = |wait: u64, ms: u64| (ms * 9 / 10..=ms * 11 / 10).contains(&wait);
    for ms in [50, 100, 200, 200] {
        let wait = wait(&mut s, Shown::Same, true);
        assert!(near(wait, ms), "{ms}: {wait}");
    }
    assert!(near(wait(&mut s, Shown::Moved, true), 50));
    assert!(near(wait(&mut s, Shown::Same, false), 1000));
    assert!(near(wait(&mut s, Shown::Same, true), 50), "again in use");
    s.hooked(&"a", 9_000);
    for ms in [100, 200, 400, 800, 800] {
        let wait = wait(&mut s, Shown::Same, true);
        assert!(near(wait, ms), "{ms}: {wait}");
    }
    s.policy.interval_ms = 1_000_000;
    (s.policy.in_use_max_ms, s.policy.hooked_max_ms) = (60_000, 300_000);
    s.policy.young_hosts.insert("a".to_owned());
    let longest = (0..20).map(|_| wait(&mut s, Shown::Same, true)).max();
    assert!(
        near(longest.unwrap(), limits::YOUNG_INTERVAL_MAX_MS),
        "{longest:?}"
    );
    // The operator wants all of them compared more often than that.
    s.policy.interval_ms = 20;
    assert!(near(wait(&mut s, Shown::Same, true), 20));
}

#[test]
fn who_asks_makes_it_due() {
    let mut s = schedule(4);
    s.add("a", Some(0), 0);
    s.hasten(&"a", 2000);
    assert!(s.due_ms(&"a").unwrap() <= 1100, "later is no earlier");
    s.hasten(&"a", 300);
    assert_eq!((s.start(299), s.start(300)), (None, Some("a")));
    s.hasten(&"a", 310);
    assert_eq!(s.start(400), None, "it runs");
    end(&mut s, "a", Shown::Same, 400);
    assert!(s.due_ms(&"a").unwrap() >= 1300);
}

#[test]
fn a_host_has_its_rate() {
    let mut s: Schedule<u64> = Schedule::new(Policy {
        host_rate: 10,
        ..policy(1000)
    });
    for key in 0..1000 {
        s.add(key, None, 0);
    }
    let started: Vec<u64> = (2000..5000).filter(|ms| s.start(*ms).is_some()).collect();
    assert_eq!(started.len(), 30);
    assert!(started.windows(10).all(|ten| ten[9] - ten[0] >= 900));
    assert_eq!(s.wake_at_ms(), Some(5000));
}

#[test]
fn a_host_that_asks_for_a_pause_has_it() {
    let mut s = schedule(4);
    s.add("a/1", None, 0);
    s.add("b/1", None, 0);
    s.pause("a", 9000);
    s.pause("a", 5000);
    assert!(s.is_paused("a", 8999) && !s.is_paused("a", 9000) && !s.is_paused("b", 0));
    assert_eq!((s.start(2000), s.start(2000)), (Some("b/1"), None));
    assert_eq!(s.wake_at_ms(), Some(9000));
    s.hasten(&"a/1", 0);
    assert_eq!((s.start(8999), s.start(9000)), (None, Some("a/1")));
}

#[test]
fn at_most_so_many_run_and_the_longest_due_goes_first() {
    let mut s = schedule(2);
    s.add("young", Some(300), 300);
    s.add("old", Some(100), 300);
    s.add("oldest", Some(10), 300);
    s.add("not due", Some(9000), 9000);
    for (key, due_ms) in [("oldest", 1010), ("old", 1100), ("young", 1300)] {
        s.set_due(&key, due_ms);
    }
    assert_eq!(
        (s.start(5000), s.start(5000)),
        (Some("oldest"), Some("old"))
    );
    assert_eq!((s.start(5000), s.wake_at_ms()), (None, None), "two run");
    end(&mut s, "old", Shown::Same, 5000);
    assert_eq!((s.start(5000), s.start(5000)), (Some("young"), None));
}

#[test]
fn a_host_that_does_not_answer_leaves_turns_to_others() {
    let mut s = schedule(4);
    for (due_ms, key) in (1..).zip(["hung/a", "hung/b", "hung/c", "other/a"]) {
        s.add(key, Some(due_ms), 4);
        s.set_due(&key, due_ms);
    }
    s.add("other/b", Some(8000), 8000);
    assert_eq!(
        (s.start(5000), s.start(5001)),
        (Some("hung/a"), Some("hung/b"))
    );
    assert_eq!((s.start(5002), s.start(5003)), (Some("other/a"), None));
    assert_eq!(s.wake_at_ms(), None, "what cannot start is not waited for");
    end(&mut s, "hung/b", Shown::Failed, 9000);
    assert_eq!(s.start(8000), Some("hung/c"));
}

#[test]
fn removed_while_running_frees_its_place() {
    let mut s = schedule(1);
    s.add("a", None, 0);
    s.add("b", Some(0), 0);
    s.set_due(&"a", 1);
    assert_eq!(s.start(5000), Some("a"));
    s.remove(&"a");
    assert_eq!(s.start(5000), None);
    end(&mut s, "a", Shown::Same, 5000);
    assert_eq!(s.start(5001), Some("b"));
    s.remove(&"b");
    s.add("b", None, 5000);
    assert_eq!(s.start(9000), None, "never twice at once");
    s.remove(&"b");
    end(&mut s, "b", Shown::Failed, 5000);
    assert_eq!((s.start(9000), s.wake_at_ms()), (None, None));
}

#[test]
fn adding_twice_keeps_the_plan() {
    let mut s = schedule(1);
    s.add("a", Some(1000), 1000);
    s.add("a", None, 1000);
    assert_eq!(s.start(1500), None);
    assert!(s.wake_at_ms() > Some(1500));
    s.remove(&"a");
    assert_eq!(s.wake_at_ms(), None);
}

/// What ends without a word has failed: it is not started again at once.
#[test]
fn an_end_without_a_report_is_a_failure() {
    let mut s = schedule(1);
    s.add("a", Some(0), 0);
    assert_eq!(s.start(2000), Some("a"));
    s.ended(&"a", 2000);
    assert_eq!((s.start(2080), s.start(2110)), (None, Some("a")));
}
