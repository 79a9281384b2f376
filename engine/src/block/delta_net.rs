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
/// Heads of q and k may be shared by several of the others.
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
    /// Which heads share q and k.
    pub sharing: Sharing,
}

/// Which heads of a delta net share a head of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Neighbours. b and a come from one matrix: those of the first group of heads, of the second, and so on.
    Neighbours,
    /// Every `n_head_k`-th. b and a come from a matrix each.
    Strided,
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
        match self.sharing {
            Sharing::Neighbours => head / (self.n_head / self.n_head_k),
            Sharing::Strided => head % self.n_head_k,
        }
    }
}
