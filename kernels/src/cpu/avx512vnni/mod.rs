//! 512-bit vectors with `vpdpbusd` (u8 x s8 products, four to an i32).
//!
//! A dot kernel turns weights into unsigned bytes w, two blocks of 32 to a vector, and multiplies them with the
//! activations t = q + z in integers, exactly:
//!
//! ```text
//! sum of w t = dpbusd(dpbusd(0, w, q), w, z, z, ..)
//! ```
//!
//! Sixteen i32 lanes, eight a block, become floats and are scaled by d_w * d_x of their block. What the unsigned bytes
//! lack (an offset such as the 8 of Q4_0, or a minimum) is `m * d_x * sum of t`, for eight blocks at a time.

pub(crate) mod attention;
mod gemm;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
pub(crate) mod mxfp4;
pub(crate) mod ops;
pub(crate) mod peak;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;

use super::avx2::{k_scales_and_offsets, unit};
use super::{GROUP, Group, high_bits_and_nibbles};
use crate::quant::{self, Type};
use crate::table::{MatMulFn, MatMulPacked};
use std::arch::x86_64::*;

/// The formats that this level has a kernel for.
pub(crate) const MATMUL: &[(Type, MatMulFn)] = &[
    (Type::Q4_0, MatMulFn::Q8(q4_0::matmul)),
    (Type::Q4_1, MatMulFn::Q8(q4_1::matmul)),
    (Type::Q5_0, MatMulFn::Q8(q5_0::matmul)),
    (Type::Q5_1, MatMulFn::Q8(q5_1::matmul)),
    (Type::Q8_0, MatMulFn::Q8(q8_0::matmul)),
    (Type::Q2_K, MatMulFn::Q8(q2_k::matmul)),
    (Type::Q3_K, MatMulFn::Q8(q3_k::matmul)),
    (Type::Q4_K, MatMulFn::Q8(q4_k::matmul)),
    (Type::Q5_K, MatMulFn::Q8(q5_k::matmul)),
    (Type::Q6_K, MatMulFn::Q8(q6_k::matmul)),
    (Type::IQ4_NL, MatMulFn::Q8(iq4_nl::matmul)),
    (Type::IQ4_XS, MatMulFn::Q8(iq4_xs::matmul)),
    (Type::MXFP4, MatMulFn::Q8(mxfp4::matmul)),
];

/// Products of many tokens, of all block formats.
pub(crate) const MATMUL_PACKED: &[(Type, MatMulPacked)] = &[
    (Type::Q4_0, gemm::matmul::<quant::q4_0::Block, 32, 1>),
    (Type::Q4_1, gemm::matmul::<quant::q4_1::Block, 32, 1>),
    (Type::Q5_0, gemm::matmul::<quant::q5_0::Block, 32, 1>),
    (Type::Q5_1, gemm::matmul::<quant::q5_1::Block, 32, 1>),
    (Type::Q8_0, gemm::matmul::<quant::q8_0::Block, 32, 1>),
    (Type::Q2_K, gemm::matmul::<quant::q2_k::Block, 256, 16>),
    (Type::Q3_K, gemm::matmul::<quant::q3_k::Block, 256, 16>),
    (Type::Q4_K, gemm::matmul::<quant::q4_k::Block, 256, 8>),
    (Type::Q5_K, gemm::matmul::<quant::q5_k::Block, 256, 8>),
    (Type::Q6_K, gemm::matmul::<quant::q6_k::Block, 256, 16>),
    (Type::IQ4_NL, gemm::matmul::<quant::iq4_nl::Block, 32, 1>),
    (Type::IQ4_XS, gemm::matmul::<quant::iq4_xs::Block, 256, 8>),
    (Type::MXFP4, gemm::matmul::<quant::mxfp4::Block, 32, 1>),
];

