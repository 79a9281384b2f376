//! A layer's blocks, each with its weights.

use super::Weight;
use crate::block::{
    Attention, DeltaNet, Dense, Experts, Latent, LayerInputs, NormKind, ShortConv, StateSpace,
};

/// One layer, see [`crate::block::Layer`].
#[derive(Debug)]
pub struct LayerWeights {
    pub(crate) mixer: MixerWeights,
    pub(crate) mlp: MlpWeights,
    pub(crate) norms: NormsWeights,
    pub(crate) parallel: bool,
    pub(crate) residual_scale: f32,
    /// What is done with the layer's input of its own.
    pub(crate) input: Option<LayerInputWeights>,
    /// Factor of what the layer gives.
    pub(crate) scale: f32,
}

/// See [`LayerInputs`]; of all layers.
#[derive(Debug)]
pub struct LayerInputsWeights {
    pub(crate) spec: LayerInputs,
    /// (n_vocab, n of all layers)
    pub(crate) table: Weight,
    /// (n of all layers, n_embd)
    pub(crate) projection: Weight,
    pub(crate) norm: NormWeights,
}

/// The same of one layer.
#[derive(Debug)]
pub struct LayerInputWeights {
    /// (n, n_embd)
    pub(crate) gate: Weight,
    /// (n_embd, n)
    pub(crate) output: Weight,
    pub(crate) norm: NormWeights,
}

/// See [`crate::block::Norms`].
#[derive(Debug)]
pub struct NormsWeights {
    pub(crate) mixer: Option<NormWeights>,
    pub(crate) mixer_out: Option<NormWeights>,
    pub(crate) mixer_sum: Option<NormWeights>,
    pub(crate) mlp: Option<NormWeights>,
    pub(crate) mlp_out: Option<NormWeights>,
    pub(crate) mlp_sum: Option<NormWeights>,
}

/// See [`crate::block::Norm`].
#[derive(Debug)]
pub struct NormWeights {
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
    pub(crate) weight: Vec<f32>,
    /// Empty: none.
    pub(crate) bias: Vec<f32>,
}

/// See [`crate::block::Mixer`].
#[derive(Debug)]
pub enum MixerWeights {
    /// Attention with keys and values of its own.
    Attention(Box<AttentionWeights>),
    /// Attention over compressed keys and values.
    Latent(Box<LatentWeights>),
    /// A convolution over the last few tokens.
    ShortConv(Box<ShortConvWeights>),
    /// A selective state space.
    StateSpace(Box<StateSpaceWeights>),
    /// Attention and a state space.
    Both(Box<AttentionWeights>, Box<StateSpaceWeights>),
    /// Linear attention with the delta rule.
    DeltaNet(Box<DeltaNetWeights>),
    /// None.
    Nothing,
}

/// See [`ShortConv`].
#[derive(Debug)]
pub struct ShortConvWeights {
    pub(crate) spec: ShortConv,
    pub(crate) input: Weight,
    /// (width, channels), the last token's row last.
    pub(crate) kernel: Vec<f32>,
    pub(crate) output: Weight,
}

/// See [`StateSpace`].
#[derive(Debug)]
pub struct StateSpaceWeights {
    pub(crate) spec: StateSpace,
    pub(crate) input: Weight,
    /// Of the convolution, (width, conv_channels), the last token's row last.
    pub(crate) kernel: Vec<f32>,
    /// Empty: none.
    pub(crate) conv_bias: Vec<f32>,
    /// Where dt, B and C come from x.
    pub(crate) selection: Option<Selection>,
    /// Added to dt where it comes from the input.
    pub(crate) dt_bias: Vec<f32>,
    /// (n_head, d_state), or one number a head.
    pub(crate) a: Vec<f32>,
    /// (n_head)
    pub(crate) d: Vec<f32>,
    /// Of each group of the result; empty: none.
    pub(crate) norms: Vec<NormWeights>,
    pub(crate) output: Weight,
}

/// See [`DeltaNet`].
#[derive(Debug)]
pub struct DeltaNetWeights {
    pub(crate) spec: DeltaNet,
    /// To q, k and v, to z, and to b and a, in this order; each may be several matrices. Where `fine` is there: to q, k
    /// and v, to b, and to what a and z are made of.
    pub(crate) inputs: Vec<Weight>,
    pub(crate) fine: Option<FineGates>,
    /// Of the convolution, (width, conv_channels), the last token's row last.
    pub(crate) kernel: Vec<f32>,
    /// Give a head of q the length of 1 / sqrt(head_dim), and one of k that of 1.
    pub(crate) q_norm: NormWeights,
    pub(crate) k_norm: NormWeights,
    /// (n_head)
    pub(crate) a: Vec<f32>,
    /// Added to a: a number for each head, or for each number of all keys.
    pub(crate) dt_bias: Vec<f32>,
    /// Of a head's result.
    pub(crate) norm: NormWeights,
    pub(crate) output: Weight,
}

