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
//!     + keys and values of each layer that attends: n_head_kv * (bytes of a key + of a value) * positions that are seen:
//!       p + n, or with a window those from the first that the first token sees
//!     + states of recurrent layers, once
//! operations, two for each multiply-add:
//!       2 n for each weight of the layers               int8, or f32 for the formats F32, F16 and BF16
//!     + 2 for each weight of the output matrix and each token whose logits are asked for
//!     + 2 n_head * (head_dim + head_dim_v) for each layer that attends and each position that a token sees
//!                                                     f32; where attention of a prompt is in 16-bit integers, twice as
//!                                                     many of int8
//!
//! time at the limit = max(bytes / read bandwidth, int8 operations / int8 peak + f32 operations / f32 peak)
//! limit of a test   = its tokens / sum of the times of its passes
//! ```
//!
//! Several sequences that generate together are a pass of one token of each: the weights are read once for all of them,
//! and the rest of both sums is that of each sequence, added up.
//!
//! A token that is generated is a pass of one token, and bandwidth limits it; a prompt is read in passes of
//! [`default_chunk`](crate::session::default_chunk) tokens, and the multipliers limit it. Int8 and f32 times add up
//! because the same units do both. Activations are left out: they stay in the caches.
//!
//! On a GPU the bandwidth is that of copying its memory, read and written bytes together, and all operations count at the
//! rate of tensor cores ([`GpuPeaks`]), though few tokens are multiplied elsewhere: these are bound by memory long before.
//!
//! On the CPU the bandwidth is that of reading a buffer as large as what a token reads ([`Cost::bytes`] of a pass of one token):
//! where that fits a cache, as small models do on large servers, the cache is what limits. Beyond 1 GiB, more than any
//! cache holds, size no longer matters.

mod agreement;
mod cost;
mod explain;
mod gpu;
mod mix;
mod peaks;
mod process;
mod run;
mod stats;
mod synthetic;

pub use agreement::Agreement;
pub use cost::{Cost, Limit};
pub use explain::{Bound, Reached};
pub use gpu::GpuPeaks;
pub use mix::Mix;
pub use peaks::{Peaks, tensor_bandwidth};
pub use process::{Usage, peak_rss, reset_peak_rss};
pub use run::{Pass, Runs, Test, run};
pub use stats::Stats;
pub(crate) use synthetic::outline;
pub use synthetic::{Shape, synthetic, synthetic_repeating};
