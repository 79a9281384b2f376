//! The kernel table: which implementation of each operation an ISA level uses, chosen once, when a model is loaded.
//!
//! A row that a level lacks is filled by the level below it; [`Kernels::matmul_rows`] tells which.

use crate::cpu;
use crate::isa::{Isa, IsaError};
use crate::ops::{Activation, Attention, Numbers, Scratch, Total};
#[cfg(target_arch = "x86_64")]
use crate::quant::packed;
use crate::quant::q8::Q8Mat;
use crate::quant::{Dot, Type};

/// Activations in floats: rows of `row_len` values, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct F32Mat<'a> {
    /// Values in a row.
    pub row_len: usize,
    /// All rows.
    pub all: &'a [f32],
}

impl<'a> F32Mat<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.all.len() / self.row_len
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.all[i * self.row_len..(i + 1) * self.row_len]
    }
}

/// How a level packs the activations of many tokens for its matrix kernels: in tiles of some tokens, laid out as the
/// kernels read them.
#[derive(Debug)]
pub struct Packing {
    pub(crate) rounding: Rounding,
    pub(crate) tile: usize,
    pub(crate) unit: usize,
    pub(crate) words: fn(usize) -> usize,
    pub(crate) pack: unsafe fn(&[f32], usize, &mut [u32]),
}

/// What packed activations are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// The format of [`crate::quant::q8`].
    Q8,
    /// bf16; and so are the weights.
    Bf16,
}

impl Packing {
    /// What the activations are rounded to.
    pub fn rounding(&self) -> Rounding {
        self.rounding
    }

    /// Tokens in a tile.
    pub fn tile(&self) -> usize {
        self.tile
    }

    /// A row that it takes has a multiple of so many values.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// 32-bit words of a tile of rows of `k` values.
    pub fn words(&self, k: usize) -> usize {
        (self.words)(k)
    }
}

/// Packed activations.
#[derive(Debug, Clone, Copy)]
pub struct PackedMat<'a> {
    /// Values in a row.
    pub row_len: usize,
    /// Tokens.
    pub cols: usize,
    /// Whole tiles, [`Packing::words`] each.
    pub tiles: &'a [u32],
}

