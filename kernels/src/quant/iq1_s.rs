//! IQ1_S: 256 weights in 8 groups of 32; each group has a 3-bit scale, a shift, and four points of a codebook of 2048.
//!
//! ```text
//! byte   0  1 | 2 .. 33 | 34 .. 49
//!        d    | qs      | qh            weight[i] = d * (2 s[g] + 1) / 8 * code[i],  g = i / 32
//!        f16            | 8 LE u16      code[i] = 8 * point[i] + (1, or -1 where the shift is set)
//! qs[i] = low 8 bits of the place of the point of codes 8 i .. 8 i + 7
//! qh[g]: bits 3 j .. 3 j + 2 = bits 8 .. 10 of the place of point 4 g + j,    j < 4
//!        bits 12 .. 14       = s[g]
//!        bit 15              = shift of group g
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16};
use super::codebook::{self, Iq1Levels, Odd3, Scales, codes, find_scales, nearest_point};
use super::search::importance;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 8>(Type::IQ1_S);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// The lower 8 bits of each point's place.
    pub qs: [u8; 32],
    /// The upper 3 bits of each point's place, scale and shift of each group.
    pub qh: [[u8; 2]; 8],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }

    /// Upper bits, scale and shift of group `g`.
    #[inline(always)]
    pub fn qh(&self, g: usize) -> u16 {
        u16::from_le_bytes(self.qh[g])
    }

    /// Point `i` of 32.
    #[inline(always)]
    pub fn point(&self, i: usize) -> &'static [i8; 8] {
        let high = usize::from(self.qh(i / 4)) << 8 >> (3 * (i % 4)) & 0x700;
        &codebook::IQ1[high | usize::from(self.qs[i])]
    }
}

impl BlockFormat<256, 8> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        codes(|i| {
            let shift = if self.qh(i / 4) >> 15 == 1 { -1 } else { 1 };
            self.point(i).map(|code| code + shift)
        })
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let unit = self.d() / 8.0;
        std::array::from_fn(|g| unit * f32::from(2 * (self.qh(g) >> 12 & 7) + 1))
    }

    /// By the search of `quant/codebook.rs`; each group takes the shift that leaves the lesser error.
    fn quantize(x: &[f32; 256]) -> Self {
        let w = importance(x);
        let Scales { d, s, scales } = find_scales::<Iq1Levels, Odd3, 8>(x, &w, 1.0 / 8.0);
        let mut block = Self { d, qs: [0; 32], qh: [[0; 2]; 8] };
        for g in 0..8 {
            let inverse = if scales[g] == 0.0 { 0.0 } else { 1.0 / scales[g] };
            let [up, down] = [1.0, -1.0].map(|shift| {
                let mut total = 0.0;
                let places: [usize; 4] = std::array::from_fn(|j| {
                    let at = 32 * g + 8 * j;
                    let x = std::array::from_fn(|k| x[at + k] * inverse - shift);
                    let (place, error) = nearest_point(&codebook::IQ1, x, &w[at..at + 8]);
                    total += error;
                    place
                });
                (total, places)
            });
            let (shift, (_, places)) = if down.0 < up.0 { (1, down) } else { (0, up) };
            let mut qh = shift << 15 | u16::from(s[g]) << 12;
            for (j, place) in places.into_iter().enumerate() {
                block.qs[4 * g + j] = place as u8;
                qh |= (place as u16 >> 8) << (3 * j);
            }
            block.qh[g] = qh.to_le_bytes();
        }
        block
    }
}
