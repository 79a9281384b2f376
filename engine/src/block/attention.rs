//! Kinds of attention.

use braise_kernels::ops::Window;

use super::NormKind;

/// Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Its heads.
    pub heads: Heads,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
    /// Which of [`super::Spec::ropes`] rotates queries and keys; `None`: nothing does.
    pub rope: Option<usize>,
    /// What a token sees of the positions up to its own; `None`: all.
    pub window: Option<Window>,
    /// Whether a token sees none of those after it. Else half of a window is on each side.
    pub causal: bool,
    /// Bound of the scores, if they are bounded softly (Gemma 2).
    pub softcap: Option<f32>,
    /// The largest bias of ALiBi (Press et al. 2021, arXiv 2108.12409), where positions enter as slopes.
    pub alibi: Option<f32>,
    /// Whether each head has a score for a position without a value (gpt-oss).
    pub sinks: bool,
    /// How queries and keys are normalized, if they are.
    pub qk_norm: Option<QkNorm>,
    /// Whether a head's result is multiplied with the sigmoids of its gate. Gates have a matrix of their own, or are
    /// behind each head's query in that of the queries.
    pub gated: bool,
    /// Largest absolute value of queries, keys and values, where they are clamped.
    pub clamp: Option<f32>,
    /// How queries grow with their position, if they do.
    pub temperature: Option<Temperature>,
    /// Where keys and values come from.
    pub source: Source,
    /// Added to the mean square of each head's values, if they are normalized.
    pub v_norm: Option<f32>,
}

impl Attention {
    /// What the tokens at positions `first..first + n` look at: how many positions all together, and the sum of how many
    /// each does.
    pub fn looks(&self, first: u64, n: u64) -> (u64, u64) {
        let end = first + n;
        if !self.causal {
            // about: at the ends of the text half of a window is missing
            let each = self.window.map_or(end, |window| end.min(window.size() as u64));
            return (end, n * each);
        }
        let triangle = |n: u64| n * (n + 1) / 2;
        // of the positions before `end`
        let sum = |end: u64| match self.window {
            None => triangle(end),
            Some(Window::Sliding(size)) => {
                let (size, few) = (size as u64, end.min(size as u64));
                triangle(few) + (end - few) * size
            }
            Some(Window::Chunk(size)) => {
                let size = size as u64;
                end / size * triangle(size) + triangle(end % size)
            }
        };
        let start = match self.window {
            None => 0,
            Some(Window::Sliding(size)) => (first + 1).saturating_sub(size as u64),
            Some(Window::Chunk(size)) => first / size as u64 * size as u64,
        };
        (end - start, sum(end) - sum(first))
    }
}

/// Where the keys and values of a layer come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From matrices of their own.
    Own,
    /// From the keys' matrix both.
    Keys,
    /// They are those of another layer, before this one.
    Layer(usize),
}

/// Numbers and sizes of heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, a multiple of `n_head_kv`.
    pub n_head: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Values in a query or key.
    pub head_dim: usize,
    /// Values in a value.
    pub head_dim_v: usize,
}

impl Heads {
    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.n_head / self.n_head_kv
    }
}

/// Normalization of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkNorm {
    /// Of which kind.
    pub kind: NormKind,
    /// Added to the mean square.
    pub eps: f32,
    /// Of what, and when.
    pub place: NormPlace,
    /// Whether the file has weights for it.
    pub weights: bool,
}

/// What is normalized together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlace {
    /// Each head, before it is rotated.
    Head,
    /// Each head, after it was rotated.
    RotatedHead,
    /// All heads of a token together, before they are rotated.
    Token,
}

/// Queries at position p are multiplied with `1 + scale * ln(1 + floor((p + offset) / every))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// How much they grow.
    pub scale: f32,
    /// Positions in a step, at least 1.
    pub every: usize,
    /// By how much the steps begin earlier.
    pub offset: usize,
}

impl Temperature {
    /// The factor at a position.
    pub fn factor(&self, position: usize) -> f32 {
        1.0 + self.scale * (((position + self.offset) / self.every) as f32).ln_1p()
    }
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are linear maps of one short
/// vector, and the cache holds that. The maps are applied to queries and results instead, so that what remains is
/// attention with one key/value head.
///
/// ```text
/// c, k_rope = W_kv_a x;  c = norm(c)            the cache: key (c, rotated k_rope), value c
/// q = W_q x, or W_q_b norm(W_q_a x)             of each head: (q_nope, q_rope)
/// query = (W_k_b q_nope, rotated q_rope)        result = W_v_b attention
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Latent {
    /// Attention over the cache: `head_dim` is the size of c and k_rope, `head_dim_v` that of c.
    pub attention: Attention,
    /// Size of the compressed query, if it is compressed.
    pub q_rank: Option<usize>,
    /// Size of q_nope.
    pub nope_dim: usize,
    /// Size of a head's result.
    pub v_dim: usize,
    /// Added to the mean square of c and of the compressed query.
    pub eps: f32,
}

impl Latent {
    /// Size of k_rope and q_rope.
    pub fn rope_dim(&self) -> usize {
        self.attention.heads.head_dim - self.attention.heads.head_dim_v
    }

    /// Size of a head's query before it is mapped.
    pub fn query_dim(&self) -> usize {
        self.nope_dim + self.rope_dim()
    }
}

#[cfg(test)]
impl Attention {
    /// Over all tokens so far, and nothing else.
    pub(crate) fn plain(heads: Heads) -> Attention {
        Attention {
            heads,
            scale: 1.0,
            rope: None,
            window: None,
            causal: true,
            softcap: None,
            alibi: None,
            sinks: false,
            qk_norm: None,
            gated: false,
            clamp: None,
            temperature: None,
            source: Source::Own,
            v_norm: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_those_of_each_token() {
        let heads = Heads { n_head: 1, n_head_kv: 1, head_dim: 8, head_dim_v: 8 };
        let attention = |window| Attention { window, ..Attention::plain(heads) };
        let windows = [None, Some(Window::Sliding(1)), Some(Window::Sliding(7)), Some(Window::Chunk(5))];
        for window in windows {
            let a = attention(window);
            for (first, n) in [(0_usize, 1_usize), (0, 20), (3, 1), (4, 1), (6, 9), (5, 5), (40, 3)] {
                let start = |p: usize| window.map_or(0, |window| window.start(p));
                let each: usize = (first..first + n).map(|p| p + 1 - start(p)).sum();
                let all = first + n - (first..first + n).map(start).min().unwrap();
                let looks = a.looks(first as u64, n as u64);
                assert_eq!(looks, (all as u64, each as u64), "{window:?}, {n} from {first}");
            }
        }
        let encoder = Attention { causal: false, ..attention(None) };
        assert_eq!(encoder.looks(0, 9), (9, 81));
        let encoder = Attention { causal: false, ..attention(Some(Window::Sliding(4))) };
        assert_eq!(encoder.looks(0, 9), (9, 36));
    }

    #[test]
    fn queries_grow_in_steps() {
        let t = Temperature { scale: 0.5, every: 4, offset: 0 };
        assert_eq!(
            [0, 3, 4, 7].map(|p| t.factor(p)),
            [1.0, 1.0, 1.0 + 0.5 * 2f32.ln(), 1.0 + 0.5 * 2f32.ln()]
        );
        assert_eq!(Temperature { offset: 1, ..t }.factor(3), t.factor(4));
    }
}
