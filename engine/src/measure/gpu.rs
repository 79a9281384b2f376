//! What a GPU can do at most.

use std::time::{Duration, Instant};

use braise_kernels::cuda::ops::{CopyWords, MultiplyTiles};
use braise_kernels::cuda::{Address, Device, Error};

use super::Peaks;
use crate::backend::cuda;
use crate::error::Result as EngineResult;
use crate::model::Model;

/// What a GPU can do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuPeaks {
    /// Bytes per second of a copy from the GPU's memory to itself, those that are read and those that are written.
    pub copy: f64,
    /// Bytes per second from the host's memory.
    pub upload: f64,
    /// Bytes per second to the host's memory.
    pub download: f64,
    /// Operations per second of tensor cores in bf16, two for each multiply-add, by the instruction that products of matrices
    /// use there (`wgmma` or `mma.sync`). Nothing where they know no bf16.
    pub bf16: Option<f64>,
}

/// Time that is spent on each; the best pass counts, as on the CPU.
const TIME: Duration = Duration::from_millis(60);

/// Time of one pass: much longer than it takes to start one.
const PASS: f64 = 2e-3;

/// What a measurement begins with, in bytes, and what it grows to at most: no cache holds that.
const BYTES: (usize, usize) = (1 << 16, 1 << 30);

/// The most bytes of a transfer from or to the host, which are held there too.
const TRANSFER: usize = 64 << 20;

impl From<GpuPeaks> for Peaks {
    /// All products are counted at the rate of tensor cores, which are the fastest that there are; where that is not known,
    /// they take no time. Memory is read at least as fast as it is copied.
    fn from(peaks: GpuPeaks) -> Peaks {
        let arithmetic = peaks.bf16.unwrap_or(f64::INFINITY);
        Peaks { read: peaks.copy, int8: arithmetic, f32: arithmetic }
    }
}

impl GpuPeaks {
    /// Measures each of the GPUs that `model` is on, one after the other.
    ///
    /// # Errors
    /// As [`GpuPeaks::measure`].
    pub fn of_model(model: &Model) -> EngineResult<Vec<GpuPeaks>> {
        cuda::on_each(model, |loaded| GpuPeaks::measure(&mut *loaded.device))
    }

    /// The better of two measurements of each kind: the device could do that, so it is the limit.
    #[must_use]
    pub fn best(self, other: GpuPeaks) -> GpuPeaks {
        GpuPeaks {
            copy: self.copy.max(other.copy),
            upload: self.upload.max(other.upload),
            download: self.download.max(other.download),
            bf16: self.bf16.zip(other.bf16).map(|(a, b)| a.max(b)),
        }
    }

    /// Measures `device`, of whose memory a quarter is used at most for a moment.
    ///
    /// # Errors
    /// Those of the device; also if it has no memory left.
    pub fn measure(device: &mut dyn Device) -> Result<GpuPeaks, Error> {
        let most = (device.memory()?.free / 8).min(BYTES.1);
        // more than a multiprocessor runs side by side, so that none runs dry
        let blocks = 8 * device.properties().multiprocessors;
        let copy = of_memory(device, most, 2, |device, [from, to], bytes| {
            device.launch(&CopyWords { from, bytes: bytes as u64, to, blocks }.launch()?)?;
            Ok(2 * bytes)
        })?;
        let mut host = vec![1; most.min(TRANSFER)];
        let upload = of_memory(device, host.len(), 1, |device, [at, _], bytes| {
            device.upload(at, &host[..bytes])?;
            Ok(bytes)
        })?;
        let download = of_memory(device, host.len(), 1, |device, [at, _], bytes| {
            device.download(at, &mut host[..bytes])?;
            Ok(bytes)
        })?;
        let bf16 = match of_tiles(device, blocks) {
            Err(Error::Unsupported { .. }) => None,
            measured => Some(measured?),
        };
        Ok(GpuPeaks { copy, upload, download, bf16 })
    }
}

/// Bytes per second of `pass`, which says how many it moves, with `count` (1 or 2) buffers of as many bytes as a pass
/// needs to take long enough, at most `most`.
fn of_memory(
    device: &mut dyn Device,
    most: usize,
    count: usize,
    mut pass: impl FnMut(&mut dyn Device, [Address; 2], usize) -> Result<usize, Error>,
) -> Result<f64, Error> {
    let mut bytes = BYTES.0.min(most) / 16 * 16;
    loop {
        let mut buffers = [Address::NONE; 2];
        let mut measure = |device: &mut dyn Device, buffers: &mut [Address; 2]| {
            for buffer in &mut buffers[..count] {
                *buffer = device.allocate(bytes)?;
                device.clear(*buffer, bytes)?;
            }
            let mut pass = |device: &mut dyn Device| Ok(pass(device, *buffers, bytes)? as f64);
            timed(device, &mut pass)?; // loads the kernel
            let (_, seconds) = timed(device, &mut pass)?;
            if seconds < PASS && 2 * bytes <= most { Ok(None) } else { best_rate(device, pass).map(Some) }
        };
        let rate = measure(device, &mut buffers);
        let mut taken = buffers.into_iter().filter(|buffer| *buffer != Address::NONE);
        let freed = taken.try_for_each(|buffer| device.free(buffer));
        if let Some(rate) = rate? {
            return freed.map(|()| rate);
        }
        freed?;
        bytes *= 2;
    }
}

/// Operations per second of tensor cores.
fn of_tiles(device: &mut dyn Device, blocks: u32) -> Result<f64, Error> {
    let warpgroups = device.properties().warpgroups;
    let sums = device.allocate(4 * (blocks * MultiplyTiles::SUMS) as usize)?;
    let measure = |device: &mut dyn Device| {
        let mut rounds = 1;
        loop {
            let tiles = MultiplyTiles { blocks, rounds, sums, warpgroups };
            let mut pass = |device: &mut dyn Device| {
                device.launch(&tiles.launch()?)?;
                Ok(tiles.operations() as f64)
            };
            timed(device, &mut pass)?; // loads the kernel
            let (_, seconds) = timed(device, &mut pass)?;
            if seconds >= PASS || rounds >= 1 << 20 {
                return best_rate(device, pass);
            }
            rounds *= 2;
        }
    };
    let rate = measure(device);
    device.free(sums).and(rate)
}

/// What a pass did, and how long it took until it was done.
fn timed(
    device: &mut dyn Device,
    pass: &mut impl FnMut(&mut dyn Device) -> Result<f64, Error>,
) -> Result<(f64, f64), Error> {
    let begin = Instant::now();
    let done = pass(device)?;
    device.synchronize()?;
    Ok((done, begin.elapsed().as_secs_f64()))
}

/// The best rate of passes that return how much they did.
fn best_rate(
    device: &mut dyn Device,
    mut pass: impl FnMut(&mut dyn Device) -> Result<f64, Error>,
) -> Result<f64, Error> {
    let (begin, mut best) = (Instant::now(), 0.0_f64);
    while best == 0.0 || begin.elapsed() < TIME {
        let (done, seconds) = timed(device, &mut pass)?;
        best = best.max(done / seconds);
    }
    Ok(best)
}
