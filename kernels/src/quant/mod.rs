//! Quantization formats: the table of all ggml types, and one file of scalar truth for each that braise computes with.
//!
//! To add a format: write `quant/<fmt>.rs` with its [`Scalar`], and name it in the table below.

pub mod block;
pub mod codebook;
pub mod float;
pub mod iq1_m;
pub mod iq1_s;
pub mod iq2_s;
pub mod iq2_xs;
pub mod iq2_xxs;
pub mod iq3_s;
pub mod iq3_xxs;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod mxfp4;
pub mod nvfp4;
pub mod packed;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8;
pub mod q8_0;
mod search;
#[cfg(test)]
pub(crate) mod tests;
pub mod tq1_0;
pub mod tq2_0;

use block::BlockFormat;
pub use float::f16_to_f32;
use q8::Q8Row;

/// The complete scalar implementation of one format. SIMD kernels are overrides of it, tested against it.
#[derive(Debug)]
pub struct Scalar {
    /// Weights of whole blocks: `n / block * bytes` bytes in, `n` values out.
    pub dequantize: fn(&[u8], &mut [f32]),
    /// The inverse, for finite weights: `n` values in, `n / block * bytes` bytes out. As ggml's reference quantizer
    /// does it, or by a least-squares search (the format's file says which); `None` where braise does not write the
    /// format.
    pub quantize: Option<Quantize>,
    /// One row of weights times one row of activations.
    pub dot: Dot,
}

/// Quantizes weights of whole blocks.
pub type Quantize = fn(&[f32], &mut [u8]);

impl Scalar {
    /// The implementation of the block format `B`, which is `ty` in a file.
    const fn of<B: BlockFormat<N, G>, const N: usize, const G: usize>(ty: Type) -> Self {
        assert!(size_of::<B>() == ty.bytes() && align_of::<B>() == 1 && N == ty.block());
        Self {
            dequantize: block::dequantize::<B, N, G>,
            quantize: Some(block::quantize::<B, N, G>),
            dot: Dot::Q8(block::dot::<B, N, G>),
        }
    }
}

/// A dot product, by the kind of activations it takes.
#[derive(Debug, Clone, Copy)]
pub enum Dot {
    /// Float weights (F32, F16, BF16) take float activations.
    F32(fn(&[u8], &[f32]) -> f32),
    /// Quantized weights take activations quantized to 8 bits.
    Q8(fn(&[u8], Q8Row<'_>) -> f32),
}

macro_rules! types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $block:literal, $bytes:literal, $scalar:expr;)*) => {
        /// Every ggml tensor type that a GGUF file may hold, whether or not braise has a kernel for it.
        ///
        /// Ids, block and byte sizes: `ggml.h` and `ggml-common.h` of the ggml project.
        #[allow(non_camel_case_types, missing_docs, reason = "the names are ggml's own")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Type { $($(#[$doc])* $name = $id),* }

        impl Type {
            /// All types, in the order of their ids.
            pub const ALL: &[Type] = &[$(Type::$name),*];

            /// The type with this id in a GGUF file.
            pub fn from_id(id: u32) -> Option<Type> {
                match id { $($id => Some(Type::$name),)* _ => None }
            }

            /// Its name as ggml's tools print it.
            pub const fn name(self) -> &'static str {
                match self { $(Type::$name => $text),* }
            }

            /// Weights in a block.
            pub const fn block(self) -> usize {
                match self { $(Type::$name => $block),* }
            }

            /// Bytes in a block.
            pub const fn bytes(self) -> usize {
                match self { $(Type::$name => $bytes),* }
            }

            /// The scalar implementation, or `None` where braise only knows the type by name and size.
            pub const fn scalar(self) -> Option<&'static Scalar> {
                match self { $(Type::$name => $scalar),* }
            }
        }
    };
}

types! {
    F32     = 0,  "F32",     1,   4,   Some(&float::F32);
    F16     = 1,  "F16",     1,   2,   Some(&float::F16);
    Q4_0    = 2,  "Q4_0",    32,  18,  Some(&q4_0::SCALAR);
    Q4_1    = 3,  "Q4_1",    32,  20,  Some(&q4_1::SCALAR);
    Q5_0    = 6,  "Q5_0",    32,  22,  Some(&q5_0::SCALAR);
    Q5_1    = 7,  "Q5_1",    32,  24,  Some(&q5_1::SCALAR);
    Q8_0    = 8,  "Q8_0",    32,  34,  Some(&q8_0::SCALAR);
    Q8_1    = 9,  "Q8_1",    32,  36,  None;
    Q2_K    = 10, "Q2_K",    256, 84,  Some(&q2_k::SCALAR);
    Q3_K    = 11, "Q3_K",    256, 110, Some(&q3_k::SCALAR);
    Q4_K    = 12, "Q4_K",    256, 144, Some(&q4_k::SCALAR);
    Q5_K    = 13, "Q5_K",    256, 176, Some(&q5_k::SCALAR);
    Q6_K    = 14, "Q6_K",    256, 210, Some(&q6_k::SCALAR);
    Q8_K    = 15, "Q8_K",    256, 292, None;
    IQ2_XXS = 16, "IQ2_XXS", 256, 66,  Some(&iq2_xxs::SCALAR);
    IQ2_XS  = 17, "IQ2_XS",  256, 74,  Some(&iq2_xs::SCALAR);
    IQ3_XXS = 18, "IQ3_XXS", 256, 98,  Some(&iq3_xxs::SCALAR);
    IQ1_S   = 19, "IQ1_S",   256, 50,  Some(&iq1_s::SCALAR);
    IQ4_NL  = 20, "IQ4_NL",  32,  18,  Some(&iq4_nl::SCALAR);
    IQ3_S   = 21, "IQ3_S",   256, 110, Some(&iq3_s::SCALAR);
    IQ2_S   = 22, "IQ2_S",   256, 82,  Some(&iq2_s::SCALAR);
    IQ4_XS  = 23, "IQ4_XS",  256, 136, Some(&iq4_xs::SCALAR);
    I8      = 24, "I8",      1,   1,   None;
    I16     = 25, "I16",     1,   2,   None;
    I32     = 26, "I32",     1,   4,   None;
    I64     = 27, "I64",     1,   8,   None;
    F64     = 28, "F64",     1,   8,   None;
    IQ1_M   = 29, "IQ1_M",   256, 56,  Some(&iq1_m::SCALAR);
    BF16    = 30, "BF16",    1,   2,   Some(&float::BF16);
    TQ1_0   = 34, "TQ1_0",   256, 54,  Some(&tq1_0::SCALAR);
    TQ2_0   = 35, "TQ2_0",   256, 66,  Some(&tq2_0::SCALAR);
    MXFP4   = 39, "MXFP4",   32,  17,  Some(&mxfp4::SCALAR);
    NVFP4   = 40, "NVFP4",   64,  36,  Some(&nvfp4::SCALAR);
    Q1_0    = 41, "Q1_0",    128, 18,  None;
    Q2_0    = 42, "Q2_0",    64,  18,  None;
}

impl Type {
    /// Bytes of a row of `n` weights, or `None` if `n` is no multiple of the block or the size overflows.
    pub const fn row_bytes(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block()) {
            return None;
        }
        (n / self.block()).checked_mul(self.bytes())
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
