//! How keys and values lie in memory, and how they become floats again.
//!
//! Keys lie in blocks of [`KEY_BLOCK`] positions, transposed, so that sixteen scores grow side by side and no vector is
//! summed across its lanes. Values lie position by position.
//!
//! ```text
//! f16    keys     head_dim x 16 numbers                                                             a block
//!        values   head_dim numbers                                                                  a position
//! q8_0   keys     head_dim x 16 codes (i8), then a scale (f16) for 32 values, 16 side by side       a block
//!        values   head_dim codes, then a scale for each 32                                          a position
//! ```
//!
//! The numbers of q8_0 are those of the weight format of that name ([`crate::quant::q8_0`]); the last block of 32 may be
//! shorter.
//!
//! A sequence's positions lie in pages of [`PAGE`], anywhere in the memory that many sequences share (Kwon et al. 2023,
//! arXiv 2309.06180): its page table says where each page is.

use std::ops::Range;

use super::Lanes;
use crate::quant::block::BlockFormat;
use crate::quant::{f16_to_f32, q8_0};
use half::f16;

/// Positions in a block of keys.
pub const KEY_BLOCK: usize = 16;

/// Positions in a page: as many as the largest block that a kernel reads at a time, so that none needs two of them.
pub const PAGE: usize = 256;

/// The row of a head's memory that holds `position`, in a sequence with these pages.
#[inline(always)]
pub fn row_of(pages: &[u32], position: usize) -> usize {
    pages[position / PAGE] as usize * PAGE + position % PAGE
}

/// Values with one scale in q8_0.
pub(super) const GROUP: usize = 32;

/// The format of cached keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half precision.
    #[default]
    F16,
    /// 8 bits, with a scale for each 32.
    Q8_0,
}

impl KvType {
    /// All formats, the most exact first.
    pub const ALL: [KvType; 2] = [KvType::F16, KvType::Q8_0];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// Bytes of one position of a head of `dim` values, or `None` if they overflow.
    pub fn row_bytes(self, dim: usize) -> Option<usize> {
        match self {
            KvType::F16 => dim.checked_mul(size_of::<f16>()),
            KvType::Q8_0 => dim.checked_add(dim.div_ceil(GROUP).checked_mul(size_of::<f16>())?),
        }
    }
}

impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Keys or values of one head of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// Their format.
    pub ty: KvType,
    /// Values of a position.
    pub dim: usize,
    /// All rows of the head, those of other sequences too.
    pub data: &'a [u8],
    /// Which page of `data` holds each [`PAGE`] positions of the sequence; those that nobody sees may be any.
    pub pages: &'a [u32],
}

impl Cached<'_> {
    /// Bytes of a position.
    fn row_bytes(&self) -> usize {
        self.ty.row_bytes(self.dim).expect("a position is in memory")
    }

    /// Whether the pages of these positions are in memory.
    pub(crate) fn holds(&self, seen: &Range<usize>) -> bool {
        let there_are = self.data.len() / (PAGE * self.row_bytes());
        let pages = self.pages.get(seen.start / PAGE..seen.end.div_ceil(PAGE));
        pages.is_some_and(|pages| pages.iter().all(|page| (*page as usize) < there_are))
    }

    /// The row that holds `position`; those of one page are neighbours.
    #[inline(always)]
    pub(crate) fn row(&self, position: usize) -> usize {
        row_of(self.pages, position)
    }

    /// Keys of the block that begins at row `first`: `to[i]` becomes value i of all sixteen.
    #[inline(always)]
    pub(crate) fn keys<L: Lanes>(&self, first: usize, to: &mut [[f32; KEY_BLOCK]]) {
        let bytes = KEY_BLOCK * self.row_bytes();
        let block = &self.data[first / KEY_BLOCK * bytes..][..bytes];
        L::prefetch_after(block);
        match self.ty {
            KvType::F16 => {
                for (to, h) in to.iter_mut().zip(block.as_chunks().0) {
                    L::store(to, L::load_halves(h));
                }
            }
            KvType::Q8_0 => {
                let (codes, scales) = block.split_at(KEY_BLOCK * self.dim);
                let codes = codes.as_chunks::<KEY_BLOCK>().0.chunks(GROUP);
                let groups = to.chunks_mut(GROUP).zip(codes);
                for ((to, codes), scale) in groups.zip(scales.as_chunks().0) {
                    let scales = L::load_halves(scale);
                    for (to, codes) in to.iter_mut().zip(codes) {
                        L::store(to, L::mul_16(L::load_codes(codes), scales));
                    }
                }
            }
        }
    }

    /// The values of one row.
    #[inline(always)]
    pub(crate) fn values<L: Lanes>(&self, row: usize, to: &mut [f32]) {
        let bytes = self.row_bytes();
        let row = &self.data[row * bytes..][..bytes];
        L::prefetch_after(row);
        match self.ty {
            KvType::F16 => {
                let (lanes, rest) = to.as_chunks_mut::<16>();
                let (h, h_rest) = row.as_chunks::<32>();
                for (to, h) in lanes.iter_mut().zip(h) {
                    L::store(to, L::load_halves(h));
                }
                for (to, h) in rest.iter_mut().zip(h_rest.as_chunks().0) {
                    *to = f16_to_f32(u16::from_le_bytes(*h));
                }
            }
            KvType::Q8_0 => {
                let (codes, scales) = row.split_at(self.dim);
                let groups = to.chunks_mut(GROUP).zip(codes.chunks(GROUP));
                for ((to, codes), scale) in groups.zip(scales.as_chunks().0) {
                    let (lanes, rest) = to.as_chunks_mut::<16>();
                    let (codes, codes_rest) = codes.as_chunks::<16>();
                    for (to, codes) in lanes.iter_mut().zip(codes) {
                        L::store(to, L::mul_16(L::load_codes(codes), L::splat_half(*scale)));
                    }
                    for (to, code) in rest.iter_mut().zip(codes_rest) {
                        *to = f32::from(*code as i8) * f16_to_f32(u16::from_le_bytes(*scale));
                    }
                }
            }
        }
    }
}