/// Activations, in the form that a weight format takes.
#[derive(Debug, Clone, Copy)]
pub enum Acts<'a> {
    /// For F32, F16 and BF16 weights and few tokens, or where there is no [`MatMul::packing`].
    F32(F32Mat<'a>),
    /// For quantized weights.
    Q8(Q8Mat<'a>),
    /// For many tokens, where there is a [`MatMul::packing`].
    Packed(PackedMat<'a>),
}

type MatMulF32 = unsafe fn(&[u8], F32Mat<'_>, &mut [f32]);
type MatMulQ8 = unsafe fn(&[u8], Q8Mat<'_>, &mut [f32]);
pub(crate) type MatMulPacked = unsafe fn(&[u8], PackedMat<'_>, &mut [f32]);
type LayerNorm = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);
type DeltaRule = unsafe fn(&mut [f32], &[f32], &[f32], &[f32], f32, &mut [f32]);
type StateSpace = unsafe fn(&mut [f32], &mut [f32], f32, &[f32], &[f32], &[f32], f32);
type QuantizeQ8 = unsafe fn(&[f32], &mut [i8], &mut [i8], &mut [f32], &mut [i16]);

#[derive(Debug, Clone, Copy)]
pub(crate) enum MatMulFn {
    F32(MatMulF32),
    Q8(MatMulQ8),
    /// The format's scalar truth.
    Scalar(Dot),
}

/// The matrix product of one weight format.
#[derive(Debug, Clone, Copy)]
pub struct MatMul {
    weights: Type,
    isa: Isa,
    function: MatMulFn,
    packed: Option<(Isa, &'static Packing, MatMulPacked)>,
}

impl MatMul {
    /// The weights' format.
    pub fn weights(&self) -> Type {
        self.weights
    }

    /// The level that the implementation is written for: the table's own or one below.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Whether the activations are quantized.
    pub fn takes_q8(&self) -> bool {
        matches!(self.function, MatMulFn::Q8(_) | MatMulFn::Scalar(Dot::Q8(_)))
    }

    /// How its version for many tokens takes the activations, if there is one. All formats of a level agree.
    pub fn packing(&self) -> Option<&'static Packing> {
        self.packed.map(|(_, packing, _)| packing)
    }

    /// The level that this version is written for.
    pub fn packed_isa(&self) -> Option<Isa> {
        self.packed.map(|(isa, ..)| isa)
    }

    /// The same for rows of `k` values: without the version for many tokens where it does not take such rows.
    pub fn for_rows_of(mut self, k: usize) -> MatMul {
        self.packed = self.packed.filter(|(_, packing, _)| k.is_multiple_of(packing.unit));
        self
    }

    /// Packs the rows (up to [`Packing::tile`], of `k` values) of a tile; see [`MatMul::packing`].
    ///
    /// # Panics
    /// If there is no such version, or the sizes do not fit each other.
    pub fn pack(&self, x: &[f32], k: usize, tile: &mut [u32]) {
        let (_, packing, _) = self.packed.expect("a version for many tokens");
        // SAFETY: as in `call`.
        unsafe { (packing.pack)(x, k, tile) }
    }

    /// `y[c, r] = sum over k of w[r, k] x[c, k]`: `w` holds whole rows of weights, `x` (cols, k), `y` (cols, rows).
    ///
    /// Each result depends on its row, its column and the kind of activations alone, to the bit: not on what else is in
    /// `w` and `x`. Packed activations are rounded and added up in their own way.
    ///
    /// # Panics
    /// If the sizes do not fit each other or the activations are of the wrong kind.
    pub fn call(&self, w: &[u8], x: Acts<'_>, y: &mut [f32]) {
        let (k, cols) = match x {
            Acts::F32(x) => (x.row_len, x.rows()),
            Acts::Q8(x) => (x.row_len, x.rows()),
            Acts::Packed(x) => (x.row_len, x.cols),
        };
        let row_bytes = self.weights.row_bytes(k).expect("rows are whole blocks");
        if cols == 0 || y.is_empty() {
            return;
        }
        let rows = y.len() / cols;
        assert!(rows * cols == y.len() && rows * row_bytes == w.len(), "matmul: sizes differ");
        if let (Acts::Packed(x), Some((_, packing, packed))) = (x, self.packed) {
            assert!(
                x.tiles.len() == cols.div_ceil(packing.tile) * packing.words(k),
                "matmul: not whole tiles"
            );
            // SAFETY: as below, for the level that the function was found in.
            return unsafe { packed(w, x, y) };
        }
        match (self.function, x) {
            // SAFETY: the function needs no more than the features of `self.isa`, and a `MatMul` is made only for
            // levels that this CPU has.
            (MatMulFn::F32(f), Acts::F32(x)) => unsafe { f(w, x, y) },
            // SAFETY: as above.
            (MatMulFn::Q8(f), Acts::Q8(x)) => unsafe { f(w, x, y) },
            (MatMulFn::Scalar(Dot::F32(dot)), Acts::F32(x)) => {
                for (r, w) in w.chunks_exact(row_bytes).enumerate() {
                    for c in 0..cols {
                        y[c * rows + r] = dot(w, x.row(c));
                    }
                }
            }
            (MatMulFn::Scalar(Dot::Q8(dot)), Acts::Q8(x)) => {
                for (r, w) in w.chunks_exact(row_bytes).enumerate() {
                    for c in 0..cols {
                        y[c * rows + r] = dot(w, x.row(c));
                    }
                }
            }
            _ => panic!("matmul: {} weights take another kind of activations", self.weights),
        }
    }
}

/// Defines the table of float operations, compiled with an attribute for a [`crate::ops::Lanes`].
macro_rules! float_ops {
    (#[$attribute:meta] $lanes:ty) => {
        /// This level's float operations.
        pub(crate) const OPS: crate::table::FloatOps = {
            use crate::ops::{self, Activation, Attention, Scratch, Total};

            #[$attribute]
            fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
                ops::rms_norm::<$lanes>(x, weight, eps, y)
            }
            #[$attribute]
            fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
                ops::layer_norm::<$lanes>(x, weight, bias, eps, y)
            }
            #[$attribute]
            fn activate(activation: Activation, x: &mut [f32]) {
                ops::activate::<$lanes>(activation, x)
            }
            #[$attribute]
            fn gated(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
                ops::gated::<$lanes>(activation, gate, up, y)
            }
            #[$attribute]
            fn add(x: &[f32], y: &mut [f32]) {
                ops::add(x, y)
            }
            #[$attribute]
            fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], halves: bool) {
                ops::rope(x, cos, sin, halves)
            }
            #[$attribute]
            fn attention(a: &Attention<'_>, scratch: &mut Scratch, out: &mut [f32], out_stride: usize) {
                ops::attention::<$lanes>(a, scratch, out, out_stride)
            }
            #[$attribute]
            fn attention_span(a: &Attention<'_>, span: usize, scratch: &mut Scratch, parts: &mut [f32]) {
                ops::attention_span::<$lanes>(a, span, scratch, parts)
            }
            #[$attribute]
            fn attention_merge(part: &[f32], total: &mut Total, values: &mut [f32]) {
                ops::merge::<$lanes>(part, total, values)
            }
            #[$attribute]
            fn delta_rule(state: &mut [f32], q: &[f32], k: &[f32], decay: &[f32], beta: f32, v: &mut [f32]) {
                ops::delta_rule::<$lanes>(state, q, k, decay, beta, v)
            }
            #[$attribute]
            fn state_space(
                states: &mut [f32],
                x: &mut [f32],
                dt: f32,
                a: &[f32],
                b: &[f32],
                c: &[f32],
                d: f32,
            ) {
                ops::state_space::<$lanes>(states, x, dt, a, b, c, d)
            }
            #[$attribute]
            fn quantize_q8(x: &[f32], q: &mut [i8], z: &mut [i8], d: &mut [f32], sum: &mut [i16]) {
                crate::quant::q8::quantize(x, q, z, d, sum)
            }
            #[$attribute]
            fn matmul_f32(w: &[u8], x: crate::table::F32Mat<'_>, y: &mut [f32]) {
                ops::matmul_f32::<$lanes>(w, x, y)
            }
            #[$attribute]
            fn matmul_f16(w: &[u8], x: crate::table::F32Mat<'_>, y: &mut [f32]) {
                ops::matmul_f16::<$lanes>(w, x, y)
            }
            #[$attribute]
            fn matmul_bf16(w: &[u8], x: crate::table::F32Mat<'_>, y: &mut [f32]) {
                ops::matmul_bf16::<$lanes>(w, x, y)
            }
            crate::table::FloatOps {
                rms_norm,
                layer_norm,
                activate,
                gated,
                add,
                rope,
                attention,
                attention_span,
                attention_merge,
                delta_rule,
                state_space,
                quantize_q8,
                matmul_f32,
                matmul_f16,
                matmul_bf16,
            }
        };
    };
}
pub(crate) use float_ops;

