//! A row of tiles times columns of tiles.

use super::*;

/// Columns of tiles, each `stride` tiles after the one before.
pub(super) struct Columns<'a> {
    pub(super) tiles: &'a [Tile],
    pub(super) stride: usize,
}

/// What products are added to.
pub(super) enum Start<'a> {
    /// The same for all columns.
    With(&'a Tile),
    /// The sums that there are.
    Sums,
}

/// Tiles of a row that stay in registers.
const STEPS: usize = 4;

/// Puts the products of a row and an even number of columns, each added to `start`, into `sums`, one for each column.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
pub(super) fn multiply(
    tiles: &Tiles,
    row: &[Tile],
    columns: &Columns<'_>,
    mut start: Start<'_>,
    sums: &mut [Tile],
) {
    for (i, row) in row.chunks(STEPS).enumerate() {
        let columns = Columns { tiles: &columns.tiles[i * STEPS..], stride: columns.stride };
        match *row {
            [_] => multiply_1(tiles, row, columns, start, sums),
            [_, _] => multiply_2(tiles, row, columns, start, sums),
            [_, _, _] => multiply_3(tiles, row, columns, start, sums),
            _ => multiply_4(tiles, row, columns, start, sums),
        }
        start = Start::Sums;
    }
}

/// The same for a row of so many tiles. Results are stored when the next ones are under way: a store that waits for a
/// product holds up all that follows (full rate instead of 0.6 of it, with two tiles).
macro_rules! multiply {
    ($name:ident, $steps:literal: $($i:literal $tile:literal),*) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c")]
        fn $name(_: &Tiles, row: &[Tile], columns: Columns<'_>, start: Start<'_>, sums: &mut [Tile]) {
            assert!(row.len() == $steps);
            assert!(!sums.is_empty() && sums.len().is_multiple_of(2));
            let last = (sums.len() - 1) * columns.stride;
            assert!(last + row.len() <= columns.tiles.len());
            let (start, start_step) = match start {
                Start::With(start) => (std::ptr::from_ref(start), 0),
                Start::Sums => (sums.as_ptr(), size_of::<Tile>()),
            };
            // SAFETY: the tiles are configured to 16 rows of 64 bytes, as there is a `Tiles`. The tiles of the row, as many
            // of each column, and as many sums as there are columns are read, and the sums written.
            unsafe {
                std::arch::asm!(
                    $(concat!("tileloadd tmm", $tile, ", [{row} + {stride} + 1024 * ", $i, "]"),)*
                    "jmp 3f",
                    "2:",
                    "tilestored [{sums} + {stride} - 1024], tmm1",
                    "3:",
                    "tileloadd tmm0, [{start} + {stride}]",
                    $(
                        concat!("tileloadd tmm7, [{column} + {stride} + 1024 * ", $i, "]"),
                        concat!("tdpbf16ps tmm0, tmm", $tile, ", tmm7"),
                    )*
                    "add {column}, {step}",
                    "add {start}, {start_step}",
                    "tileloadd tmm1, [{start} + {stride}]",
                    $(
                        concat!("tileloadd tmm7, [{column} + {stride} + 1024 * ", $i, "]"),
                        concat!("tdpbf16ps tmm1, tmm", $tile, ", tmm7"),
                    )*
                    "tilestored [{sums} + {stride}], tmm0",
                    "add {column}, {step}",
                    "add {start}, {start_step}",
                    "add {sums}, 2048",
                    "sub {n}, 2",
                    "jnz 2b",
                    "tilestored [{sums} + {stride} - 1024], tmm1",
                    row = in(reg) row.as_ptr(),
                    stride = in(reg) 64_usize,
                    start = inout(reg) start => _,
                    start_step = in(reg) start_step,
                    column = inout(reg) columns.tiles.as_ptr() => _,
                    step = in(reg) columns.stride * size_of::<Tile>(),
                    n = inout(reg) sums.len() => _,
                    sums = inout(reg) sums.as_mut_ptr() => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

multiply!(multiply_1, 1: 0 2);
multiply!(multiply_2, 2: 0 2, 1 3);
multiply!(multiply_3, 3: 0 2, 1 3, 2 4);
multiply!(multiply_4, 4: 0 2, 1 3, 2 4, 3 5);
