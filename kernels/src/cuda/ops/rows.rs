//! Rows of values: embedding, normalization, activation, sums.

use super::{Norm, activation_number, blocks, check};
use crate::cuda::{Address, Arg, Error, Launch};
use crate::ops::{Activation, Xielu};
use crate::quant::Type;

/// Rows of a matrix as floats: `y[t] = factor * row ids[t]`, or added to what there is.
#[derive(Debug, Clone, Copy)]
pub struct EmbedRows {
    /// Type of the matrix.
    pub ty: Type,
    /// The matrix.
    pub w: Address,
    /// u32 (tokens).
    pub ids: Address,
    /// How many rows.
    pub tokens: u32,
    /// Values in a row.
    pub n: u32,
    /// Factor of the rows.
    pub factor: f32,
    /// Whether they are added.
    pub add: bool,
    /// f32 (tokens, n).
    pub y: Address,
}

impl EmbedRows {
    /// Its launch.
    ///
    /// # Errors
    /// There is no kernel for the type, or rows are not whole blocks.
    pub fn launch(&self) -> Result<Launch, Error> {
        let Some(row_bytes) = self.ty.row_bytes(self.n as usize).map(|bytes| bytes as u64) else {
            return Err(Error::Operands(format!("rows of {} values in {}", self.n, self.ty)));
        };
        // a thread takes a run of 16 weights, or one float
        let threads = if self.ty.block() > 1 { self.n / 16 } else { self.n };
        let grid = [threads.div_ceil(128), self.tokens, 1];
        let args = [
            self.w.into(),
            row_bytes.into(),
            self.ids.into(),
            self.n.into(),
            self.factor.into(),
            u32::from(self.add).into(),
            self.y.into(),
        ];
        Launch::new(&format!("rows_{}", self.ty.name().to_lowercase()), grid, 128, 0, &args)
    }
}

/// Rows of activations in the forms that matrix products take.
#[derive(Debug, Clone, Copy, Default)]
pub struct NormRows {
    /// f32 (rows, stride).
    pub x: Address,
    /// Distance of rows.
    pub stride: u32,
    /// How many.
    pub rows: u32,
    /// Values in a row.
    pub n: u32,
    /// How they are normalized.
    pub norm: Norm,
    /// The rows as f32 (rows, n), optional.
    pub y: Address,
    /// Quantized, optional; n is a multiple of 32 then.
    pub q8: Address,
    /// As bf16 (rows, n), optional.
    pub bf16: Address,
    /// f32 (rows, n) that gains `factor` times the rows, optional.
    pub sum: Address,
    /// See `sum`.
    pub factor: f32,
}

impl NormRows {
    /// Its launch.
    ///
    /// # Errors
    /// Rows to be quantized are not whole blocks.
    pub fn launch(&self) -> Result<Launch, Error> {
        check(self.q8 == Address::NONE || self.n.is_multiple_of(32), || {
            format!("rows of {} values cannot be quantized", self.n)
        })?;
        let args = [
            self.x.into(),
            self.stride.into(),
            self.n.into(),
            (self.norm.kind as u32).into(),
            self.norm.eps.into(),
            self.norm.weight.into(),
            self.norm.bias.into(),
            self.y.into(),
            self.q8.into(),
            self.bf16.into(),
            self.sum.into(),
            self.factor.into(),
        ];
        Launch::new("norm_rows", [self.rows, 1, 1], 512, 0, &args)
    }
}

/// An activation of rows, times what they gate, if there is that, over divisors, if there are some.
#[derive(Debug, Clone, Copy)]
pub struct ActivateRows {
    /// f32 (rows, gate_stride).
    pub gate: Address,
    /// Distance of rows.
    pub gate_stride: u32,
    /// f32 (rows, up_stride), optional.
    pub up: Address,
    /// Distance of rows.
    pub up_stride: u32,
    /// How many rows.
    pub rows: u32,
    /// Values of a row; a multiple of 32 where they are quantized.
    pub n: u32,
    /// The activation.
    pub activation: Activation,
    /// f32 (n), optional.
    pub divisors: Address,
    /// f32 (rows, n), optional.
    pub y: Address,
    /// Quantized, optional.
    pub q8: Address,
    /// As bf16, optional.
    pub bf16: Address,
}