/// The float operations of one level. See [`Kernels`] for what they compute.
#[derive(Clone, Copy)]
pub(crate) struct FloatOps {
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) layer_norm: LayerNorm,
    pub(crate) activate: unsafe fn(Activation, &mut [f32]),
    pub(crate) gated: unsafe fn(Activation, &[f32], &[f32], &mut [f32]),
    pub(crate) add: unsafe fn(&[f32], &mut [f32]),
    pub(crate) rope: unsafe fn(&mut [f32], &[f32], &[f32], bool),
    pub(crate) attention: unsafe fn(&Attention<'_>, &mut Scratch, &mut [f32], usize),
    pub(crate) attention_span: unsafe fn(&Attention<'_>, usize, &mut Scratch, &mut [f32]),
    pub(crate) attention_merge: unsafe fn(&[f32], &mut Total, &mut [f32]),
    pub(crate) delta_rule: DeltaRule,
    pub(crate) state_space: StateSpace,
    pub(crate) quantize_q8: QuantizeQ8,
    pub(crate) matmul_f32: MatMulF32,
    pub(crate) matmul_f16: MatMulF32,
    pub(crate) matmul_bf16: MatMulF32,
}

/// What one level brings: its float operations, and matrix products of the formats that it has a kernel for.
struct Level {
    ops: &'static FloatOps,
    matmul: &'static [(Type, MatMulFn)],
    packed: Option<PackedLevel>,
}

/// A level's products of many tokens.
struct PackedLevel {
    packing: Packing,
    matmul: &'static [(Type, MatMulPacked)],
}

/// The levels of this build target, by [`Isa`].
#[cfg(target_arch = "x86_64")]
const LEVELS: &[Level] = &[
    Level { ops: &cpu::portable::OPS, matmul: &[], packed: None },
    Level {
        ops: &cpu::avx2::ops::OPS,
        matmul: cpu::avx2::MATMUL,
        packed: Some(PackedLevel {
            packing: Packing {
                rounding: Rounding::Q8,
                tile: packed::TILE,
                unit: crate::quant::q8::BLOCK,
                words: packed::tile_words,
                pack: cpu::avx2::gemm::pack,
            },
            matmul: cpu::avx2::MATMUL_PACKED,
        }),
    },
    Level {
        ops: &cpu::avx512vnni::ops::OPS,
        matmul: cpu::avx512vnni::MATMUL,
        packed: Some(PackedLevel {
            packing: Packing {
                rounding: Rounding::Q8,
                tile: packed::TILE,
                unit: crate::quant::q8::BLOCK,
                words: packed::tile_words,
                pack: cpu::avx512vnni::quantize::pack,
            },
            matmul: cpu::avx512vnni::MATMUL_PACKED,
        }),
    },
    Level {
        ops: &cpu::amx::OPS,
        matmul: &[],
        packed: Some(PackedLevel {
            packing: Packing {
                rounding: Rounding::Bf16,
                tile: cpu::amx::pack::TILE,
                unit: cpu::amx::TILE_VALUES,
                words: cpu::amx::pack::words,
                pack: cpu::amx::pack::pack,
            },
            matmul: cpu::amx::MATMUL_PACKED,
        }),
    },
];
#[cfg(not(target_arch = "x86_64"))]
const LEVELS: &[Level] = &[Level { ops: &cpu::portable::OPS, matmul: &[], packed: None }];

/// The kernels of one ISA level that this CPU has.
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The table of `isa`.
    ///
    /// # Errors
    /// This CPU lacks the level.
    pub fn new(isa: Isa) -> Result<Kernels, IsaError> {
        if isa.is_supported() { Ok(Kernels { isa }) } else { Err(IsaError::Unsupported(isa)) }
    }

    /// The level.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// The level that the dot products of its formats are written for, if none is missing.
    pub fn dot_isa(self) -> Isa {
        self.levels().find(|(_, level)| !level.matmul.is_empty()).map_or(Isa::Portable, |(isa, _)| isa)
    }

    /// The same of its kernels for many tokens.
    pub fn packed_isa(self) -> Isa {
        self.packed_level().map_or(self.dot_isa(), |(isa, _)| isa)
    }

    /// How the matrix kernels for many tokens take activations, where the level has any.
    pub fn packing(self) -> Option<&'static Packing> {
        self.packed_level().map(|(_, packed)| &packed.packing)
    }

    /// The fastest level that has kernels for many tokens. Only one is used, so that all formats share a packing.
    fn packed_level(self) -> Option<(Isa, &'static PackedLevel)> {
        self.levels().find_map(|(isa, level)| Some((isa, level.packed.as_ref()?)))
    }

    /// The levels from this one down.
    fn levels(self) -> impl Iterator<Item = (Isa, &'static Level)> {
        Isa::ALL.into_iter().rev().filter(move |isa| *isa <= self.isa).map(|isa| (isa, &LEVELS[isa as usize]))
    }

    /// The matrix product of weights of this format: the fastest version at or below the level. `None` for a format
    /// that braise only knows by name.
    pub fn matmul(self, weights: Type) -> Option<MatMul> {
        let dot = weights.scalar()?.dot;
        let (isa, function) = self
            .levels()
            .find_map(|(isa, level)| {
                let function = match weights {
                    Type::F32 => MatMulFn::F32(level.ops.matmul_f32),
                    Type::F16 => MatMulFn::F32(level.ops.matmul_f16),
                    Type::BF16 => MatMulFn::F32(level.ops.matmul_bf16),
                    _ => level.matmul.iter().find(|row| row.0 == weights)?.1,
                };
                Some((isa, function))
            })
            .unwrap_or((Isa::Portable, MatMulFn::Scalar(dot)));
        let packed = self.packed_level().and_then(|(isa, PackedLevel { packing, matmul })| {
            Some((isa, packing, matmul.iter().find(|row| row.0 == weights)?.1))
        });
        Some(MatMul { weights, isa, function, packed })
    }

    /// All matrix products of the level, one for each format that braise computes with.
    pub fn matmul_rows(self) -> impl Iterator<Item = MatMul> {
        Type::ALL.iter().filter_map(move |ty| self.matmul(*ty))
    }

    fn ops(self) -> &'static FloatOps {
        LEVELS[self.isa as usize].ops
    }

    /// See [`crate::ops::rms_norm`].
    pub fn rms_norm(self, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        // SAFETY: here and below: the operation needs the features of `self.isa`, which `new` has found on this CPU.
        unsafe { (self.ops().rms_norm)(x, weight, eps, y) }
    }

    /// See [`crate::ops::layer_norm`].
    pub fn layer_norm(self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().layer_norm)(x, weight, bias, eps, y) }
    }

    /// See [`crate::ops::activate`].
    pub fn activate(self, activation: Activation, x: &mut [f32]) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().activate)(activation, x) }
    }

    /// See [`crate::ops::gated`].
    pub fn gated(self, activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().gated)(activation, gate, up, y) }
    }

    /// See [`crate::ops::add`].
    pub fn add(self, x: &[f32], y: &mut [f32]) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().add)(x, y) }
    }

    /// See [`crate::ops::rope`].
    pub fn rope(self, x: &mut [f32], cos: &[f32], sin: &[f32], halves: bool) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().rope)(x, cos, sin, halves) }
    }

    /// What [`Kernels::attention`] multiplies where scores are plain ([`crate::ops::Scores::are_plain`]) and need not be
    /// exact; elsewhere floats.
    pub fn attends_in(self) -> Numbers {
        match self.isa {
            Isa::Amx => Numbers::Tiles,
            Isa::Avx512Vnni => Numbers::Integers,
            _ => Numbers::Floats,
        }
    }

    /// See [`crate::ops::attention`].
    pub fn attention(self, a: &Attention<'_>, scratch: &mut Scratch, out: &mut [f32], out_stride: usize) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().attention)(a, scratch, out, out_stride) }
    }

    /// See [`crate::ops::attention_span`].
    pub fn attention_span(self, a: &Attention<'_>, span: usize, scratch: &mut Scratch, parts: &mut [f32]) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().attention_span)(a, span, scratch, parts) }
    }

    /// See [`crate::ops::merge`].
    pub fn attention_merge(self, part: &[f32], total: &mut Total, values: &mut [f32]) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().attention_merge)(part, total, values) }
    }

    /// See [`crate::ops::delta_rule`].
    pub fn delta_rule(
        self,
        state: &mut [f32],
        q: &[f32],
        k: &[f32],
        decay: &[f32],
        beta: f32,
        v: &mut [f32],
    ) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().delta_rule)(state, q, k, decay, beta, v) }
    }

    /// See [`crate::ops::state_space`].
    #[allow(clippy::too_many_arguments, reason = "a formula of seven")]
    pub fn state_space(
        self,
        states: &mut [f32],
        x: &mut [f32],
        dt: f32,
        a: &[f32],
        b: &[f32],
        c: &[f32],
        d: f32,
    ) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().state_space)(states, x, dt, a, b, c, d) }
    }

    /// See [`crate::quant::q8::quantize`].
    pub fn quantize_q8(self, x: &[f32], q: &mut [i8], z: &mut [i8], d: &mut [f32], sum: &mut [i16]) {
        // SAFETY: as in `rms_norm`.
        unsafe { (self.ops().quantize_q8)(x, q, z, d, sum) }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.isa)
    }
}