/// How a and z of all heads of a delta net come from `head_dim` values each.
#[derive(Debug)]
pub struct FineGates {
    pub(crate) a: Weight,
    pub(crate) z: Weight,
}

/// How dt, B and C of a state space come from x.
#[derive(Debug)]
pub struct Selection {
    /// To what dt is made of, B and C.
    pub(crate) x: Weight,
    /// Of these three; empty: none.
    pub(crate) norms: Vec<NormWeights>,
    pub(crate) dt: Weight,
}

/// See [`Attention`].
#[derive(Debug)]
pub struct AttentionWeights {
    pub(crate) spec: Attention,
    pub(crate) q: Weight,
    /// To the gates, where they have a matrix of their own.
    pub(crate) gate: Option<Weight>,
    /// Of keys and values; `None` where they are those of another layer.
    pub(crate) kv: Option<[Weight; 2]>,
    pub(crate) output: Weight,
    /// Of one head, or of all heads.
    pub(crate) q_norm: Vec<f32>,
    pub(crate) k_norm: Vec<f32>,
    /// Of one head.
    pub(crate) v_norm: Option<NormWeights>,
    pub(crate) scores: HeadScores,
}

/// What scores need.
#[derive(Debug)]
pub struct HeadScores {
    /// See [`braise_kernels::ops::Scores::exact`].
    pub(crate) exact: bool,
    /// Numbers of each query head; empty: none.
    pub(crate) sinks: Vec<f32>,
    pub(crate) slopes: Vec<f32>,
}

/// See [`Latent`].
#[derive(Debug)]
pub struct LatentWeights {
    pub(crate) spec: Latent,
    /// From the input: the queries, or the compressed one.
    pub(crate) q_a: Weight,
    /// From the compressed query to the queries, with the norm before.
    pub(crate) q_b: Option<(NormWeights, Weight)>,
    pub(crate) kv_a: Weight,
    pub(crate) kv_norm: NormWeights,
    /// (n_head * size of c, nope_dim)
    pub(crate) k_b: Weight,
    /// (n_head * v_dim, size of c)
    pub(crate) v_b: Weight,
    pub(crate) output: Weight,
    pub(crate) scores: HeadScores,
}

/// See [`crate::block::Mlp`].
#[derive(Debug)]
pub enum MlpWeights {
    /// One for all tokens.
    Dense(Box<DenseWeights>),
    /// A mixture.
    Experts(Box<ExpertsWeights>),
    /// Both, beside each other.
    Both(Box<BothWeights>),
    /// None.
    Nothing,
}

/// See [`crate::block::Both`].
#[derive(Debug)]
pub struct BothWeights {
    pub(crate) dense: DenseWeights,
    pub(crate) dense_out: NormWeights,
    pub(crate) experts: ExpertsWeights,
    pub(crate) experts_in: NormWeights,
    pub(crate) experts_out: NormWeights,
}

/// See [`Dense`].
#[derive(Debug)]
pub struct DenseWeights {
    pub(crate) spec: Dense,
    pub(crate) gate: Option<Weight>,
    pub(crate) up: Weight,
    pub(crate) down: Weight,
    /// Of what comes out of the function; empty: none.
    pub(crate) divisors: Vec<f32>,
}

/// See [`Experts`].
#[derive(Debug)]
pub struct ExpertsWeights {
    pub(crate) spec: Experts,
    pub(crate) router: Weight,
    /// Of what the router reads, if that is normalized for it alone.
    pub(crate) router_norm: Option<NormWeights>,
    /// Added to the weights for the choice alone; empty: none.
    pub(crate) bias: Vec<f32>,
    pub(crate) gate: Option<ExpertMatrix>,
    pub(crate) up: ExpertMatrix,
    pub(crate) down: ExpertMatrix,
    /// To what the experts read, and from what they give, if that is of a size of its own.
    pub(crate) latent: Option<[Weight; 2]>,
    /// Expert of all tokens, and its gate, a single row.
    pub(crate) shared: Option<(DenseWeights, Option<Weight>)>,
}

