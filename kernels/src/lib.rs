//! Quantization formats and the SIMD kernels that multiply them. Knows no file format and no model.
//!
//! [`quant`] is the scalar truth about every format, [`ops`] the float operations, `cpu` what is faster on a given
//! instruction set, [`table`] the choice between them, made once, and [`peak`] what it is compared
//! to. [`sync`] is memory that worker threads share. [`cuda`] is all that runs on GPUs.
#![allow(
    unsafe_code,
    reason = "the one crate where SIMD loads and shared memory need it; every block says why it is sound"
)]

mod cpu;
pub mod cuda;
pub mod isa;
pub mod ops;
pub mod quant;
pub mod sync;
pub mod table;

pub use cpu::peak;
