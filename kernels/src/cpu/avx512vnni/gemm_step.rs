//! The innermost step: 32 rows of weights times six tokens, over what shares a scale, in assembly. Left to itself the
//! compiler finishes one sum after the other, so that each waits for itself, keeps some of them in memory, and takes two
//! instructions for a `vpdpwssd`.
//!
//! For 32 values of a row and a token that is 8 + 1 integer and 2 float instructions (3 with offsets) on two units, so at
//! most 0.73 (0.67) of the products that these could do; with scales of half blocks it is 0.57. From the caches it does
//! 0.97 of that, at its own clock: loads make the clock a tenth lower than that of a loop of products alone. Four vectors
//! of rows and six tokens, whose results lie in memory because their sums fill the registers, do 0.85 of it: a store
//! costs more than the loads that are saved.
//!
//! ```text
//! zmm0 to 5, 6 to 11      sums of six tokens, for the low and the high half of the rows
//! zmm12 to 17, 18 to 23   results, the same
//! zmm24, 25 (26, 27)      numbers of both halves of the rows
//! zmm26, 27, 28           a token's number in all lanes
//! zmm31                   MAGIC
//! ```

use std::arch::asm;
use std::mem::offset_of;

use super::gemm::{Block, COLS, Group, Pair, Panel, ROWS};
use super::*;
use crate::quant::float::MAGIC;
use crate::quant::packed::{HALF_SUM, LINES, SCALE, SUM, TILE, ZERO};

/// `$what` for each token: its number, its sums, its results and a register for its numbers.
macro_rules! each {
    ($what:ident $(, $at:expr)?) => {
        concat!(
            $what!(0, [0, 6], [12, 18], 26 $(, $at)?),
            $what!(1, [1, 7], [13, 19], 27 $(, $at)?),
            $what!(2, [2, 8], [14, 20], 28 $(, $at)?),
            $what!(3, [3, 9], [15, 21], 26 $(, $at)?),
            $what!(4, [4, 10], [16, 22], 27 $(, $at)?),
            $what!(5, [5, 11], [17, 23], 28 $(, $at)?),
        )
    };
}

/// The numbers of both halves at `$at`.
macro_rules! load {
    ([$low:tt, $high:tt], $at:expr) => {
        concat!("vmovdqa64 zmm", $low, ", [", $at, "]\n vmovdqa64 zmm", $high, ", [", $at, " + 64]\n")
    };
}

/// Instruction `$name` for both halves.
macro_rules! both {
    ($name:tt, [$a:tt, $b:tt], [$c:tt, $d:tt], [$e:tt, $f:tt]) => {
        concat!(
            concat!($name, " zmm", $a, ", zmm", $c, ", zmm", $e, "\n"),
            concat!($name, " zmm", $b, ", zmm", $d, ", zmm", $f, "\n"),
        )
    };
}

/// The token's number of the line at `$at`, in all lanes.
macro_rules! fill {
    ($u:tt, $at:expr, $t:tt) => {
        concat!("vpbroadcastd zmm", $u, ", dword ptr [", $at, " + 4 * ", $t, "]\n")
    };
}

macro_rules! start {
    ($t:tt, [$low:tt, $high:tt], $y:tt, $u:tt) => {
        concat!("vmovdqa64 zmm", $low, ", zmm31\n vmovdqa64 zmm", $high, ", zmm31\n")
    };
}

macro_rules! products {
    ($t:tt, $sums:tt, $y:tt, $u:tt, $at:expr) => {
        concat!(fill!($u, $at, $t), both!("vpdpbusd", $sums, [$u, $u], [24, 25]))
    };
}

macro_rules! zero_point {
    ($t:tt, $sums:tt, $y:tt, $u:tt) => {
        concat!(fill!($u, "{x} + {zero}", $t), both!("vpdpwssd", $sums, [$u, $u], [24, 25]))
    };
}

macro_rules! scaled {
    ($t:tt, $sums:tt, $y:tt, $u:tt) => {
        both!("vfmadd213ps", $sums, [24, 25], [26, 27])
    };
}

macro_rules! offsets {
    ($t:tt, $sums:tt, $y:tt, $u:tt, $at:expr) => {
        concat!(fill!($u, $at, $t), both!("vfmadd231ps", $y, [$u, $u], [24, 25]))
    };
}

macro_rules! results {
    ($t:tt, $sums:tt, $y:tt, $u:tt) => {
        concat!(fill!($u, "{x} + {d}", $t), both!("vfmadd231ps", $y, $sums, [$u, $u]))
    };
}

/// What shares a scale: codes in `$four` times four, the other numbers at `$group`. Of each offset in it: the group that
/// holds it, and the line of the sums of t at `$total`.
macro_rules! group {
    ([$($four:tt)*], $group:expr $(, $second:expr => $total:expr)*) => {
        concat!(
            each!(start),
            $(load!([24, 25], concat!("{w} + 128 * ", $four)), each!(products, concat!("{x} + 48 * ", $four)),)*
            load!([24, 25], concat!("{w} + {sum} + ", $group)),
            each!(zero_point),
            load!([24, 25], concat!("{w} + {scale} + ", $group)),
            load!([26, 27], concat!("{w} + {magic} + ", $group)),
            each!(scaled),
            $(load!([24, 25], concat!("{w} + {offset} + ", $second)), each!(offsets, $total),)*
            each!(results),
        )
    };
}

