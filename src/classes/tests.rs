use super::*;
use crate::telemetry::metrics::Metrics;

fn class(places: usize) -> Arc<Class> {
    let meter = Metrics::new(1).meter(0);
    Class::new(WorkClass::Fetch, places, &meter)
}

fn of(cause: Cause) -> Urgency {
    Urgency::of(cause)
}

fn enter(class: &Arc<Class>, sharer: &str) -> Seat {
    let entered = class.enter(sharer, &of(Cause::Asked), Arrival::New);
    entered.unwrap()
}

fn placed<const N: usize>(seats: &[Seat; N]) -> [bool; N] {
    seats.each_ref().map(Seat::is_placed)
}

#[test]
fn what_is_asked_for_comes_first_and_a_timers_moves_up_when_a_request_joins() {
    let class = class(2);
    let held = enter(&class, "x");
    let other = enter(&class, "y");
    let urgencies = [Cause::Timer, Cause::Timer, Cause::Webhook, Cause::Asked].map(of);
    let mut number = 0;
    let mut waiting = urgencies.each_ref().map(|urgency| {
        number += 1;
        let entered = class.enter(&format!("h{number}"), urgency, Arrival::New);
        Some(entered.unwrap())
    });
    // Nobody enters for it again.
    urgencies[1].raise(Cause::Asked);
    drop(held);
    let mut order = Vec::new();
    while let Some(at) = waiting
        .iter()
        .position(|w| w.as_ref().is_some_and(Seat::is_placed))
    {
        order.push(at);
        waiting[at] = None;
    }
    assert_eq!(order, [1, 3, 2, 0]);
    drop(other);
}

/// However many hosts hang, the next one finds a place.
#[test]
fn a_host_leaves_places_to_others() {
    let class = class(32);
    let mut seats = Vec::new();
    for host in ["hangs", "hangs too", "works"] {
        seats.extend((0..40).map(|_| enter(&class, host)));
    }
    let of_host = |n: usize| {
        seats[40 * n..40 * (n + 1)]
            .iter()
            .filter(|s| s.is_placed())
            .count()
    };
    assert_eq!([0, 1, 2].map(of_host), [16, 8, 4]);
    assert!(enter(&class, "a fourth").is_placed());
}

#[test]
fn a_host_whose_last_tries_timed_out_has_one() {
    let (class, other) = (class(8), class(8));
    (0..TIMEOUTS_MAX - 1).for_each(|_| class.note_try("hangs", true));
    let two = [(); 2].map(|()| enter(&class, "hangs"));
    assert_eq!(placed(&two), [true; 2]);
    class.note_try("hangs", true);
    // It is said of this class alone, and what succeeds in another says nothing of this one.
    let elsewhere = [(); 2].map(|()| enter(&other, "hangs"));
    assert_eq!(placed(&elsewhere), [true; 2]);
    other.note_try("hangs", false);
    let [first, _second] = two;
    drop(first);
    let third = enter(&class, "hangs");
    assert!(!third.is_placed() && enter(&class, "works").is_placed());
    class.note_try("hangs", false);
    let fourth = enter(&class, "hangs");
    assert_eq!(placed(&[third, fourth]), [true; 2]);
}

#[test]
fn a_full_queue_refuses_who_would_stand_behind_it_and_nobody_else() {
    let class = class(2);
    let _held = [enter(&class, "a"), enter(&class, "b")];
    let asked = |sharer: &str, arrival| class.enter(sharer, &of(Cause::Asked), arrival);
    let mut queue: Vec<Seat> = Vec::new();
    for _ in 0..QUEUE_MAX {
        queue.push(class.enter("c", &of(Cause::Timer), Arrival::New).unwrap());
    }
    assert!(class.enter("c", &of(Cause::Timer), Arrival::New).is_err());
    for _ in 0..QUEUE_MAX {
        queue.push(asked("c", Arrival::New).expect("timers do not hold it up"));
    }
    asked("d", Arrival::New).unwrap_err();
    let promised = asked("d", Arrival::Promised);
    assert!(!promised.unwrap().is_placed());
    assert_eq!(class.waiting(), 2 * QUEUE_MAX);
    drop(queue);
    assert_eq!(class.waiting(), 0);
    asked("d", Arrival::New).unwrap();
}

