//! What bounds a result.

use std::time::Duration;

use super::{Limit, Usage};

/// What a test reached, and what held it back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// Bytes of weights, keys and values per second.
    pub bytes: f64,
    /// Operations per second.
    pub ops: f64,
    /// Share of the threads' time in which they were ready, but another thread had their CPU; `None` where the
    /// operating system does not tell.
    pub waited: Option<f64>,
    /// What held it back.
    pub bound: Bound,
}

/// What holds a test back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The memory: it can hardly be faster.
    Memory,
    /// The multipliers: it can hardly be faster.
    Arithmetic,
    /// The threads wait for a CPU: there are more of them than CPUs, or other programs run.
    Threads,
    /// Everything else: instructions around the multiply-adds, and threads that wait for each other.
    Overhead,
}

impl Bound {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory bandwidth",
            Bound::Arithmetic => "arithmetic",
            Bound::Threads => "threads",
            Bound::Overhead => "overhead",
        }
    }
}

/// From this share of a limit on, the limit is what bounds: the rest cannot make it much faster.
const AT_LIMIT: f64 = 0.7;

/// From this share of time waited for a CPU on, that is what bounds.
const STARVED: f64 = 0.1;

impl Reached {
    /// Of a test whose repetitions took `time` on average, whose limit is `limit`, and whose `n_threads` threads, of which
    /// there are none on a GPU, used `usage` in `total`, the time of all repetitions.
    pub fn new(time: f64, limit: &Limit, n_threads: usize, usage: &Usage, total: Duration) -> Reached {
        let waited = usage.waited.filter(|_| n_threads > 0);
        let waited = waited.map(|waited| waited.as_secs_f64() / (n_threads as f64 * total.as_secs_f64()));
        let bound = if waited.is_some_and(|waited| waited >= STARVED) {
            Bound::Threads
        } else if limit.seconds / time < AT_LIMIT {
            Bound::Overhead
        } else if limit.memory >= limit.arithmetic {
            Bound::Memory
        } else {
            Bound::Arithmetic
        };
        Reached { bytes: limit.bytes as f64 / time, ops: limit.ops as f64 / time, waited, bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_waits_for_no_cpu() {
        let limit = Limit { seconds: 0.9, memory: 0.9, arithmetic: 0.1, bytes: 100, ops: 1000 };
        let usage = Usage { waited: Some(Duration::from_secs(9)), ..Usage::default() };
        let reached = Reached::new(1.0, &limit, 0, &usage, Duration::from_secs(10));
        assert_eq!((reached.waited, reached.bound), (None, Bound::Memory));
    }

    fn bound(time: f64, memory: f64, arithmetic: f64, waited_ms: Option<u64>) -> Bound {
        let limit = Limit { seconds: memory.max(arithmetic), memory, arithmetic, bytes: 100, ops: 1000 };
        let usage = Usage { waited: waited_ms.map(Duration::from_millis), ..Usage::default() };
        let reached = Reached::new(time, &limit, 2, &usage, Duration::from_secs(10));
        assert_eq!((reached.bytes, reached.ops), (100.0 / time, 1000.0 / time));
        reached.bound
    }

    #[test]
    fn what_bounds_is_told_apart() {
        assert_eq!(bound(1.0, 0.9, 0.2, None), Bound::Memory);
        assert_eq!(bound(1.0, 0.2, 0.8, Some(100)), Bound::Arithmetic);
        assert_eq!(bound(1.0, 0.5, 0.4, Some(100)), Bound::Overhead);
        assert_eq!(bound(1.0, 0.9, 0.4, Some(2000)), Bound::Threads); // a tenth of 2 * 10 s
        assert_eq!(bound(1.0, 0.9, 0.4, Some(1999)), Bound::Memory);
    }
}