/// Where the results of a token lie: `$step` bytes apart, those of the fourth at `$fourth`.
macro_rules! token {
    (0, $first:tt, $fourth:tt, $step:tt) => {
        concat!("{", $first, "}")
    };
    (1, $first:tt, $fourth:tt, $step:tt) => {
        concat!("{", $first, "} + {", $step, "}")
    };
    (2, $first:tt, $fourth:tt, $step:tt) => {
        concat!("{", $first, "} + 2 * {", $step, "}")
    };
    (3, $first:tt, $fourth:tt, $step:tt) => {
        token!(0, $fourth, $fourth, $step)
    };
    (4, $first:tt, $fourth:tt, $step:tt) => {
        token!(1, $fourth, $fourth, $step)
    };
    (5, $first:tt, $fourth:tt, $step:tt) => {
        token!(2, $fourth, $fourth, $step)
    };
}

macro_rules! load_y {
    ($t:tt, $sums:tt, [$low:tt, $high:tt], $u:tt) => {
        concat!(
            concat!("vmovups zmm", $low, ", [", token!($t, "from", "from_3", "from_step"), "]\n"),
            concat!("vmovups zmm", $high, ", [", token!($t, "from", "from_3", "from_step"), " + 64]\n"),
        )
    };
}

macro_rules! store_y {
    ($t:tt, $sums:tt, [$low:tt, $high:tt], $u:tt) => {
        concat!(
            concat!("vmovups [", token!($t, "y", "y_3", "y_step"), "], zmm", $low, "\n"),
            concat!("vmovups [", token!($t, "y", "y_3", "y_step"), " + 64], zmm", $high, "\n"),
        )
    };
}

/// Blocks of a panel, the first at `$w`, times those of a part of a tile, the first at `$x`, plus what is at `$from`.
macro_rules! add_products {
    ($blocks:expr, $w:expr, $x:expr, $from:expr, $y:expr, $text:expr) => {
        asm!(
            each!(load_y),
            "2:",
            $text,
            "add {w}, {w_bytes}",
            "add {x}, {x_bytes}",
            "dec {blocks}",
            "jnz 2b",
            each!(store_y),
            "/* {offset} {total} {half} {second} */",
            blocks = inout(reg) $blocks => _,
            w = inout(reg) $w => _,
            x = inout(reg) $x => _,
            from = in(reg) $from.0,
            from_3 = in(reg) $from.0.wrapping_add(3 * $from.1),
            from_step = in(reg) 4 * $from.1,
            y = in(reg) $y.0,
            y_3 = in(reg) $y.0.wrapping_add(3 * $y.1),
            y_step = in(reg) 4 * $y.1,
            w_bytes = const size_of::<Block>(),
            x_bytes = const LINES * LINE,
            scale = const GROUP + offset_of!(Group, scale),
            magic = const GROUP + offset_of!(Group, magic),
            offset = const GROUP + offset_of!(Group, offset),
            sum = const GROUP + offset_of!(Group, sum),
            second = const size_of::<Group>(),
            zero = const ZERO * LINE,
            d = const SCALE * LINE,
            total = const SUM * LINE,
            half = const HALF_SUM * LINE,
            in("zmm31") _mm512_set1_ps(MAGIC),
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
            out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _,
            options(nostack),
        )
    };
}

/// Where a block's groups begin.
const GROUP: usize = offset_of!(Block, groups);

/// Bytes of a line of a tile.
const LINE: usize = 4 * TILE;

/// A panel times the six tokens of part `half` of a tile.
pub(super) struct Product<'a> {
    pub(super) panel: &'a Panel,
    pub(super) x: &'a [[u32; LINES * TILE]],
    pub(super) half: usize,
    /// Whether nothing is in the sums yet.
    pub(super) first: bool,
}

impl Product<'_> {
    /// Adds the product to the sums, and puts them there or into y: of each token the 32 rows at y, its tokens so many
    /// numbers apart.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn add_to(
        &self,
        format: &Format,
        sums: &mut [Pair<f32>; COLS],
        y: Option<(&mut [f32], usize)>,
    ) {
        let blocks = self.x.len().min(self.panel.len());
        assert!(blocks > 0);
        let x = self.x.as_flattened()[self.half * COLS..].as_ptr();
        let (w, sums) = (self.panel.as_ptr(), sums.as_mut_ptr().cast::<f32>());
        let from = if self.first { (ZEROS.as_ptr(), 0) } else { (sums.cast_const(), ROWS) };
        let y = y.map_or((sums, ROWS), |(y, stride)| {
            assert!(y.len() >= (COLS - 1) * stride + ROWS);
            (y.as_mut_ptr(), stride)
        });
        // SAFETY: there are so many blocks of the panel and of the tile, of which lines are read up to the part's tokens;
        // 32 rows of each of six tokens are at `y`, and at `from`, where `ZEROS` is each token's; `w` is aligned to vectors;
        // the level has these instructions.
        unsafe {
            match (format.scales, format.offsets) {
                (Per::Block, None) => {
                    add_products!(blocks, w, x, from, y, group!([0 1 2 3 4 5 6 7], "0"))
                }
                (Per::Block, Some(Per::Block)) => add_products!(
                    blocks,
                    w,
                    x,
                    from,
                    y,
                    group!([0 1 2 3 4 5 6 7], "0", "0" => "{x} + {total}")
                ),
                (Per::Block, Some(Per::Half)) => add_products!(
                    blocks,
                    w,
                    x,
                    from,
                    y,
                    group!(
                        [0 1 2 3 4 5 6 7],
                        "0",
                        "0" => "{x} + {half}",
                        "{second}" => "{x} + {half} + 48"
                    )
                ),
                (Per::Half, None) => add_products!(
                    blocks,
                    w,
                    x,
                    from,
                    y,
                    concat!(group!([0 1 2 3], "0"), group!([4 5 6 7], "{second}"))
                ),
                (Per::Half, Some(_)) => unreachable!("such offsets are of formats that are folded"),
            }
        }
    }
}

/// Where the first products begin.
static ZEROS: [f32; ROWS] = [0.0; ROWS];
