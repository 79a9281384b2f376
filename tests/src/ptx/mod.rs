//! An interpreter of PTX that checks CUDA kernels where there is no GPU.
//!
//! It runs the very text that a driver would load, a warp of 32 threads at a time, and is strict where a card is silent:
//! access outside of any variable or allocation, misaligned, to freed memory or to what nobody wrote; data races in shared
//! memory; barriers and shuffles that some threads do not reach; instructions that it does not know. Each of these is a
//! [`Trap`] that names the kernel, the line, the block and the thread.
//!
//! What it cannot tell: how fast a kernel is, the last bits of approximate instructions and of sums in tensor cores, and
//! what depends on blocks that run at the same time (they run one after another).
//!
//! A text becomes tokens (`lex`), declarations and statements (`parse`), and instructions whose registers and targets are
//! numbers (`lower`, `translate`); local functions are inlined. What an arithmetic instruction computes is a function that
//! is chosen once (`integer`, `float`, `convert`). `warp` runs instructions, `block` holds barriers, `machine` the grid.

mod access;
mod block;
mod code;
mod collective;
mod convert;
mod float;
mod integer;
mod lex;
mod lower;
mod machine;
mod memory;
mod number;
mod opcode;
mod parse;
mod races;
mod translate;
mod types;
mod warp;
mod warpgroup;

pub use machine::{Machine, Module};

/// Why a text is not a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// The line in the text, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub what: String,
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions, each counted once for a warp.
    pub warp_instructions: u64,
    /// Instructions, counted for each thread that ran them.
    pub thread_instructions: u64,
}

/// A launch that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{entry}`, line {line}, block {block:?}, thread {thread:?}: {fault}")]
pub struct Trap {
    /// The kernel.
    pub entry: String,
    /// The line of the instruction in the module's text; 0 if the launch itself is wrong.
    pub line: u32,
    /// The block's place in the grid.
    pub block: [u32; 3],
    /// The thread's place in its block.
    pub thread: [u32; 3],
    /// What went wrong.
    pub fault: Fault,
}

/// What can go wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Access outside of memory; in global memory the address counts from the start of the allocation.
    #[error("{bytes} bytes at {address} of {space} memory, which has {size} bytes there")]
    OutOfBounds {
        /// Which memory.
        space: &'static str,
        /// Where.
        address: u64,
        /// How much.
        bytes: usize,
        /// How much there is.
        size: u64,
    },
    /// An address that is no multiple of the access's size.
    #[error("{bytes} bytes at address {address:#x}, which is not aligned to them")]
    Misaligned {
        /// The address.
        address: u64,
        /// The size.
        bytes: u64,
    },
    /// Access to memory after it was freed.
    #[error("the memory at {address:#x} was freed")]
    Freed {
        /// The address.
        address: u64,
    },
    /// A read of what nobody wrote.
    #[error("nobody wrote what is read at {address} of {space} memory")]
    Unwritten {
        /// Which memory.
        space: &'static str,
        /// Where.
        address: u64,
    },
    /// A read of what an asynchronous copy is still writing.
    #[error("what is read at {address} of shared memory is still being copied there for thread {by}")]
    Pending {
        /// Where.
        address: u64,
        /// The thread (its number in the block) that has not waited for its copy.
        by: u16,
    },
    /// Two threads access the same memory, at least one of them writes, and nothing orders them.
    #[error("this thread {} what thread {other} of {} {} at {address} of {space} memory, and nothing orders the two",
        if *.wrote { "writes" } else { "reads" },
        .block.map_or("its block".to_owned(), |block| format!("block {block}")),
        if *.other_wrote { "wrote" } else { "read" })]
    Race {
        /// Which memory.
        space: &'static str,
        /// Where.
        address: u64,
        /// The other thread's number in its block.
        other: u16,
        /// The other thread's block, counted from the launch's first; none if it is the same.
        block: Option<usize>,
        /// Whether the other one wrote.
        other_wrote: bool,
        /// Whether this one writes.
        wrote: bool,
    },
    /// A read through the cache for constant data (`ld.global.nc`) of what the same launch wrote.
    #[error("ld.global.nc reads what this launch wrote at {address} of global memory")]
    NotConstant {
        /// Where.
        address: u64,
    },
    /// A write to constant memory or to parameters.
    #[error("a write to constant memory at {address:#x}")]
    Constant {
        /// The address.
        address: u64,
    },
    /// A barrier that not all threads reach.
    #[error("thread {missing} does not reach the barrier: {why}")]
    Barrier {
        /// The number of a thread in the block that is missing.
        missing: u16,
        /// Where it is instead.
        why: &'static str,
    },
    /// An instruction that lanes of a warp must run together, and that one of them does not reach.
    #[error("lane {missing} of the warp does not run this instruction with the others: {why}")]
    Diverged {
        /// The lane that is missing.
        missing: u32,
        /// Where it is instead.
        why: &'static str,
    },
    /// An instruction that four warps must run together, and that one of them does not reach.
    #[error("thread {missing} does not run this instruction with the rest of its four warps: {why}")]
    Warpgroup {
        /// The number of a thread in the block that is missing.
        missing: u16,
        /// Where it is instead.
        why: &'static str,
    },
    /// Registers are accessed in which a product adds up that was not waited for.
    #[error("registers are accessed in which a product adds up that nobody waited for")]
    Busy,
    /// A product with registers that were accessed since the last `wgmma.fence`, or in products of another shape.
    #[error("no wgmma.fence between an access to the sums of a product, and it")]
    Unfenced,
    /// A product reads what was not shown to the asynchronous proxy.
    #[error(
        "what thread {by} wrote at {address} of shared memory is read by a product, and no fence.proxy.async shows it"
    )]
    Proxy {
        /// Where.
        address: u64,
        /// The number of the thread that wrote.
        by: u16,
    },
    /// A write to what a product reads that is not known to be done.
    #[error(
        "a write at {address} of shared memory, which a product of the warps from thread {by} on may still read"
    )]
    BeingRead {
        /// Where.
        address: u64,
        /// The number of the first thread of those warps.
        by: u16,
    },
    /// A matrix descriptor that cannot be.
    #[error("the matrix descriptor {bits:#x}: {what}")]
    Descriptor {
        /// Its bits.
        bits: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A shuffle that reads from a lane that does not take part.
    #[error("reads from lane {lane}, which does not take part")]
    Absent {
        /// The lane.
        lane: u32,
    },
    /// The kernel asked for a trap.
    #[error("{0}")]
    Trapped(String),
    /// An instruction that this interpreter does not know.
    #[error("not known here: {0}")]
    Unknown(String),
    /// More steps than the limit allows.
    #[error("no end after {0} steps")]
    Endless(u64),
    /// A launch that no card would accept.
    #[error("{0}")]
    Launch(String),
}
