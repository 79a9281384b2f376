//! Layers that remember all tokens of a sequence together: convolutions, state spaces, delta nets.
//!
//! Their memory has a place for each sequence. What a layer remembers is renewed by each launch, once for each run.

use super::{Norm, NormKind, NormRows, check};
use crate::cuda::{Address, Arg, Error, Launch};

/// The tokens of a batch: run i is the tokens `starts[i]` to `starts[i + 1]`, neighbours that follow each other in one
/// sequence; it may be empty. A sequence has one run in a batch. At position 0 it begins with an empty memory, whatever was
/// there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Runs {
    /// How many.
    pub n: u32,
    /// Most tokens of one, 1 or more.
    pub longest: u32,
    /// u32 (n + 1), ascending.
    pub starts: Address,
    /// u32 (tokens): where each token is in its sequence.
    pub positions: Address,
    /// u32 (tokens): which sequence it belongs to.
    pub sequences: Address,
}

impl Runs {
    fn args(&self) -> [Arg; 3] {
        [self.starts.into(), self.positions.into(), self.sequences.into()]
    }
}

/// A causal convolution over the last tokens, of each channel by itself: with `x` for `x * gates` and `y` for what is behind
/// the bias, the activation and `out_gates`,
///
/// ```text
/// y[t] = sum over j < width of kernel[j] x[t - (width - 1) + j]
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Convolve {
    /// f32 (tokens, x_stride).
    pub x: Address,
    /// Distance of tokens.
    pub x_stride: u32,
    /// f32 that lies as x does: x is multiplied with it; optional.
    pub gates: Address,
    /// f32 (width, channels), the last token's row last.
    pub kernel: Address,
    /// Tokens that it covers, the last one included.
    pub width: u32,
    /// How many channels.
    pub channels: u32,
    /// f32 (channels), optional.
    pub bias: Address,
    /// Whether SiLU follows.
    pub activated: bool,
    /// f32 that lies as x does: results are multiplied with it; optional.
    pub out_gates: Address,
    /// The tokens.
    pub runs: Runs,
    /// f32 (sequences, width - 1, channels): the last inputs of each sequence, times their gates.
    pub past: Address,
    /// f32 (tokens, channels), optional.
    pub y: Address,
    /// Quantized, optional; channels are a multiple of 32 then.
    pub q8: Address,
    /// As bf16, optional.
    pub bf16: Address,
}

impl Convolve {
    /// Tokens of a run that a block takes: no fewer than reach back before it.
    const TOKENS: u32 = 32;

    /// Its launch.
    ///
    /// # Errors
    /// A kernel that is too wide, or results that cannot be quantized.
    pub fn launch(&self) -> Result<Launch, Error> {
        let Convolve { width, channels, runs, .. } = *self;
        check((1..=Convolve::TOKENS).contains(&width), || format!("a convolution of {width} tokens"))?;
        check(self.q8 == Address::NONE || channels.is_multiple_of(32), || {
            format!("{channels} channels cannot be quantized")
        })?;
        let mut args: Vec<Arg> = vec![
            self.x.into(),
            self.x_stride.into(),
            self.gates.into(),
            self.kernel.into(),
            width.into(),
            channels.into(),
            self.bias.into(),
            u32::from(self.activated).into(),
            self.out_gates.into(),
        ];
        args.extend(runs.args());
        args.extend([self.past, self.y, self.q8, self.bf16].map(Arg::from));
        let grid = [channels.div_ceil(128), runs.n, runs.longest.div_ceil(Convolve::TOKENS)];
        Launch::new("convolve", grid, 128, 0, &args)
    }
}

/// A selective state space (Gu and Dao 2023, arXiv 2312.00752; Dao and Gu 2024, arXiv 2405.21060): of each channel, with a
/// state of `d_state` values,
///
/// ```text
/// dt = softplus(dt + dt_bias);  state = exp(dt a) state + dt x b;  y = (sum of state c + d x) silu(z)
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct StateSpace {
    /// f32 (tokens, channels).
    pub x: Address,
    /// f32 (tokens, dt_stride), of each head.
    pub dt: Address,
    /// Distance of tokens.
    pub dt_stride: u32,
    /// f32 (heads), optional.
    pub dt_bias: Address,
    /// f32 (heads), or (heads, d_state).
    pub a: Address,
    /// Whether there is an a for each value of a state.
    pub a_each: bool,
    /// f32 (tokens, bc_stride): (groups, d_state) of each.
    pub b: Address,
    /// The same.
    pub c: Address,
    /// Distance of tokens.
    pub bc_stride: u32,
    /// f32 (heads).
    pub d: Address,
    /// f32 (tokens, z_stride), of each channel.
    pub z: Address,
    /// Distance of tokens.
    pub z_stride: u32,
    /// Channels, a multiple of 32.
    pub channels: u32,
    /// Heads that the channels form.
    pub n_head: u32,
    /// Groups that the heads form.
    pub n_group: u32,
    /// Values of a channel's state, up to [`StateSpace::MOST`].
    pub d_state: u32,
    /// The tokens.
    pub runs: Runs,
    /// f32 (sequences, channels, d_state).
    pub states: Address,
    /// f32 (tokens, channels), optional.
    pub y: Address,
    /// Quantized, optional.
    pub q8: Address,
    /// As bf16, optional.
    pub bf16: Address,
}

