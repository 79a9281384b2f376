//! Limits on a program that is not trusted and cannot be interrupted.
//!
//! minijinja counts steps, but one step may join or search texts of any length, and a text that is joined with itself
//! forty times fills any memory. So the program runs on a thread of its own, and whoever waits for it looks at the clock
//! and at the memory. A thread cannot be ended from outside: what goes beyond its limits goes on until its steps are used
//! up or the process ends, and the process should end.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time; real templates take milliseconds.
const TIME: Duration = Duration::from_secs(5);
/// Most memory that the process may grow by meanwhile, in bytes; real templates take a few times the conversation.
const MEMORY: u64 = 512 << 20;
/// How often the memory is looked at: it grows by some MiB in that time.
const PERIOD: Duration = Duration::from_millis(5);
/// For the recursion of a macro, which is limited, with frames of a few KiB.
const STACK: usize = 16 << 20;

/// What `work` gives, or how it went beyond its limits.
pub(super) fn run_within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    run(work, TIME, MEMORY)
}

fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    most_time: Duration,
    most_memory: u64,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::channel();
    let work = move || {
        // nobody listens any more to what comes too late
        let _ = sender.send(work());
    };
    let begin = Instant::now();
    let before = memory();
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(work)
        .map_err(|e| format!("no thread can be started: {e}"))?;
    loop {
        match receiver.recv_timeout(PERIOD) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err("it failed inside minijinja".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if memory().zip(before).is_some_and(|(now, before)| now > before + most_memory) {
            return Err(format!("it takes more than {} MiB of memory", most_memory >> 20));
        }
        if begin.elapsed() > most_time {
            return Err(format!("it takes more than {most_time:?}"));
        }
    }
}

/// Bytes of memory that the process has filled, without those of mapped files. `None` where that is not known.
#[cfg(target_os = "linux")]
fn memory() -> Option<u64> {
    const PAGE: u64 = 4096; // where pages are larger, the limit is too
    let status = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut numbers = status.split_ascii_whitespace().skip(1).map(|number| number.parse::<u64>().ok());
    let (resident, shared) = (numbers.next()??, numbers.next()??);
    Some(resident.saturating_sub(shared) * PAGE)
}

#[cfg(not(target_os = "linux"))]
fn memory() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_time_is_given() {
        assert_eq!(run_within(|| 3), Ok(3));
    }

    #[test]
    fn a_panic_is_an_error() {
        assert!(run_within(|| panic!("on purpose")).is_err_and(|why: String| why.contains("failed inside")));
    }

    #[test]
    fn what_takes_long_is_not_waited_for() {
        let late = run(|| thread::sleep(Duration::from_secs(3)), Duration::from_millis(20), MEMORY);
        assert!(late.is_err_and(|why| why == "it takes more than 20ms"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_takes_much_memory_is_not_waited_for() {
        let fill = || {
            let block = std::hint::black_box(vec![1_u8; 256 << 20]);
            thread::sleep(Duration::from_secs(3)); // it is still there when the memory is looked at
            block.len()
        };
        let full = run(fill, Duration::from_secs(600), 64 << 20);
        assert!(full.is_err_and(|why| why == "it takes more than 64 MiB of memory"));
    }
}
