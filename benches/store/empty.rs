//! What a server with an empty disk does with what another one has shared.

use super::farm::{Farm, Member};
use super::figures::{Figures, mib, ms, quantile};
use super::probe::Manners;
use super::support::{git, wait};
use std::time::{Duration, Instant};

/// All that is measured of it.
pub fn measure(farm: &mut Farm<'_>, figures: &mut Figures, rounds: usize) {
    farm.start_shared(&[], None).end();
    farm.set_away(true);
    first_bytes(farm, figures, rounds);
    last_byte(farm, figures);
    crowd(farm, figures);
    farm.set_away(false);
    mirror(farm, figures);
}

fn first_bytes(farm: &mut Farm<'_>, figures: &mut Figures, rounds: usize) {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let member = farm.start(&[], None);
        let first = member.transfer(Manners::CURIOUS).first;
        times.push(first.unwrap_or_else(|| panic!("no byte came")));
        member.end();
    }
    let (p50, p99) = (quantile(&mut times, 50), quantile(&mut times, 99));
    let what = "empty server, upstream away: first byte";
    figures.at_most(&format!("{what}, p50"), ms(p50), 70.0, "ms");
    figures.at_most(&format!("{what}, p99"), ms(p99), 150.0, "ms");
}

fn last_byte(farm: &mut Farm<'_>, figures: &mut Figures) {
    // What is only needed for mirrors is no part of it.
    let mut parts = farm.named("");
    parts.retain(|(key, _)| !key.starts_with("refs-"));
    let stored: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let (mut rates, mut plain_rates) = (Vec::new(), Vec::new());
    // In turn, for the machine is not the same all the time.
    for _ in 0..3 {
        let member = farm.start(&[], None);
        let got = member.get();
        rates.push(got.bytes as f64 / got.total.as_secs_f64());
        member.end();
        plain_rates.push(stored as f64 / farm.plain(&parts).as_secs_f64());
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (rate, plain) = (median(&mut rates), median(&mut plain_rates));
    figures.note("plain parallel ranged download", plain / 1e6, "MB/s");
    figures.note("empty server: last byte", rate / 1e6, "MB/s");
    figures.at_least(
        "empty server: share of the plain rate",
        rate / plain,
        0.9,
        "",
    );
}

fn crowd(farm: &mut Farm<'_>, figures: &mut Figures) {
    let member = farm.start(&[], None);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let mut rss = 0;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..24).map(|_| scope.spawn(|| member.get())).collect();
        let rss = &mut rss;
        let (server, ended) = (&member.server, &ended);
        let watch = scope.spawn(move || {
            while !ended.load(std::sync::atomic::Ordering::SeqCst) {
                *rss = server.rss_anon_bytes().max(*rss);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        for client in clients {
            client.join().unwrap_or_else(|_| panic!("a client"));
        }
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
        watch.join().unwrap_or_else(|_| panic!("the watch"));
    });
    let read = member.link.take_counts().read;
    let named = farm.named("");
    let most = read.iter().map(|(key, read)| {
        let length = named.iter().find(|(name, _)| name == key);
        *read as f64 / length.map_or(1, |(_, bytes)| *bytes).max(1) as f64
    });
    let most = most.fold(0.0, f64::max);
    figures.at_most(
        "24 clients at once: reads of a byte of the store",
        most,
        1.0,
        "",
    );
    figures.at_most("24 clients at once: RssAnon", mib(rss), 150.0, "MiB");
    member.end();
}

fn mirror(farm: &mut Farm<'_>, figures: &mut Figures) {
    let packs = farm.named("pack-");
    let plain = farm.plain(&packs);
    let member = farm.start(&[], None);
    let began = Instant::now();
    usable(&member);
    let took = began.elapsed();
    figures.note("download of the packs", plain.as_secs_f64(), "s");
    figures.note("mirror from parts: usable after", took.as_secs_f64(), "s");
    let share = took.as_secs_f64() / plain.as_secs_f64();
    figures.at_most("mirror from parts: of the packs' download", share, 1.2, "");
    member.end();
}

/// Waits until git is answered; nobody asks for anything else.
fn usable(member: &Member) {
    let name = super::farm::NAME;
    let url = format!("http://{}/git/bench/{name}", member.server.address());
    let at = member.state.clone();
    wait::until_true("git is answered", || {
        git::output(&at, &["ls-remote", &url, "HEAD"])
            .status
            .success()
    });
}