impl StateSpace {
    /// The largest state.
    pub const MOST: u32 = 256;

    /// Its launch.
    ///
    /// # Errors
    /// Numbers that do not fit each other, or a state that is too large.
    pub fn launch(&self) -> Result<Launch, Error> {
        let StateSpace { channels, n_head, n_group, d_state, runs, .. } = *self;
        let parts = |n: u32, parts: u32| parts > 0 && n > 0 && n.is_multiple_of(parts);
        check(channels.is_multiple_of(32) && parts(channels, n_head) && parts(n_head, n_group), || {
            format!("{channels} channels of {n_head} heads of {n_group} groups")
        })?;
        check((1..=StateSpace::MOST).contains(&d_state), || format!("states of {d_state} values"))?;
        let mut args: Vec<Arg> = vec![
            self.x.into(),
            self.dt.into(),
            self.dt_stride.into(),
            self.dt_bias.into(),
            self.a.into(),
            u32::from(self.a_each).into(),
            self.b.into(),
            self.c.into(),
            self.bc_stride.into(),
            self.d.into(),
            self.z.into(),
            self.z_stride.into(),
            channels.into(),
            (channels / n_head).into(),
            (n_head / n_group).into(),
            d_state.into(),
        ];
        args.extend(runs.args());
        args.extend([self.states, self.y, self.q8, self.bf16].map(Arg::from));
        // eight lanes share a channel
        let values = d_state.div_ceil(8).next_power_of_two().max(2);
        Launch::new(&format!("state_space_{values}"), [channels / 32, runs.n, 1], 256, 0, &args)
    }
}

/// Where the b or the a of each head of a delta net are.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeltaGates {
    /// f32 (tokens, stride).
    pub at: Address,
    /// Distance of tokens.
    pub stride: u32,
}

/// A gated delta net (Yang et al. 2024, arXiv 2412.06464; Kimi Linear, arXiv 2510.26692): of each head, with a state S of
/// (head_dim, head_dim),
///
/// ```text
/// decay = exp(rate softplus(a + a_bias));  beta = sigmoid(b)
/// S = decay S;  S = S + k (beta (v - k S));  y = q S
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DeltaNet {
    /// f32 (tokens, x_stride): the heads of q, of k, of v.
    pub x: Address,
    /// Distance of tokens.
    pub x_stride: u32,
    /// Heads.
    pub n_head: u32,
    /// Heads of q and k, a divisor of `n_head`.
    pub n_head_k: u32,
    /// Values of a head: 32, 64, 128 or 256.
    pub head_dim: u32,
    /// Whether neighbours share a head of q and k, and not every `n_head_k`-th.
    pub neighbours: bool,
    /// How heads of q are normalized, by the root mean square.
    pub q_norm: Norm,
    /// The same of k.
    pub k_norm: Norm,
    /// b of each head.
    pub b: DeltaGates,
    /// a of each head; with `fine` (heads, head_dim): of each number of a key.
    pub a: DeltaGates,
    /// Heads whose b (and a) are neighbours, and how far from there to those of the next heads; `None`: all are neighbours.
    pub grouped: Option<(u32, u32)>,
    /// Whether each number of a key has an a of its own.
    pub fine: bool,
    /// f32 (heads).
    pub rate: Address,
    /// f32 (heads), or (heads, head_dim) with `fine`.
    pub a_bias: Address,
    /// The tokens.
    pub runs: Runs,
    /// f32 (sequences, heads, value, key): columns of S one behind the other.
    pub states: Address,
    /// f32 (tokens, heads, head_dim).
    pub y: Address,
}

impl DeltaNet {
    /// The largest heads that there are kernels for, of those of whole warps.
    pub const MOST: u32 = 256;

