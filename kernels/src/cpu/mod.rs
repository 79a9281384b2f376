//! Kernels for the instruction sets of CPUs: one folder a level, the same file names in each.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod codebook;
pub mod peak;
pub(crate) mod portable;

use crate::quant::mxfp4;
#[cfg(target_arch = "x86_64")]
use std::arch::asm;

/// Blocks of 32 weights that a kernel takes together: their scales fill a 256-bit vector, and they are one superblock
/// of the K formats.
const GROUP: usize = 8;

/// How far ahead of their use weights are fetched, in bytes: they come from memory once, in order, and a core that waits
/// for each line by itself reads at half the speed. Further than a page of 4 KB is slower: the processor's own fetching
/// ends there and begins anew.
const AHEAD: usize = 2048;

/// Asks for memory that follows `w`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_after(w: &[u8]) {
    prefetch_lines(w.as_ptr().wrapping_add(AHEAD), w.len());
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_lines(first: *const u8, len: usize) {
    for at in (0..len).step_by(64) {
        // Not an intrinsic: the compiler moves those behind the group's arithmetic, where they come too late.
        // SAFETY: a prefetch reads nothing that the program can see, whatever the address, and cannot fault.
        unsafe {
            asm!("prefetcht0 [{}]", in(reg) first.wrapping_add(at), options(nostack, preserves_flags));
        }
    }
}

/// Where the rows lie that a kernel reads together: far apart, so that the processor fetches ahead of each as of a stream
/// of its own, and an odd number of rows apart, since streams at the same place of their pages hinder each other.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Streams {
    count: usize,
    /// Rows of a stream.
    len: usize,
    rows: usize,
    row_bytes: usize,
}

#[cfg(target_arch = "x86_64")]
impl Streams {
    /// `count` of them in `rows` rows of weights.
    #[inline(always)]
    fn new(w: &[u8], rows: usize, count: usize) -> Streams {
        let len = rows.div_ceil(count);
        // unless the last rows, which are then computed more than once, are many of them
        let len = if len >= 4 { len | 1 } else { len };
        Streams { count, len, rows, row_bytes: w.len() / rows }
    }

    /// The row that is `i`th in stream `stream`, if there is one.
    #[inline(always)]
    fn row(&self, stream: usize, i: usize) -> Option<usize> {
        Some(stream * self.len + i).filter(|row| *row < self.rows)
    }

    /// Its bytes; those of the last row if there is no such row.
    #[inline(always)]
    fn bytes<'w>(&self, w: &'w [u8], stream: usize, i: usize) -> &'w [u8] {
        let row = self.row(stream, i).unwrap_or(self.rows - 1);
        &w[row * self.row_bytes..][..self.row_bytes]
    }

    /// Asks for the beginnings of the streams, which [`prefetch_after`] does not ask for.
    #[inline(always)]
    fn prefetch(&self, w: &[u8]) {
        for stream in 0..self.count {
            let start = w.len().min(stream * self.len * self.row_bytes);
            prefetch_lines(w[start..].as_ptr(), (w.len() - start).min(AHEAD));
        }
    }
}

/// How far ahead of their use keys and values are fetched into the innermost cache, and into the next one, in bytes. A core
/// has room for sixteen lines on their way to the innermost: too few for all that a block takes. So the next cache gets
/// them early (from memory in large pages 11.2 GB/s of keys and values a core, where one distance of 2048 came to 9.6 and
/// none to 7.6).
const NEAR: usize = 512;
const FAR: usize = 8192;

/// Asks for the line of memory that comes [`NEAR`] after `at`, and the one that comes [`FAR`] after it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_ahead(at: *const u8) {
    let (near, far) = (at.wrapping_add(NEAR), at.wrapping_add(FAR));
    // SAFETY: as in `prefetch_after`.
    unsafe {
        asm!("prefetcht0 [{}]", "prefetcht1 [{}]", in(reg) near, in(reg) far, options(nostack, preserves_flags));
    }
}

