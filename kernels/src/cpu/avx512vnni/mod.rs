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

pub(crate) mod gemm;
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
use super::{GROUP, Group, dot_of_blocks, dot_of_superblocks, high_bits_and_nibbles};
use crate::quant::Type;
use crate::table::PackedMat;
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

/// A row of the table of products of many tokens.
macro_rules! packed {
    ($type:ident, $format:ident) => {
        (Type::$type, {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            fn matmul(w: &[u8], x: PackedMat<'_>, y: &mut [f32]) {
                gemm::matmul(&$format::FORMAT, w, x, y)
            }
            matmul
        })
    };
}

/// Products of many tokens, of all block formats.
pub(crate) const MATMUL_PACKED: &[(Type, MatMulPacked)] = &[
    packed!(Q4_0, q4_0),
    packed!(Q4_1, q4_1),
    packed!(Q5_0, q5_0),
    packed!(Q5_1, q5_1),
    packed!(Q8_0, q8_0),
    packed!(Q2_K, q2_k),
    packed!(Q3_K, q3_k),
    packed!(Q4_K, q4_k),
    packed!(Q5_K, q5_k),
    packed!(Q6_K, q6_k),
    packed!(IQ4_NL, iq4_nl),
    packed!(IQ4_XS, iq4_xs),
    packed!(MXFP4, mxfp4),
];

// Loads and stores.

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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_ps(x: __m256, to: &mut [f32; 8]) {
    // SAFETY: writes the eight floats of `to`; the store needs no alignment.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(crate) fn load_floats(a: &[f32; 16]) -> __m512 {
    // SAFETY: reads the sixteen floats of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_ps(a.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_floats(x: __m512, to: &mut [f32; 16]) {
    // SAFETY: writes the sixteen floats of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}

/// Turns sixteen rows of sixteen words into sixteen columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(crate) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // 2 x 2 words, then 2 x 2 pairs of words: after that each 128-bit lane holds a column of four rows
    let mut a = [_mm512_setzero_si512(); 16];
    for i in 0..16 / 2 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut b = a;
    for i in 0..16 / 4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    // now the lanes: b[4 i + j] has column j + 4 l of rows 4 i to 4 i + 3 in its lane l
    let mut columns = b;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[4 + j]);
        let high = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[4 + j]);
        let low_2 = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
        let high_2 = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low_2);
        columns[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low_2);
        columns[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high_2);
        columns[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high_2);
    }
    columns
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

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked { bytes: [[0; 64]; 4], scales: Scales::default() }
    }
}

/// What makes weights of the bytes of eight blocks: d byte + m. Each has a scale and an offset.
struct Blocks {
    d: __m256,
    m: __m256,
}

impl Blocks {
    /// Symmetric blocks, whose bytes are `shift` more than their codes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn shifted(d: __m256, shift: u8) -> Self {
        Blocks { d, m: _mm256_mul_ps(d, _mm256_set1_ps(-f32::from(shift))) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn store(self, to: &mut Scales) {
        store_ps(self.d, to.scales.first_chunk_mut().expect("eight of sixteen"));
        store_ps(self.m, to.offsets.first_chunk_mut().expect("eight of sixteen"));
    }
}

/// What makes weights of the bytes of eight blocks: d scale byte + m min. Each half block has a scale and a minimum.
struct Halves {
    d: __m256,
    scales: __m128i,
    m: __m256,
    mins: __m128i,
}

impl Halves {
    /// Symmetric blocks, whose bytes are `shift` more than their codes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn shifted(d: __m256, scales: __m128i, shift: u8) -> Self {
        Halves { d, scales, m: _mm256_mul_ps(d, _mm256_set1_ps(-f32::from(shift))), mins: scales }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn store(self, to: &mut Scales) {
        let product =
            |d, x| _mm512_mul_ps(_mm512_broadcast_f32x8(d), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)));
        store_floats(product(self.d, self.scales), &mut to.scales);
        store_floats(product(self.m, self.mins), &mut to.offsets);
    }
}

/// Scales and offsets of up to 256 weights: one of each for 32 of them, or for 16.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Scales {
    pub(crate) scales: [f32; 16],
    pub(crate) offsets: [f32; 16],
}

/// Up to 256 weights of a row, taken apart: weight = scale byte + offset. What the row does not have is meaningless.
#[repr(C, align(64))]
struct Unpacked {
    bytes: [[u8; 64]; 4],
    scales: Scales,
}

