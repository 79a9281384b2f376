//! How far a long copy is: a bar with rate and time left on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::notice;

/// How often a line is written where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress in bytes, on standard error. Leaves nothing behind on a terminal when it is dropped.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    last_line: Option<Instant>,
}

impl Progress {
    /// Begins to report on `what` ("downloading"), of `total` bytes where that is known.
    pub fn new(what: &str, total: Option<u64>) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target).with_message(what.to_owned());
        bar.set_style(style(total));
        let last_line = (!is_terminal).then(Instant::now);
        Self { bar, what: what.to_owned(), last_line }
    }

    /// Says how many bytes there will be.
    pub fn set_total(&mut self, total: u64) {
        self.bar.set_style(style(Some(total)));
        self.bar.set_length(total);
    }

    /// Says that `bytes` of the total are done.
    pub fn set(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if self.last_line.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            notice(self.line(bytes));
        }
    }

    fn line(&self, bytes: u64) -> String {
        let rate = DecimalBytes(self.bar.per_sec() as u64);
        match self.bar.length() {
            Some(total) if total > 0 => {
                let percent = bytes as f64 / total as f64 * 100.0;
                let left = HumanDuration(self.bar.eta());
                format!("{} {percent:.0}% of {}, {rate}/s, {left} left", self.what, DecimalBytes(total))
            }
            _ => format!("{} {}, {rate}/s", self.what, DecimalBytes(bytes)),
        }
    }
}

fn style(total: Option<u64>) -> ProgressStyle {
    let template = match total {
        Some(_) => {
            "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left"
        }
        None => "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}",
    };
    ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_much_and_of_what() {
        let mut progress = Progress::new("downloading", Some(200_000_000));
        progress.set(50_000_000);
        let line = progress.line(50_000_000);
        assert!(line.starts_with("downloading 25% of 200.00 MB, "), "{line}");
        let mut unknown = Progress::new("downloading", None);
        unknown.set(1_000_000);
        assert!(unknown.line(1_000_000).starts_with("downloading 1.00 MB, "));
        unknown.set_total(4_000_000);
        assert!(unknown.line(1_000_000).starts_with("downloading 25% of 4.00 MB, "));
    }
}
