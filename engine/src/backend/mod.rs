//! Where a model runs: the operations of the forward pass, as coarse as fusing them pays.

mod attention;
pub mod cpu;

use crate::block;
use crate::model::{LayerWeights, Weight};

/// The operations of one forward pass over a batch of tokens, in the order in which [`crate::forward`] calls them.
///
/// A backend keeps the state between them: `x` (the batch's tokens, n_embd values each), the queries, the results of
/// attention, the values inside the feed-forward network, and the key/value cache.
pub trait Backend {
    /// `x = ` the embedding of each token of the batch; prepares the rotations of their positions.
    fn embed(&mut self, table: &Weight);

    /// Queries, keys and values of layer `layer` from the normalized `x`; rotates queries and keys, and stores keys
    /// and values in the cache.
    fn qkv(&mut self, layer: usize, spec: &block::Attention, weights: &LayerWeights);

    /// Attention of the batch's queries over all tokens up to each.
    fn attend(&mut self, layer: usize, spec: &block::Attention);

    /// `x += output(attention)`.
    fn attn_output(&mut self, spec: &block::Attention, weights: &LayerWeights);

    /// `h = silu(gate(n)) * up(n)` with `n` the normalized `x`.
    fn gate_up(&mut self, spec: &block::Mlp, weights: &LayerWeights);

    /// `x += down(h)`.
    fn down(&mut self, spec: &block::Mlp, weights: &LayerWeights);

    /// Logits of the tokens that were asked for, from the normalized `x`.
    fn logits(&mut self, norm: &[f32], output: &Weight);
}
