//! The most that the tiles can do.

use super::Tiles;
use crate::cpu::avx512vnni;
use crate::cpu::peak::{Peak, Peaks};

/// `tdpbf16ps` does 16 x 16 x 32 multiply-adds; floats are multiplied by the level below.
pub(crate) const PEAKS: Peaks =
    Peaks { int8: Peak { run: bf16, ops: 4 * 2 * 16 * 16 * 32 }, f32: avx512vnni::peak::PEAKS.f32 };

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn bf16(rounds: usize) {
    // SAFETY: the caller sees to it that the CPU has the level; the tiles are configured, and nothing else is touched.
    unsafe {
        let _tiles = Tiles::new();
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem)
        );
    }
}