/// Writes a key into a row of a head's keys, see [`row_of`].
pub fn store_key(ty: KvType, keys: &mut [u8], row: usize, key: &[f32]) {
    let dim = key.len();
    let bytes = KEY_BLOCK * ty.row_bytes(dim).expect("a position is in memory");
    let block = &mut keys[row / KEY_BLOCK * bytes..][..bytes];
    let lane = row % KEY_BLOCK;
    match ty {
        KvType::F16 => {
            for (lanes, x) in block.as_chunks_mut::<{ 2 * KEY_BLOCK }>().0.iter_mut().zip(key) {
                lanes[2 * lane..][..2].copy_from_slice(&f16::from_f32(*x).to_le_bytes());
            }
        }
        KvType::Q8_0 => {
            let (codes, scales) = block.split_at_mut(KEY_BLOCK * dim);
            let codes = codes.as_chunks_mut::<KEY_BLOCK>().0.chunks_mut(GROUP);
            let scales = scales.as_chunks_mut::<{ 2 * KEY_BLOCK }>().0;
            for ((key, codes), scales) in key.chunks(GROUP).zip(codes).zip(scales) {
                let quantized = quantize(key);
                for (lanes, code) in codes.iter_mut().zip(quantized.qs) {
                    lanes[lane] = code as u8;
                }
                scales[2 * lane..][..2].copy_from_slice(&quantized.d);
            }
        }
    }
}

/// Writes a value into a row of a head's values, see [`row_of`].
pub fn store_value(ty: KvType, values: &mut [u8], row: usize, value: &[f32]) {
    let dim = value.len();
    let bytes = ty.row_bytes(dim).expect("a position is in memory");
    let row = &mut values[row * bytes..][..bytes];
    match ty {
        KvType::F16 => {
            for (to, x) in row.as_chunks_mut().0.iter_mut().zip(value) {
                *to = f16::from_f32(*x).to_le_bytes();
            }
        }
        KvType::Q8_0 => {
            let (codes, scales) = row.split_at_mut(dim);
            let groups = value.chunks(GROUP).zip(codes.chunks_mut(GROUP));
            for ((value, codes), scale) in groups.zip(scales.as_chunks_mut().0) {
                let quantized = quantize(value);
                for (to, code) in codes.iter_mut().zip(quantized.qs) {
                    *to = code as u8;
                }
                *scale = quantized.d;
            }
        }
    }
}

/// Up to 32 values as a block of q8_0.
fn quantize(x: &[f32]) -> q8_0::Block {
    let mut all = [0.0; GROUP];
    all[..x.len()].copy_from_slice(x);
    q8_0::Block::quantize(&all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Portable;

    /// What was stored comes back, rounded to the format: f16 to 11 bits, q8_0 to a 254th of the largest of 32 values.
    #[test]
    fn what_was_stored_comes_back() {
        for ty in KvType::ALL {
            for dim in [1, 2, 15, 16, 31, 32, 33, 64, 80, 96, 128] {
                let n = 2 * KEY_BLOCK + 3;
                let x: Vec<Vec<f32>> = (0..n)
                    .map(|p| (0..dim).map(|i| ((p * 37 + i * 11) % 101) as f32 - 50.0).collect())
                    .collect();
                let row = ty.row_bytes(dim).unwrap();
                let mut keys = vec![0; n.next_multiple_of(KEY_BLOCK) * row];
                let mut values = vec![0; n * row];
                for (position, x) in x.iter().enumerate() {
                    store_key(ty, &mut keys, position, x);
                    store_value(ty, &mut values, position, x);
                }
                let bound = if ty == KvType::F16 { 0.0 } else { 50.0 / 254.0 + 50.0 / 2048.0 };
                let close = |a: f32, b: f32| (a - b).abs() <= bound;
                let (keys, values) = (
                    Cached { ty, dim, data: &keys, pages: &[] },
                    Cached { ty, dim, data: &values, pages: &[] },
                );
                for (position, x) in x.iter().enumerate() {
                    let mut key = vec![[0.0; KEY_BLOCK]; dim];
                    keys.keys::<Portable>(position / KEY_BLOCK * KEY_BLOCK, &mut key);
                    let mut value = vec![0.0; dim];
                    values.values::<Portable>(position, &mut value);
                    for i in 0..dim {
                        let key = key[i][position % KEY_BLOCK];
                        assert!(
                            close(key, x[i]),
                            "{ty} key {position} of {dim}, value {i}: {key} for {}",
                            x[i]
                        );
                        assert!(close(value[i], x[i]), "{ty} value {position} of {dim}: {}", value[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_that_overflow_are_none() {
        assert_eq!(KvType::F16.row_bytes(64), Some(128));
        assert_eq!(KvType::Q8_0.row_bytes(80), Some(86));
        assert!(KvType::ALL.into_iter().all(|ty| ty.row_bytes(usize::MAX).is_none()));
    }
}
