//! What a core can do at most: loops that do one kind of work and nothing else, to which kernels are compared.
//!
//! A multiply-add counts as two operations. Each loop holds enough independent chains of them in registers to hide
//! their latency, so that only the number of arithmetic units limits it.

use std::hint::black_box;

use wide::{f32x4, i16x8, i32x4};

use crate::table::Kernels;

/// A loop of so many rounds, with the operations of one round.
pub(crate) struct Peak {
    pub(crate) run: unsafe fn(usize),
    pub(crate) ops: u64,
}

/// The two loops of one level.
pub(crate) struct Peaks {
    pub(crate) int8: Peak,
    pub(crate) f32: Peak,
}

/// The levels of this build target, by [`Isa`].
#[cfg(target_arch = "x86_64")]
const LEVELS: &[&Peaks] =
    &[&PORTABLE, &super::avx2::peak::PEAKS, &super::avx512vnni::peak::PEAKS, &super::amx::peak::PEAKS];
#[cfg(not(target_arch = "x86_64"))]
const LEVELS: &[&Peaks] = &[&PORTABLE];

/// Does `rounds` rounds of int8 multiply-adds into wider integers, as quantized weights need them, at the level of
/// `kernels` (on amx of bf16 ones, which take their place there); gives the number of operations.
pub fn int8(kernels: Kernels, rounds: usize) -> u64 {
    run(&LEVELS[kernels.isa() as usize].int8, rounds)
}

/// Does `rounds` rounds of f32 multiply-adds at the level of `kernels`; gives the number of operations.
pub fn f32(kernels: Kernels, rounds: usize) -> u64 {
    run(&LEVELS[kernels.isa() as usize].f32, rounds)
}

fn run(peak: &Peak, rounds: usize) -> u64 {
    // SAFETY: the loop needs the features of its level alone, and `Kernels` exist only for levels that this CPU has.
    unsafe { (peak.run)(rounds) };
    peak.ops * rounds as u64
}

/// Reads all of `bytes` from first to last, as kernels do, and gives a sum that depends on each.
pub fn read(bytes: &[u8]) -> u64 {
    let (lines, rest) = bytes.as_chunks::<64>();
    let mut sums = [0u64; 8];
    for line in lines {
        #[cfg(target_arch = "x86_64")]
        super::prefetch_after(line);
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().chain(&[rest.iter().map(|byte| u64::from(*byte)).sum()]).fold(0, |a, b| a.wrapping_add(*b))
}

/// Chains in flight of the portable loops: latency times units (4 x 2) and a little more, of 128-bit vectors.
const CHAINS: usize = 10;

/// As 128-bit vectors do it, which the compiler makes of plain loops on most build targets: int8 numbers are widened
/// to 16 bits, which is left out here, and multiplied in pairs.
const PORTABLE: Peaks = Peaks {
    int8: Peak { run: portable_int8, ops: 2 * 8 * CHAINS as u64 },
    f32: Peak { run: portable_f32, ops: 2 * 4 * CHAINS as u64 },
};

fn portable_int8(rounds: usize) {
    let w = black_box(i16x8::ONE);
    let mut acc = black_box([i32x4::ONE; CHAINS]);
    for _ in 0..rounds {
        for acc in &mut acc {
            // the sum is also the next factor: a product that never changed would be moved out of the loop
            *acc += w.dot(bytemuck::cast(*acc));
        }
    }
    black_box(acc);
}

fn portable_f32(rounds: usize) {
    let (w, x) = black_box((f32x4::HALF, f32x4::ONE));
    let mut acc = [f32x4::ZERO; CHAINS];
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = *acc * w + x;
        }
    }
    black_box(acc);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn every_level_of_this_machine_counts_what_it_does() {
        for kernels in Isa::ALL.into_iter().filter_map(|isa| Kernels::new(isa).ok()) {
            for count in [int8, f32] {
                let one = count(kernels, 1);
                assert!(one > 0 && count(kernels, 1000) == 1000 * one, "{}", kernels.isa());
            }
        }
    }

    #[test]
    fn reading_depends_on_every_byte() {
        for len in [0, 1, 63, 64, 65, 4096, 5000] {
            let mut bytes = vec![0; len];
            for i in 0..len {
                bytes[i] = 3;
                assert_eq!(read(&bytes), if i < len / 64 * 64 { 3 << (8 * (i % 8)) } else { 3 }, "{len} {i}");
                bytes[i] = 0;
            }
        }
    }
}
