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
        super::check((1..=TopK::MOST.min(n)).contains(&k), || format!("the {k} largest of {n}"))?;
        let size = k.next_power_of_two().max(2);
        let args =
            [self.logits.into(), n.into(), k.into(), size.into(), self.places.into(), self.values.into()];
        Launch::new("top_k", [self.rows, 1, 1], 1024, 8 * size, &args)
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
