//! What a model is made of, as data. An architecture (see [`crate::arch`]) turns a file's metadata into a [`Spec`];
//! [`crate::forward`] executes it. A mechanism that several families use is one of these blocks.
//!
//! ```text
//! a layer, in sequence    x += norm(mixer(norm(x)));  x += norm(mlp(norm(x)))      each norm may be missing
//! in parallel             x += norm(mixer(norm(x))) + norm(mlp(norm(x)))
//! sums                    x = norm(x) behind either of the two, in sequence
//! ```

mod attention;
mod delta_net;
mod experts;
mod rope;
mod state_space;

pub use attention::{Attention, Heads, Latent, NormPlace, QkNorm, Source, Temperature};
pub use delta_net::{DeltaNet, DeltaNetKind};
pub use experts::{Experts, Groups, Routing};
pub use rope::{Factors, Pairs, Rope, Scaling};
pub use state_space::{StateSpace, StateSpaceKind};

pub use braise_kernels::ops::{Activation, Window, Xielu};

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
    /// How token ids become values.
    pub embedding: Embedding,
    /// The ways in which positions enter queries and keys; layers refer to them by index.
    pub ropes: Vec<Rope>,
    /// What each layer gets of each token besides, if anything.
    pub layer_inputs: Option<LayerInputs>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// How values become logits.
    pub output: Output,
    /// How the values of all tokens become one embedding of the text, if the model was made for that.
    pub pooling: Option<Pooling>,
}

impl Spec {
    /// Whether tokens see those after them: a text is read at once then, and not continued.
    pub fn is_encoder(&self) -> bool {
        self.layers.iter().filter_map(|layer| layer.mixer.attention()).any(|attention| !attention.causal)
    }

    /// Whether tokens can be forgotten only by reading those before them again.
    pub fn is_recurrent(&self) -> bool {
        self.layers.iter().any(|layer| !layer.mixer.states().is_empty())
    }
}

/// How token ids become values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedding {
    /// Factor of the table's rows.
    pub scale: f32,
    /// Whether a row of a second table, one for each position, is added (GPT-2).
    pub positions: bool,
    /// Whether the first row of a table of kinds of text is added (BERT).
    pub kinds: bool,
    /// Normalizes the sum.
    pub norm: Option<Norm>,
}

/// What layers get of each token besides what is between them (Gemma 3n and 4):
///
/// ```text
/// e = (norm(W x / sqrt(n_embd)) + sqrt(n) * row of the token) / sqrt(2)       x: the embedding; n values for each layer
/// x += norm(out(gelu(gate(x)) * e))                                           at the end of a layer
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerInputs {
    /// Values of a layer.
    pub n: usize,
    /// Added to the mean squares.
    pub eps: f32,
}

/// How the values of a text's tokens, after the last layer and the output's normalization, become one embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// Those of the first token.
    First,
    /// Those of the last token.
    Last,
}

/// How values become logits: `softcap * tanh(scale * W norm(x) / softcap)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// Before the matrix.
    pub norm: Option<Norm>,
    /// Factor of the logits.
    pub scale: f32,
    /// Bound of the logits, if they are bounded softly.
    pub softcap: Option<f32>,
}

/// A normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// The part of the tensors' names between layer and `.weight` or `.bias`; `None`: there are none, and values stay
    /// as they are normalized.
    pub tensor: Option<&'static str>,
    /// By what is divided.
    pub kind: NormKind,
    /// Added to the mean square.
    pub eps: f32,
}

/// Kinds of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square (Zhang and Sennrich 2019, arXiv 1910.07467).
    Rms,
    /// Distances from the mean, by their root mean square (Ba et al. 2016, arXiv 1607.06450).
    Layer,
}

/// One layer: a mixer of tokens, then a feed-forward network, each added to what came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Looks at the tokens so far.
    pub mixer: Mixer,
    /// Transforms each token by itself.
    pub mlp: Mlp,
    /// Normalizations of the layer.
    pub norms: Norms,
    /// Whether the feed-forward network reads what the mixer reads, and not what it has made of it.
    pub parallel: bool,
    /// Factor of what is added.
    pub residual_scale: f32,
    /// Whether the file has a factor of what the layer gives.
    pub scaled: bool,
}