/// How a kernel for many tokens takes weights apart: a slab of each row after the other, all panels of rows in a slab. The
/// processor sees no order in these short pieces of rows, so what comes next is fetched while the tokens meet a panel.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Panels<'a> {
    w: &'a [u8],
    row_bytes: usize,
    /// Rows of a panel.
    rows: usize,
    /// Bytes of a row in a slab.
    slab_bytes: usize,
}

#[cfg(target_arch = "x86_64")]
impl Panels<'_> {
    /// Brings part `i` of `n` of what is unpacked after panel `panel` of slab `slab` to the second-level cache.
    #[inline(always)]
    fn fetch_next(&self, panel: usize, slab: usize, i: usize, n: usize) {
        let panel_bytes = self.rows * self.row_bytes;
        let (panel, slab) =
            if (panel + 1) * panel_bytes < self.w.len() { (panel + 1, slab) } else { (0, slab + 1) };
        let rows = self.w[panel * panel_bytes..].chunks_exact(self.row_bytes).take(self.rows);
        let [from, to] = [i, i + 1].map(|i| i * self.rows / n);
        let [start, end] = [slab, slab + 1].map(|slab| (slab * self.slab_bytes).min(self.row_bytes));
        for row in rows.take(to).skip(from) {
            for line in row[start..end].chunks(64) {
                // SAFETY: as in `prefetch_after`.
                unsafe { asm!("prefetcht1 [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags)) };
            }
        }
    }
}

/// The eight 6-bit scales and eight 6-bit minimums of a Q4_K or Q5_K superblock, as bytes, from their 12-byte packing
/// (drawn in `quant/q4_k.rs`): the low six bits of bytes 0-7 are scales 0-3 and minimums 0-3; the rest have their low
/// four bits in bytes 8-11 and their high two in the top bits of bytes 0-7.
#[inline(always)]
fn k_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let high = |w: u32| (w >> 2) & 0x3030_3030;
    let pair = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = pair(a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | high(a));
    let mins = pair(b & 0x3f3f_3f3f, ((c >> 4) & 0x0f0f_0f0f) | high(b));
    (scales, mins)
}

/// The high bits and the bytes of nibbles of a Q5_0 or Q5_1 block's codes.
#[inline(always)]
fn high_bits_and_nibbles(codes: &[u8; 20]) -> (u32, &[u8; 16]) {
    let (high, nibbles) = codes.split_first_chunk().expect("4 bytes of high bits");
    (u32::from_le_bytes(*high), nibbles.try_into().expect("16 bytes of nibbles"))
}

/// The sixteen 6-bit scales of a Q3_K superblock, as bytes, from their 12-byte packing (drawn in `quant/q3_k.rs`): the
/// low nibbles of bytes 0-7 are the low four bits of scales 0-7, the high nibbles those of scales 8-15, and bytes 8-11
/// hold the high two bits, those of four neighbouring scales in the same bits of the four bytes.
#[inline(always)]
fn q3_k_scales(packed: &[u8; 12]) -> [u8; 16] {
    let (low, high) = packed.split_first_chunk().expect("8 bytes of low bits");
    let low = u64::from_le_bytes(*low);
    let high = u32::from_le_bytes(high.try_into().expect("4 bytes of high bits"));
    // eight scales: the high bits of the first four lie at `shift`, those of the others two places above
    let eight = |low: u64, shift: u32| {
        let high = u64::from(high >> shift) | u64::from(high >> (shift + 2)) << 32;
        u128::from(low & 0x0f0f_0f0f_0f0f_0f0f | (high & 0x0303_0303_0303_0303) << 4)
    };
    (eight(low, 0) | eight(low >> 4, 4) << 64).to_le_bytes()
}

/// The scales of up to eight MXFP4 blocks, 0 for those that are missing.
#[inline(always)]
fn mxfp4_scales(b: &[mxfp4::Block]) -> [f32; GROUP] {
    std::array::from_fn(|i| b.get(i).map_or(0.0, mxfp4::Block::d))
}
