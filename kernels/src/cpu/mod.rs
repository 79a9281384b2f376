//! Kernels for the instruction sets of CPUs: one folder a level, the same file names in each.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512vnni;
pub mod peak;
pub(crate) mod portable;

use crate::quant::mxfp4;
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

/// How far ahead of their use weights are fetched, in bytes: they come from memory once, in order, and a core that
/// waits for each line by itself reads at half the speed.
const PREFETCH: usize = 2048;

/// Asks for the memory [`PREFETCH`] bytes after `w`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_after(w: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for at in (0..w.len()).step_by(64) {
        // SAFETY: a prefetch reads nothing that the program can see, whatever the address, and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(PREFETCH + at).cast()) };
    }
}

/// Defines `matmul` (see `table::MatMul`) for the enclosing module's `dot::<N>`: a row of weights, which it unpacks
/// once, times N columns of activations, given with their [`Tail`]s.
macro_rules! matmul_by_dot {
    ($features:literal) => {
        /// All rows of weights times all columns of activations.
        #[target_feature(enable = $features)]
        pub(crate) fn matmul(w: &[u8], x: crate::quant::q8::Q8Mat<'_>, y: &mut [f32]) {
            let rows = y.len() / x.rows();
            let mut c = 0;
            let (fours, rest) = y.split_at_mut(y.len() - x.rows() % 4 * rows);
            for y in fours.chunks_exact_mut(4 * rows) {
                columns(w, [x.row(c), x.row(c + 1), x.row(c + 2), x.row(c + 3)], y);
                c += 4;
            }
            for y in rest.chunks_exact_mut(rows) {
                columns(w, [x.row(c)], y);
                c += 1;
            }
        }

        /// All rows of weights times N columns.
        #[target_feature(enable = $features)]
        fn columns<const N: usize>(w: &[u8], x: [crate::quant::q8::Q8Row<'_>; N], y: &mut [f32]) {
            let rows = y.len() / N;
            let tails = x.map(crate::cpu::Tail::new);
            for (r, row) in w.chunks_exact(w.len() / rows).enumerate() {
                for (c, dot) in dot(row, x, &tails).into_iter().enumerate() {
                    y[c * rows + r] = dot;
                }
            }
        }
    };
}
use matmul_by_dot;

/// Defines `dot` for formats of 32-weight blocks of `$bytes` bytes, from the module's `group`: up to eight blocks times
/// the activations of N columns.
macro_rules! dot_of_blocks {
    ($features:literal, $bytes:expr, $acc:ty) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn dot<const N: usize>(
            w: &[u8],
            x: [crate::quant::q8::Q8Row<'_>; N],
            tails: &[crate::cpu::Tail; N],
        ) -> [f32; N] {
            use crate::cpu::{GROUP, Group, prefetch_after};
            let (groups, rest) = w.as_chunks::<$bytes>().0.as_chunks::<GROUP>();
            let mut acc = <$acc>::new();
            for (i, w) in groups.iter().enumerate() {
                prefetch_after(w.as_flattened());
                group(&mut acc, w, std::array::from_fn(|c| Group::new(x[c], i)));
            }
            if !rest.is_empty() {
                prefetch_after(rest.as_flattened());
                group(&mut acc, rest, std::array::from_fn(|c| tails[c].group()));
            }
            acc.sum()
        }
        crate::cpu::matmul_by_dot!($features);
    };
}
use dot_of_blocks;

/// Defines `dot` for formats of 256-weight superblocks of `$bytes` bytes, from the module's `group`: one superblock
/// times the activations of N columns. Superblocks leave no tail.
macro_rules! dot_of_superblocks {
    ($features:literal, $bytes:expr, $acc:ty) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn dot<const N: usize>(
            w: &[u8],
            x: [crate::quant::q8::Q8Row<'_>; N],
            _: &[crate::cpu::Tail; N],
        ) -> [f32; N] {
            let mut acc = <$acc>::new();
            for (i, w) in w.as_chunks::<{ $bytes }>().0.iter().enumerate() {
                crate::cpu::prefetch_after(w);
                group(&mut acc, w, std::array::from_fn(|c| crate::cpu::Group::new(x[c], i)));
            }
            acc.sum()
        }
        crate::cpu::matmul_by_dot!($features);
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

/// The high bits and the bytes of nibbles of a Q5_0 or Q5_1 block's codes.
#[inline(always)]
fn high_bits_and_nibbles(codes: &[u8; 20]) -> (u32, &[u8; 16]) {
    let (high, nibbles) = codes.split_first_chunk().expect("4 bytes of high bits");
    (u32::from_le_bytes(*high), nibbles.try_into().expect("16 bytes of nibbles"))
}

/// The sixteen 6-bit scales of a Q3_K superblock, as bytes, from their 12-byte packing (drawn in `quant/q3_k.rs`): the
/// low nibbles of bytes 0-7 are the low four bits of scales 0-7, the high nibbles those of scales 8-15, and bytes 8-11
/// hold the high two bits, those of four neighbouring scales in the same bits of the four bytes.
#[inline(always)]
fn q3_k_scales(packed: &[u8; 12]) -> [u8; 16] {
    let (low, high) = packed.split_first_chunk().expect("8 bytes of low bits");
    let low = u64::from_le_bytes(*low);
    let high = u32::from_le_bytes(high.try_into().expect("4 bytes of high bits"));
    // eight scales: the high bits of the first four lie at `shift`, those of the others two places above
    let eight = |low: u64, shift: u32| {
        let high = u64::from(high >> shift) | u64::from(high >> (shift + 2)) << 32;
        u128::from(low & 0x0f0f_0f0f_0f0f_0f0f | (high & 0x0303_0303_0303_0303) << 4)
    };
    (eight(low, 0) | eight(low >> 4, 4) << 64).to_le_bytes()
}

/// The scales of up to eight MXFP4 blocks, 0 for those that are missing.
#[inline(always)]
fn mxfp4_scales(b: &[mxfp4::Block]) -> [f32; GROUP] {
    std::array::from_fn(|i| b.get(i).map_or(0.0, mxfp4::Block::d))
}
