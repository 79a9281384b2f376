//! 256-bit vectors with `vpmaddubsw` (u8 x s8 products, two to an i16).
//!
//! As on avx512vnni, weights become unsigned bytes w and meet the activations t = q + z in integers. An i16 holds
//! 2 * 63 * (127 + 127), the largest sum of two products of a 6-bit weight; 8-bit weights need the detour in
//! `Acc::signed_group`.

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

use super::{GROUP, Group, high_bits_and_nibbles, k_scales};
use crate::quant::Type;
use crate::table::MatMulFn;
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

// Loads: the only unsafe code of the kernels in this folder.

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_256(a: &[u8; 32]) -> __m256i {
    // SAFETY: reads the 32 bytes of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_si256(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_128(a: &[u8; 16]) -> __m128i {
    // SAFETY: reads the 16 bytes of `a`; the load needs no alignment.
    unsafe { _mm_loadu_si128(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_ps(a: &[f32; 8]) -> __m256 {
    // SAFETY: reads the eight floats of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_ps(a.as_ptr()) }
}

/// The floats of a vector, to be broadcast one by one.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats(v: __m256) -> [f32; 8] {
    let mut a = [0.0; 8];
    // SAFETY: writes the eight floats of `a`; the store needs no alignment.
    unsafe { _mm256_storeu_ps(a.as_mut_ptr(), v) };
    a
}

/// The 32-bit integers of a vector, to be broadcast one by one.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn words(v: __m256i) -> [i32; 8] {
    let mut a = [0; 8];
    // SAFETY: writes the eight integers of `a`; the store needs no alignment.
    unsafe { _mm256_storeu_si256(a.as_mut_ptr().cast(), v) };
    a
}

/// The f16 at byte `at` of each of up to eight blocks, as floats; 0 for those that are missing.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales<const BYTES: usize>(b: &[[u8; BYTES]], at: usize) -> __m256 {
    let h: [i16; GROUP] =
        std::array::from_fn(|i| b.get(i).map_or(0, |b| i16::from_le_bytes([b[at], b[at + 1]])));
    _mm256_cvtph_ps(_mm_set_epi16(h[7], h[6], h[5], h[4], h[3], h[2], h[1], h[0]))
}

/// An f16, as the float that fills a vector.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn unit(h: [u8; 2]) -> __m256 {
    _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(h)))))
}

/// Scales and offsets of a Q4_K or Q5_K superblock's blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn k_scales_and_offsets(d: [u8; 2], dmin: [u8; 2], packed: &[u8; 12]) -> (__m256, __m256) {
    let (scales, mins) = k_scales(packed);
    let floats = |bytes: [u8; 8]| {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(bytes))))
    };
    let minus_dmin = _mm256_sub_ps(_mm256_setzero_ps(), unit(dmin));
    (_mm256_mul_ps(unit(d), floats(scales)), _mm256_mul_ps(minus_dmin, floats(mins)))
}

/// Sixteen bytes of nibbles as 32 bytes: low nibbles, then high ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(a: &[u8; 16]) -> __m256i {
    let a = load_128(a);
    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), _mm_srli_epi16::<4>(a));
    _mm256_and_si256(both, _mm256_set1_epi8(0x0f))
}

/// The nibbles of block `b` of a Q4_K or Q5_K superblock: each 32 bytes hold two blocks, the low nibbles one and the
/// high ones the next.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn k_nibbles(a: &[u8; 128], b: usize) -> __m256i {
    let shifted = _mm256_srl_epi16(load_256(&a.as_chunks().0[b / 2]), _mm_cvtsi32_si128(4 * (b % 2) as i32));
    _mm256_and_si256(shifted, _mm256_set1_epi8(0x0f))
}

/// The 5-bit codes of a Q5_0 or Q5_1 block: four bytes of high bits, then sixteen of low nibbles.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn five_bits(codes: &[u8; 20]) -> __m256i {
    let (high, low) = high_bits_and_nibbles(codes);
    // the byte that holds the bit, then the bit
    let spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
    );
    let high = _mm256_shuffle_epi8(_mm256_set1_epi32(high.cast_signed()), spread);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
    _mm256_or_si256(nibbles(low), _mm256_and_si256(is_set, _mm256_set1_epi8(0x10)))
}

/// Bit `b` of 32 bytes, as bit `to` of 32 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn bits(a: &[u8; 32], b: usize, to: usize) -> __m256i {
    let a = load_256(a);
    let moved = if b < to {
        _mm256_sll_epi16(a, _mm_cvtsi32_si128((to - b) as i32))
    } else {
        _mm256_srl_epi16(a, _mm_cvtsi32_si128((b - to) as i32))
    };
    _mm256_and_si256(moved, _mm256_set1_epi8(1 << to))
}

/// The 2-bit fields of block `b` of a superblock: each 32 bytes hold four blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn two_bits(a: &[u8; 64], b: usize) -> __m256i {
    let fields = _mm256_srl_epi16(load_256(&a.as_chunks().0[b / 4]), _mm_cvtsi32_si128(2 * (b % 4) as i32));
    _mm256_and_si256(fields, _mm256_set1_epi8(0x03))
}

/// The table's values, plus `offset`, of 32 codes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn look_up(table: &[i8; 16], offset: i8, codes: __m256i) -> __m256i {
    let table = _mm_add_epi8(load_128(bytemuck::cast_ref(table)), _mm_set1_epi8(offset));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
}

/// The activations q of block `b` of a group.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn activations(x: &Group<'_>, b: usize) -> __m256i {
    load_256(bytemuck::cast_ref::<[i8; 32], _>(&x.q.as_chunks().0[b]))
}

