//! What a model is made of, as data. An architecture (see [`crate::arch`]) turns a file's metadata into a [`Spec`];
//! [`crate::forward`] executes it. A mechanism that several families use is one of these blocks.

mod rope;

pub use rope::{Pairs, Rope, Scaling};

/// A whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Name of the architecture, as in the file.
    pub arch: String,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Values that stand for a token between layers.
    pub n_embd: usize,
    /// Tokens that the model was made for.
    pub n_ctx: usize,
    /// Added to the mean square in every normalization.
    pub norm_eps: f32,
    /// How positions enter queries and keys.
    pub rope: Rope,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
}

/// One layer: attention, then a feed-forward network, each added to what came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Looks at the tokens so far.
    pub attention: Attention,
    /// Transforms each token by itself.
    pub mlp: Mlp,
}

/// Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads, a multiple of `n_head_kv`.
    pub n_head: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Values in a query or key.
    pub head_dim: usize,
    /// Values in a value.
    pub head_dim_v: usize,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
}

impl Attention {
    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.n_head / self.n_head_kv
    }
}

/// A gated feed-forward network: `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mlp {
    /// Values between the matrices.
    pub n_ff: usize,
}
