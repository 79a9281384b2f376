//! Kernels for NVIDIA GPUs, and how they are started.
//!
//! `kernels/cuda/*.cu` hold them in CUDA C++; what they compile to (PTX, the assembly that every driver translates for its
//! GPU) is part of this crate, so that neither building nor running braise takes more than a driver. [`module`] finds a
//! kernel in it and checks what it is given, [`Device`] is what starts it: [`Gpu`] through the driver, or a machine that
//! interprets the PTX in tests. [`ops`] has a type for the operands of each family of kernels.
//!
//! None of this panics without a driver or a GPU: [`Gpu::open`] says what is missing.

mod device;
mod driver;
mod error;
mod fused;
mod memory;
pub mod module;
pub mod ops;

pub use device::{Address, Device, Graph, HostBuffer, Memory, Piece, Properties, Transfer};
pub use driver::{Gpu, Managed, Survey};
pub use error::Error;
pub use fused::Fused;
pub use module::{Arg, Kernel, Launch, Module};