impl ActivateRows {
    /// Its launch.
    ///
    /// # Errors
    /// Rows that are too long, or cannot be quantized.
    pub fn launch(&self) -> Result<Launch, Error> {
        let (activation, numbers) = match self.activation {
            Activation::Xielu(Xielu { positive, negative, linear, eps }) => {
                (5, [positive, negative, linear, eps])
            }
            other => (activation_number(other)?, [0.0; 4]),
        };
        let mut args: Vec<Arg> = vec![
            self.gate.into(),
            self.gate_stride.into(),
            self.up.into(),
            self.up_stride.into(),
            self.n.into(),
            activation.into(),
        ];
        args.extend(numbers.map(Arg::F32));
        args.push(self.divisors.into());
        launch_rows("activate_rows", args, (self.rows, self.n), [self.y, self.q8, self.bf16])
    }
}

/// Rows times a weight each, for experts that take weighted inputs: row r is `weights[r]` times row `r / share` of x.
#[derive(Debug, Clone, Copy)]
pub struct WeighRows {
    /// f32 (rows / share, n).
    pub x: Address,
    /// Values of a row; a multiple of 32 where they are quantized.
    pub n: u32,
    /// How many rows.
    pub rows: u32,
    /// Neighbours that are made of one row.
    pub share: u32,
    /// f32 (rows).
    pub weights: Address,
    /// f32 (rows, n), optional.
    pub y: Address,
    /// Quantized, optional.
    pub q8: Address,
    /// As bf16, optional.
    pub bf16: Address,
}

impl WeighRows {
    /// Its launch.
    ///
    /// # Errors
    /// Rows that are too long, or cannot be quantized.
    pub fn launch(&self) -> Result<Launch, Error> {
        check(self.share > 0, || "rows of nothing".to_owned())?;
        let args = vec![self.x.into(), self.n.into(), self.share.into(), self.weights.into()];
        launch_rows("weigh_rows", args, (self.rows, self.n), [self.y, self.q8, self.bf16])
    }
}

/// A launch of a kernel that gives `rows` of n values as floats, quantized and as bf16, where they are asked for.
fn launch_rows(
    kernel: &str,
    mut args: Vec<Arg>,
    (rows, n): (u32, u32),
    [y, q8, bf16]: [Address; 3],
) -> Result<Launch, Error> {
    const THREADS: u32 = 256;
    const MAX_PARTS: u32 = 65_535; // of a grid's second dimension
    let parts = n.div_ceil(THREADS);
    check(parts <= MAX_PARTS, || format!("rows of {n} values"))?;
    check(q8 == Address::NONE || n.is_multiple_of(32), || format!("rows of {n} values cannot be quantized"))?;
    args.extend([y, q8, bf16].map(Arg::At));
    Launch::new(kernel, [rows, parts, 1], THREADS, 0, &args)
}

/// `y += ` the sum of rows, in double precision: what a text's embedding is pooled from.
#[derive(Debug, Clone, Copy)]
pub struct SumRows {
    /// f32 (rows, stride).
    pub x: Address,
    /// Distance of rows.
    pub stride: u32,
    /// How many.
    pub rows: u32,
    /// Values of a row.
    pub n: u32,
    /// f64 (n).
    pub y: Address,
}

impl SumRows {
    /// Its launch.
    ///
    /// # Errors
    /// Nothing to do.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = [self.x.into(), self.stride.into(), self.rows.into(), self.n.into(), self.y.into()];
        Launch::new("sum_rows", [self.n.div_ceil(128), 1, 1], 128, 0, &args)
    }
}

/// `y += factor * x`.
#[derive(Debug, Clone, Copy)]
pub struct AddValues {
    /// f32 (n).
    pub x: Address,
    /// Factor of x.
    pub factor: f32,
    /// How many values.
    pub n: u64,
    /// f32 (n).
    pub y: Address,
}

impl AddValues {
    /// Its launch.
    ///
    /// # Errors
    /// Too many values.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = [self.x.into(), self.factor.into(), self.n.into(), self.y.into()];
        Launch::new("add_values", [blocks(self.n, 256)?, 1, 1], 256, 0, &args)
    }
}

/// `x = cap * tanh(factor * x / cap)`, or `factor * x` without a cap: logits.
#[derive(Debug, Clone, Copy)]
pub struct ScaleValues {
    /// f32 (n).
    pub x: Address,
    /// How many.
    pub n: u64,
    /// Their factor.
    pub factor: f32,
    /// Their bound, if they are bounded softly.
    pub cap: Option<f32>,
}

impl ScaleValues {
    /// Its launch.
    ///
    /// # Errors
    /// Too many values.
    pub fn launch(&self) -> Result<Launch, Error> {
        let cap = Arg::F32(self.cap.unwrap_or(0.0));
        let args = [self.x.into(), self.n.into(), self.factor.into(), cap];
        Launch::new("scale_values", [blocks(self.n, 256)?, 1, 1], 256, 0, &args)
    }
}
