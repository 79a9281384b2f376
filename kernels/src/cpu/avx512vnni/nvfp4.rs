//! NVFP4: blocks of 64 nibbles, which are places in a table of values from -12 to 12, with a scale in E4M3 for each 16.

use super::super::avx2::nvfp4::half_block_scales;
use super::*;
use crate::quant::mxfp4::TABLE;
use crate::quant::nvfp4::Block;

/// Blocks that a kernel takes together.
const BLOCKS: usize = GROUP / 2;

/// What the bytes are more than the codes.
const SHIFT: u8 = 12;

/// Scales and offsets of up to four blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: &[Block]) -> (__m512, __m512) {
    let d = two(half_block_scales(w));
    (d, _mm512_mul_ps(d, _mm512_set1_ps(-f32::from(SHIFT))))
}

/// The bytes of block `p` of up to four; of one that is missing, whose scales are 0, those of the last.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &[Block]) -> impl Fn(usize) -> __m512i {
    |p| {
        // of eight bytes, the low nibbles, then the high ones
        let bytes = _mm512_castsi256_si512(load_256(&w[p.min(w.len() - 1)].qs));
        let twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), bytes);
        let moved = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4));
        look_up(&TABLE, SHIFT.cast_signed(), _mm512_and_si512(moved, _mm512_set1_epi8(0x0f)))
    }
}

/// Takes group `i` of 256 weights of a row apart: `take` gets four pairs of blocks of 32, one by one.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(crate) fn each_pair(
    row: &[u8],
    i: usize,
    scales: &mut Scales,
    mut take: impl FnMut(&Scales, usize, __m512i),
) {
    let row: &[Block] = bytemuck::cast_slice(row);
    let w = &row[i * BLOCKS..row.len().min((i + 1) * BLOCKS)];
    let (d, m) = scales_of(w);
    store_floats(d, &mut scales.scales);
    store_floats(m, &mut scales.offsets);
    let bytes = bytes_of(w);
    for p in 0..BLOCKS {
        take(scales, p, bytes(p));
    }
}

unpack_by_pairs!(true, Some(SHIFT));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn dot<const N: usize, const P: usize>(w: [[&[u8]; 2]; P], x: [&[dot::Prepared]; N]) -> [[[f32; N]; 2]; P] {
    let w = dot::superblocks::<Block, P>(w);
    let mut acc = [[dot::Row::new(); 2]; P];
    for g in 0..x[0].len() {
        for p in 0..P {
            for r in 0..2 {
                let w = &w[p][r][g * BLOCKS..w[p][r].len().min((g + 1) * BLOCKS)];
                prefetch_after(bytemuck::cast_slice(w));
                acc[p][r].add(dot::group(x, g), scales_of(w), bytes_of(w));
            }
        }
    }
    let mut sums = [[[0.0; N]; 2]; P];
    for p in 0..P {
        sums[p] = [acc[p][0].sum(), acc[p][1].sum()];
    }
    sums
}

dot::matmul_by_dot!(dot::natural);
