//! What the benches share.

/// Whether each bench is to run once, on something small, to see that it works: as criterion decides it, in
/// `cargo test`, and in `cargo bench` where `--test` is given.
pub fn is_test() -> bool {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    has("--test") || !has("--bench")
}
