//! The parts of the server, one by one, in this process.

mod fanout;
mod hash;
mod head;
mod layout;
mod pin;
mod ring;
#[path = "../../tests/support/mod.rs"]
mod support;
mod tar;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    head::bench,
    tar::bench,
    ring::bench,
    fanout::bench,
    layout::bench,
    pin::bench
);
criterion_main!(benches);
