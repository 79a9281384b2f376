//! Quantized activations of many tokens, in tiles of twelve tokens, as a matrix kernel reads them: what it broadcasts
//! to all lanes lies side by side for the tokens of a tile.
//!
//! Values are unsigned here: `t = u + z`, with `u = q + 128` (1..=255) and a zero point that is 128 less than that of
//! [`super::q8`], so that signed weights meet unsigned activations in one instruction, as `vpdpbusd` and `vpmaddubsw`
//! want them, and no format of weights needs a shift of its own.
//!
//! For each block of 32 values of a tile, one 32-bit word a token in each line:
//!
//! ```text
//! 8 x TILE   u: four values
//! 1 x TILE   z                                                      (i16, the high half 0)
//! 1 x TILE   d                                                      (f32)
//! 1 x TILE   d times the sum of t of the block                      (f32)
//! 2 x TILE   d times the sum of t of half the block, each half      (f32)
//! 1 x TILE   z again                                                (f32)
//! ```

use super::q8::{BLOCK, Q8Row, SUM_BLOCK, quantize};

/// Tokens in a tile.
pub(crate) const TILE: usize = 12;

/// Lines of a block.
pub(crate) const LINES: usize = 14;

/// Line of z.
pub(crate) const ZERO: usize = 8;
/// Line of d.
pub(crate) const SCALE: usize = 9;
/// Line of d times the block's sum.
pub(crate) const SUM: usize = 10;
/// First line of d times the halves' sums.
pub(crate) const HALF_SUM: usize = 11;
/// Line of z as floats.
pub(crate) const FLOAT_ZERO: usize = 13;

/// 32-bit words of a tile of rows of `k` values.
pub(crate) fn tile_words(k: usize) -> usize {
    k / BLOCK * LINES * TILE
}

/// Packs up to [`TILE`] rows of `k` values, which it quantizes; what a tile holds of rows that are missing is not written.
#[inline(always)] // into each ISA's version
pub(crate) fn pack(x: &[f32], k: usize, tile: &mut [u32]) {
    assert!(x.len() <= TILE * k && tile.len() == tile_words(k));
    for (lane, row) in x.chunks_exact(k).enumerate() {
        let blocks = tile.as_chunks_mut::<{ LINES * TILE }>().0.iter_mut();
        for (block, x) in blocks.zip(row.as_chunks::<BLOCK>().0) {
            let (mut q, mut z, mut d, mut sum) = ([0; BLOCK], [0], [0.0], [0; BLOCK / SUM_BLOCK]);
            quantize(x, &mut q, &mut z, &mut d, &mut sum);
            pack_block(&q, z[0], d[0], sum, lane, block);
        }
    }
}

/// Packs a row that is quantized already as token `lane` of a tile.
pub fn pack_row(x: Q8Row<'_>, lane: usize, tile: &mut [u32]) {
    assert!(lane < TILE && tile.len() == tile_words(x.len()));
    let values = x.q.as_chunks().0.iter().zip(x.z).zip(x.d).zip(x.sum.as_chunks().0);
    for (block, (((q, z), d), sum)) in tile.as_chunks_mut().0.iter_mut().zip(values) {
        pack_block(q, *z, *d, *sum, lane, block);
    }
}

/// Writes a block of token `lane`.
#[inline(always)]
fn pack_block(
    q: &[i8; BLOCK],
    z: i8,
    d: f32,
    [low, high]: [i16; BLOCK / SUM_BLOCK],
    lane: usize,
    block: &mut [u32; LINES * TILE],
) {
    let mut put = |line: usize, word: u32| block[line * TILE + lane] = word;
    let scaled = |sum: i16| (d * f32::from(sum)).to_bits();
    for (i, four) in bytemuck::cast::<_, [u32; BLOCK / 4]>(*q).into_iter().enumerate() {
        put(i, u32::from_le(four) ^ 0x8080_8080);
    }
    put(ZERO, (i32::from(z) - 128) as u32 & 0xffff);
    put(SCALE, d.to_bits());
    put(SUM, scaled(low + high));
    put(HALF_SUM, scaled(low));
    put(HALF_SUM + 1, scaled(high));
    put(FLOAT_ZERO, f32::from(i16::from(z) - 128).to_bits());
}
