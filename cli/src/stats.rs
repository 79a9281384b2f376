//! What an answer took, as `--verbose` reports it.

use std::fmt;
use std::time::Duration;

/// Counts and times of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Opening the model; zero where it was open already.
    pub load: Duration,
    /// From the start of the prefill to the first token.
    pub first_token: Duration,
    /// Tokens of the prompt that had to be computed (a part that is known from the last turn counts not).
    pub prefill_tokens: usize,
    /// Time of computing them.
    pub prefill: Duration,
    /// Share of the rate that the machine could reach at most in that time, where it was measured.
    pub prefill_share: Option<f64>,
    /// Tokens generated. The first comes out of the prefill and counts not.
    pub decode_tokens: usize,
    /// Time of these, with the sampling between them.
    pub decode: Duration,
    /// Share of the rate that the machine could reach at most, where it was measured and nothing was drafted.
    pub decode_share: Option<f64>,
    /// Tokens that speculation tried.
    pub drafted: usize,
    /// Those of them that are part of the answer.
    pub accepted: usize,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.load.is_zero() {
            writeln!(f, "load         {}", time(self.load))?;
        }
        writeln!(f, "first token  {}", time(self.first_token))?;
        writeln!(f, "prefill      {}", rate(self.prefill_tokens, self.prefill, self.prefill_share))?;
        writeln!(f, "decode       {}", rate(self.decode_tokens, self.decode, self.decode_share))?;
        if self.drafted > 0 {
            writeln!(f, "speculation  {} of {} drafted tokens accepted", self.accepted, self.drafted)?;
        }
        Ok(())
    }
}

fn time(t: Duration) -> String {
    match t.as_secs_f64() {
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

fn rate(tokens: usize, t: Duration, share: Option<f64>) -> String {
    let unit = if tokens == 1 { "token" } else { "tokens" };
    let per_second = match t.is_zero() {
        true => String::new(),
        false => format!(", {:.1} tok/s", tokens as f64 / t.as_secs_f64()),
    };
    let share = share.map_or_else(String::new, |share| format!(", {:.0}% of the limit", share * 100.0));
    format!("{tokens} {unit} in {}{per_second}{share}", time(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_every_rate() {
        let stats = Stats {
            load: Duration::from_millis(12),
            first_token: Duration::from_millis(41),
            prefill_tokens: 20,
            prefill: Duration::from_millis(40),
            prefill_share: None,
            decode_tokens: 100,
            decode: Duration::from_millis(1250),
            decode_share: Some(0.794),
            drafted: 30,
            accepted: 12,
        };
        let expected = "load         12.0 ms\n\
                        first token  41.0 ms\n\
                        prefill      20 tokens in 40.0 ms, 500.0 tok/s\n\
                        decode       100 tokens in 1.25 s, 80.0 tok/s, 79% of the limit\n\
                        speculation  12 of 30 drafted tokens accepted\n";
        assert_eq!(stats.to_string(), expected);
    }

    #[test]
    fn no_time_gives_no_rate() {
        let text = Stats::default().to_string();
        assert!(
            !text.contains("load") && !text.contains("tok/s") && text.contains("0 tokens in 0.0 ms"),
            "{text}"
        );
    }
}
