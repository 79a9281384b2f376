//! How many tokens to draft, from what was measured.
//!
//! All times are in plain steps: passes that read one token. With n drafts, of which the i-th is right with probability
//! `p[i]` if those before it are, a pass makes `1 + p[1] + p[1] p[2] + ...` tokens (Leviathan et al. 2023, section 3.1)
//! and takes as long as a pass over n + 1 tokens and the drafting. The n with the most tokens a time is taken, or none.
//!
//! 1. Everything is measured while it runs: the time of a pass by its length, the time of drafting, and how often drafts
//!    of each class are right.
//! 2. Nothing is given up for good: a length that was not tried lately is believed to be a little better each pass, and
//!    where drafting does not pay, a single draft is compared with the text now and then.
//! 3. Tries are paid for from a purse, into which each token pays [`EARNED`] of a step, and speculation what it gains.
//!    No pass risks more than it holds. So a text in which speculation never pays takes 1 % longer, whatever the
//!    estimates are; and long drafts come after short ones have paid.

use std::time::Duration;

use super::{CLASSES, Draft, MAX_DRAFT};

/// What a token pays into the purse, in plain steps.
const EARNED: f64 = 0.01;

/// What the purse holds at first, in plain steps, and at most: enough for a run of bad luck.
const PURSE: f64 = 2.0;
const FULL_PURSE: f64 = 16.0;

/// What probes leave in the purse, in plain steps: enough for a pass that does what they have promised.
const RESERVE: f64 = 2.5;

/// How many times as fast as plain steps speculation must promise to be.
const MARGIN: f64 = 1.03;

/// Time of drafting, in plain steps, up to which one does not ask whether it pays.
const FREE: f64 = 0.01;

/// What a draft more in a pass costs while no pass with drafts was measured, in plain steps: something between nothing,
/// as where reading the weights is all that takes time, and another step.
const HOPED_COLUMN: f64 = 0.3;

/// What reading one of many tokens takes while that was not measured, as a share of drafting one.
const HOPED_READ: f64 = 0.25;

/// How much of the least cost of a draft, among passes that were measured, is hoped for in the others: kernels may take
/// some numbers of tokens at once and others one by one.
const HOPED_SHARE: f64 = 0.5;

/// Share of a new measurement in the time of a plain step.
const NEW_STEP: f64 = 0.125;

/// Passes after which a plain step is due, so that times are compared with the machine as it is.
const PLAIN_DUE: usize = 64;

/// What was measured of something, and what was hoped for before.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    hoped: f64,
    /// How many measurements the hope counts for.
    hope: f64,
    /// Sum of the measurements, and how many they count for.
    sum: f64,
    weight: f64,
}

impl Estimate {
    /// What a measurement leaves of the older ones' weight: the last thirty or so count.
    const KEPT: f64 = 1.0 - 1.0 / 32.0;

    /// What a pass without a measurement leaves of it.
    const KEPT_UNMEASURED: f64 = 1.0 - 1.0 / 200.0;

    fn new(hoped: f64, hope: f64) -> Estimate {
        Estimate { hoped, hope, sum: 0.0, weight: 0.0 }
    }

    /// Whether measurements count for more than hope.
    fn is_known(&self) -> bool {
        self.weight > self.hope
    }

    fn value(&self) -> f64 {
        (self.hoped * self.hope + self.sum) / (self.hope + self.weight)
    }

    fn add(&mut self, measured: f64) {
        self.keep(Self::KEPT);
        self.sum += measured;
        self.weight += 1.0;
    }

    fn forget(&mut self) {
        self.keep(Self::KEPT_UNMEASURED);
    }

    fn keep(&mut self, share: f64) {
        self.sum *= share;
        self.weight *= share;
    }
}

