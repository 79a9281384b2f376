//! What four warps do together: products whose factors the tensor cores read from shared memory on their own (`wgmma`).
//!
//! The rules are those of the PTX ISA, 9.7.14 "asynchronous warpgroup level matrix instructions", and 8 for proxies:
//!
//! 1. All threads of four warps, the first of whose numbers is a multiple of 4, run the same instruction. That orders
//!    nothing else between them.
//! 2. Shared memory that a product reads must have been shown to it: `fence.proxy.async` of the thread that wrote, then a
//!    barrier. Until the product was waited for nobody may write there, and afterwards only who knows of it by a barrier.
//! 3. Registers of sums may not be accessed until the product was waited for; and a `wgmma.fence` must lie between an access
//!    and the next product with them, but not between products of one shape.
//!
//! A product is computed when it is issued, which nobody can tell apart, because of rules 2 and 3.

use std::collections::VecDeque;

use super::Fault;
use super::code::{Collective, LANES, Reg, WarpgroupProduct};
use super::memory::Shared;
use super::number::{BF16, F32, Round};
use super::warp::Warp;

/// Warps of a group.
pub const WARPS: usize = 4;

/// Rows of sums, and values that are multiplied at once.
const M: usize = 64;
const K: usize = 16;

/// What is known of a register that products have as a sum.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    /// Products under way.
    busy: u32,
    /// The step of the last access by another instruction.
    touched: u32,
    /// The step of the last product, and its columns.
    product: (u32, usize),
}

/// The sums of a warp, by their registers.
#[derive(Default)]
pub struct Sums {
    of: Vec<Sum>,
    /// The step of the last `wgmma.fence`, from 1.
    fence: u32,
}

impl Sums {
    pub fn new(registers: usize) -> Self {
        Self { of: vec![Sum::default(); registers], fence: 0 }
    }

    /// An instruction that is no product reads or writes these registers.
    pub fn touch(&mut self, registers: &[Reg], step: u32) -> Result<(), Fault> {
        for &reg in registers {
            let sum = &mut self.of[reg as usize];
            if sum.busy > 0 {
                return Err(Fault::Busy);
            }
            sum.touched = step;
        }
        Ok(())
    }

    fn begin(&mut self, registers: &[Reg], step: u32, columns: usize) -> Result<(), Fault> {
        for &reg in registers {
            let sum = &mut self.of[reg as usize];
            let (before, shape) = sum.product;
            let other_shape = before > self.fence && shape != columns;
            if self.fence == 0 || sum.touched > self.fence || other_shape {
                return Err(Fault::Unfenced);
            }
            sum.busy += 1;
            sum.product = (step, columns);
        }
        Ok(())
    }

    fn end(&mut self, registers: &[Reg]) {
        registers.iter().for_each(|&reg| self.of[reg as usize].busy -= 1);
    }
}

/// A product under way.
struct Running {
    /// Addresses of 16 bytes each that it reads.
    reads: Vec<u64>,
    d: Vec<Reg>,
}

/// The products of four warps.
#[derive(Default)]
pub struct Group {
    open: Vec<Running>,
    committed: VecDeque<Vec<Running>>,
}

/// Where a factor lies in shared memory.
struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    /// Bytes of a row; the order of chunks repeats after eight rows.
    row: u64,
}

impl Descriptor {
    /// The fields of a descriptor: the address, the distance in k and that of eight rows in units of 16 bytes, the base
    /// offset, and the mode of swizzling.
    fn new(bits: u64) -> Result<Self, Fault> {
        let wrong = |what: String| Err(Fault::Descriptor { bits, what });
        const UNUSED: u64 = 3 << 14 | 3 << 30 | 7 << 46 | 0x3ff << 52;
        if bits & UNUSED != 0 {
            return wrong("bits that no field has are set".into());
        }
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let (start, leading, stride) = (field(0), field(16), field(32));
        let row = [16, 128, 64, 32][(bits >> 62) as usize];
        if bits >> 49 & 7 != 0 {
            return wrong("a base offset is not known here".into());
        }
        // the pattern of the chunks depends on addresses, and repeats after eight rows
        if row > 16 && start % (8 * row) + 2 * K as u64 > row {
            return wrong(format!(
                "address {start} is not in the first row of a pattern of {} bytes",
                8 * row
            ));
        }
        if row > 16 && !stride.is_multiple_of(8 * row) {
            return wrong(format!("{stride} bytes from eight rows to the next, in a pattern of {}", 8 * row));
        }
        Ok(Self { start, leading, stride, row })
    }

