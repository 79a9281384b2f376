//! The innermost step: 32 rows of weights times six tokens, over what shares a scale, in assembly. Left to itself the
//! compiler finishes one sum after the other, so that each waits for itself, keeps some of them in memory, and takes two
//! instructions for a `vpdpwssd`.
//!
//! For 32 values of a row and a token that is 8 + 1 integer and 2 float instructions (3 with offsets) on two units, so at
//! most 0.73 (0.67) of the products that these could do. Loads that fill all lanes with one number cost a sixth of that.
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

use super::gemm::{Block, COLS, Group, Pair, Panel};
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

/// What shares a scale: codes in `$four` times four, the other numbers at `$group`, and the line of the sums of t at `$total`
/// if there are offsets.
macro_rules! group {
    ([$($four:tt)*], $group:expr $(, $total:expr)?) => {
        concat!(
            each!(start),
            $(load!([24, 25], concat!("{w} + 128 * ", $four)), each!(products, concat!("{x} + 48 * ", $four)),)*
            load!([24, 25], concat!("{w} + {sum} + ", $group)),
            each!(zero_point),
            load!([24, 25], concat!("{w} + {scale} + ", $group)),
            load!([26, 27], concat!("{w} + {magic} + ", $group)),
            each!(scaled),
            $(load!([24, 25], concat!("{w} + {offset} + ", $group)), each!(offsets, $total),)?
            each!(results),
        )
    };
}

macro_rules! load_y {
    ($t:tt, $sums:tt, [$low:tt, $high:tt], $u:tt) => {
        load!([$low, $high], concat!("{y} + 128 * ", $t))
    };
}

macro_rules! store_y {
    ($t:tt, $sums:tt, [$low:tt, $high:tt], $u:tt) => {
        concat!(
            "vmovaps [{y} + 128 * ",
            $t,
            "], zmm",
            $low,
            "\n vmovaps [{y} + 128 * ",
            $t,
            " + 64], zmm",
            $high,
            "\n"
        )
    };
}

/// Adds `$blocks` blocks of a panel, the first at `$w`, times those of a part of a tile, the first at `$x`, to y.
macro_rules! add_products {
    ($blocks:expr, $w:expr, $x:expr, $y:expr, $text:expr) => {
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
            y = in(reg) $y,
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

/// Adds a panel times the six tokens of part `half` of a tile to y.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn add_products<const HALVES: bool, const OFFSETS: bool>(
    panel: &Panel,
    x: &[[u32; LINES * TILE]],
    half: usize,
    y: &mut [Pair<f32>; COLS],
) {
    let blocks = x.len().min(panel.len());
    if blocks == 0 {
        return;
    }
    let (w, x, y) = (panel.as_ptr(), x.as_flattened()[half * COLS..].as_ptr(), y.as_mut_ptr());
    // SAFETY: there are so many blocks of the panel and of the tile, of which lines are read up to the part's tokens, and
    // 2 x 6 vectors of y; `w` and `y` are aligned to vectors; the level has these instructions.
    unsafe {
        match (HALVES, OFFSETS) {
            (false, false) => add_products!(blocks, w, x, y, group!([0 1 2 3 4 5 6 7], "0")),
            (false, true) => add_products!(blocks, w, x, y, group!([0 1 2 3 4 5 6 7], "0", "{x} + {total}")),
            (true, false) => {
                add_products!(blocks, w, x, y, concat!(group!([0 1 2 3], "0"), group!([4 5 6 7], "{second}")))
            }
            (true, true) => add_products!(
                blocks,
                w,
                x,
                y,
                concat!(
                    group!([0 1 2 3], "0", "{x} + {half}"),
                    group!([4 5 6 7], "{second}", "{x} + {half} + 48")
                )
            ),
        }
    }
}
