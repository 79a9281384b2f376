//! Where a model runs: the operations of the forward pass, as coarse as fusing them pays.

mod batch;
pub mod cpu;
pub mod cuda;

pub use batch::{Batch, Run};

use crate::model::{
    AttentionWeights, DeltaNetWeights, DenseWeights, ExpertsWeights, LatentWeights, LayerInputWeights,
    LayerInputsWeights, Model, NormWeights, ShortConvWeights, StateSpaceWeights,
};

/// What becomes of a block's result: `x += scale * norm(result)`, or the same with the sum of branches for `x`.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a> {
    /// Normalizes the result, if it is normalized.
    pub(crate) norm: Option<&'a NormWeights>,
    /// Its factor.
    pub(crate) scale: f32,
    /// What it is added to.
    pub(crate) to: Target,
}

/// What results are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `x`.
    X,
    /// A sum of several normalized results, of which this is the first.
    FirstBranch,
    /// The same, of which it is a further one.
    Branch,
}

/// The operations of one forward pass over a batch of tokens, in the order in which [`crate::forward`] calls them.
///
/// A backend keeps the state between them: `x` (the batch's tokens, n_embd values each), the queries, the results of
/// attention, the values inside the feed-forward network, and the key/value cache. What reads `x` reads it normalized
/// by `norm`, if there is one.
pub trait Backend {
    /// `x = ` the embedding of each token of the batch; prepares the rotations of their positions.
    fn embed(&mut self, model: &Model);

    /// Prepares the rotations of the positions of the batch alone, where its `x` comes from another backend.
    fn rotations(&mut self);

    /// What each layer gets of each token of the batch besides, from their embeddings in `x`.
    fn layer_inputs(&mut self, weights: &LayerInputsWeights);

    /// Adds what layer `layer` makes of that to `x`.
    fn add_layer_input(&mut self, layer: usize, weights: &LayerInputWeights);

    /// `x *= factor`.
    fn scale(&mut self, factor: f32);

    /// `x = norm(x)`.
    fn normalize(&mut self, norm: &NormWeights);

    /// Queries, keys and values of layer `layer` from `x`; normalizes and rotates queries and keys, and stores keys and
    /// values in the cache.
    fn qkv(&mut self, layer: usize, weights: &AttentionWeights, norm: Option<&NormWeights>);

    /// Attention of the batch's queries over all tokens that each sees.
    fn attend(&mut self, layer: usize, weights: &AttentionWeights);

    /// Adds `output(attention)` to `x`.
    fn attn_output(&mut self, weights: &AttentionWeights, residual: Residual<'_>);

    /// Latent attention up to the output matrix.
    fn latent(&mut self, layer: usize, weights: &LatentWeights, norm: Option<&NormWeights>);

    /// Adds what the output matrix of latent attention gives to `x`.
    fn latent_output(&mut self, weights: &LatentWeights, residual: Residual<'_>);

    /// A convolution over the last tokens up to its output matrix; remembers the batch's.
    fn short_conv(&mut self, layer: usize, weights: &ShortConvWeights, norm: Option<&NormWeights>);

    /// Adds what the output matrix of a convolution gives to `x`.
    fn short_conv_output(&mut self, weights: &ShortConvWeights, residual: Residual<'_>);

    /// A selective state space up to its output matrix; remembers the batch.
    fn state_space(&mut self, layer: usize, weights: &StateSpaceWeights, norm: Option<&NormWeights>);

    /// Adds what the output matrix of a state space gives to `x`.
    fn state_space_output(&mut self, weights: &StateSpaceWeights, residual: Residual<'_>);

    /// A gated delta net up to its output matrix; remembers the batch.
    fn delta_net(&mut self, layer: usize, weights: &DeltaNetWeights, norm: Option<&NormWeights>);

    /// Adds what the output matrix of a delta net gives to `x`.
    fn delta_net_output(&mut self, weights: &DeltaNetWeights, residual: Residual<'_>);

    /// The values between the matrices of a feed-forward network.
    fn up(&mut self, weights: &DenseWeights, norm: Option<&NormWeights>);

    /// Adds `down` of them to `x`.
    fn down(&mut self, weights: &DenseWeights, residual: Residual<'_>);

    /// Chooses the experts of each token.
    fn route(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>);

    /// The values between the matrices of the chosen experts.
    fn experts_up(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>);

    /// Adds the weighted sum of `down` of them to `x`.
    fn experts_down(&mut self, weights: &ExpertsWeights, residual: Residual<'_>);

    /// Adds the sum of branches to `x`.
    fn add_branches(&mut self, residual: Residual<'_>);

    /// Logits of the tokens that were asked for.
    fn logits(&mut self, model: &Model);
}
