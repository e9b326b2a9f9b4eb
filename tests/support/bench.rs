//! What benches have in common.

/// Whether only small sizes are wanted: `cargo bench -- --quick`, or `TARPON_BENCH_QUICK=1`.
pub fn is_quick() -> bool {
    let variable = std::env::var_os("TARPON_BENCH_QUICK");
    variable.is_some_and(|value| value == "1") || std::env::args().any(|one| one == "--quick")
}
