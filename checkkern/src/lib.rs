//! checkkern: every kernel of every ISA level against the scalar truth.
//!
//! A row of the kernel table is checked in tiers: `exact` (scales are powers of two and sums are bounded, so that every
//! order of summation gives the same bits), `adversarial` (codes and activations at their extremes, where an integer
//! kernel saturates; scales that are zero, subnormal, infinite or NaN), and `realistic` (quantized normal numbers, with
//! a bound derived from the number of roundings). Every tier varies shape, alignment and grouping.
//!
//! [`cpu`] runs the rows of a level, [`cuda`] does the same for the kernels of GPUs, and [`wrong`] has kernels that must
//! fail.
//!
//! To add a format: a row in [`formats::FORMATS`]. To add a float operation: a function in [`ops`] and its row there.

mod attention;
pub mod compare;
pub mod cpu;
pub mod cuda;
pub mod formats;
pub mod inputs;
pub mod matmul;
pub mod ops;
pub mod report;
pub mod wrong;
