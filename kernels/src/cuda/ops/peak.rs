//! What a GPU can do at most: kernels that copy and multiply, and do nothing else.

use super::check;
use crate::cuda::{Address, Error, Launch};

/// Threads of a block.
const THREADS: u32 = 256;

/// Copies memory on the device.
#[derive(Debug, Clone, Copy)]
pub struct CopyWords {
    /// What is copied.
    pub from: Address,
    /// How much, a multiple of 16.
    pub bytes: u64,
    /// Where to.
    pub to: Address,
    /// Blocks that share the work.
    pub blocks: u32,
}

impl CopyWords {
    /// Its launch.
    ///
    /// # Errors
    /// The bytes are no multiple of 16.
    pub fn launch(&self) -> Result<Launch, Error> {
        check(self.bytes.is_multiple_of(16), || format!("{} bytes are not in words of 16", self.bytes))?;
        let args = [self.from.into(), (self.bytes / 16).into(), self.to.into()];
        Launch::new("copy_words", [self.blocks, 1, 1], THREADS, 0, &args)
    }
}

/// Multiplies tiles of ones in bf16 on tensor cores, by products of warps or of warpgroups.
#[derive(Debug, Clone, Copy)]
pub struct MultiplyTiles {
    /// Blocks, each of [`MultiplyTiles::SUMS`] threads.
    pub blocks: u32,
    /// Times that all tiles are multiplied.
    pub rounds: u32,
    /// f32 (blocks, [`MultiplyTiles::SUMS`]): what each thread has added up, [`MultiplyTiles::sum`] in a round.
    pub sums: Address,
    /// Whether by warpgroups, which compute capability 9.0 alone knows.
    pub warpgroups: bool,
}

impl MultiplyTiles {
    /// Sums of a block.
    pub const SUMS: u32 = THREADS;

    /// What a round adds to each sum: 16 to each of a thread's 4 numbers of 8 tiles; or 64 to 128 numbers.
    pub fn sum(&self) -> u32 {
        if self.warpgroups { 64 * 128 } else { 16 * 4 * 8 }
    }

    /// Its launch.
    ///
    /// # Errors
    /// There is nothing to run.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = [self.rounds.into(), self.sums.into()];
        let name = if self.warpgroups { "multiply_tiles_wgmma" } else { "multiply_tiles" };
        Launch::new(name, [self.blocks, 1, 1], THREADS, 0, &args)
    }

    /// Its operations, two for each multiply-add: 16 x 16 x 8 of them a tile, 8 tiles a warp; or 64 x 64 x 256 a warpgroup.
    pub fn operations(&self) -> u64 {
        let of_block =
            u64::from(THREADS / 32) * if self.warpgroups { 64 * 64 * 256 / 4 } else { 16 * 16 * 8 * 8 };
        2 * of_block * u64::from(self.blocks) * u64::from(self.rounds)
    }
}
