//! Restores that get their parts from the bucket.

use super::farm::{Farm, NAME};
use super::figures::Figures;
use super::site::remove_tree;
use super::support::restore;
use std::path::Path;

const RESTORES: usize = 8;

/// What the server sends of so many.
pub fn measure(farm: &mut Farm<'_>, figures: &mut Figures, binary: &Path) {
    // The address of a link is known once the server is there: clients go by one of their own.
    let public = farm.way();
    let origin = format!("http://{}", public.address());
    let member = farm.start(&["--store-redirect", &origin], None);
    let archive = member.get().bytes;
    member.wait_shared(1);
    let sent = || member.count("tarpon_sent_bytes_total", &[]);
    let before = sent();
    let into = |number: usize| farm.site.run_path(&format!("restored-{number}"));
    std::thread::scope(|scope| {
        for number in 0..RESTORES {
            let (into, server) = (into(number), member.server.address());
            scope.spawn(move || {
                let name = format!("bench/{NAME}");
                let binary = binary.to_string_lossy();
                let output = restore::command(&binary, server, &name, &into, &[]).output();
                restore::expect(&output.unwrap_or_else(|e| panic!("restore: {e}")), 0);
            });
        }
    });
    let share = (sent() - before) as f64 / (RESTORES as u64 * archive) as f64 * 100.0;
    let what = format!("{RESTORES} restores with --store-redirect: sent by the server");
    figures.at_most(&what, share, 1.0, "%");
    (0..RESTORES).for_each(|number| remove_tree(&into(number)));
    member.end();
}
