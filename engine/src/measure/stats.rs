//! Statistics of repeated runs, as llama-bench computes them.

use std::time::Duration;

/// Times and rates of the repetitions of a test.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Time of each repetition, in nanoseconds.
    pub samples_ns: Vec<u64>,
    /// Tokens per second of each repetition.
    pub samples_ts: Vec<f64>,
    /// Mean time.
    pub avg_ns: u64,
    /// Standard deviation of the times (of a sample: divided by n - 1).
    pub stddev_ns: u64,
    /// Mean rate.
    pub avg_ts: f64,
    /// Standard deviation of the rates.
    pub stddev_ts: f64,
    /// Median rate, which one disturbed repetition does not move.
    pub median_ts: f64,
}

impl Stats {
    /// Of repetitions that took `samples`, each over `n_tokens` tokens. All zero without samples.
    pub fn of(samples: &[Duration], n_tokens: usize) -> Stats {
        // no clock is finer than a nanosecond: what took less took one
        let samples_ns: Vec<u64> =
            samples.iter().map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX).max(1)).collect();
        let samples_ts: Vec<f64> = samples_ns.iter().map(|ns| n_tokens as f64 * 1e9 / *ns as f64).collect();
        let times: Vec<f64> = samples_ns.iter().map(|ns| *ns as f64).collect();
        Stats {
            avg_ns: mean(&times).round() as u64,
            stddev_ns: deviation(&times).round() as u64,
            avg_ts: mean(&samples_ts),
            stddev_ts: deviation(&samples_ts),
            median_ts: median(&samples_ts),
            samples_ns,
            samples_ts,
        }
    }
}

fn mean(x: &[f64]) -> f64 {
    if x.is_empty() { 0.0 } else { x.iter().sum::<f64>() / x.len() as f64 }
}

fn deviation(x: &[f64]) -> f64 {
    if x.len() < 2 {
        return 0.0;
    }
    let mean = mean(x);
    (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (x.len() - 1) as f64).sqrt()
}

fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    match x.len() {
        0 => 0.0,
        n if n % 2 == 1 => x[n / 2],
        n => (x[n / 2 - 1] + x[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(ms: &[u64], n_tokens: usize) -> Stats {
        Stats::of(&ms.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>(), n_tokens)
    }

    #[test]
    fn means_deviations_and_the_median() {
        // 10, 20, 40 tokens/s; 100, 50, 25 ms
        let s = stats(&[100, 50, 25], 1);
        assert_eq!(s.samples_ns, [100_000_000, 50_000_000, 25_000_000]);
        assert_eq!(s.samples_ts, [10.0, 20.0, 40.0]);
        assert_eq!(s.avg_ns, 58_333_333);
        assert_eq!(s.stddev_ns, 38_188_131);
        assert!((s.avg_ts - 70.0 / 3.0).abs() < 1e-9 && (s.stddev_ts - 15.275_252_3).abs() < 1e-6);
        assert_eq!(s.median_ts, 20.0);
        assert_eq!(stats(&[100, 50], 1).median_ts, 15.0);
    }

    #[test]
    fn one_sample_has_no_spread_and_none_no_rate() {
        let s = stats(&[500], 10);
        assert_eq!((s.avg_ts, s.median_ts, s.stddev_ts, s.stddev_ns), (20.0, 20.0, 0.0, 0));
        let s = stats(&[], 10);
        assert_eq!((s.avg_ns, s.avg_ts, s.median_ts), (0, 0.0, 0.0));
        assert!(Stats::of(&[Duration::ZERO], 1).avg_ts.is_finite());
    }
}
