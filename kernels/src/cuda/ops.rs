//! The operands of each kernel, and the launch they make. The kernels' sources say what they compute.
//!
//! Addresses are of the device. What is optional is [`Address::NONE`] where it is not wanted. Matrices lie as in a file, row
//! by row; behind the last row [`WEIGHT_PADDING`] more bytes must be readable. Activations are rows of floats, or of
//! quantized blocks of [`Q8_BYTES`] for each 32 values, and columns up to a multiple of [`COLUMNS`] must be readable.

mod attention;
mod experts;
mod latent;
mod matrix;
mod peak;
mod qkv;
mod recurrent;
mod rows;
mod sample;
#[cfg(test)]
mod tests;
mod warpgroups;

pub use attention::{
    Attend, Cache, FinishHeads, Flash, HeadNorm, HeadPlace, HeadRows, Heads, Rotations, Scores, Temperature,
    kv_row_bytes,
};
pub use experts::{Choose, OrderByExpert, Route, SumExperts};
pub use latent::FinishLatent;
pub use matrix::{Epilogue, ExpertsOf, Matmul, Matrix, Matvec, Ordered, Then, Tiles, takes_q8};
pub use peak::{CopyWords, MultiplyTiles};
pub use qkv::Qkv;
pub use recurrent::{Convolve, DeltaGates, DeltaNet, GateHeads, NormParts, Runs, StateSpace};
pub use rows::{ActivateRows, AddValues, EmbedRows, NormRows, ScaleValues, SumRows, WeighRows};
pub use sample::{Argmax, Draw, Penalize, Sample, SharedTopK, TopK};
pub use warpgroups::distrust_warpgroups;

use super::{Address, Error, Kernel};
use crate::ops::Activation;
use crate::quant::Type;

/// Bytes that must be readable behind a matrix.
pub const WEIGHT_PADDING: usize = 16;

/// Bytes of 32 quantized activations: codes, scale (f32), zero point (i32) and two sums (i32).
pub const Q8_BYTES: usize = 48;

/// Columns that the widest kernel for few columns reads.
pub const COLUMNS: u32 = 8;

/// Positions in a page of the cache.
pub const PAGE: u32 = 64;

/// How a row is normalized.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Norm {
    /// Of which kind.
    pub kind: NormKind,
    /// Added to the mean square.
    pub eps: f32,
    /// f32 (n).
    pub weight: Address,
    /// f32 (n), optional.
    pub bias: Address,
}

/// Kinds of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormKind {
    /// None.
    #[default]
    None,
    /// By the root mean square.
    Rms,
    /// By the variance.
    Layer,
}

fn activation_number(activation: Activation) -> Result<u32, Error> {
    match activation {
        Activation::Silu => Ok(0),
        Activation::Gelu => Ok(1),
        Activation::Relu => Ok(2),
        Activation::ReluSquared => Ok(3),
        Activation::Clamped => Ok(4),
        Activation::Xielu(_) => Err(Error::Operands("xIELU is no end of a product".to_owned())),
    }
}

/// Whether there are kernels that read weights of this type, of tables and for any number of columns.
pub fn reads(ty: Type) -> bool {
    let name = ty.name().to_lowercase();
    let of_columns = [1, 4, COLUMNS].map(|width| format!("matvec_{name}_{width}"));
    let others = [format!("rows_{name}"), format!("matmul_{name}")];
    of_columns.iter().chain(&others).all(|name| Kernel::find(name).is_ok())
}

/// Fails with `what` unless `ok`.
fn check(ok: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::Operands(what())) }
}

/// Blocks of `threads` for n values.
fn blocks(n: u64, threads: u32) -> Result<u32, Error> {
    u32::try_from(n.div_ceil(u64::from(threads)))
        .ok()
        .filter(|blocks| *blocks <= i32::MAX as u32)
        .ok_or_else(|| Error::Operands(format!("{n} values are too many for one launch")))
}