/// Zero points of a group, four times.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn zero_points(x: &Group<'_>) -> __m256i {
    _mm256_set1_epi64x(i64::from_le_bytes(x.z.map(|z| z as u8)))
}

/// Sum of w t over two neighbouring values, for unsigned weights of at most 6 bits. `z` holds the group's zero points
/// four times.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn integer_sums(w: __m256i, x: &Group<'_>, z: __m256i, b: usize) -> __m256i {
    let z = _mm256_shuffle_epi8(z, _mm256_set1_epi8(b as i8));
    _mm256_add_epi16(_mm256_maddubs_epi16(w, activations(x, b)), _mm256_maddubs_epi16(w, z))
}

/// Sums of t of each block of a group, with one factor for each sum of sixteen.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn block_sums(x: &Group<'_>, factors: __m256i) -> __m256 {
    let sums = load_256(bytemuck::cast_ref(x.sum));
    _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, factors))
}

/// Running sums of N dot products.
struct Acc<const N: usize> {
    main: [__m256; N],
    offset: [__m256; N],
}

impl<const N: usize> Acc<N> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new() -> Self {
        Acc { main: [_mm256_setzero_ps(); N], offset: [_mm256_setzero_ps(); N] }
    }

    /// Adds a group of `blocks` blocks with one scale `d` and one offset `m` a block; `unpack(b)` gives block `b`.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn group(
        &mut self,
        x: [Group<'_>; N],
        d: __m256,
        m: __m256,
        blocks: usize,
        unpack: impl Fn(usize) -> __m256i,
    ) {
        let mut scale = [[0.0; GROUP]; N];
        let mut z = [_mm256_setzero_si256(); N];
        for c in 0..N {
            let d_x = load_ps(x[c].d);
            scale[c] = floats(_mm256_mul_ps(d, d_x));
            z[c] = zero_points(&x[c]);
            let sums = block_sums(&x[c], _mm256_set1_epi16(1));
            self.offset[c] = _mm256_fmadd_ps(_mm256_mul_ps(m, d_x), sums, self.offset[c]);
        }
        for b in 0..blocks {
            let w = unpack(b);
            for c in 0..N {
                let sums = _mm256_madd_epi16(integer_sums(w, &x[c], z[c], b), _mm256_set1_epi16(1));
                let scale = _mm256_set1_ps(scale[c][b]);
                self.main[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, self.main[c]);
            }
        }
    }

    /// Adds a group of `blocks` blocks of signed weights with one scale `d` a block; `unpack(b)` gives block `b`.
    ///
    /// |w| is the unsigned factor, and the sign of w moves to q: 2 * 128 * 127 fits an i16, so that nothing saturates.
    /// What z adds is z times the sum of w, which all columns share.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn signed_group(
        &mut self,
        x: [Group<'_>; N],
        d: __m256,
        blocks: usize,
        unpack: impl Fn(usize) -> __m256i,
    ) {
        let mut scale = [[0.0; GROUP]; N];
        let mut z = [_mm256_setzero_si256(); N]; // i16, the group's zero points twice
        for c in 0..N {
            scale[c] = floats(_mm256_mul_ps(d, load_ps(x[c].d)));
            z[c] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(zero_points(&x[c])));
        }
        for b in 0..blocks {
            let w = unpack(b);
            let size = _mm256_abs_epi8(w);
            let sums_of_w = _mm256_maddubs_epi16(_mm256_set1_epi8(1), w);
            let index = _mm256_set1_epi16(0x0100 + 0x0202 * b as i16);
            for c in 0..N {
                let q = _mm256_maddubs_epi16(size, _mm256_sign_epi8(activations(&x[c], b), w));
                let q = _mm256_madd_epi16(q, _mm256_set1_epi16(1));
                let z = _mm256_madd_epi16(sums_of_w, _mm256_shuffle_epi8(z[c], index));
                let scale = _mm256_set1_ps(scale[c][b]);
                let sums = _mm256_cvtepi32_ps(_mm256_add_epi32(q, z));
                self.main[c] = _mm256_fmadd_ps(sums, scale, self.main[c]);
            }
        }
    }

    /// Adds a superblock whose half blocks, of 16 weights, have scales `d * scales` and offsets `m * offsets`;
    /// `unpack(b)` gives block `b`.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn half_blocks(
        &mut self,
        x: [Group<'_>; N],
        (d, scales): (__m256, __m128i),
        (m, offsets): (__m256, __m128i),
        unpack: impl Fn(usize) -> __m256i,
    ) {
        let mut scale = [[0.0; GROUP]; N];
        let mut z = [_mm256_setzero_si256(); N];
        for c in 0..N {
            let d_x = load_ps(x[c].d);
            scale[c] = floats(_mm256_mul_ps(d, d_x));
            z[c] = zero_points(&x[c]);
            let sums = block_sums(&x[c], _mm256_cvtepi8_epi16(offsets));
            self.offset[c] = _mm256_fmadd_ps(_mm256_mul_ps(m, d_x), sums, self.offset[c]);
        }
        let pairs = words(_mm256_cvtepi8_epi16(scales));
        for b in 0..GROUP {
            let w = unpack(b);
            // the two scales of the block meet the i16 sums of its halves: 2 * 63 * 254 * 128 fits an i32 eight times
            let lanes = _mm256_shuffle_epi8(
                _mm256_set1_epi32(pairs[b]),
                _mm256_setr_epi8(
                    0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3,
                    2, 3,
                ),
            );
            for c in 0..N {
                let sums = _mm256_madd_epi16(integer_sums(w, &x[c], z[c], b), lanes);
                let scale = _mm256_set1_ps(scale[c][b]);
                self.main[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, self.main[c]);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn sum(self) -> [f32; N] {
        std::array::from_fn(|c| {
            let eight = _mm256_add_ps(self.main[c], self.offset[c]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }
}
