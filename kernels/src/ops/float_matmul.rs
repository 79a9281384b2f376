//! Products of float weights and float activations: rows and columns meet in tiles whose sums stay in registers.

use super::{Lanes, reduce};
use crate::table::F32Mat;

/// Sixteen weights as they lie in a row, little-endian.
trait Weights {
    /// Bytes of one.
    const BYTES: usize;
    /// Sixteen of them in registers; `w` holds their bytes.
    fn load<L: Lanes>(w: &[u8]) -> L::Vector;
}

enum F32 {}

impl Weights for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn load<L: Lanes>(w: &[u8]) -> L::Vector {
        let mut floats = [0.0; 16];
        for (x, w) in floats.iter_mut().zip(w.as_chunks().0) {
            *x = f32::from_le_bytes(*w);
        }
        L::load(&floats)
    }
}

enum F16 {}

impl Weights for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<L: Lanes>(w: &[u8]) -> L::Vector {
        L::load_halves(w.first_chunk().expect("sixteen halves"))
    }
}

enum BF16 {}

impl Weights for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<L: Lanes>(w: &[u8]) -> L::Vector {
        L::load_bf16(w.first_chunk().expect("sixteen numbers"))
    }
}

/// All rows of F32 weights (little-endian bytes) times all columns.
#[inline(always)]
pub fn matmul_f32<L: Lanes>(w: &[u8], x: F32Mat<'_>, y: &mut [f32]) {
    matmul::<L, F32>(w, x, y);
}

/// All rows of F16 weights times all columns.
#[inline(always)]
pub fn matmul_f16<L: Lanes>(w: &[u8], x: F32Mat<'_>, y: &mut [f32]) {
    matmul::<L, F16>(w, x, y);
}

/// All rows of BF16 weights times all columns.
#[inline(always)]
pub fn matmul_bf16<L: Lanes>(w: &[u8], x: F32Mat<'_>, y: &mut [f32]) {
    matmul::<L, BF16>(w, x, y);
}

#[inline(always)]
fn matmul<L: Lanes, W: Weights>(w: &[u8], x: F32Mat<'_>, y: &mut [f32]) {
    let cols = x.rows();
    let rows = y.len() / cols;
    let bytes = w.len() / rows;
    assert!(bytes == W::BYTES * x.row_len);
    // far apart: the processor fetches ahead of rows that lie side by side as of a single one
    let part = rows.div_ceil(4);
    for first in 0..part {
        // a row that is missing is the last one again
        let mut four = [w; 4];
        for r in 0..4 {
            four[r] = &w[(first + r * part).min(rows - 1) * bytes..][..bytes];
        }
        let mut put = |r: usize, c: usize, sum: f32| {
            let row = first + r * part;
            if row < rows {
                y[c * rows + row] = sum;
            }
        };
        let mut c = 0;
        while c < cols {
            c += match cols - c {
                4.. if L::MANY_REGISTERS => tile::<L, W, 4, 4>(four, x, c, &mut put),
                2.. => {
                    let [a, b, e, f] = four;
                    tile::<L, W, 2, 2>([a, b], x, c, &mut put);
                    tile::<L, W, 2, 2>([e, f], x, c, |r, c, sum| put(2 + r, c, sum))
                }
                _ => tile::<L, W, 4, 1>(four, x, c, &mut put),
            };
        }
    }
}

/// The products of R rows and of C columns, from column `c` on. Each is a sum of sixteen sums, whatever R and C. Returns
/// C.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "closures in iterators are not compiled for the level")]
fn tile<L: Lanes, W: Weights, const R: usize, const C: usize>(
    w: [&[u8]; R],
    x: F32Mat<'_>,
    c: usize,
    mut put: impl FnMut(usize, usize, f32),
) -> usize {
    let mut columns = [x.all; C];
    for i in 0..C {
        columns[i] = x.row(c + i);
    }
    let mut sums = [[L::splat(0.0); C]; R];
    let whole = x.row_len / 16;
    for i in 0..whole {
        let mut x = [L::splat(0.0); C];
        for c in 0..C {
            x[c] = L::load(&columns[c].as_chunks().0[i]);
        }
        for r in 0..R {
            let bytes = &w[r][i * 16 * W::BYTES..][..16 * W::BYTES];
            if C == 1 {
                L::prefetch_after(bytes);
            }
            let w = W::load::<L>(bytes);
            for c in 0..C {
                sums[r][c] = L::mul_add_16(w, x[c], sums[r][c]);
            }
        }
    }
    if !x.row_len.is_multiple_of(16) {
        for r in 0..R {
            let rest = &w[r][whole * 16 * W::BYTES..];
            let mut bytes = [0; 64];
            bytes[..rest.len()].copy_from_slice(rest);
            for c in 0..C {
                let rest = &columns[c][whole * 16..];
                let mut floats = [0.0; 16];
                floats[..rest.len()].copy_from_slice(rest);
                sums[r][c] = L::mul_add_16(W::load::<L>(&bytes), L::load(&floats), sums[r][c]);
            }
        }
    }
    for r in 0..R {
        for i in 0..C {
            let mut lanes = [0.0; 16];
            L::store(&mut lanes, sums[r][i]);
            put(r, c + i, reduce(lanes));
        }
    }
    C
}
