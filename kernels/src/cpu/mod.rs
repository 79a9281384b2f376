//! Kernels for the instruction sets of CPUs: one folder a level, the same file names in each.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512vnni;
pub(crate) mod portable;

use crate::quant::q8::{BLOCK, Q8Row, SUM_BLOCK};

/// Blocks of 32 weights that a kernel takes together: their scales fill a 256-bit vector, and they are one superblock
/// of the K formats.
const GROUP: usize = 8;

/// The activations that meet one group of weights.
#[derive(Debug)]
struct Group<'a> {
    q: &'a [i8; GROUP * BLOCK],
    z: &'a [i8; GROUP],
    d: &'a [f32; GROUP],
    sum: &'a [i16; GROUP * BLOCK / SUM_BLOCK],
}

impl<'a> Group<'a> {
    /// Group `i` of a row, which must be whole.
    #[inline(always)]
    fn new(x: Q8Row<'a>, i: usize) -> Self {
        Group {
            q: &x.q.as_chunks().0[i],
            z: &x.z.as_chunks().0[i],
            d: &x.d.as_chunks().0[i],
            sum: &x.sum.as_chunks().0[i],
        }
    }
}

/// The blocks after the last whole group of a row, with zeros in place of those that are missing.
#[derive(Debug)]
struct Tail {
    q: [i8; GROUP * BLOCK],
    z: [i8; GROUP],
    d: [f32; GROUP],
    sum: [i16; GROUP * BLOCK / SUM_BLOCK],
}

impl Tail {
    fn new(x: Q8Row<'_>) -> Self {
        fn pad<T: Copy + Default, const N: usize>(all: &[T]) -> [T; N] {
            let rest = all.as_chunks::<N>().1;
            let mut padded = [T::default(); N];
            padded[..rest.len()].copy_from_slice(rest);
            padded
        }
        Tail { q: pad(x.q), z: pad(x.z), d: pad(x.d), sum: pad(x.sum) }
    }

    fn group(&self) -> Group<'_> {
        Group { q: &self.q, z: &self.z, d: &self.d, sum: &self.sum }
    }
}

/// Defines `matmul` (see `table::MatMul`) for the enclosing module's `dot::<N>(row, [activations; N]) -> [f32; N]`.
macro_rules! matmul_by_dot {
    ($features:literal) => {
        /// All rows of weights times all columns of activations; weights are unpacked once for four columns.
        #[target_feature(enable = $features)]
        pub(crate) fn matmul(w: &[u8], x: crate::quant::q8::Q8Mat<'_>, y: &mut [f32]) {
            let cols = x.rows();
            let rows = y.len() / cols;
            for (r, row) in w.chunks_exact(w.len() / rows).enumerate() {
                let mut c = 0;
                while c + 4 <= cols {
                    let dots = dot(row, [x.row(c), x.row(c + 1), x.row(c + 2), x.row(c + 3)]);
                    for (i, dot) in dots.into_iter().enumerate() {
                        y[(c + i) * rows + r] = dot;
                    }
                    c += 4;
                }
                while c < cols {
                    [y[c * rows + r]] = dot(row, [x.row(c)]);
                    c += 1;
                }
            }
        }
    };
}
use matmul_by_dot;

/// Defines `dot` for formats of 32-weight blocks of `$bytes` bytes, from the module's `group`: eight blocks times the
/// activations of N columns, of which the first `$pairs` pairs are not padding.
macro_rules! dot_of_blocks {
    ($features:literal, $bytes:expr, $acc:ty) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn dot<const N: usize>(w: &[u8], x: [crate::quant::q8::Q8Row<'_>; N]) -> [f32; N] {
            use super::super::{GROUP, Group, Tail};
            let (groups, rest) = w.as_chunks::<{ $bytes * GROUP }>();
            let mut acc = <$acc>::new();
            for (i, w) in groups.iter().enumerate() {
                group(&mut acc, w, std::array::from_fn(|c| Group::new(x[c], i)), GROUP);
            }
            if !rest.is_empty() {
                let mut w = [0; $bytes * GROUP];
                w[..rest.len()].copy_from_slice(rest);
                let tails = x.map(Tail::new);
                group(&mut acc, &w, std::array::from_fn(|c| tails[c].group()), rest.len() / $bytes);
            }
            acc.sum()
        }
        super::super::matmul_by_dot!($features);
    };
}
use dot_of_blocks;

/// Defines `dot` for formats of 256-weight superblocks of `$bytes` bytes, from the module's `group`: one superblock
/// times the activations of N columns.
macro_rules! dot_of_superblocks {
    ($features:literal, $bytes:expr, $acc:ty) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn dot<const N: usize>(w: &[u8], x: [crate::quant::q8::Q8Row<'_>; N]) -> [f32; N] {
            let mut acc = <$acc>::new();
            for (i, w) in w.as_chunks::<{ $bytes }>().0.iter().enumerate() {
                group(&mut acc, w, std::array::from_fn(|c| super::super::Group::new(x[c], i)));
            }
            acc.sum()
        }
        super::super::matmul_by_dot!($features);
    };
}
use dot_of_superblocks;

/// The eight 6-bit scales and eight 6-bit minimums of a Q4_K or Q5_K superblock, as bytes, from their 12-byte packing
/// (drawn in `quant/q4_k.rs`): the low six bits of bytes 0-7 are scales 0-3 and minimums 0-3; the rest have their low
/// four bits in bytes 8-11 and their high two in the top bits of bytes 0-7.
#[inline(always)]
fn k_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let high = |w: u32| (w >> 2) & 0x3030_3030;
    let pair = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = pair(a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | high(a));
    let mins = pair(b & 0x3f3f_3f3f, ((c >> 4) & 0x0f0f_0f0f) | high(b));
    (scales, mins)
}
