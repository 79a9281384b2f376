//! Picks the next token from the logits of the last one, and stops a generation at given texts.
//!
//! The steps and their order are llama.cpp's: penalties, top-k, top-p, min-p, temperature, draw. Each works on
//! what the one before left. The same seed, options and logits give the same tokens in every version.

mod rng;
mod stop;

use std::collections::BTreeMap;

pub use stop::{Passed, StopMatcher};

use crate::{Error, ErrorKind, Result};
use rng::SplitMix64;

/// How tokens are picked.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by this, 0 or more; 0 always takes the most likely token.
    pub temperature: f32,
    /// Only this many most likely tokens are left; 0 leaves all.
    pub top_k: usize,
    /// Only the most likely tokens whose probabilities add up to this are left; in (0, 1], 1 leaves all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the most likely one are left; in [0, 1].
    pub min_p: f32,
    /// Logits of tokens seen lately are divided by this where positive, multiplied where negative; 1 is off.
    pub repeat_penalty: f32,
    /// How many of the last tokens count as seen lately, for all three penalties.
    pub repeat_last_n: usize,
    /// Taken from the logit of each token seen lately.
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time it was seen lately.
    pub frequency_penalty: f32,
    /// Of the random numbers; `None` takes a new one each time.
    pub seed: Option<u64>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
        }
    }
}

impl SamplerOptions {
    fn check(&self) -> Result<()> {
        let range = |name: &str, value: f32, ok: bool, allowed: &str| {
            if ok {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Input, format!("{name} cannot be {value}"))
                .next(format!("give {allowed}")))
        };
        let at_least_0 = |x: f32| x.is_finite() && x >= 0.0;
        let t = self.temperature;
        range("temperature", t, at_least_0(t), "0 (always the most likely token) or more")?;
        range("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "more than 0, at most 1 (off)")?;
        range("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 (off) to 1")?;
        let repeat = self.repeat_penalty;
        range("repeat penalty", repeat, at_least_0(repeat) && repeat > 0.0, "more than 0, where 1 is off")?;
        let (presence, frequency) = (self.presence_penalty, self.frequency_penalty);
        range("presence penalty", presence, presence.is_finite(), "a number, where 0 is off")?;
        range("frequency penalty", frequency, frequency.is_finite(), "a number, where 0 is off")
    }

    /// See [`Sampler::best`].
    fn best(&self) -> Option<usize> {
        match (self.penalizes(), self.temperature == 0.0, self.top_k) {
            (true, ..) | (false, false, 0) => None,
            (false, true, _) => Some(1),
            (false, false, k) => Some(k),
        }
    }

    /// Whether any logit is lowered.
    fn penalizes(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Lowers the logits of the tokens at the end of `history`.
    fn penalize(&self, logits: &mut [f32], history: &[u32]) {
        let mut counts = BTreeMap::new();
        for &id in &history[history.len().saturating_sub(self.repeat_last_n)..] {
            *counts.entry(id).or_insert(0.0f32) += 1.0;
        }
        for (id, count) in counts {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repeat_penalty } else { *logit * self.repeat_penalty };
            *logit -= count * self.frequency_penalty + self.presence_penalty;
        }
    }
}

/// A token and its logit.
pub type Scored = (u32, f32);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Picks tokens of one sequence.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    seed: u64,
    rng: SplitMix64,
    /// The logits less penalties, and what is left to choose from; kept to spare an allocation a token.
    penalized: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler with its random numbers at their beginning.
    ///
    /// # Errors
    /// `Input` if an option is out of its range.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        options.check()?;
        let seed = options.seed.unwrap_or_else(rng::fresh_seed);
        let (penalized, candidates) = (Vec::new(), Vec::new());
        Ok(Self { options, seed, rng: SplitMix64::new(seed), penalized, candidates })
    }

    /// The seed in use: with it, the same run can be had again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many of the best logits are all that counts, if not all of them do.
    pub(crate) fn best(&self) -> Option<usize> {
        self.options.best()
    }

    /// Picks a token: `logits` has one entry a token of the vocabulary, `history` the tokens so far, last one
    /// last. A logit of minus infinity excludes its token.
    ///
    /// # Errors
    /// `Numeric` if a logit is not a number or plus infinity, or no token is possible.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        let SamplerOptions { temperature, top_k, .. } = self.options;
        let logits = if self.options.penalizes() {
            self.penalized.clear();
            self.penalized.extend_from_slice(logits);
            self.options.penalize(&mut self.penalized, history);
            &self.penalized
        } else {
            logits
        };
        let best_id = argmax(logits);
        let best = logits.get(best_id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let possible = |logit: &f32| *logit < f32::INFINITY; // never true of a NaN
        // without an early end the test of a chunk takes an instruction for several logits
        if !logits.chunks(1024).all(|chunk| chunk.iter().fold(true, |all, logit| all & possible(logit))) {
            let wrong = (0..).zip(logits).find(|(_, logit)| !possible(logit));
            let (id, logit) = wrong.unwrap_or((0_u32, &f32::NAN));
            return Err(numeric(format!("the logit of token {id} is {logit}")));
        }
        if best == f32::NEG_INFINITY {
            return Err(numeric("no token has a probability".into()));
        }
        if temperature == 0.0 {
            return Ok(best_id);
        }
        take_top_k(logits, top_k, &mut self.candidates);
        Ok(self.draw_best(best))
    }

    /// The same from the best of them alone, as many as [`Sampler::best`] says, in descending order.
    ///
    /// # Errors
    /// As [`Sampler::sample`]; of what is not a number among the others nothing is known.
    pub(crate) fn sample_best(&mut self, best: &[Scored]) -> Result<u32> {
        let (id, logit) = best.first().copied().unwrap_or((0, f32::NEG_INFINITY));
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(numeric(format!("the logit of token {id} is {logit}")));
        }
        if logit == f32::NEG_INFINITY {
            return Err(numeric("no token has a probability".into()));
        }
        if self.options.temperature == 0.0 {
            return Ok(id);
        }
        self.candidates.clear();
        self.candidates.extend(best.iter().map(|&(id, logit)| Candidate { id, logit }));
        Ok(self.draw_best(logit))
    }

    /// Draws from the candidates, of which `best` is the highest logit.
    fn draw_best(&mut self, best: f32) -> u32 {
        let SamplerOptions { temperature, top_p, min_p, .. } = self.options;
        keep_top_p(&mut self.candidates, top_p, best);
        keep_min_p(&mut self.candidates, min_p, best);
        draw(&self.candidates, temperature, best, self.rng.next_unit())
    }
}