    /// Its launch.
    ///
    /// # Errors
    /// Sizes that there is no kernel for.
    pub fn launch(&self) -> Result<Launch, Error> {
        let DeltaNet { n_head, n_head_k, head_dim, runs, q_norm, k_norm, .. } = *self;
        check(head_dim.is_multiple_of(32) && (32..=DeltaNet::MOST).contains(&head_dim), || {
            format!("heads of {head_dim} values")
        })?;
        check(n_head > 0 && n_head_k > 0 && n_head.is_multiple_of(n_head_k), || {
            format!("{n_head} heads with {n_head_k} keys")
        })?;
        check(
            [q_norm, k_norm].iter().all(|norm| norm.kind == NormKind::Rms && norm.bias == Address::NONE),
            || "keys are normalized otherwise".to_owned(),
        )?;
        let (per, distance) = self.grouped.unwrap_or((n_head, 0));
        check(per > 0, || "groups of no heads".to_owned())?;
        let mut args: Vec<Arg> = vec![
            self.x.into(),
            self.x_stride.into(),
            n_head.into(),
            n_head_k.into(),
            u32::from(self.neighbours).into(),
            q_norm.weight.into(),
            q_norm.eps.into(),
            k_norm.weight.into(),
            k_norm.eps.into(),
            self.b.at.into(),
            self.b.stride.into(),
            self.a.at.into(),
            self.a.stride.into(),
            per.into(),
            distance.into(),
            u32::from(self.fine).into(),
            self.rate.into(),
            self.a_bias.into(),
        ];
        args.extend(runs.args());
        args.extend([self.states, self.y].map(Arg::from));
        // four warps with four columns each
        let grid = [n_head * (head_dim / 16), runs.n, 1];
        Launch::new(&format!("delta_net_{head_dim}"), grid, 128, 0, &args)
    }
}

/// Heads, normalized by their root mean square, times a function of their gates.
#[derive(Debug, Clone, Copy, Default)]
pub struct GateHeads {
    /// f32 (tokens, heads, head_dim).
    pub x: Address,
    /// How many tokens.
    pub tokens: u32,
    /// Heads of a token.
    pub n_head: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// How they are normalized; all have the same weights.
    pub norm: Norm,
    /// f32 (tokens, z_stride): (heads, head_dim) of each.
    pub z: Address,
    /// Distance of tokens.
    pub z_stride: u32,
    /// Whether by the sigmoid of the gate, and not by its SiLU.
    pub by_sigmoid: bool,
    /// f32 (tokens, heads, head_dim), optional.
    pub y: Address,
    /// Quantized, optional; head_dim is a multiple of 32 then.
    pub q8: Address,
    /// As bf16, optional.
    pub bf16: Address,
}

impl GateHeads {
    /// Its launch.
    ///
    /// # Errors
    /// Heads that cannot be quantized, or are normalized otherwise.
    pub fn launch(&self) -> Result<Launch, Error> {
        let GateHeads { tokens, n_head, head_dim, norm, .. } = *self;
        check(norm.kind == NormKind::Rms && norm.bias == Address::NONE, || {
            "heads are normalized otherwise".to_owned()
        })?;
        check(self.q8 == Address::NONE || head_dim.is_multiple_of(32), || {
            format!("heads of {head_dim} values cannot be quantized")
        })?;
        let args: [Arg; 12] = [
            self.x.into(),
            tokens.into(),
            n_head.into(),
            head_dim.into(),
            norm.weight.into(),
            norm.eps.into(),
            self.z.into(),
            self.z_stride.into(),
            u32::from(self.by_sigmoid).into(),
            self.y.into(),
            self.q8.into(),
            self.bf16.into(),
        ];
        let blocks = super::blocks(u64::from(tokens) * u64::from(n_head), 4)?;
        Launch::new("gate_heads", [blocks, 1, 1], 128, 0, &args)
    }
}

/// Rows whose parts are normalized each by itself, with weights of its own (state spaces with groups): `rows` with `n` for
/// the values of a part, and weights of all parts one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct NormParts {
    /// The rows; results are (rows, parts, n).
    pub rows: NormRows,
    /// Parts of a row.
    pub parts: u32,
}

impl NormParts {
    /// Its launch.
    ///
    /// # Errors
    /// Parts to be quantized are not whole blocks.
    pub fn launch(&self) -> Result<Launch, Error> {
        let mut launch = self.rows.launch()?;
        check((1..=65535).contains(&self.parts), || format!("{} parts of a row", self.parts))?;
        launch.grid[1] = self.parts;
        Ok(launch)
    }
}
