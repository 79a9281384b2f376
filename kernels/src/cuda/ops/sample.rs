//! The next token from logits.

use crate::cuda::{Address, Error, Launch};

/// The place of the largest logit of each row, of equal ones the first.
#[derive(Debug, Clone, Copy)]
pub struct Argmax {
    /// f32 (rows, n).
    pub logits: Address,
    /// Logits of a row.
    pub n: u32,
    /// How many rows.
    pub rows: u32,
    /// u64 (rows, [`Argmax::BLOCKS`]): room.
    pub best: Address,
    /// u32 (rows), 0; they are 0 afterwards.
    pub counters: Address,
    /// u32 (rows).
    pub tokens: Address,
}

impl Argmax {
    /// Blocks that share a row.
    pub const BLOCKS: u32 = 64;

    /// Its launch.
    ///
    /// # Errors
    /// No logits.
    pub fn launch(&self) -> Result<Launch, Error> {
        super::check(self.n > 0, || "no logits".to_owned())?;
        let args =
            [self.logits.into(), self.n.into(), self.best.into(), self.counters.into(), self.tokens.into()];
        Launch::new("argmax", [Argmax::BLOCKS, self.rows, 1], 512, 0, &args)
    }
}

/// The k largest logits of each row in descending order, of equal ones the first before the others.
#[derive(Debug, Clone, Copy)]
pub struct TopK {
    /// f32 (rows, n).
    pub logits: Address,
    /// Logits of a row.
    pub n: u32,
    /// How many rows.
    pub rows: u32,
    /// How many are wanted of each, up to [`TopK::MOST`] and to n.
    pub k: u32,
    /// u32 (rows, k): their places.
    pub places: Address,
    /// f32 (rows, k): the logits.
    pub values: Address,
}

impl TopK {
    /// The largest k.
    pub const MOST: u32 = 1024;

    /// Its launch.
    ///
    /// # Errors
    /// A k that is too small or too large.
    pub fn launch(&self) -> Result<Launch, Error> {
        let TopK { n, k, .. } = *self;
        let size = self.size()?;
        let args =
            [self.logits.into(), n.into(), k.into(), size.into(), self.places.into(), self.values.into()];
        Launch::new("top_k", [self.rows, 1, 1], 1024, 8 * size, &args)
    }

    /// Keys that are sorted.
    fn size(&self) -> Result<u32, Error> {
        let TopK { n, k, .. } = *self;
        super::check((1..=TopK::MOST.min(n)).contains(&k), || format!("the {k} largest of {n}"))?;
        Ok(k.next_power_of_two().max(2))
    }
}

/// [`TopK`] by several blocks a row, as large vocabularies want it.
#[derive(Debug, Clone, Copy)]
pub struct SharedTopK {
    /// What is wanted.
    pub of: TopK,
    /// u64 (rows, [`SharedTopK::BLOCKS`], k): room.
    pub room: Address,
    /// u32 (rows), 0; they are 0 afterwards.
    pub counters: Address,
}

impl SharedTopK {
    /// Blocks that share a row.
    pub const BLOCKS: u32 = 32;

    /// Its launch.
    ///
    /// # Errors
    /// A k that is too small or too large.
    pub fn launch(&self) -> Result<Launch, Error> {
        let TopK { logits, n, rows, k, places, values } = self.of;
        let size = self.of.size()?;
        let args = [
            logits.into(),
            n.into(),
            k.into(),
            size.into(),
            self.room.into(),
            self.counters.into(),
            places.into(),
            values.into(),
        ];
        Launch::new("top_k_of_shares", [SharedTopK::BLOCKS, rows, 1], 1024, 8 * size, &args)
    }
}

/// A token of each row, drawn from the softmax of its k candidates over the temperature.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Of [`TopK`].
    pub places: Address,
    /// Of [`TopK`].
    pub values: Address,
    /// Candidates of a row.
    pub k: u32,
    /// How many rows.
    pub rows: u32,
    /// Above 0.
    pub temperature: f32,
    /// f32 (rows), of [0, 1).
    pub uniform: Address,
    /// u32 (rows).
    pub tokens: Address,
}

impl Draw {
    /// Its launch.
    ///
    /// # Errors
    /// No candidates, or a temperature of 0 or less.
    pub fn launch(&self) -> Result<Launch, Error> {
        let positive = self.temperature > 0.0;
        super::check(self.k > 0 && positive, || {
            format!("{} candidates at temperature {}", self.k, self.temperature)
        })?;
        let args = [
            self.places.into(),
            self.values.into(),
            self.k.into(),
            self.temperature.into(),
            self.uniform.into(),
            self.tokens.into(),
        ];
        Launch::new("draw", [self.rows, 1, 1], 32, 0, &args)
    }
}

/// The same of the candidates that top-p and min-p leave. All that differs from row to row and from step to step lies in
/// memory.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Of [`TopK`].
    pub places: Address,
    /// Of [`TopK`].
    pub values: Address,
    /// Candidates of a row.
    pub k: u32,
    /// How many rows.
    pub rows: u32,
    /// f32 (rows, 4): temperature (0: the best candidate); the probability that the best ones are left to reach together
    /// (1: all are left); how many times as likely as the best one others must be; a random number of [0, 1).
    pub options: Address,
    /// u32 (rows).
    pub tokens: Address,
}

impl Sample {
    /// Its launch.
    ///
    /// # Errors
    /// No candidates.
    pub fn launch(&self) -> Result<Launch, Error> {
        super::check(self.k > 0, || "no candidates".to_owned())?;
        let args =
            [self.places.into(), self.values.into(), self.k.into(), self.options.into(), self.tokens.into()];
        Launch::new("sample", [self.rows, 1, 1], 32, 0, &args)
    }
}

/// Logits of tokens seen lately become smaller.
#[derive(Debug, Clone, Copy)]
pub struct Penalize {
    /// f32 (rows, n).
    pub logits: Address,
    /// Logits of a row.
    pub n: u32,
    /// How many rows.
    pub rows: u32,
    /// u32 (rows, room): tokens, in any order.
    pub history: Address,
    /// Most tokens of a row.
    pub room: u32,
    /// u32 (rows): how many of them count.
    pub lengths: Address,
    /// f32 (rows, 3): what positive logits are divided by and others multiplied with; what is taken from a token; what is
    /// taken from it for each time.
    pub options: Address,
}

impl Penalize {
    /// Its launch.
    ///
    /// # Errors
    /// Nothing to do.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = [
            self.logits.into(),
            self.n.into(),
            self.history.into(),
            self.room.into(),
            self.lengths.into(),
            self.options.into(),
        ];
        Launch::new("penalize", [self.rows, 1, 1], 128, 0, &args)
    }
}
