//! Rows of weights times a few columns of activations: weights are unpacked once for up to [`COLUMNS`] columns and meet
//! their activations in integers, so exactly; a sum of one block becomes a float, once, and is scaled.
//!
//! Activations are first laid out as the kernels read them, at the price of one row of weights for each call, in groups
//! of eight blocks, the last of which may be filled up with zeros. There are four kinds of formats:
//!
//! - [`pairs`]: codes that leave room in an i16 for a sum of eight products. The first halves of two blocks share a
//!   vector and the second halves another, so that both meet in one sum, which holds two blocks:
//!
//!   ```text
//!   first = | a 0..16 | b 0..16 |     second = | a 16..32 | b 16..32 |      t = q + z
//!   sums of code t = maddubs(first, q) + maddubs(second, q) + maddubs(first + second, z)
//!   ```
//!
//! - [`halves`]: blocks whose halves have integer scales, which meet the i16 sums of the halves.
//! - [`wide()`]: codes of so many bits that an i16 cannot add up their products, or with signs; codes and activations
//!   become i16.
//! - [`wide_halves`]: the same of blocks whose halves have scales.

use super::*;
use crate::cpu::{Streams, prefetch_after};
use crate::quant::q8::{BLOCK, Q8Mat, Q8Row, SUM_BLOCK};
use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;

/// Columns that share the unpacking of weights: as many as there are registers for.
const COLUMNS: usize = 4;

thread_local! {
    /// Memory for the activations of some columns, kept from call to call.
    static PREPARED: RefCell<Vec<u32>> = RefCell::default();
}

/// Activations of a group of blocks, as a kind of kernels reads them.
trait Prepared: Pod {
    /// From a group of a row, which lacks blocks only at the end of it.
    fn new(x: Q8Row<'_>) -> Self;
}

/// For [`pairs`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Pairs {
    /// Of each pair of blocks the first halves, then the second halves.
    q: [[i8; 32]; GROUP],
    /// Zero points of each pair, where its values are.
    z: [[i8; 32]; GROUP / 2],
    d: [f32; GROUP],
    /// d times the sum of t.
    sum: [f32; GROUP],
}

impl Prepared for Pairs {
    #[inline(always)]
    fn new(x: Q8Row<'_>) -> Self {
        let mut to = Pairs::zeroed();
        for (b, q) in x.q.as_chunks::<BLOCK>().0.iter().enumerate() {
            let lane = b % 2 * 16..b % 2 * 16 + 16;
            for (half, q) in q.as_chunks::<16>().0.iter().enumerate() {
                to.q[b / 2 * 2 + half][lane.clone()].copy_from_slice(q);
            }
            to.z[b / 2][lane].fill(x.z[b]);
            to.d[b] = x.d[b];
            to.sum[b] = x.d[b] * x.sum_of(b * BLOCK, BLOCK) as f32;
        }
        to
    }
}

/// For [`halves`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Halves {
    q: [[i8; BLOCK]; GROUP],
    /// Zero points, four times.
    z: [[i8; 4]; GROUP],
    d: [f32; GROUP],
    /// Sums of t of half blocks.
    sum: [i16; 2 * GROUP],
}

impl Prepared for Halves {
    #[inline(always)]
    fn new(x: Q8Row<'_>) -> Self {
        let mut to = Halves::zeroed();
        to.q.as_flattened_mut()[..x.q.len()].copy_from_slice(x.q);
        for (to, z) in to.z.iter_mut().zip(x.z) {
            *to = [*z; 4];
        }
        to.d[..x.d.len()].copy_from_slice(x.d);
        to.sum[..x.sum.len()].copy_from_slice(x.sum);
        to
    }
}

/// For [`wide()`] and [`wide_halves`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Wide {
    t: [[i16; 16]; 2 * GROUP],
    d: [f32; GROUP],
}

impl Prepared for Wide {
    #[inline(always)]
    fn new(x: Q8Row<'_>) -> Self {
        let mut to = Wide::zeroed();
        for (i, q) in x.q.as_chunks::<16>().0.iter().enumerate() {
            to.t[i] = q.map(|q| i16::from(q) + i16::from(x.z[i / 2]));
        }
        to.d[..x.d.len()].copy_from_slice(x.d);
        to
    }
}