/// The matrices of all experts: that of expert e begins at row `e * stride + first`.
#[derive(Debug)]
pub struct ExpertMatrix {
    pub(crate) weight: Weight,
    pub(crate) stride: usize,
    pub(crate) first: usize,
}

impl LayerWeights {
    /// What the scores of its attention need, if it has any.
    pub(crate) fn scores(&self) -> Option<&HeadScores> {
        match &self.mixer {
            MixerWeights::Attention(attention) | MixerWeights::Both(attention, _) => Some(&attention.scores),
            MixerWeights::Latent(latent) => Some(&latent.scores),
            MixerWeights::ShortConv(_)
            | MixerWeights::StateSpace(_)
            | MixerWeights::DeltaNet(_)
            | MixerWeights::Nothing => None,
        }
    }

    /// All matrices, each with the share of its rows that a token is multiplied with.
    pub(crate) fn matrices(&self) -> Vec<(&Weight, f64)> {
        let mixer = self.mixer.matrices().into_iter();
        mixer.map(|weight| (weight, 1.0)).chain(self.behind_mixer()).collect()
    }

    /// Those of them that belong to the network.
    pub(crate) fn behind_mixer(&self) -> Vec<(&Weight, f64)> {
        let input = self.input.iter().flat_map(|input| [&input.gate, &input.output]);
        self.mlp.matrices().into_iter().chain(input.map(|weight| (weight, 1.0))).collect()
    }
}

impl MixerWeights {
    /// All matrices.
    pub(crate) fn matrices(&self) -> Vec<&Weight> {
        match self {
            MixerWeights::Nothing => Vec::new(),
            MixerWeights::Attention(a) => a.matrices().collect(),
            MixerWeights::Latent(l) => {
                let all = [&l.q_a, &l.kv_a, &l.k_b, &l.v_b, &l.output];
                all.into_iter().chain(l.q_b.iter().map(|(_, q_b)| q_b)).collect()
            }
            MixerWeights::ShortConv(conv) => vec![&conv.input, &conv.output],
            MixerWeights::StateSpace(s) => s.matrices().collect(),
            MixerWeights::DeltaNet(d) => {
                let fine = d.fine.iter().flat_map(|fine| [&fine.a, &fine.z]);
                d.inputs.iter().chain([&d.output]).chain(fine).collect()
            }
            MixerWeights::Both(a, s) => a.matrices().chain(s.matrices()).collect(),
        }
    }
}

impl MlpWeights {
    /// See [`LayerWeights::matrices`].
    pub(crate) fn matrices(&self) -> Vec<(&Weight, f64)> {
        let whole = |weight| (weight, 1.0);
        match self {
            MlpWeights::Nothing => Vec::new(),
            MlpWeights::Dense(dense) => dense.matrices().map(whole).collect(),
            MlpWeights::Experts(experts) => experts.matrices().collect(),
            MlpWeights::Both(both) => {
                both.dense.matrices().map(whole).chain(both.experts.matrices()).collect()
            }
        }
    }
}

impl AttentionWeights {
    fn matrices(&self) -> impl Iterator<Item = &Weight> {
        [&self.q, &self.output].into_iter().chain(&self.gate).chain(self.kv.iter().flatten())
    }
}

impl StateSpaceWeights {
    fn matrices(&self) -> impl Iterator<Item = &Weight> {
        let selection = self.selection.iter().flat_map(|selection| [&selection.x, &selection.dt]);
        [&self.input, &self.output].into_iter().chain(selection)
    }
}

impl ExpertsWeights {
    /// See [`LayerWeights::matrices`].
    fn matrices(&self) -> impl Iterator<Item = (&Weight, f64)> {
        let share = self.spec.n_used as f64 / self.spec.n_expert as f64;
        let fused = self.gate.as_ref().is_some_and(|gate| gate.stride > self.spec.expert.n_ff);
        let gate = self.gate.iter().filter(move |_| !fused);
        let chosen = gate.chain([&self.up, &self.down]).map(move |matrix| (&matrix.weight, share));
        let shared = self.shared.iter().flat_map(|(shared, gate)| shared.matrices().chain(gate));
        let latent = self.latent.iter().flatten();
        [&self.router].into_iter().chain(shared).chain(latent).map(|weight| (weight, 1.0)).chain(chosen)
    }
}

impl DenseWeights {
    fn matrices(&self) -> impl Iterator<Item = &Weight> {
        self.gate.iter().chain([&self.up, &self.down])
    }
}