    /// The address of a chunk of eight values: the first or the second of a row's 16.
    fn chunk(&self, row: usize, chunk: usize) -> u64 {
        let (row, chunk) = (row as u64, chunk as u64);
        let along = if self.row == 16 { self.leading } else { 16 };
        let linear = self.start + row / 8 * self.stride + row % 8 * self.row + chunk * along;
        // as many bits of the chunk's place as a row has chunks, changed by the number of 128 bytes
        linear ^ (linear >> 7 & (self.row / 16 - 1)) << 4
    }
}

impl Group {
    /// Runs an instruction of `warps`; what goes wrong, with the warp among them.
    pub fn run(
        &mut self,
        instruction: &Collective,
        warps: &mut [Warp],
        shared: &mut Shared,
        step: u32,
    ) -> Result<(), (usize, Fault)> {
        match instruction {
            Collective::Fence => warps.iter_mut().for_each(|warp| warp.sums.fence = step),
            Collective::Commit => self.committed.push_back(std::mem::take(&mut self.open)),
            Collective::Wait(left) => {
                while self.committed.len() > *left {
                    for Running { reads, d } in self.committed.pop_front().unwrap_or_default() {
                        let clocks = [0, 1, 2, 3].map(|i| warps[i].known[warps[i].index]);
                        let group = warps[0].index / WARPS;
                        reads.iter().for_each(|address| shared.end_read(*address, group, clocks));
                        warps.iter_mut().for_each(|warp| warp.sums.end(&d));
                    }
                }
            }
            Collective::Multiply(product) => self.multiply(product, warps, shared, step)?,
        }
        Ok(())
    }

    fn multiply(
        &mut self,
        product: &WarpgroupProduct,
        warps: &mut [Warp],
        shared: &mut Shared,
        step: u32,
    ) -> Result<(), (usize, Fault)> {
        for (i, warp) in warps.iter_mut().enumerate() {
            warp.sums.begin(&product.d, step, product.columns).map_err(|fault| (i, fault))?;
        }
        let mut reads = Vec::new();
        let a = factor(product.a, M, warps, shared, &mut reads)?;
        let b = factor(product.b, product.columns, warps, shared, &mut reads)?;
        for (i, warp) in warps.iter_mut().enumerate() {
            let adds = warp.registers[product.adds as usize][0] & 1 == 1;
            for (place, &d) in product.d.iter().enumerate() {
                let old = warp.registers[d as usize];
                let result = std::array::from_fn(|lane| {
                    let row = 16 * i + lane / 4 + place / 2 % 2 * 8;
                    let column = place / 4 * 8 + lane % 4 * 2 + place % 2;
                    let dot: f64 = (0..K).map(|k| a[row * K + k] * b[column * K + k]).sum();
                    let old = if adds { F32.widen(old[lane]) } else { 0.0 };
                    F32.narrow(old + product.factor * dot, Round::Nearest)
                });
                warp.set(d, &result, u32::MAX);
            }
        }
        self.open.push(Running { reads, d: product.d.clone() });
        Ok(())
    }
}

/// A factor of `rows` rows of 16 values, that the register names.
fn factor(
    descriptor: Reg,
    rows: usize,
    warps: &[Warp],
    shared: &mut Shared,
    reads: &mut Vec<u64>,
) -> Result<Vec<f64>, (usize, Fault)> {
    let words = warps.iter().map(|warp| warp.registers[descriptor as usize]);
    let bits = warps[0].registers[descriptor as usize][0];
    for (i, word) in words.enumerate() {
        if word != [bits; LANES] {
            let what = "it is not the same in all threads of the warps".to_owned();
            return Err((i, Fault::Descriptor { bits, what }));
        }
    }
    let place = Descriptor::new(bits).map_err(|fault| (0, fault))?;
    let group = warps[0].index / WARPS;
    let known: Vec<&[u32; LANES]> = warps.iter().map(|warp| &warp.known).collect();
    let mut values = Vec::with_capacity(rows * K);
    for row in 0..rows {
        for chunk in 0..K / 8 {
            let address = place.chunk(row, chunk);
            let bytes = shared.begin_read(address, group, &known)?;
            values.extend(
                bytes.chunks_exact(2).map(|half| BF16.widen(u64::from(half[0]) | u64::from(half[1]) << 8)),
            );
            reads.push(address);
        }
    }
    Ok(values)
}
