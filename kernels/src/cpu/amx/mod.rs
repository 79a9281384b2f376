//! Matrix tiles of bf16 (`tdpbf16ps`: Intel AMX), on top of the level avx512vnni, which takes what is not here.
//!
//! A tile holds sixteen rows of 64 bytes. Weights of any format become bf16 when they are unpacked, and activations
//! when they are packed: their 8-bit significands make errors of 0.2 % of each value, less than blocks of 8-bit
//! integers do, and sums need no scales on the way.
//!
//! The tile instructions stand in `asm!`: the compiler never uses the tile registers by itself.

pub(crate) mod attention;
mod gemm;
mod multiply;
pub(crate) mod pack;
pub(crate) mod peak;

use std::arch::x86_64::*;

use gemm::RowOfTiles;

use super::avx512vnni::{self, Scales};
use super::avx512vnni::{
    iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs, mxfp4, nvfp4, q2_k, q3_k, q4_0,
    q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, table_of_formats, tq1_0, tq2_0,
};
use crate::ops::{Attention, Scratch};
use crate::quant::Type;
use crate::table::FloatOps;
use crate::table::MatMulPacked;
use crate::table::PackedMat;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Values of bf16 in a row of a tile.
pub(crate) const TILE_VALUES: usize = 32;

/// The largest tile.
type Tile = [[u32; 16]; TILE_ROWS];

/// A row of the table, of a format's unpacking on the level below.
macro_rules! packed {
    ($type:ident, $format:ident) => {
        (Type::$type, {
            #[target_feature(
                enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
            )]
            fn dequantize(row: &[u8], i: usize, scales: &mut Scales, to: RowOfTiles<'_>) {
                let RowOfTiles { tiles, r } = to;
                $format::each_pair(row, i, scales, |scales, p, bytes| {
                    for (half, tile) in tiles[2 * p..2 * p + 2].iter_mut().enumerate() {
                        gemm::store_block::<{ $format::HALVES }>(scales, 2 * p + half, bytes, &mut tile[r]);
                    }
                });
            }
            #[target_feature(
                enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
            )]
            fn matmul(w: &[u8], x: PackedMat<'_>, y: &mut [f32]) {
                gemm::matmul(dequantize, w, x, y)
            }
            matmul
        })
    };
}

/// Products of many tokens.
pub(crate) const MATMUL_PACKED: &[(Type, MatMulPacked)] =
    table_of_formats!(packed, (Type::BF16, matmul_bf16));

/// Products of BF16 weights, which are taken as they are.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn matmul_bf16(w: &[u8], x: PackedMat<'_>, y: &mut [f32]) {
    fn copy(row: &[u8], i: usize, _: &mut Scales, to: RowOfTiles<'_>) {
        let blocks = row.as_chunks::<{ 2 * TILE_VALUES }>().0;
        for (tile, block) in to.tiles.iter_mut().zip(blocks.iter().skip(i * gemm::SLAB / TILE_VALUES)) {
            tile[to.r] = bytemuck::cast(*block);
        }
    }
    gemm::matmul(copy, w, x, y);
}

/// Attention in tiles, where that is possible.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn attend(a: &Attention<'_>, scratch: &mut Scratch, out: &mut [f32], out_stride: usize) {
    if a.scores.may_be_rounded() {
        attention::attention::<avx512vnni::ops::Level>(a, scratch, out, out_stride);
    } else {
        crate::ops::attention::<avx512vnni::ops::Level>(a, scratch, out, out_stride);
    }
}

/// The float operations: those of the level below, but attention.
pub(crate) const OPS: FloatOps = FloatOps { attention: attend, ..avx512vnni::ops::OPS };

/// Whether the CPU has the tiles and the operating system lets this process use them, which it asks for.
pub(crate) fn detected() -> bool {
    /// Leaf 7, EDX.
    const AMX: u32 = 1 << 22 | 1 << 24; // bf16, tile
    /// XCR0: the state that the operating system keeps for the tiles' configuration and data.
    const STATE: u64 = 1 << 17 | 1 << 18;
    __cpuid(0).eax >= 7
        && __cpuid_count(7, 0).edx & AMX == AMX
        // SAFETY: what was detected before, AVX-512, is shown only where XGETBV can be used.
        && unsafe { xgetbv() } & STATE == STATE
        && permitted()
}

/// The parts of a thread's state that the operating system keeps.
///
/// # Safety
/// The CPU must have XGETBV, and the operating system must have switched it on.
unsafe fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: register 0 always exists; nothing is written but the two results.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack, nomem));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Asks Linux for the use of the tiles' data, which makes the state of a thread 8 KiB larger.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The tiles' shapes (Intel, Software Developer's Manual, LDTILECFG).
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The use of the tiles by a thread, all of the largest size. Dropped, it leaves them in their initial state, so that
/// nothing of them has to be kept when the thread is interrupted.
pub(super) struct Tiles(());

impl Tiles {
    /// # Safety
    /// The CPU must have the level.
    unsafe fn new() -> Tiles {
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(TILE_ROWS as u8);
        // SAFETY: reads the 64 bytes of `config`, which are valid for palette 1.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` exists only where the level does.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}