// Loads: the only unsafe code of the kernels in this folder.

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_512(a: &[i8; 64]) -> __m512i {
    // SAFETY: reads the 64 bytes of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_si512(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_256(a: &[u8; 32]) -> __m256i {
    // SAFETY: reads the 32 bytes of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_si256(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_128(a: &[u8; 16]) -> __m128i {
    // SAFETY: reads the 16 bytes of `a`; the load needs no alignment.
    unsafe { _mm_loadu_si128(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_ps(a: &[f32; 8]) -> __m256 {
    // SAFETY: reads the eight floats of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_ps(a.as_ptr()) }
}

/// The f16 at byte `at` of each of up to eight blocks, as floats; 0 for those that are missing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales<const BYTES: usize>(b: &[[u8; BYTES]], at: usize) -> __m256 {
    let h: [i16; GROUP] =
        std::array::from_fn(|i| b.get(i).map_or(0, |b| i16::from_le_bytes([b[at], b[at + 1]])));
    _mm256_cvtph_ps(_mm_set_epi16(h[7], h[6], h[5], h[4], h[3], h[2], h[1], h[0]))
}

/// The last bytes of block `i` of up to eight, which hold its codes. A pair without a second block takes the first
/// again: its scale is 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn codes<const BYTES: usize, const N: usize>(b: &[[u8; BYTES]], i: usize) -> &[u8; N] {
    b[i.min(b.len() - 1)].last_chunk().expect("codes are no longer than their block")
}

/// Two blocks of sixteen bytes of nibbles as 64 bytes: low nibbles, then high ones, of the first, then of the second.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> __m512i {
    let both = _mm512_castsi256_si512(_mm256_inserti128_si256::<1>(
        _mm256_castsi128_si256(load_128(a)),
        load_128(b),
    ));
    let twice = _mm512_shuffle_i64x2::<0b01_01_00_00>(both, both);
    let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f))
}

/// The nibbles of pair `p` of a Q4_K or Q5_K superblock: of 32 bytes, the low nibbles are one block, the high ones the
/// next.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn k_nibbles(a: &[u8; 128], p: usize) -> __m512i {
    let twice = _mm512_broadcast_i64x4(load_256(&a.as_chunks().0[p]));
    let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f))
}

/// The 5-bit codes of two Q5_0 or Q5_1 blocks: of each, four bytes of high bits, then sixteen of low nibbles.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn five_bits(a: &[u8; 20], b: &[u8; 20]) -> __m512i {
    let (high_a, low_a) = high_bits_and_nibbles(a);
    let (high_b, low_b) = high_bits_and_nibbles(b);
    let high = u64::from(high_a) | u64::from(high_b) << 32;
    let low = nibbles(low_a, low_b);
    _mm512_mask_add_epi8(low, high, low, _mm512_set1_epi8(0x10))
}

/// Bits `2 p` and `2 p + 1` of 32 bytes, as bit `to` of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bits(a: &[u8; 32], p: usize, to: usize) -> __m512i {
    let twice = _mm512_broadcast_i64x4(load_256(a));
    let (i, j) = (2 * p as i64 - to as i64, 2 * p as i64 + 1 - to as i64);
    let moved = _mm512_rorv_epi64(twice, _mm512_setr_epi64(i, i, i, i, j, j, j, j));
    _mm512_and_si512(moved, _mm512_set1_epi8(1 << to))
}

/// The 2-bit fields of pair `p` of a superblock: each 32 bytes hold four blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn two_bits(a: &[u8; 64], p: usize) -> __m512i {
    let twice = _mm512_broadcast_i64x4(load_256(&a.as_chunks().0[p / 2]));
    let (i, j) = (4 * (p % 2) as i64, 4 * (p % 2) as i64 + 2);
    let fields = _mm512_srlv_epi64(twice, _mm512_setr_epi64(i, i, i, i, j, j, j, j));
    _mm512_and_si512(fields, _mm512_set1_epi8(0x03))
}

/// The table's values, plus `offset`, of 64 codes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn look_up(table: &[i8; 16], offset: i8, codes: __m512i) -> __m512i {
    let table = _mm_add_epi8(load_128(bytemuck::cast_ref(table)), _mm_set1_epi8(offset));
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes)
}

/// Sum of w t over four neighbouring values, for the 64 values of pair `p` of a group. `z` holds the group's zero
/// points eight times.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn integer_sums(w: __m512i, x: &Group<'_>, z: __m512i, p: usize) -> __m512i {
    let q = load_512(&x.q.as_chunks().0[p]);
    let p = 2 * p as i8;
    let lane = |b: i8| _mm_set1_epi8(b);
    let index = _mm512_inserti32x4::<3>(
        _mm512_inserti32x4::<2>(_mm512_broadcast_i32x4(lane(p)), lane(p + 1)),
        lane(p + 1),
    );
    let z = _mm512_shuffle_epi8(z, index);
    _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w, q), w, z)
}

