//! Latent attention (DeepSeek-V2, arXiv 2405.04434) around its cache.
//!
//! The maps that make keys and values of what is cached are matrices of each head. A head of a token is a column of
//! [`super::Matvec`] with `ids` of heads, or of [`super::Matmul`] in the order of heads; the products of keys' maps go where
//! [`FinishLatent`] expects them, with a `y_stride` of `rank + rope`. Attention then has one key/value head, with keys of
//! `rank + rope` and values of `rank` numbers.

use super::attention::type_number;
use super::{Cache, Norm, NormKind, Temperature, check};
use crate::cuda::{Address, Arg, Error, Launch};

/// Queries, and what keys and values are made of, between their matrices and attention.
#[derive(Debug, Clone, Copy)]
pub struct FinishLatent {
    /// Query heads.
    pub n_head: u32,
    /// Values of a query that do not turn.
    pub nope: u32,
    /// Values of a query or key that turn.
    pub rope: u32,
    /// Values that keys and values are made of.
    pub rank: u32,
    /// f32 (tokens, q_stride): heads of nope + rope.
    pub q: Address,
    /// Distance of tokens.
    pub q_stride: u32,
    /// f32 (tokens, kv_stride): rank + rope values.
    pub kv: Address,
    /// Distance of tokens.
    pub kv_stride: u32,
    /// How the rank values are normalized.
    pub kv_norm: Norm,
    /// How many tokens.
    pub tokens: u32,
    /// Of [`super::Rotations`].
    pub cosines: Address,
    /// Of [`super::Rotations`].
    pub sines: Address,
    /// Pairs that turn; 0: nothing does.
    pub n_pairs: u32,
    /// Whether pair i is values (i, i + n_pairs), and not (2i, 2i + 1).
    pub halves: bool,
    /// How queries grow.
    pub temperature: Temperature,
    /// Where keys and values go.
    pub cache: Cache,
    /// f32 (tokens, heads, rank + rope): queries, of which the first rank values are there already.
    pub y: Address,
}

impl FinishLatent {
    /// Its launch.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn launch(&self) -> Result<Launch, Error> {
        let FinishLatent { n_head, nope, rope, rank, tokens, n_pairs, cache, kv_norm, .. } = *self;
        let size = rank.saturating_add(rope);
        check(rank.is_multiple_of(8) && rope.is_multiple_of(8) && (8..=1024).contains(&size), || {
            format!("keys of {rank} and {rope} values: multiples of 8 are needed")
        })?;
        check(n_pairs <= rope / 2, || format!("{n_pairs} pairs of {rope} values"))?;
        check(kv_norm.kind != NormKind::None && kv_norm.bias == Address::NONE, || {
            "keys and values are normalized otherwise".to_owned()
        })?;
        let [temperature, every, offset] = self.temperature.args();
        let args: [Arg; 27] = [
            self.q.into(),
            self.q_stride.into(),
            n_head.into(),
            nope.into(),
            rope.into(),
            rank.into(),
            self.kv.into(),
            self.kv_stride.into(),
            (kv_norm.kind as u32).into(),
            kv_norm.eps.into(),
            kv_norm.weight.into(),
            self.cosines.into(),
            self.sines.into(),
            n_pairs.into(),
            u32::from(self.halves).into(),
            temperature,
            every,
            offset,
            cache.positions.into(),
            cache.sequences.into(),
            cache.pages.into(),
            cache.max_pages.into(),
            cache.keys.into(),
            cache.values.into(),
            type_number(cache.types.0),
            type_number(cache.types.1),
            self.y.into(),
        ];
        Launch::new("finish_latent", [n_head + 1, tokens, 1], 128, 4 * size, &args)
    }
}
