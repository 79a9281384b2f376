//! Linear attention with the delta rule, which reads a sequence token by token with a memory of fixed size.

/// A gated delta net (Yang et al. 2024, arXiv 2412.06464). Of each head, with a state S (head_dim, head_dim):
///
/// ```text
/// (q, k, v, z, b, a) = in(input);  q, k, v = silu(conv(q, k, v));  q = q / |q|;  k = k / |k|
/// S = decay S;  S = S + k (beta (v - k S));  y = q S / sqrt(head_dim)
/// decay = exp(A softplus(a + bias));  beta = sigmoid(b)
/// result = out(norm(y) silu(z))
/// ```
///
/// Heads of q and k may be shared by several of the others; a decay may be that of one row of S (see [`DeltaNetKind`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaNet {
    /// Heads.
    pub n_head: usize,
    /// Heads of q and k, a divisor of `n_head`.
    pub n_head_k: usize,
    /// Values of a head, a multiple of [`DeltaNet::UNIT`].
    pub head_dim: usize,
    /// Tokens that the convolution covers, the last one included.
    pub width: usize,
    /// Added to the square of the length of q and k, and to the mean square of y.
    pub eps: f32,
    /// What differs between families.
    pub kind: DeltaNetKind,
}

/// Which heads of a delta net share q and k, and where z, b and a come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaNetKind {
    /// Neighbours share. b and a come from one matrix: those of the first group of heads, of the second, and so on
    /// (Qwen3-Next).
    Neighbours,
    /// Every `n_head_k`-th shares. b and a come from a matrix each (Qwen 3.5).
    Strided,
    /// None shares. Each number of a key has an a of its own; a and z come from the input through `head_dim` values each,
    /// and z gates by its sigmoid (Kimi Linear, arXiv 2510.26692).
    Fine,
}

impl DeltaNet {
    /// Values that are computed together.
    pub const UNIT: usize = braise_kernels::ops::DELTA_VALUES;

    /// Values of all heads of q, or of k.
    pub fn keys(&self) -> usize {
        self.n_head_k * self.head_dim
    }

    /// Values of all heads of v.
    pub fn values(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Channels that go through the convolution: q, k and v.
    pub fn conv_channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Which head of q and k a head takes.
    pub fn key_head(&self, head: usize) -> usize {
        match self.kind {
            DeltaNetKind::Neighbours => head / (self.n_head / self.n_head_k),
            DeltaNetKind::Strided | DeltaNetKind::Fine => head % self.n_head_k,
        }
    }
}
