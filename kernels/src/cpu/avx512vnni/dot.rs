//! Few tokens: dot products of rows of weights, as they lie in the file, and up to eight columns of activations.
//!
//! Weights become unsigned bytes w, 64 to a vector, and meet the activations t = q + z in integers, exactly:
//!
//! ```text
//! sum of w t = dpbusd(dpbusd(0, w, q), w, z, z, ..)
//! ```
//!
//! Sums become floats and are scaled by d_w * d_x of their block. What the unsigned bytes lack (an offset such as the 8
//! of Q4_0, or a minimum) is `m * d_x * sum of t`.
//!
//! With few cores this is bound by the number of instructions as much as by memory. So the activations are laid out
//! once for all rows, in the order in which a format's bytes come out of its bits; and two rows share the work on
//! scales where there are eight of them in a row's group of 256 weights.

#![allow(
    clippy::needless_range_loop,
    reason = "closures that use a level's instructions are not inlined into iterators"
)]

use std::cell::RefCell;

use super::*;
use crate::quant::q8::{BLOCK, Q8Mat, Q8Row, SUM_BLOCK};

// In which order the 256 bytes of a group fill four vectors, each of four parts of sixteen: `(block, half of it)`.

/// As they lie in a row.
pub(super) fn natural(vector: usize, part: usize) -> (usize, usize) {
    (2 * vector + part / 2, part % 2)
}

/// Even blocks in two vectors, then odd ones, so that two vectors have the same scales in the same places: first
/// halves, then second ones.
pub(super) fn split(vector: usize, part: usize) -> (usize, usize) {
    (2 * part + vector / 2, vector % 2)
}

/// 256 activations, laid out for a format; zeros in place of those that a row does not have.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Prepared {
    q: [[i8; 64]; 4],
    /// The zero point of each q.
    z: [[i8; 64]; 4],
    /// The scale of each half block.
    d: [f32; 16],
    /// The scale of each block.
    block_d: [f32; GROUP],
    /// d times the sum of t of each block.
    block_sums: [f32; GROUP],
    /// The same of each half block.
    sums: [f32; 16],
}

impl Prepared {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn new(x: Q8Row<'_>, i: usize, order: impl Fn(usize, usize) -> (usize, usize)) -> Prepared {
        let q: [[i8; SUM_BLOCK]; 2 * GROUP] = bytemuck::cast(part_of::<_, { GROUP * BLOCK }>(x.q, i));
        let z: [i8; GROUP] = part_of(x.z, i);
        let d: [f32; GROUP] = part_of(x.d, i);
        let sum: [i16; 2 * GROUP] = part_of(x.sum, i);
        let mut to = Prepared {
            q: [[0; 64]; 4],
            z: [[0; 64]; 4],
            d: [0.0; 16],
            block_d: d,
            block_sums: [0.0; GROUP],
            sums: [0.0; 16],
        };
        for vector in 0..4 {
            for part in 0..4 {
                let (block, half) = order(vector, part);
                to.q[vector][16 * part..][..16].copy_from_slice(&q[2 * block + half]);
                to.z[vector][16 * part..][..16].fill(z[block]);
            }
        }
        for h in 0..2 * GROUP {
            to.d[h] = d[h / 2];
            to.sums[h] = d[h / 2] * f32::from(sum[h]);
        }
        for b in 0..GROUP {
            to.block_sums[b] = d[b] * f32::from(sum[2 * b] + sum[2 * b + 1]);
        }
        to
    }
}

/// Part `i` of N values; zeros beyond the end.
#[inline(always)]
fn part_of<T: Copy + Default, const N: usize>(x: &[T], i: usize) -> [T; N] {
    let x = &x[i * N..];
    x.first_chunk().copied().unwrap_or_else(|| {
        let mut part = [T::default(); N];
        part[..x.len()].copy_from_slice(x);
        part
    })
}

