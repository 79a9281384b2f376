//! Measurements: how fast a model runs, and how fast it could run at most on this machine.
//!
//! A [`Test`] is what llama-bench calls one: read a prompt of n tokens (pp), generate n tokens (tg), or one after the
//! other, at a given depth of the context. [`run`] times it. What it is compared to is a roofline (Williams, Waterman
//! and Patterson 2009, doi 10.1145/1498765.1498785) of two limits, which [`Peaks`] measures on the same number of
//! threads just before and after the test, because on a shared machine they change by the minute:
//!
//! ```text
//! bytes of a pass of n tokens from position p:
//!       the weights of all layers, once
//!     + the output matrix, if logits are asked for
//!     + n rows of the embedding table, unless the output matrix is the same tensor
//!     + keys and values: layers * n_head_kv * (bytes of a key + of a value) * (p + n)
//! operations, two for each multiply-add:
//!       2 n for each weight of the layers               int8, or f32 for the formats F32, F16 and BF16
//!     + 2 for each weight of the output matrix and each token whose logits are asked for
//!     + 2 layers * n_head * (head_dim + head_dim_v) * sum of (p + i) for i = 1..n      f32: attention; where that of
//!                                                     a prompt is in 16-bit integers, twice as many of int8
//!
//! time at the limit = max(bytes / read bandwidth, int8 operations / int8 peak + f32 operations / f32 peak)
//! limit of a test   = its tokens / sum of the times of its passes
//! ```
//!
//! A token that is generated is a pass of one token, and bandwidth limits it; a prompt is read in passes of
//! [`default_chunk`](crate::session::default_chunk) tokens, and the multipliers limit it. Int8 and f32 times add up
//! because the same units do both. Activations are left out: they stay in the caches.
//!
//! The bandwidth is that of reading a buffer as large as what a token reads ([`Cost::bytes`] of a pass of one token):
//! where that fits a cache, as small models do on large servers, the cache is what limits. Beyond 1 GiB, more than any
//! cache holds, size no longer matters.

mod cost;
mod explain;
mod gpu;
mod mix;
mod peaks;
mod process;
mod run;
mod stats;
mod synthetic;

pub use cost::{Cost, Limit};
pub use explain::{Bound, Reached};
pub use gpu::GpuPeaks;
pub use mix::Mix;
pub use peaks::Peaks;
pub use process::{Usage, peak_rss, reset_peak_rss};
pub use run::{Runs, Test, run};
pub use stats::Stats;
pub use synthetic::{Shape, synthetic, synthetic_repeating};