/// What the kernels for many tokens know of a format.
struct Format {
    /// Takes group `i` of 256 weights of a row apart; needs this level.
    unpack: unsafe fn(&[u8], usize, &mut Unpacked),
    /// Whether half blocks have their own scales.
    halves: bool,
    /// For symmetric formats: what the bytes are more than the codes; offset = -shift scale.
    shift: Option<u8>,
}

/// Defines the kernels of a format of 32-weight blocks of `$bytes` bytes from the module's `parts`.
macro_rules! kernels_of_blocks {
    ($bytes:expr, $shift:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; $bytes]], x: [Group<'_>; N]) {
            let (parts, pair) = parts(b);
            acc.blocks(parts, x, b.len(), pair);
        }
        dot_of_blocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", $bytes, Acc<N>);

        /// Takes group `i` of 256 weights of a row apart: `take` gets four pairs of blocks, one by one.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        pub(crate) fn each_pair(
            row: &[u8],
            i: usize,
            scales: &mut Scales,
            mut take: impl FnMut(&Scales, usize, __m512i),
        ) {
            let row = row.as_chunks::<{ $bytes }>().0;
            let (parts, pair) = parts(&row[i * GROUP..row.len().min((i + 1) * GROUP)]);
            parts.store(scales);
            for p in 0..GROUP / 2 {
                take(scales, p, pair(p));
            }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn unpack(row: &[u8], i: usize, to: &mut Unpacked) {
            each_pair(row, i, &mut to.scales, |_, p, bytes| store_512(bytes, &mut to.bytes[p]));
        }
        pub(super) const FORMAT: Format = Format { unpack, halves: HALVES, shift: $shift };
        /// Whether half blocks have their own scales.
        pub(crate) const HALVES: bool = false;
    };
}
use kernels_of_blocks;

/// Defines the kernels of a format of 256-weight superblocks from the module's `parts`.
macro_rules! kernels_of_superblocks {
    ($add:ident, $halves:literal, $shift:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; size_of::<Block>()], x: [Group<'_>; N]) {
            let (parts, pair) = parts(bytemuck::from_bytes(w));
            acc.$add(parts, x, GROUP, pair);
        }
        dot_of_superblocks!(
            "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
            size_of::<Block>(),
            Acc<N>
        );

        /// Takes group `i` of 256 weights of a row apart: `take` gets four pairs of blocks, one by one.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        pub(crate) fn each_pair(
            row: &[u8],
            i: usize,
            scales: &mut Scales,
            mut take: impl FnMut(&Scales, usize, __m512i),
        ) {
            let (parts, pair) = parts(&bytemuck::cast_slice(row)[i]);
            parts.store(scales);
            for p in 0..GROUP / 2 {
                take(scales, p, pair(p));
            }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn unpack(row: &[u8], i: usize, to: &mut Unpacked) {
            each_pair(row, i, &mut to.scales, |_, p, bytes| store_512(bytes, &mut to.bytes[p]));
        }
        pub(super) const FORMAT: Format = Format { unpack, halves: HALVES, shift: $shift };
        /// Whether half blocks have their own scales.
        pub(crate) const HALVES: bool = $halves;
    };
}
use kernels_of_superblocks;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_512(x: __m512i, to: &mut [u8; 64]) {
    // SAFETY: writes the 64 bytes of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
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

    /// Adds a group of `blocks` blocks; `pair(p)` gives the bytes of two of them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn blocks(
        &mut self,
        Blocks { d, m }: Blocks,
        x: [Group<'_>; N],
        blocks: usize,
        pair: impl Fn(usize) -> __m512i,
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
            let w = pair(p);
            let (a, b) = (2 * p as i32, 2 * p as i32 + 1);
            let index = _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b);
            for c in 0..N {
                let sums = _mm512_cvtepi32_ps(integer_sums(w, &x[c], z[c], p));
                self.main[c] = _mm512_fmadd_ps(sums, _mm512_permutexvar_ps(index, scale[c]), self.main[c]);
            }
        }
    }

    /// Adds a superblock of blocks whose halves, of 16 weights, have their own scales.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn halves(
        &mut self,
        Halves { d, scales, m, mins }: Halves,
        x: [Group<'_>; N],
        blocks: usize,
        pair: impl Fn(usize) -> __m512i,
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
            let sums = block_sums(&x[c], _mm256_cvtepi8_epi16(mins));
            self.offset[c] = _mm256_fmadd_ps(_mm256_mul_ps(m, d_x), sums, self.offset[c]);
        }
        for p in 0..blocks / 2 {
            let w = pair(p);
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