/// Where a layer normalizes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Norms {
    /// What the mixer reads.
    pub mixer: Option<Norm>,
    /// What it gives.
    pub mixer_out: Option<Norm>,
    /// The sum of that and of what came in (BERT).
    pub mixer_sum: Option<Norm>,
    /// What the feed-forward network reads.
    pub mlp: Option<Norm>,
    /// What it gives.
    pub mlp_out: Option<Norm>,
    /// The sum of that and of what came in.
    pub mlp_sum: Option<Norm>,
}

/// What looks at the tokens so far.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    /// Attention with keys and values of its own.
    Attention(Attention),
    /// Attention over compressed keys and values.
    Latent(Latent),
    /// A convolution over the last few tokens.
    ShortConv(ShortConv),
    /// A selective state space.
    StateSpace(StateSpace),
    /// Attention and a state space that read the same; their results are added (Falcon-H1).
    Both(Attention, StateSpace),
    /// Linear attention with the delta rule.
    DeltaNet(DeltaNet),
    /// None: the feed-forward network is the whole layer.
    Nothing,
}

/// A gated convolution over the last tokens (LFM2): of each channel, `out(c * sum over j of kernel[j] (b x)[t - j])` with
/// `(b, c, x) = in(x)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortConv {
    /// Channels: as many as there are values between layers.
    pub channels: usize,
    /// Tokens that the kernel covers, the last one included.
    pub width: usize,
}

impl Mixer {
    /// The attention that goes over the cache, if there is one.
    pub fn attention(&self) -> Option<&Attention> {
        match self {
            Mixer::Attention(attention) | Mixer::Both(attention, _) => Some(attention),
            Mixer::Latent(latent) => Some(&latent.attention),
            Mixer::ShortConv(_) | Mixer::StateSpace(_) | Mixer::DeltaNet(_) | Mixer::Nothing => None,
        }
    }

    /// The same, if keys and values are its own.
    pub fn cached(&self) -> Option<&Attention> {
        self.attention().filter(|attention| !matches!(attention.source, Source::Layer(_)))
    }

    /// Rows and columns of the tables in which it remembers all tokens so far together, so that none can be taken from
    /// them again: inputs of a convolution, then the states of what follows it.
    pub fn states(&self) -> Vec<(usize, usize)> {
        match self {
            Mixer::Attention(_) | Mixer::Latent(_) | Mixer::Nothing => Vec::new(),
            Mixer::ShortConv(conv) => vec![(conv.width - 1, conv.channels)],
            Mixer::StateSpace(s) | Mixer::Both(_, s) => {
                vec![(s.width - 1, s.conv_channels()), (s.n_head, s.head_dim().saturating_mul(s.d_state))]
            }
            Mixer::DeltaNet(d) => {
                vec![(d.width - 1, d.conv_channels()), (d.n_head, d.head_dim * d.head_dim)]
            }
        }
    }
}

/// A feed-forward network.
#[derive(Debug, Clone, PartialEq)]
pub enum Mlp {
    /// One for all tokens.
    Dense(Dense),
    /// A mixture, of which each token takes some.
    Experts(Experts),
    /// Both, beside each other.
    Both(Box<Both>),
    /// None: the mixer is the whole layer.
    Nothing,
}

/// A dense network and a mixture that read and give values in norms of their own (Gemma 4):
/// `norm(dense(x)) + norm(experts(norm(x)))`, with the layer's norms before the dense one and behind the sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Both {
    /// The dense network.
    pub dense: Dense,
    /// What it gives.
    pub dense_out: Norm,
    /// The mixture.
    pub experts: Experts,
    /// What it reads.
    pub experts_in: Norm,
    /// What it gives.
    pub experts_out: Norm,
}

/// `down(f(gate(x)) * up(x))`, or `down(f(up(x)))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dense {
    /// Values between the matrices.
    pub n_ff: usize,
    /// The function f.
    pub activation: Activation,
    /// Whether there is a gate.
    pub gated: bool,
    /// Whether the file has divisors of what f gives (AWQ, arXiv 2306.00978).
    pub divided: bool,
}