fn numeric(what: String) -> Error {
    Error::new(ErrorKind::Numeric, what).next("check the model's weights")
}

/// The id of the highest logit, of equals the lowest; 0 if no logit is above minus infinity.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let higher = |max: f32, logit: f32| if logit > max { logit } else { max };
    // side by side, and only then across
    let mut max = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (max, logit) in max.iter_mut().zip(chunk) {
            *max = higher(*max, *logit);
        }
    }
    let max = max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, higher);
    logits.iter().position(|logit| *logit == max).unwrap_or(0) as u32
}

/// The `k` best logits and their tokens, best first.
pub(crate) fn best(logits: &[f32], k: usize, to: &mut Vec<Scored>) {
    let mut candidates = Vec::new();
    take_top_k(logits, k, &mut candidates);
    to.clear();
    to.extend(candidates.into_iter().map(|Candidate { id, logit }| (id, logit)));
}

/// The `k` best (0: all), best first, so that what is drawn does not depend on how they were found.
fn take_top_k(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let all = (0..).zip(logits).map(|(id, &logit)| Candidate { id, logit });
    if k == 0 {
        candidates.extend(all);
        return;
    }
    // One pass over a vocabulary in which few enter: twice `k` are gathered, then the worse half is dropped.
    let mut least = f32::NEG_INFINITY;
    for candidate in all {
        if candidate.logit > least || candidates.len() < k {
            candidates.push(candidate);
            if candidates.len() == k.saturating_mul(2) {
                candidates.select_nth_unstable_by(k - 1, better);
                candidates.truncate(k);
                least = candidates[k - 1].logit;
            }
        }
    }
    candidates.sort_unstable_by(better);
    candidates.truncate(k);
}

/// Leaves the best whose probabilities reach `p` together, at least one.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32, best: f32) {
    if p >= 1.0 {
        return;
    }
    let weight = |candidate: &Candidate| f64::from(candidate.logit - best).exp();
    let enough = f64::from(p) * candidates.iter().map(weight).sum::<f64>();
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < candidates.len() {
        // mostly few are enough: the best of the rest are found and sorted, each time as many as there are already
        let end = candidates.len().min((2 * sorted).max(64));
        candidates[sorted..].select_nth_unstable_by(end - sorted - 1, better);
        candidates[sorted..end].sort_unstable_by(better);
        let last = candidates[sorted..end].iter().position(|candidate| {
            sum += weight(candidate);
            sum >= enough
        });
        if let Some(last) = last {
            candidates.truncate(sorted + last + 1);
            return;
        }
        sorted = end;
    }
}

/// Leaves those at least `p` times as likely as the best.
fn keep_min_p(candidates: &mut Vec<Candidate>, p: f32, best: f32) {
    let least = best + p.ln(); // minus infinity for 0
    candidates.retain(|candidate| candidate.logit >= least);
}

/// Picks one by its probability at `temperature`; `unit` is a random number in [0, 1).
fn draw(candidates: &[Candidate], temperature: f32, best: f32, unit: f64) -> u32 {
    let weight = |candidate: &Candidate| (f64::from(candidate.logit - best) / f64::from(temperature)).exp();
    let mut left = unit * candidates.iter().map(weight).sum::<f64>();
    let mut chosen = None;
    for candidate in candidates {
        let weight = weight(candidate);
        if weight > 0.0 {
            chosen = Some(candidate.id);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    // The best has weight 1, so that one is always chosen.
    chosen.unwrap_or_default()
}

/// Higher logit first, then lower id.
fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests;
