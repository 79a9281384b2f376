//! 256-bit vectors with `vpmaddubsw` (u8 x s8 products, two to an i16).
//!
//! As on avx512vnni, weights become unsigned bytes w and meet the activations t = q + z in integers. An i16 holds
//! 2 * 63 * (127 + 127), the largest sum of two products of a 6-bit weight; 8-bit weights need the detour in `q8_0`.

pub(crate) mod ops;
pub(crate) mod peak;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;

use super::{GROUP, Group};
use crate::quant::Type;
use crate::table::MatMulFn;
use std::arch::x86_64::*;

/// The formats that this level has a kernel for.
pub(crate) const MATMUL: &[(Type, MatMulFn)] = &[
    (Type::Q4_0, MatMulFn::Q8(q4_0::matmul)),
    (Type::Q4_1, MatMulFn::Q8(q4_1::matmul)),
    (Type::Q8_0, MatMulFn::Q8(q8_0::matmul)),
    (Type::Q4_K, MatMulFn::Q8(q4_k::matmul)),
    (Type::Q6_K, MatMulFn::Q8(q6_k::matmul)),
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

/// The f16 at byte `at` of each of up to eight blocks, as floats; 0 for those that are missing.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales<const BYTES: usize>(b: &[[u8; BYTES]], at: usize) -> __m256 {
    let h: [i16; GROUP] =
        std::array::from_fn(|i| b.get(i).map_or(0, |b| i16::from_le_bytes([b[at], b[at + 1]])));
    _mm256_cvtph_ps(_mm_set_epi16(h[7], h[6], h[5], h[4], h[3], h[2], h[1], h[0]))
}

/// Sixteen bytes of nibbles as 32 bytes: low nibbles, then high ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(a: &[u8; 16]) -> __m256i {
    let a = load_128(a);
    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), _mm_srli_epi16::<4>(a));
    _mm256_and_si256(both, _mm256_set1_epi8(0x0f))
}

/// The activations q and zero points of block `b` of a group. `z` holds the group's zero points four times.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn activations(x: &Group<'_>, z: __m256i, b: usize) -> (__m256i, __m256i) {
    let q = load_256(bytemuck::cast_ref::<[i8; 32], _>(&x.q.as_chunks().0[b]));
    (q, _mm256_shuffle_epi8(z, _mm256_set1_epi8(b as i8)))
}

/// Zero points of a group, four times.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn zero_points(x: &Group<'_>) -> __m256i {
    _mm256_set1_epi64x(i64::from_le_bytes(x.z.map(|z| z as u8)))
}

/// Sum of w t over two neighbouring values, for unsigned weights of at most 6 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn integer_sums(w: __m256i, x: &Group<'_>, z: __m256i, b: usize) -> __m256i {
    let (q, z) = activations(x, z, b);
    _mm256_add_epi16(_mm256_maddubs_epi16(w, q), _mm256_maddubs_epi16(w, z))
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