thread_local! {
    /// Memory for prepared activations, kept from call to call.
    static PREPARED: RefCell<Vec<Prepared>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with the groups of all columns, one column after the other.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn with_prepared(
    x: Q8Mat<'_>,
    order: impl Fn(usize, usize) -> (usize, usize),
    f: impl FnOnce(&[Prepared]),
) {
    PREPARED.with_borrow_mut(|prepared| {
        prepared.clear();
        prepare(x, order, prepared);
        f(prepared);
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn prepare(x: Q8Mat<'_>, order: impl Fn(usize, usize) -> (usize, usize), to: &mut Vec<Prepared>) {
    for row in 0..x.rows() {
        for i in 0..x.row_len.div_ceil(GROUP * BLOCK) {
            to.push(Prepared::new(x.row(row), i, &order));
        }
    }
}

/// Group `g` of each column.
#[inline(always)]
pub(super) fn group<const N: usize>(x: [&[Prepared]; N], g: usize) -> [&Prepared; N] {
    let mut group = [&x[0][g]; N];
    for c in 1..N {
        group[c] = &x[c][g];
    }
    group
}

/// Sums of four neighbouring products w t, for the vectors `first..first + V` of a group, added up.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn integer_sums<const V: usize>(w: [__m512i; V], x: &Prepared, first: usize) -> __m512i {
    let mut sums = _mm512_setzero_si512();
    for (i, w) in w.into_iter().enumerate() {
        sums = _mm512_dpbusd_epi32(sums, w, load_512(&x.q[first + i]));
        sums = _mm512_dpbusd_epi32(sums, w, load_512(&x.z[first + i]));
    }
    sums
}

/// Running sums of two rows and N columns, of formats with eight scales a group.
#[derive(Clone, Copy)]
pub(super) struct Rows2<const N: usize> {
    main: [[__m512; N]; 2],
    /// The first row's in the low half.
    offset: [__m512; N],
}

impl<const N: usize> Rows2<N> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub(super) fn new() -> Self {
        Rows2 { main: [[_mm512_setzero_ps(); N]; 2], offset: [_mm512_setzero_ps(); N] }
    }

    /// Adds a group in the order [`split`]. The first row's scales are in the low halves.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub(super) fn add_split(
        &mut self,
        x: [&Prepared; N],
        (d, m): (__m512, __m512),
        bytes: [impl Fn(usize) -> __m512i; 2],
    ) {
        let scale = self.scales(x, d, m);
        for (r, bytes) in bytes.into_iter().enumerate() {
            for odd in 0..2 {
                let w = [bytes(2 * odd), bytes(2 * odd + 1)];
                let i = (8 * r + odd) as i32;
                let (j, k, l) = (i + 2, i + 4, i + 6);
                let index = _mm512_setr_epi32(i, i, i, i, j, j, j, j, k, k, k, k, l, l, l, l);
                for c in 0..N {
                    let sums = _mm512_cvtepi32_ps(integer_sums(w, x[c], 2 * odd));
                    let scale = _mm512_permutexvar_ps(index, scale[c]);
                    self.main[r][c] = _mm512_fmadd_ps(sums, scale, self.main[r][c]);
                }
            }
        }
    }

    /// Adds a group in the order [`natural`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub(super) fn add_natural(
        &mut self,
        x: [&Prepared; N],
        (d, m): (__m512, __m512),
        bytes: [impl Fn(usize) -> __m512i; 2],
    ) {
        let scale = self.scales(x, d, m);
        for (r, bytes) in bytes.into_iter().enumerate() {
            for p in 0..4 {
                let w = bytes(p);
                let (i, j) = ((8 * r + 2 * p) as i32, (8 * r + 2 * p + 1) as i32);
                let index = _mm512_setr_epi32(i, i, i, i, i, i, i, i, j, j, j, j, j, j, j, j);
                for c in 0..N {
                    let sums = _mm512_cvtepi32_ps(integer_sums([w], x[c], p));
                    let scale = _mm512_permutexvar_ps(index, scale[c]);
                    self.main[r][c] = _mm512_fmadd_ps(sums, scale, self.main[r][c]);
                }
            }
        }
    }

    /// Adds the offsets; gives the scales of weights and activations, multiplied.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn scales(&mut self, x: [&Prepared; N], d: __m512, m: __m512) -> [__m512; N] {
        for c in 0..N {
            let sums = _mm512_broadcast_f32x8(load_ps(&x[c].block_sums));
            self.offset[c] = _mm512_fmadd_ps(m, sums, self.offset[c]);
        }
        let mut scales = self.offset;
        for c in 0..N {
            scales[c] = _mm512_mul_ps(d, _mm512_broadcast_f32x8(load_ps(&x[c].block_d)));
        }
        scales
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub(super) fn sum(self) -> [[f32; N]; 2] {
        let mut sums = [[0.0; N]; 2];
        for c in 0..N {
            let offset = self.offset[c];
            let offsets = [_mm512_castps512_ps256(offset), _mm512_extractf32x8_ps::<1>(offset)];
            for r in 0..2 {
                let main = self.main[r][c];
                let halves = _mm256_add_ps(_mm512_castps512_ps256(main), _mm512_extractf32x8_ps::<1>(main));
                sums[r][c] = reduce(_mm256_add_ps(halves, offsets[r]));
            }
        }
        sums
    }
}

