//! What the CPU can do at most: read bandwidth, and multiply-adds in int8 and f32.

use std::hint::black_box;
use std::time::{Duration, Instant};

use braise_kernels::peak;
use braise_kernels::table::Kernels;
use memmap2::MmapMut;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Cost, GpuPeaks, Pass};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::KvTypes;
use crate::model::Model;
use crate::parts::Location;

/// What a number of threads can do together, or a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Bytes read per second.
    pub read: f64,
    /// Int8 operations per second, two for each multiply-add.
    pub int8: f64,
    /// f32 operations per second, two for each multiply-add.
    pub f32: f64,
}

/// The least that is read in a pass: less would be too quick to be timed.
const MIN_BUFFER: usize = 64 << 20;

/// The most: no cache holds it.
const MAX_BUFFER: usize = 1 << 30;

/// Bytes that a thread reads at a time.
const PART: usize = 1 << 20;

/// Time that is spent on each peak. The best pass counts: the others were disturbed.
const TIME: Duration = Duration::from_millis(60);

/// Time of one pass of an arithmetic loop: much longer than it takes to wake the threads, and short enough that some
/// passes are not disturbed.
const PASS: f64 = 2e-3;

impl Peaks {
    /// Measures what computes `model` as a whole: the GPU that it is on, or `n_threads` threads, with a buffer as large as what the
    /// model reads for a token, but never more than `most`.
    ///
    /// # Errors
    /// As [`Peaks::measure`] and [`GpuPeaks::measure`].
    pub fn of_model(model: &Model, kv: KvTypes, n_threads: usize, most: u64) -> Result<Peaks> {
        match GpuPeaks::of_model(model)?.first() {
            Some(peaks) if !model.is_divided() => Ok((*peaks).into()),
            _ => Peaks::of_cpu(model, kv, n_threads, most),
        }
    }

    /// Measures `n_threads` threads, with a buffer as large as what those parts of `model` read for a token that are on the CPU,
    /// but never more than `most`.
    ///
    /// # Errors
    /// As [`Peaks::measure`].
    pub fn of_cpu(model: &Model, kv: KvTypes, n_threads: usize, most: u64) -> Result<Peaks> {
        let buffer = Cost::on(model, kv, Pass::TOKEN, Location::Cpu).bytes;
        Peaks::measure(model.kernels(), n_threads, buffer, most)
    }

    /// Measures what `n_threads` threads can do with the instructions of `kernels`. The bandwidth is that of a buffer
    /// of `buffer` bytes, brought between 64 MiB and 1 GiB, but never more than `most`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the buffer or the threads cannot be had.
    pub fn measure(kernels: Kernels, n_threads: usize, buffer: u64, most: u64) -> Result<Peaks> {
        let pool = pool(n_threads)?;
        let bytes = buffer.clamp(MIN_BUFFER as u64, MAX_BUFFER as u64).min(most.max(PART as u64));
        Ok(Peaks {
            read: bandwidth(&pool, bytes as usize)?,
            int8: arithmetic(&pool, |rounds| peak::int8(kernels, rounds)),
            f32: arithmetic(&pool, |rounds| peak::f32(kernels, rounds)),
        })
    }

    /// The better of two measurements of each kind: the machine could do that, so it is the limit.
    #[must_use]
    pub fn best(self, other: Peaks) -> Peaks {
        Peaks {
            read: self.read.max(other.read),
            int8: self.int8.max(other.int8),
            f32: self.f32.max(other.f32),
        }
    }
}

/// Bytes per second at which `n_threads` threads read the tensors of `model` where they lie; `None` if they are more than
/// `most`. That is less than [`Peaks::read`] where pages are small, as those of many files are, or where memory is far away.
///
/// # Errors
/// As [`Peaks::measure`].
pub fn tensor_bandwidth(model: &Model, n_threads: usize, most: u64) -> Result<Option<f64>> {
    let tensors = model.gguf().tensors().iter().map(|tensor| model.gguf().data(tensor));
    let parts: Vec<&[u8]> = tensors.flat_map(|data| data.chunks(PART)).collect();
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if len as u64 > most {
        return Ok(None);
    }
    let pool = pool(n_threads)?;
    let read =
        || pool.install(|| parts.par_iter().map(|part| peak::read(part)).reduce(|| 0, u64::wrapping_add));
    read(); // pages that are not there yet come now
    Ok(Some(best_rate(|| {
        black_box(read());
        len as f64
    })))
}