#[test]
fn who_would_stand_behind_one_that_has_waited_too_long_is_refused() {
    let class = class(1);
    let held = enter(&class, "a");
    let late = enter(&class, "b");
    if let State::Waiting { since, .. } = &mut class.lock().work[1].state {
        *since -= Duration::from_millis(QUEUE_WAIT_MAX_MS);
    }
    let refused = class.enter("c", &of(Cause::Asked), Arrival::New);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "fetches: 1 run and 1 wait for a turn, the first for 60 s; come again"
    );
    // That was said, and is not said again within a minute.
    assert!(!class.lock().is_refusal_news());
    class.lock().refused_said = Instant::now().checked_sub(Duration::from_millis(REFUSED_SAID_MS));
    assert!(class.lock().is_refusal_news());
    drop(held);
    assert!(late.is_placed());
    class.enter("c", &of(Cause::Asked), Arrival::New).unwrap();
}

/// What waits for a host that hangs holds up nobody who asks for another one.
#[test]
fn the_queue_of_a_host_that_hangs_is_its_own() {
    let class = class(2);
    (0..TIMEOUTS_MAX).for_each(|_| class.note_try("hangs", true));
    let mut queue: Vec<Seat> = (0..=QUEUE_MAX).map(|_| enter(&class, "hangs")).collect();
    let asked = |host: &str| class.enter(host, &of(Cause::Asked), Arrival::New);
    asked("hangs").unwrap_err();
    queue.push(asked("works").unwrap());
    assert!(queue.last().unwrap().is_placed());
    assert!(!asked("works too").unwrap().is_placed());
}

#[test]
fn a_thread_waits_for_a_place_and_the_end_wakes_all() {
    let class = class(1);
    let held = enter(&class, "a");
    let mut waiting = [(); 2].map(|()| enter(&class, "b"));
    let mut unwanted = enter(&class, "b");
    let soon = Duration::from_millis(1);
    assert!(!unwanted.wait_placed(soon, || false).unwrap());
    drop(unwanted);
    let second = Duration::from_secs(1);
    std::thread::scope(|scope| {
        let [first, last] = &mut waiting;
        let first = scope.spawn(move || first.wait_placed(second, || true));
        let last = scope.spawn(move || last.wait_placed(second, || true));
        drop(held);
        first.join().unwrap().unwrap();
        class.close();
        assert!(last.join().unwrap().is_err());
    });
}

#[test]
fn what_moves_to_another_class_waits_for_nobody() {
    let [small, large] = [class(2), class(1)];
    let held = enter(&large, "a");
    let mut seat = enter(&small, "b");
    seat.move_to(&large);
    assert!(seat.is_placed());
    assert_eq!(small.lock().work.len(), 0);
    let waiting = enter(&large, "c");
    drop(held);
    assert!(!waiting.is_placed());
    drop(seat);
    assert!(waiting.is_placed());
}

#[test]
fn what_nobody_waits_for_leaves_a_place_for_what_is_asked_for() {
    let class = class(16);
    let by_timer =
        |host: &str, urgency: &Urgency| class.enter(host, urgency, Arrival::New).unwrap();
    let mut timers = Vec::new();
    for _ in 0..16 {
        let urgency = of(Cause::Timer);
        timers.push((by_timer("one", &urgency), urgency));
    }
    let running = |seats: &[(Seat, Urgency)]| seats.iter().filter(|s| s.0.is_placed()).count();
    assert_eq!(running(&timers), 7);
    // Somebody joins what waits.
    timers[15].1.raise(Cause::Asked);
    assert!(timers[15].0.is_placed() && running(&timers) == 8);
    timers.pop();
    assert!(enter(&class, "one").is_placed());
    for host in 0..20 {
        let urgency = of(Cause::Webhook);
        timers.push((by_timer(&host.to_string(), &urgency), urgency));
    }
    assert_eq!(running(&timers), 15);
    assert!(enter(&class, "another").is_placed());
}

/// However few places there are.
#[test]
fn what_nobody_waits_for_has_a_place_at_last() {
    for places in 1..8 {
        let class = class(places);
        let seat = class.enter("a", &of(Cause::Timer), Arrival::New).unwrap();
        assert!(seat.is_placed(), "{places}");
    }
}
