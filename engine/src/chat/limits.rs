//! Limits on a program that is not trusted and cannot be interrupted.
//!
//! minijinja counts steps, but one step may join or search texts of any length, and a text that is joined with itself
//! forty times fills any memory. So the program runs on a thread of its own, and whoever waits for it looks at the clock
//! and at the memory. A thread cannot be ended from outside: the program has to ask now and then whether anybody still
//! waits ([`is_given_up`]).

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

thread_local! {
    /// Whether nobody waits any more for what this thread computes.
    static GIVEN_UP: RefCell<Arc<AtomicBool>> = RefCell::default();
}

/// Whether this is the thread of some work that went beyond its limits.
pub(super) fn is_given_up() -> bool {
    GIVEN_UP.with_borrow(|given_up| given_up.load(Ordering::Relaxed))
}

/// What `work` gives, or how it went beyond its limits.
pub(super) fn run_within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    run(work, TIME, MEMORY)
}

pub(super) fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    most_time: Duration,
    most_memory: u64,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::channel();
    let given_up = Arc::new(AtomicBool::new(false));
    let of_work = Arc::clone(&given_up);
    let work = move || {
        GIVEN_UP.set(of_work);
        // nobody listens any more to what comes too late
        let _ = sender.send(work());
    };
    let begin = Instant::now();
    let before = memory();
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(work)
        .map_err(|e| format!("no thread can be started: {e}"))?;
    let why = loop {
        match receiver.recv_timeout(PERIOD) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err("it failed inside minijinja".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if memory().zip(before).is_some_and(|(now, before)| now > before + most_memory) {
            break format!("it takes more than {} MiB of memory", most_memory >> 20);
        }
        if begin.elapsed() > most_time {
            break format!("it takes more than {most_time:?}");
        }
    };
    given_up.store(true, Ordering::Relaxed);
    Err(why)
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
    fn work_learns_that_nobody_waits() {
        let (ended, end) = mpsc::channel();
        let work = move || {
            while !is_given_up() {
                thread::sleep(Duration::from_millis(1));
            }
            ended.send(()).expect("the test waits");
        };
        assert!(!is_given_up());
        assert!(run(work, Duration::from_millis(20), MEMORY).is_err());
        end.recv_timeout(Duration::from_secs(60)).expect("the work ends");
        assert!(!is_given_up());
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