fn pool(n_threads: usize) -> Result<ThreadPool> {
    let refused = |e| Error::new(ErrorKind::Io, format!("cannot start {n_threads} threads: {e}"));
    ThreadPoolBuilder::new().num_threads(n_threads).build().map_err(refused)
}

/// Bytes per second of the best pass over `len` bytes.
fn bandwidth(pool: &ThreadPool, len: usize) -> Result<f64> {
    let refused =
        |e| Error::new(ErrorKind::Io, format!("cannot take {len} bytes to measure the memory: {e}"));
    let mut buffer = MmapMut::map_anon(len).map_err(refused)?;
    // Large pages, where they can be had: the limit is the memory's, not that of the address translation.
    #[cfg(target_os = "linux")]
    let _ = buffer.advise(memmap2::Advice::HugePage);
    pool.install(|| buffer.par_chunks_mut(PART).for_each(|part| part.fill(1))); // memory is taken when it is written
    let read = || pool.install(|| buffer.par_chunks(PART).map(peak::read).reduce(|| 0, u64::wrapping_add));
    Ok(best_rate(|| {
        black_box(read());
        len as f64
    }))
}

/// Operations per second of the best pass of `work` on all threads. It does so many rounds and counts its operations.
fn arithmetic(pool: &ThreadPool, work: impl Fn(usize) -> u64 + Sync) -> f64 {
    let pass = |rounds| pool.broadcast(|_| work(rounds)).into_iter().sum::<u64>() as f64;
    let mut rounds = 1 << 10;
    loop {
        let begin = Instant::now();
        pass(rounds);
        if begin.elapsed().as_secs_f64() >= PASS {
            return best_rate(|| pass(rounds));
        }
        rounds *= 2;
    }
}

/// The best rate of passes that return how much they did.
fn best_rate(mut pass: impl FnMut() -> f64) -> f64 {
    best_of(|| {
        let begin = Instant::now();
        let done = pass();
        (done, begin.elapsed())
    })
}

/// The best rate of passes that say how much they did in which time: of as many as [`TIME`] holds.
fn best_of(mut pass: impl FnMut() -> (f64, Duration)) -> f64 {
    let (mut spent, mut best) = (Duration::ZERO, 0.0_f64);
    while best == 0.0 || spent < TIME {
        let (done, time) = pass();
        spent += time;
        best = best.max(done / time.as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use braise_kernels::isa::Isa;

    #[test]
    fn every_machine_reads_and_computes() {
        let kernels = Kernels::new(Isa::best()).expect("is supported");
        let peaks = Peaks::measure(kernels, 1, 0, 8 << 20).expect("is measured");
        // slower than any machine that is in use, and faster than any: a slip of a unit is off by more
        assert!((1e8..1e13).contains(&peaks.read), "{peaks:?}");
        assert!((1e8..1e14).contains(&peaks.int8) && (1e8..1e14).contains(&peaks.f32), "{peaks:?}");
    }

    #[test]
    fn the_best_of_two_is_the_best_of_each() {
        let (a, b) = (Peaks { read: 1.0, int8: 5.0, f32: 3.0 }, Peaks { read: 2.0, int8: 4.0, f32: 3.0 });
        assert_eq!(a.best(b), Peaks { read: 2.0, int8: 5.0, f32: 3.0 });
    }

    /// With times that are given: those of a machine that does other things prove nothing.
    #[test]
    fn the_best_pass_counts() {
        let mut times = [20, 10, 25, 5, 1].into_iter().map(Duration::from_millis);
        let rate = best_of(|| (1000.0, times.next().expect("no more passes than fill the time")));
        assert_eq!(rate, 1000.0 / 5e-3);
        assert_eq!(times.len(), 1, "60 ms are over before the last");
        // one pass is enough, if it takes so long
        let mut passes = 0;
        let rate = best_of(|| {
            passes += 1;
            (100.0, Duration::from_secs(1))
        });
        assert_eq!((rate, passes), (100.0, 1));
    }

    #[test]
    fn passes_are_timed() {
        let rate = best_rate(|| {
            std::thread::sleep(Duration::from_millis(20));
            1000.0
        });
        assert!(rate > 0.0 && rate <= 50_000.0, "no faster than 1000 in 20 ms: {rate}");
    }
}
