//! Compressed zstd frames and the threads that make them.
pub mod frame;
pub mod ring;
