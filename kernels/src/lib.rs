//! Quantization formats and the kernels that multiply them.

pub mod quant;
