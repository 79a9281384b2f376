//! IQ1_M: 256 weights in 16 groups of 16; each group has a 3-bit scale and two points of the codebook of IQ1_S; each
//! point has a shift.
//!
//! ```text
//! byte   0 .. 31 | 32 .. 47 | 48 .. 55
//!        qs      | qh       | scales        weight[i] = d * (2 s[g] + 1) / 8 * code[i],  g = i / 16
//!                           | 4 LE u16      code[i] = 8 * point[i] + (1, or -1 where the shift is set)
//! qs[i] = low 8 bits of the place of the point of codes 8 i .. 8 i + 7
//! qh[j]: a nibble for each of points 2 j (low) and 2 j + 1: bits 8 .. 10 of its place, then its shift
//! scales[j]: bits 3 k .. 3 k + 2 = s[4 j + k],  k < 4
//!            bits 12 .. 15       = bits 4 j .. 4 j + 3 of d, an f16
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16};
use super::codebook::{self, Iq1Levels, Odd3, Scales, codes, find_scales, nearest_point};
use super::search::importance;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 16>(Type::IQ1_M);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// The lower 8 bits of each point's place.
    pub qs: [u8; 32],
    /// The upper 3 bits of each point's place, and its shift.
    pub qh: [u8; 16],
    /// Scales, 3 bits each, and their unit.
    pub scales: [[u8; 2]; 4],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        let nibble = |j: usize| u16::from(self.scales[j][1] >> 4) << (4 * j);
        f16((nibble(0) | nibble(1) | nibble(2) | nibble(3)).to_le_bytes())
    }

    /// The upper bits and the shift of point `i`.
    #[inline(always)]
    fn high(&self, i: usize) -> u8 {
        self.qh[i / 2] >> (4 * (i % 2))
    }

    /// Point `i` of 32.
    #[inline(always)]
    pub fn point(&self, i: usize) -> &'static [i8; 8] {
        &codebook::IQ1[usize::from(self.high(i) & 7) << 8 | usize::from(self.qs[i])]
    }
}

impl BlockFormat<256, 16> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        codes(|i| {
            let shift = if self.high(i) >> 3 & 1 == 1 { -1 } else { 1 };
            self.point(i).map(|code| code + shift)
        })
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        let unit = self.d() / 8.0;
        let s = |g: usize| u16::from_le_bytes(self.scales[g / 4]) >> (3 * (g % 4)) & 7;
        std::array::from_fn(|g| unit * f32::from(2 * s(g) + 1))
    }

    /// By the search of `quant/codebook.rs`; each point takes the shift that leaves the lesser error.
    fn quantize(x: &[f32; 256]) -> Self {
        let w = importance(x);
        let Scales { d, s, scales } = find_scales::<Iq1Levels, Odd3, 16>(x, &w, 1.0 / 8.0);
        let mut block = Self { qs: [0; 32], qh: [0; 16], scales: [[0; 2]; 4] };
        for i in 0..32 {
            let scale = scales[i / 2];
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let [up, down] = [1.0, -1.0].map(|shift| {
                let x = std::array::from_fn(|k| x[8 * i + k] * inverse - shift);
                nearest_point(&codebook::IQ1, x, &w[8 * i..8 * i + 8])
            });
            let (shift, (place, _)) = if down.1 < up.1 { (1, down) } else { (0, up) };
            block.qs[i] = place as u8;
            block.qh[i / 2] |= (shift << 3 | (place >> 8) as u8) << (4 * (i % 2));
        }
        let d = u16::from_le_bytes(d);
        block.scales = std::array::from_fn(|j| {
            let s = |k: usize| u16::from(s[4 * j + k]) << (3 * k);
            ((d >> (4 * j) & 15) << 12 | s(0) | s(1) | s(2) | s(3)).to_le_bytes()
        });
        block
    }
}