/// Running sums of one row and N columns, of formats with sixteen scales a group.
#[derive(Clone, Copy)]
pub(super) struct Row<const N: usize>([__m512; N]);

impl<const N: usize> Row<N> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub(super) fn new() -> Self {
        Row([_mm512_setzero_ps(); N])
    }

    /// Adds a group in the order [`natural`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub(super) fn add(
        &mut self,
        x: [&Prepared; N],
        (d, m): (__m512, __m512),
        bytes: impl Fn(usize) -> __m512i,
    ) {
        let mut scale = self.0;
        for c in 0..N {
            self.0[c] = _mm512_fmadd_ps(m, load_floats(&x[c].sums), self.0[c]);
            scale[c] = _mm512_mul_ps(d, load_floats(&x[c].d));
        }
        for p in 0..4 {
            let w = bytes(p);
            let i = 4 * p as i32;
            let (j, k, l) = (i + 1, i + 2, i + 3);
            let index = _mm512_setr_epi32(i, i, i, i, j, j, j, j, k, k, k, k, l, l, l, l);
            for c in 0..N {
                let sums = _mm512_cvtepi32_ps(integer_sums([w], x[c], p));
                let scale = _mm512_permutexvar_ps(index, scale[c]);
                self.0[c] = _mm512_fmadd_ps(sums, scale, self.0[c]);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    pub(super) fn sum(self) -> [f32; N] {
        let mut sums = [0.0; N];
        for c in 0..N {
            let all = self.0[c];
            sums[c] = reduce(_mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all)));
        }
        sums
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn reduce(eight: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Something of each row of some pairs.
pub(super) type Pairs<T, const P: usize> = [[T; 2]; P];

// Not closures of the kernels, which would not be inlined.

/// Rows as superblocks.
#[inline(always)]
pub(super) fn superblocks<B: bytemuck::AnyBitPattern, const P: usize>(w: Pairs<&[u8], P>) -> Pairs<&[B], P> {
    w.map(|pair| pair.map(bytemuck::cast_slice))
}

/// Blocks of `BYTES` bytes, [`GROUP`] of which are a group.
type Groups<'w, const BYTES: usize> = &'w [[[u8; BYTES]; GROUP]];

/// Rows as groups of blocks, whose length the compiler knows, and the blocks after the last whole group.
#[inline(always)]
pub(super) fn groups<const BYTES: usize, const P: usize>(
    w: Pairs<&[u8], P>,
) -> (Pairs<Groups<'_, BYTES>, P>, Pairs<&[[u8; BYTES]], P>) {
    let blocks = w.map(|pair| pair.map(|w| w.as_chunks().0));
    (
        blocks.map(|pair| pair.map(|blocks| blocks.as_chunks().0)),
        blocks.map(|pair| pair.map(|blocks| blocks.as_chunks::<GROUP>().1)),
    )
}

/// Defines `matmul` (see `table::MatMul`) from the module's `dot::<N, P>`, of P pairs of rows of weights and N columns of
/// activations in order `$order`.
macro_rules! matmul_by_dot {
    ($order:path) => {
        /// All rows of weights times all columns of activations.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        pub(crate) fn matmul(w: &[u8], x: crate::quant::q8::Q8Mat<'_>, y: &mut [f32]) {
            let cols = x.rows();
            let rows = y.len() / cols;
            super::dot::with_prepared(x, $order, |x| {
                let groups = x.len() / cols;
                let mut c = 0;
                while c < cols {
                    let n = match cols - c {
                        8.. => 8,
                        4.. => 4,
                        2.. => 2,
                        _ => 1,
                    };
                    let (x, y) = (&x[c * groups..(c + n) * groups], &mut y[c * rows..(c + n) * rows]);
                    match n {
                        8 => columns::<8, 1>(w, x, y),
                        4 => columns::<4, 1>(w, x, y),
                        2 => columns::<2, 1>(w, x, y),
                        _ => columns::<1, 2>(w, x, y),
                    }
                    c += n;
                }
            });
        }

        /// All rows of weights times N columns, P pairs of rows at a time.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn columns<const N: usize, const P: usize>(w: &[u8], x: &[super::dot::Prepared], y: &mut [f32]) {
            let rows = y.len() / N;
            let groups = x.len() / N;
            let mut columns = [x; N];
            for c in 0..N {
                columns[c] = &x[c * groups..(c + 1) * groups];
            }
            let streams = crate::cpu::Streams::new(w, rows, 2 * P);
            streams.prefetch(w);
            for i in 0..streams.len {
                let mut pairs = [[w; 2]; P];
                for s in 0..2 * P {
                    pairs[s / 2][s % 2] = streams.bytes(w, s, i);
                }
                let dots = dot::<N, P>(pairs, columns);
                for s in 0..2 * P {
                    if let Some(row) = streams.row(s, i) {
                        for c in 0..N {
                            y[c * rows + row] = dots[s / 2][s % 2][c];
                        }
                    }
                }
            }
        }
    };
}
pub(super) use matmul_by_dot;

/// Defines `matmul` of a format of blocks of `$bytes` bytes from the module's `scales_of` (of two groups) and `bytes_of`
/// (the vectors of a group).
macro_rules! dot_of_blocks {
    ($bytes:expr, $order:ident, $add:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        fn dot<const N: usize, const P: usize>(
            w: [[&[u8]; 2]; P],
            x: [&[super::dot::Prepared]; N],
        ) -> [[[f32; N]; 2]; P] {
            let (whole, rest) = super::dot::groups::<{ $bytes }, P>(w);
            let mut acc = [super::dot::Rows2::new(); P];
            for p in 0..P {
                for (g, (first, second)) in whole[p][0].iter().zip(whole[p][1]).enumerate() {
                    prefetch_after(first.as_flattened());
                    prefetch_after(second.as_flattened());
                    let bytes = [bytes_of(first), bytes_of(second)];
                    acc[p].$add(super::dot::group(x, g), scales_of([first, second]), bytes);
                }
            }
            if !rest[0][0].is_empty() {
                for p in 0..P {
                    let bytes = [bytes_of(rest[p][0]), bytes_of(rest[p][1])];
                    acc[p].$add(super::dot::group(x, whole[0][0].len()), scales_of(rest[p]), bytes);
                }
            }
            let mut sums = [[[0.0; N]; 2]; P];
            for p in 0..P {
                sums[p] = acc[p].sum();
            }
            sums
        }
        super::dot::matmul_by_dot!(super::dot::$order);
    };
}
pub(super) use dot_of_blocks;

/// The same of a format of superblocks with eight scales.
macro_rules! dot_of_superblocks {
    ($order:ident, $add:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        fn dot<const N: usize, const P: usize>(
            w: [[&[u8]; 2]; P],
            x: [&[super::dot::Prepared]; N],
        ) -> [[[f32; N]; 2]; P] {
            let w = super::dot::superblocks::<Block, P>(w);
            let mut acc = [super::dot::Rows2::new(); P];
            for g in 0..x[0].len() {
                for p in 0..P {
                    let pair = [&w[p][0][g], &w[p][1][g]];
                    for w in pair {
                        prefetch_after(bytemuck::bytes_of(w));
                    }
                    let bytes = [bytes_of(pair[0]), bytes_of(pair[1])];
                    acc[p].$add(super::dot::group(x, g), scales_of(pair), bytes);
                }
            }
            let mut sums = [[[0.0; N]; 2]; P];
            for p in 0..P {
                sums[p] = acc[p].sum();
            }
            sums
        }
        super::dot::matmul_by_dot!(super::dot::$order);
    };
}
pub(super) use dot_of_superblocks;

/// The same of a format of superblocks with sixteen scales, from `scales_of` and `bytes_of` of one.
macro_rules! dot_of_halves {
    () => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        fn dot<const N: usize, const P: usize>(
            w: [[&[u8]; 2]; P],
            x: [&[super::dot::Prepared]; N],
        ) -> [[[f32; N]; 2]; P] {
            let w = super::dot::superblocks::<Block, P>(w);
            let mut acc = [[super::dot::Row::new(); 2]; P];
            for g in 0..x[0].len() {
                for p in 0..P {
                    for r in 0..2 {
                        let w = &w[p][r][g];
                        prefetch_after(bytemuck::bytes_of(w));
                        acc[p][r].add(super::dot::group(x, g), scales_of(w), bytes_of(w));
                    }
                }
            }
            let mut sums = [[[0.0; N]; 2]; P];
            for p in 0..P {
                sums[p] = [acc[p][0].sum(), acc[p][1].sum()];
            }
            sums
        }
        super::dot::matmul_by_dot!(super::dot::natural);
    };
}
pub(super) use dot_of_halves;