/// Lays out all columns and calls `columns(x, n, y)` for some of them at a time: x (n, groups), y (n, rows).
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn by_columns<P: Prepared>(x: Q8Mat<'_>, y: &mut [f32], columns: impl Fn(&[P], usize, &mut [f32])) {
    let (k, rows) = (x.row_len, y.len() / x.rows());
    let groups = k.div_ceil(GROUP * BLOCK);
    PREPARED.with_borrow_mut(|memory| {
        memory.resize(COLUMNS * groups * size_of::<P>() / size_of::<u32>(), 0);
        let memory: &mut [P] = bytemuck::cast_slice_mut(memory);
        for (i, y) in y.chunks_mut(COLUMNS * rows).enumerate() {
            let n = y.len() / rows;
            for (c, to) in memory.chunks_exact_mut(groups).take(n).enumerate() {
                let x = x.row(i * COLUMNS + c);
                for (g, to) in to.iter_mut().enumerate() {
                    let part = |unit: usize| g * GROUP * BLOCK / unit..k.min((g + 1) * GROUP * BLOCK) / unit;
                    let (z, d) = (&x.z[part(BLOCK)], &x.d[part(BLOCK)]);
                    *to = P::new(Q8Row { q: &x.q[part(1)], z, d, sum: &x.sum[part(SUM_BLOCK)] });
                }
            }
            columns(&memory[..n * groups], n, y);
        }
    });
}