/// Zero points of a group, eight times.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn zero_points(x: &Group<'_>) -> __m512i {
    _mm512_set1_epi64(i64::from_le_bytes(x.z.map(|z| z as u8)))
}

/// Sum of t of each block of a group.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn block_sums(x: &Group<'_>, factors: __m256i) -> __m256 {
    // SAFETY: reads the sixteen sums; the load needs no alignment.
    let sums = unsafe { _mm256_loadu_si256(x.sum.as_ptr().cast()) };
    _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, factors))
}

/// Running sums of N dot products.
struct Acc<const N: usize> {
    main: [__m512; N],
    offset: [__m256; N],
}

impl<const N: usize> Acc<N> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn new() -> Self {
        Acc { main: [_mm512_setzero_ps(); N], offset: [_mm256_setzero_ps(); N] }
    }

    /// Adds a group of `blocks` blocks with one scale `d` and one offset `m` a block; `unpack(p)` gives pair `p`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn group(
        &mut self,
        x: [Group<'_>; N],
        d: __m256,
        m: __m256,
        blocks: usize,
        unpack: impl Fn(usize) -> __m512i,
    ) {
        let mut scale = [_mm512_setzero_ps(); N];
        let mut z = [_mm512_setzero_si512(); N];
        for c in 0..N {
            let d_x = load_ps(x[c].d);
            scale[c] = _mm512_castps256_ps512(_mm256_mul_ps(d, d_x));
            z[c] = zero_points(&x[c]);
            let sums = block_sums(&x[c], _mm256_set1_epi16(1));
            self.offset[c] = _mm256_fmadd_ps(_mm256_mul_ps(m, d_x), sums, self.offset[c]);
        }
        for p in 0..blocks.div_ceil(2) {
            let w = unpack(p);
            let (a, b) = (2 * p as i32, 2 * p as i32 + 1);
            let index = _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b);
            for c in 0..N {
                let sums = _mm512_cvtepi32_ps(integer_sums(w, &x[c], z[c], p));
                self.main[c] = _mm512_fmadd_ps(sums, _mm512_permutexvar_ps(index, scale[c]), self.main[c]);
            }
        }
    }

    /// Adds a superblock whose half blocks, of 16 weights, have scales `d * scales` and offsets `m * offsets`;
    /// `unpack(p)` gives pair `p` of blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn half_blocks(
        &mut self,
        x: [Group<'_>; N],
        (d, scales): (__m256, __m128i),
        (m, offsets): (__m256, __m128i),
        unpack: impl Fn(usize) -> __m512i,
    ) {
        let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales));
        let d = _mm512_mul_ps(_mm512_broadcast_f32x8(d), scales);
        let mut scale = [_mm512_setzero_ps(); N];
        let mut z = [_mm512_setzero_si512(); N];
        for c in 0..N {
            let d_x = load_ps(x[c].d);
            let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            scale[c] = _mm512_mul_ps(d, _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(d_x)));
            z[c] = zero_points(&x[c]);
            let sums = block_sums(&x[c], _mm256_cvtepi8_epi16(offsets));
            self.offset[c] = _mm256_fmadd_ps(_mm256_mul_ps(m, d_x), sums, self.offset[c]);
        }
        for p in 0..GROUP / 2 {
            let w = unpack(p);
            let i = 4 * p as i32;
            let (j, k, l) = (i + 1, i + 2, i + 3);
            let index = _mm512_setr_epi32(i, i, i, i, j, j, j, j, k, k, k, k, l, l, l, l);
            for c in 0..N {
                let sums = _mm512_cvtepi32_ps(integer_sums(w, &x[c], z[c], p));
                self.main[c] = _mm512_fmadd_ps(sums, _mm512_permutexvar_ps(index, scale[c]), self.main[c]);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn sum(self) -> [f32; N] {
        std::array::from_fn(|c| {
            let main = self.main[c];
            let low = _mm256_add_ps(_mm512_castps512_ps256(main), self.offset[c]);
            let eight = _mm256_add_ps(low, _mm512_extractf32x8_ps::<1>(main));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }
}