/// What speculation costs and brings.
#[derive(Debug)]
pub(super) struct Pace {
    /// Seconds of a plain step, once there was one.
    step: Option<f64>,
    /// Passes since the last plain step.
    since_plain: usize,
    /// Time of a pass with so many drafts.
    pass: [Estimate; MAX_DRAFT + 1],
    /// Time of drafting a token, and of reading one of those that a drafter has missed in a pause.
    draft: Estimate,
    read: Estimate,
    /// Time that drafting took for the next pass; `None` if nothing was drafted.
    spent: Option<f64>,
    /// Passes for which nothing was drafted, since something was.
    idle: usize,
    /// How often drafts are right, by class and all together.
    classes: [Estimate; CLASSES],
    overall: Estimate,
    purse: f64,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            step: None,
            since_plain: 0,
            pass: std::array::from_fn(|n| Estimate::new(1.0 + HOPED_COLUMN * n as f64, 0.25)),
            draft: Estimate::new(0.0, 0.25),
            read: Estimate::new(0.0, 0.25),
            spent: None,
            idle: 0,
            // draft models; then n-grams by the length of the match, as measured on prose, code and quotations
            classes: [0.7, 0.4, 0.6, 0.9, 0.95].map(|hoped| Estimate::new(hoped, 2.0)),
            overall: Estimate::new(0.7, 2.0),
            purse: PURSE,
        }
    }

    /// A text begins, which the drafter reads as a whole when it is asked.
    pub(super) fn begin(&mut self) {
        self.idle = 0;
    }

    /// How many tokens to draft.
    pub(super) fn ask(&self) -> usize {
        let draft = self.draft.value();
        if self.step.is_some() && draft * MAX_DRAFT as f64 <= FREE {
            return if self.draft.is_known() { MAX_DRAFT } else { 1 };
        }
        if !self.may_speculate() {
            return 0;
        }
        let read = if self.read.is_known() { self.read.value() } else { HOPED_READ * draft };
        let catch_up = self.idle as f64 * read;
        let drafting = |n: usize| if n == 0 { 0.0 } else { catch_up + n as f64 * draft };
        let probe = usize::from(self.idle as f64 * EARNED > draft && self.purse > RESERVE + drafting(1));
        self.fastest(MAX_DRAFT, |_| self.overall.value(), drafting).max(probe)
    }

    /// How many of these drafts to put into the next pass.
    pub(super) fn length(&self, drafts: &[Draft]) -> usize {
        if !self.may_speculate() {
            return 0;
        }
        let spent = self.spent.unwrap_or(0.0);
        self.fastest(drafts.len(), |i| self.classes[drafts[i].class].value(), |_| spent)
    }

    /// Hopes for passes of other lengths what is known of some.
    fn hope_anew(&mut self) {
        let known = (1..).zip(&self.pass[1..]).filter(|(_, pass)| pass.is_known());
        let columns = known.map(|(n, pass)| (pass.sum / pass.weight - 1.0) / f64::from(n));
        if let Some(column) = columns.min_by(f64::total_cmp) {
            for (n, pass) in self.pass.iter_mut().enumerate() {
                pass.hoped = 1.0 + HOPED_SHARE * column.max(0.0) * n as f64;
            }
        }
    }

    fn may_speculate(&self) -> bool {
        self.step.is_some() && self.since_plain < PLAIN_DUE && self.purse > 0.0
    }

    /// The number of drafts up to `most` that makes the most tokens a time, if the draft at each place is accepted with
    /// probability `rate` and drafting so many takes `drafting`; 0 if none is faster than a plain step, or the purse too
    /// small for the case that the first draft is wrong.
    fn fastest(&self, most: usize, rate: impl Fn(usize) -> f64, drafting: impl Fn(usize) -> f64) -> usize {
        let (mut tokens, mut reached) = (1.0, 1.0);
        let (mut best, mut fastest) = (0, MARGIN / (self.pass[0].value() + drafting(0)));
        for n in 1..=most {
            reached *= rate(n - 1);
            tokens += reached;
            let time = self.pass[n].value() + drafting(n);
            let speed = tokens / time;
            if speed > fastest && time - 1.0 <= self.purse {
                (best, fastest) = (n, speed);
            }
        }
        best
    }

    /// Learns that drafting `n` tokens took `time`, after the drafter had `caught_up` with a text that went on without it.
    pub(super) fn drafted(&mut self, n: usize, time: Duration, caught_up: Duration) {
        if let Some(step) = self.step {
            self.spent = Some((caught_up + time).as_secs_f64() / step);
            self.draft.add(time.as_secs_f64() / step / n as f64);
            if self.idle > 0 && !caught_up.is_zero() {
                self.read.add(caught_up.as_secs_f64() / step / self.idle as f64);
            }
        }
        self.idle = 0;
    }

    /// Nothing was drafted.
    pub(super) fn not_drafted(&mut self) {
        self.spent = None;
        self.idle += 1;
    }

    /// Learns whether a draft, before which all were right, was right.
    pub(super) fn compared(&mut self, class: usize, right: bool) {
        let right = f64::from(u8::from(right));
        self.classes[class].add(right);
        self.overall.add(right);
    }

    /// Learns that a pass with `n` drafts made `tokens` tokens and took `time`.
    pub(super) fn passed(&mut self, n: usize, tokens: usize, time: Duration) {
        let seconds = time.as_secs_f64().max(f64::MIN_POSITIVE);
        let step = self.step.unwrap_or(seconds);
        self.since_plain += 1;
        if n == 0 {
            self.step = Some(step + NEW_STEP * (seconds - step));
            self.since_plain = 0;
        }
        for (drafts, pass) in self.pass.iter_mut().enumerate() {
            if drafts == n { pass.add(seconds / step) } else { pass.forget() }
        }
        self.hope_anew();
        // by the estimates, so that what disturbs one pass empties no purse
        let took = self.pass[n].value() + self.spent.unwrap_or(0.0);
        let gained = tokens as f64 * (self.pass[0].value() + EARNED) - took;
        self.purse = (self.purse + gained).min(FULL_PURSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine and a text.
    struct Play {
        /// Time of a pass over so many tokens, in plain steps.
        pass: fn(usize) -> f64,
        /// Time of drafting a token, and of reading one that was missed.
        draft: f64,
        read: f64,
        /// How often a draft is right.
        rate: f64,
        /// How much times vary.
        noise: f64,
    }

    const STEP: f64 = 0.005;

    /// Makes `tokens` tokens and returns how many times as fast as plain steps that was, by true times without noise.
    fn speed(play: &Play, pace: &mut Pace, tokens: usize) -> f64 {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut made, mut time, mut missed) = (0, 0.0, 0.0);
        while made < tokens {
            let noise = 1.0 + play.noise * random.f64();
            let seconds = |t: f64| Duration::from_secs_f64(t * STEP * noise);
            let ask = pace.ask();
            if ask == 0 {
                pace.not_drafted();
                missed += 1.0;
            } else {
                pace.drafted(ask, seconds(ask as f64 * play.draft), seconds(missed * play.read));
                time += missed * play.read;
                missed = 0.0;
            }
            let right: Vec<bool> = (0..ask).map(|_| random.f64() < play.rate).collect();
            let drafts = vec![Draft { token: 0, class: 2 }; ask];
            let n = pace.length(&drafts);
            let accepted = right.iter().take(n).take_while(|right| **right).count();
            for &right in right.iter().take(accepted + 1) {
                pace.compared(2, right);
            }
            pace.passed(n, accepted + 1, seconds((play.pass)(n + 1)));
            made += accepted + 1;
            time += (play.pass)(n + 1) + ask as f64 * play.draft;
        }
        made as f64 / time
    }

    /// Four columns share a pass over the weights, other numbers of them do not.
    fn by_fours(columns: usize) -> f64 {
        (columns / 4) as f64 * 2.1 + (columns % 4) as f64
    }

    fn flat(columns: usize) -> f64 {
        1.0 + 0.05 * (columns - 1) as f64
    }

    fn linear(columns: usize) -> f64 {
        columns as f64
    }

    #[test]
    fn what_does_not_pay_costs_a_hundredth() {
        for pass in [by_fours, flat, linear] {
            let drafters =
                [(0.0, 0.0, 0.0), (1e-4, 1e-4, 1.0), (0.2, 0.05, 0.3), (1.0, 0.3, 0.3), (3.0, 0.0, 0.3)];
            for (draft, read, noise) in drafters {
                let play = Play { pass, draft, read, rate: 0.0, noise };
                let mut pace = Pace::new();
                speed(&play, &mut pace, 1000); // the first purse
                let speed = speed(&play, &mut pace, 5000);
                assert!(speed > 0.985, "{speed} with drafts of {draft}");
            }
        }
    }

    #[test]
    fn the_first_tries_cost_few_steps() {
        for pass in [by_fours, flat, linear] {
            let play = Play { pass, draft: 0.0, read: 0.0, rate: 0.1, noise: 0.3 };
            let speed = speed(&play, &mut Pace::new(), 200);
            assert!(speed > 0.97, "{speed}");
        }
    }

    #[test]
    fn what_pays_comes_near_the_best_length() {
        for pass in [by_fours, flat] {
            for (draft, rate) in [(0.0, 0.95), (0.0, 0.8), (0.1, 0.9), (0.02, 0.7)] {
                let expected = |n: usize| (0..=n).map(|i| rate_power(rate, i)).sum::<f64>();
                let best = (0..=MAX_DRAFT)
                    .map(|n| expected(n) / (pass(n + 1) + n as f64 * draft))
                    .fold(0.0, f64::max);
                let speed =
                    speed(&Play { pass, draft, read: draft / 4.0, rate, noise: 0.3 }, &mut Pace::new(), 4000);
                // what gains little may be found too little to risk anything
                let least = if best < 1.2 { 0.98 } else { 0.9 * best };
                assert!(speed > least && speed < 1.1 * best, "{speed} of {best} at {rate}");
            }
        }
    }

    fn rate_power(rate: f64, n: usize) -> f64 {
        rate.powi(i32::try_from(n).expect("is small"))
    }

    #[test]
    fn it_notices_that_the_text_has_changed() {
        let mut pace = Pace::new();
        let play = |rate| Play { pass: by_fours, draft: 0.1, read: 0.005, rate, noise: 0.3 };
        speed(&play(0.0), &mut pace, 2000);
        assert!(pace.ask() <= 1, "no more than a probe is drafted while it does not pay");
        speed(&play(0.95), &mut pace, 1500);
        let late = speed(&play(0.95), &mut pace, 1000);
        assert!(late > 1.2, "{late}");
    }

    #[test]
    fn without_a_plain_step_nothing_is_known() {
        let mut pace = Pace::new();
        let drafts = [Draft { token: 0, class: 4 }; MAX_DRAFT];
        assert_eq!(pace.length(&drafts), 0);
        pace.passed(0, 1, Duration::from_millis(5));
        assert!(pace.length(&drafts) > 0);
        assert_eq!(pace.length(&[]), 0);
    }
}
