//! The cache against the model of the simulation: an input is every decision that the simulation
//! would draw from a seed, the file system's failures, power cuts and restarts among them.

#![no_main]

// The same world as in `tests/simulation`, which holds the oracle.
#[path = "../../tests/simulation/sim.rs"]
mod sim;
#[path = "../../tests/simulation/world.rs"]
#[allow(dead_code)]
mod world;

use libfuzzer_sys::fuzz_target;
use tarpon_fuzz::Input;
use world::World;

/// Things that happen for one input at most; an input has about 3 bytes for each.
const STEPS_MAX: u64 = 200;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut choices = |bound| choice(&mut input, bound);
    let steps = choices(STEPS_MAX);
    World::new(&mut choices, false).run(steps);
});

/// A number below the bound, from as few bytes as hold all of them.
fn choice(input: &mut Input<'_>, bound: u64) -> u64 {
    let number = match bound {
        0..=0x100 => u64::from(input.u8()),
        0x101..=0x1_0000 => u64::from(input.u16()),
        _ => input.u64(),
    };
    number % bound.max(1)
}