/// Defines `$name`, a matrix product `(w, x, y)` (see `table::MatMul`) of the formats of a kind, from `$add`, which adds
/// a group of weights times N columns to the running sums `$acc`. `BYTES`: of a whole group; the functions give a group's
/// scales and codes.
macro_rules! matmul_of {
    ($(#[$doc:meta])* $name:ident, $prepared:ty, $acc:ident, $scales:ty, $codes:ty) => {
        $(#[$doc])*
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline]
        pub(super) fn $name<const BYTES: usize>(
            w: &[u8],
            x: Q8Mat<'_>,
            y: &mut [f32],
            scales: impl Fn(&[u8]) -> $scales,
            codes: impl Fn(&[u8], usize) -> $codes,
        ) {
            let blocks = x.row_len / BLOCK;
            by_columns::<$prepared>(x, y, |x, n, y| {
                match n {
                    1 => rows::<1, BYTES>(w, x, blocks, y, &scales, &codes),
                    2 => rows::<2, BYTES>(w, x, blocks, y, &scales, &codes),
                    3 => rows::<3, BYTES>(w, x, blocks, y, &scales, &codes),
                    _ => rows::<COLUMNS, BYTES>(w, x, blocks, y, &scales, &codes),
                }
            });

            /// All rows of weights times N columns.
            #[target_feature(enable = "avx2,fma,f16c")]
            fn rows<const N: usize, const BYTES: usize>(
                w: &[u8],
                x: &[$prepared],
                blocks: usize,
                y: &mut [f32],
                scales: &impl Fn(&[u8]) -> $scales,
                codes: &impl Fn(&[u8], usize) -> $codes,
            ) {
                let (rows, groups) = (y.len() / N, x.len() / N);
                let x: [&[$prepared]; N] = std::array::from_fn(|c| &x[c * groups..(c + 1) * groups]);
                let streams = Streams::new(w, rows, 4);
                streams.prefetch(w);
                for i in 0..4 * streams.len {
                    let Some(r) = streams.row(i % 4, i / 4) else { continue };
                    let row = streams.bytes(w, i % 4, i / 4);
                    let mut acc = $acc::<N>::new();
                    let (whole, rest) = row.as_chunks::<BYTES>();
                    for (g, w) in whole.iter().enumerate() {
                        prefetch_after(w);
                        acc.add(x.map(|x| &x[g]), GROUP, scales(w), |i| codes(w, i));
                    }
                    if !rest.is_empty() {
                        prefetch_after(rest);
                        acc.add(x.map(|x| &x[groups - 1]), blocks % GROUP, scales(rest), |i| codes(rest, i));
                    }
                    for (c, dot) in acc.sum().into_iter().enumerate() {
                        y[c * rows + r] = dot;
                    }
                }
            }
        }
    };
}

matmul_of!(
    /// Formats of small unsigned codes with a scale and an offset a block; codes of a pair of blocks: see the module's
    /// documentation. A last block without a partner takes any codes for it: its activations are zero.
    pairs, Pairs, PairSums, (__m256, __m256), [__m256i; 2]
);

matmul_of!(
    /// Formats with a scale and an offset for each half block; codes of a block, unsigned and of at most 6 bits.
    halves, Halves, HalfSums, HalfScales, __m256i
);

matmul_of!(
    /// Formats with a scale a block; codes of a block, signed.
    wide, Wide, WideSums, __m256, __m256i
);

matmul_of!(
    /// Formats with a scale for each half block; codes of a block, signed.
    wide_halves, Wide, WideHalfSums, [__m256; 2], __m256i
);

/// Running sums of N dot products.
struct PairSums<const N: usize> {
    main: [__m256; N],
    offset: [__m256; N],
}

impl<const N: usize> PairSums<N> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new() -> Self {
        PairSums { main: [_mm256_setzero_ps(); N], offset: [_mm256_setzero_ps(); N] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn add(
        &mut self,
        x: [&Pairs; N],
        blocks: usize,
        (d, m): (__m256, __m256),
        codes: impl Fn(usize) -> [__m256i; 2],
    ) {
        let mut scale = [d; N];
        for c in 0..N {
            scale[c] = _mm256_mul_ps(d, load_ps(&x[c].d));
            self.offset[c] = _mm256_fmadd_ps(m, load_ps(&x[c].sum), self.offset[c]);
        }
        for p in 0..blocks.div_ceil(2) {
            let [first, second] = codes(p);
            let both = _mm256_add_epi8(first, second);
            let (a, b) = (2 * p as i32, 2 * p as i32 + 1);
            let lanes = _mm256_setr_epi32(a, a, a, a, b, b, b, b);
            for c in 0..N {
                // at most 8 * 31 * 127, so that nothing saturates
                let q = _mm256_add_epi16(
                    _mm256_maddubs_epi16(first, load_i8(&x[c].q[2 * p])),
                    _mm256_maddubs_epi16(second, load_i8(&x[c].q[2 * p + 1])),
                );
                let sums = _mm256_add_epi16(q, _mm256_maddubs_epi16(both, load_i8(&x[c].z[p])));
                let sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
                self.main[c] = _mm256_fmadd_ps(sums, _mm256_permutevar8x32_ps(scale[c], lanes), self.main[c]);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn sum(self) -> [f32; N] {
        std::array::from_fn(|c| sum_lanes(_mm256_add_ps(self.main[c], self.offset[c])))
    }
}

/// Scales and offsets of a superblock's half blocks: `d * scales` and `m * offsets`.
pub(super) struct HalfScales {
    /// Unit of the scales, in all lanes.
    pub(super) d: __m256,
    /// Integer scales.
    pub(super) scales: __m128i,
    /// Unit of the offsets, in all lanes.
    pub(super) m: __m256,
    /// Integer offsets.
    pub(super) offsets: __m128i,
}

/// Running sums of N dot products.
struct HalfSums<const N: usize> {
    main: [__m256; N],
    offset: [__m256; N],
}

impl<const N: usize> HalfSums<N> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new() -> Self {
        HalfSums { main: [_mm256_setzero_ps(); N], offset: [_mm256_setzero_ps(); N] }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn add(&mut self, x: [&Halves; N], blocks: usize, w: HalfScales, codes: impl Fn(usize) -> __m256i) {
        let mut scale = [[0.0; GROUP]; N];
        let offsets = _mm256_cvtepi8_epi16(w.offsets);
        for c in 0..N {
            let d_x = load_ps(&x[c].d);
            scale[c] = floats(_mm256_mul_ps(w.d, d_x));
            let sums = _mm256_madd_epi16(load_256(bytemuck::cast_ref(&x[c].sum)), offsets);
            self.offset[c] =
                _mm256_fmadd_ps(_mm256_mul_ps(w.m, d_x), _mm256_cvtepi32_ps(sums), self.offset[c]);
        }
        // the scales of first halves in the low lane, those of second halves in the high one
        let by_half = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        let scales = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(w.scales, by_half));
        for b in 0..blocks {
            let codes = codes(b);
            let factors = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(0x0100 + 0x0202 * b as i16));
            for c in 0..N {
                let q = _mm256_maddubs_epi16(codes, load_i8(&x[c].q[b]));
                let z = _mm256_maddubs_epi16(
                    codes,
                    _mm256_set1_epi32(i32::from_ne_bytes(x[c].z[b].map(|z| z as u8))),
                );
                // 8 * 2 * 63 * 254 * 128 fits an i32
                let sums = _mm256_madd_epi16(_mm256_add_epi16(q, z), factors);
                let scale = _mm256_set1_ps(scale[c][b]);
                self.main[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, self.main[c]);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn sum(self) -> [f32; N] {
        std::array::from_fn(|c| sum_lanes(_mm256_add_ps(self.main[c], self.offset[c])))
    }
}

/// Running sums of N dot products, those of even blocks and those of odd ones: a chain of additions takes four times
/// as long as there are additions to start.
struct WideSums<const N: usize>([[__m256; N]; 2]);

impl<const N: usize> WideSums<N> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new() -> Self {
        WideSums([[_mm256_setzero_ps(); N]; 2])
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn add(&mut self, x: [&Wide; N], blocks: usize, d: __m256, codes: impl Fn(usize) -> __m256i) {
        let mut scale = [[0.0; GROUP]; N];
        for c in 0..N {
            scale[c] = floats(_mm256_mul_ps(d, load_ps(&x[c].d)));
        }
        for b in 0..blocks {
            let codes = codes(b);
            let first = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(codes));
            let second = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(codes));
            for c in 0..N {
                let t = |i: usize| load_256(bytemuck::cast_ref(&x[c].t[2 * b + i]));
                let sums = _mm256_add_epi32(_mm256_madd_epi16(first, t(0)), _mm256_madd_epi16(second, t(1)));
                let scale = _mm256_set1_ps(scale[c][b]);
                let acc = &mut self.0[b % 2][c];
                *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, *acc);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn sum(self) -> [f32; N] {
        let [even, odd] = self.0;
        std::array::from_fn(|c| sum_lanes(_mm256_add_ps(even[c], odd[c])))
    }
}

/// Running sums of N dot products, those of first halves of blocks and those of second ones.
struct WideHalfSums<const N: usize>([[__m256; N]; 2]);

impl<const N: usize> WideHalfSums<N> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new() -> Self {
        WideHalfSums([[_mm256_setzero_ps(); N]; 2])
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn add(&mut self, x: [&Wide; N], blocks: usize, d: [__m256; 2], codes: impl Fn(usize) -> __m256i) {
        let mut scale = [[[0.0; GROUP]; 2]; N];
        for c in 0..N {
            let d_x = load_ps(&x[c].d);
            let twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
            let four_on = _mm256_add_epi32(twice, _mm256_set1_epi32(4));
            scale[c][0] = floats(_mm256_mul_ps(d[0], _mm256_permutevar8x32_ps(d_x, twice)));
            scale[c][1] = floats(_mm256_mul_ps(d[1], _mm256_permutevar8x32_ps(d_x, four_on)));
        }
        for b in 0..blocks {
            let codes = codes(b);
            let halves = [
                _mm256_cvtepi8_epi16(_mm256_castsi256_si128(codes)),
                _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(codes)),
            ];
            for c in 0..N {
                for (h, codes) in halves.iter().enumerate() {
                    let sums = _mm256_madd_epi16(*codes, load_256(bytemuck::cast_ref(&x[c].t[2 * b + h])));
                    let scale = _mm256_set1_ps(scale[c].as_flattened()[2 * b + h]);
                    let acc = &mut self.0[h][c];
                    *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, *acc);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn sum(self) -> [f32; N] {
        let [first, second] = self.0;
        std::array::from_fn(|c| sum_lanes(_mm256_add_ps(first[c], second[c])))
    }
}

/// The sum of eight floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum_lanes(eight: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
