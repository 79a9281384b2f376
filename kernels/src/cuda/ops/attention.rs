//! Attention, what comes before it, and the cache that it reads.

use super::{Norm, NormKind, check};
use crate::cuda::{Address, Arg, Error, Launch};
use crate::ops::{KvType, Window};

/// Bytes of the row of one position and head in the cache: f16, or codes and then a scale for each 32, filled up to 16
/// bytes.
pub const fn kv_row_bytes(ty: KvType, dim: u32) -> u32 {
    match ty {
        KvType::F16 => 2 * dim,
        KvType::Q8_0 => (dim + dim.div_ceil(32) * 2).next_multiple_of(16),
    }
}

/// Numbers and sizes of heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Key/value heads.
    pub n_head_kv: u32,
    /// Query heads that share one.
    pub group: u32,
    /// Values in a query or key, a multiple of 8.
    pub dim_k: u32,
    /// Values in a value, a multiple of 8.
    pub dim_v: u32,
}

impl Heads {
    fn check(&self) -> Result<(), Error> {
        let Heads { n_head_kv, group, dim_k, dim_v } = *self;
        let dims = [dim_k, dim_v];
        check(
            n_head_kv > 0 && group > 0 && n_head_kv.checked_mul(group).is_some_and(|n| n < 1 << 15),
            || format!("{n_head_kv} heads with {group} queries each"),
        )?;
        check(dims.iter().all(|dim| dim.is_multiple_of(8) && (8..=1024).contains(dim)), || {
            format!("heads of {dim_k} and {dim_v} values: multiples of 8 are needed")
        })
    }
}

/// The keys and values of a layer: pages of [`super::PAGE`] positions, and of each sequence a list of its pages.
#[derive(Debug, Clone, Copy)]
pub struct Cache {
    /// (page, head, position, row of [`kv_row_bytes`]).
    pub keys: Address,
    /// The same.
    pub values: Address,
    /// Formats of keys and values.
    pub types: (KvType, KvType),
    /// u32 (tokens): where each token is in its sequence.
    pub positions: Address,
    /// u32 (tokens): which sequence it belongs to.
    pub sequences: Address,
    /// u32 (sequences, max_pages): the pages of each sequence.
    pub pages: Address,
    /// Most pages of a sequence.
    pub max_pages: u32,
}

pub(super) fn type_number(ty: KvType) -> Arg {
    Arg::U32(match ty {
        KvType::F16 => 0,
        KvType::Q8_0 => 1,
    })
}

/// Cosines and sines of the angles by which the pairs of each token's heads turn.
#[derive(Debug, Clone, Copy)]
pub struct Rotations {
    /// f64 (n_pairs): turns a position, angles over 2 pi.
    pub turns: Address,
    /// How many pairs.
    pub n_pairs: u32,
    /// Factor of cosines and sines.
    pub magnitude: f32,
    /// u32 (tokens).
    pub positions: Address,
    /// How many tokens.
    pub tokens: u32,
    /// f32 (tokens, n_pairs).
    pub cosines: Address,
    /// The same.
    pub sines: Address,
}

impl Rotations {
    /// Its launch.
    ///
    /// # Errors
    /// Nothing to do.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = [
            self.turns.into(),
            self.n_pairs.into(),
            self.magnitude.into(),
            self.positions.into(),
            self.cosines.into(),
            self.sines.into(),
        ];
        Launch::new("rotations", [self.n_pairs.div_ceil(64), self.tokens, 1], 64, 0, &args)
    }
}

/// When heads are normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadPlace {
    /// Before they are rotated.
    BeforeRotation,
    /// After.
    AfterRotation,
}

/// How the heads of queries and keys are normalized.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm {
    /// Of which kind.
    pub kind: NormKind,
    /// Added to the mean square.
    pub eps: f32,
    /// When.
    pub place: HeadPlace,
    /// f32: weights of the queries.
    pub q: Address,
    /// f32: weights of the keys.
    pub k: Address,
    /// Distance of the weights of one head from those of the next; 0 where all have the same.
    pub stride: u32,
}

/// How queries grow: at position p they are multiplied with `1 + scale * ln(1 + floor((p + offset) / every))`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Temperature {
    /// How much.
    pub scale: f32,
    /// Positions in a step; 0: they do not grow.
    pub every: u32,
    /// By how much the steps begin earlier.
    pub offset: u32,
}

impl Temperature {
    pub(super) fn args(self) -> [Arg; 3] {
        [self.scale.into(), self.every.into(), self.offset.into()]
    }
}

/// Queries, keys and values between their matrices and attention: normalized, rotated, stored in the cache.
#[derive(Debug, Clone, Copy)]
pub struct FinishHeads {
    /// Numbers and sizes.
    pub heads: Heads,
    /// f32 (tokens, q_stride), heads q_head_stride apart; finished in place.
    pub q: Address,
    /// Distance of tokens.
    pub q_stride: u32,
    /// Distance of heads.
    pub q_head_stride: u32,
    /// f32 (tokens, k_stride); [`Address::NONE`] where keys and values are those of another layer.
    pub k: Address,
    /// Distance of tokens.
    pub k_stride: u32,
    /// f32 (tokens, v_stride).
    pub v: Address,
    /// Distance of tokens.
    pub v_stride: u32,
    /// How many tokens.
    pub tokens: u32,
    /// Bound of all values, if there is one.
    pub clamp: Option<f32>,
    /// Normalization of queries and keys.
    pub norm: Option<HeadNorm>,
    /// Of [`Rotations`].
    pub cosines: Address,
    /// Of [`Rotations`].
    pub sines: Address,
    /// Pairs that turn; 0: nothing does.
    pub n_pairs: u32,
    /// Whether pair i is values (i, i + n_pairs), and not (2i, 2i + 1).
    pub halves: bool,
    /// How queries grow.
    pub temperature: Temperature,
    /// Where keys and values go.
    pub cache: Cache,
}

impl FinishHeads {
    /// Its launch.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = self.args(Norm::default())?;
        let n_head_kv = self.heads.n_head_kv;
        let others = if self.k == Address::NONE { 0 } else { 2 * n_head_kv };
        let grid = [n_head_kv * self.heads.group + others, self.tokens, 1];
        Launch::new("finish_heads", grid, 128, self.shared(), &args)
    }

    /// Bytes that a head takes.
    pub(super) fn shared(&self) -> u32 {
        4 * self.heads.dim_k.max(self.heads.dim_v)
    }

    /// Its parameters, of which `v_norm` normalizes values by their root mean square.
    pub(super) fn args(&self, v_norm: Norm) -> Result<Vec<Arg>, Error> {
        self.heads.check()?;
        let Heads { n_head_kv, group, dim_k, dim_v } = self.heads;
        check(self.n_pairs <= dim_k / 2, || format!("{} pairs of {dim_k} values", self.n_pairs))?;
        let (place, norm) = match self.norm {
            None => (0, [Arg::U32(0), Arg::F32(0.0)]),
            Some(norm) => (1 + norm.place as u32, [Arg::U32(norm.kind as u32), norm.eps.into()]),
        };
        let of_norm = |f: fn(&HeadNorm) -> Arg, none: Arg| self.norm.as_ref().map_or(none, f);
        let [temperature, every, offset] = self.temperature.args();
        Ok(vec![
            self.q.into(),
            self.q_stride.into(),
            self.q_head_stride.into(),
            self.k.into(),
            self.k_stride.into(),
            self.v.into(),
            self.v_stride.into(),
            (n_head_kv * group).into(),
            n_head_kv.into(),
            dim_k.into(),
            dim_v.into(),
            self.clamp.unwrap_or(0.0).into(),
            norm[0],
            norm[1],
            Arg::U32(place),
            of_norm(|norm| norm.q.into(), Address::NONE.into()),
            of_norm(|norm| norm.k.into(), Address::NONE.into()),
            of_norm(|norm| norm.stride.into(), Arg::U32(0)),
            v_norm.weight.into(),
            v_norm.eps.into(),
            self.cosines.into(),
            self.sines.into(),
            self.n_pairs.into(),
            u32::from(self.halves).into(),
            temperature,
            every,
            offset,
            self.cache.positions.into(),
            self.cache.sequences.into(),
            self.cache.pages.into(),
            self.cache.max_pages.into(),
            self.cache.keys.into(),
            self.cache.values.into(),
            type_number(self.cache.types.0),
            type_number(self.cache.types.1),
        ])
    }
}

/// What is done to scores.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scores {
    /// What they are multiplied with.
    pub scale: f32,
    /// Their bound, if they are bounded softly.
    pub softcap: Option<f32>,
    /// What a token sees of the positions up to its own; all if `None`.
    pub window: Option<Window>,
    /// f32 (heads): what a score gains with each position, optional.
    pub slopes: Address,
    /// f32 (heads): the score of a position without a value, optional.
    pub sinks: Address,
}

impl Scores {
    /// The size of the window, 0 if there is none, and whether it is a chunk.
    fn window(&self, both_ways: bool) -> Result<(u32, u32), Error> {
        let Some(window) = self.window else { return Ok((0, 0)) };
        let chunked = matches!(window, Window::Chunk(_));
        check(window.size() > 0 && !(chunked && both_ways), || format!("{window:?}, both ways {both_ways}"))?;
        // no position is as large as that
        Ok((u32::try_from(window.size()).unwrap_or(i32::MAX as u32), u32::from(chunked)))
    }
}

/// Rows of floats that are heads of tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadRows {
    /// f32 (tokens, stride).
    pub at: Address,
    /// Distance of tokens.
    pub stride: u32,
    /// Distance of heads.
    pub head_stride: u32,
}

/// Attention of single tokens over all that each sees in the cache.
#[derive(Debug, Clone, Copy)]
pub struct Attend {
    /// Numbers and sizes.
    pub heads: Heads,
    /// Queries of dim_k values.
    pub q: HeadRows,
    /// How many tokens.
    pub tokens: u32,
    /// What they see.
    pub cache: Cache,
    /// What is done to scores.
    pub scores: Scores,
    /// Of dim_v values, with whose sigmoids results are multiplied; optional.
    pub gates: HeadRows,
    /// Blocks that share the positions of a head: as many as keep the device busy.
    pub shares: u32,
    /// f32, [`Attend::parts`] of them: room.
    pub parts: Address,
    /// u32, [`Attend::counters`] of them, 0; they are 0 afterwards.
    pub counters: Address,
    /// f32 (tokens, heads, dim_v), optional.
    pub y: Address,
    /// The same quantized, optional; dim_v is a multiple of 32 then.
    pub q8: Address,
}

impl Attend {
    /// Floats that the shares of `tokens` need.
    pub fn parts(heads: &Heads, tokens: u32, shares: u32) -> usize {
        [heads.n_head_kv * heads.group, tokens, shares, heads.dim_v + 2].map(|n| n as usize).iter().product()
    }

    /// Counters that `tokens` need.
    pub fn counters(heads: &Heads, tokens: u32) -> usize {
        heads.n_head_kv as usize * heads.group as usize * tokens as usize
    }

    /// Its launch.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn launch(&self) -> Result<Launch, Error> {
        self.launch_both_ways(0)
    }

    /// The same where tokens see those behind them as well: all are of one sequence with this many positions, and half of a
    /// window is on each side.
    ///
    /// # Errors
    /// Those of [`Attend::launch`].
    pub fn launch_both_ways(&self, positions: u32) -> Result<Launch, Error> {
        self.heads.check()?;
        let Heads { n_head_kv, group, dim_k, dim_v } = self.heads;
        check(self.q8 == Address::NONE || dim_v.is_multiple_of(32), || {
            format!("heads of {dim_v} values cannot be quantized")
        })?;
        check(self.shares > 0, || "attention of nothing".to_owned())?;
        let (window, chunked) = self.scores.window(positions > 0)?;
        let width = match group {
            1 => 1,
            2..=4 => 4,
            _ => 8,
        };
        let args = [
            self.q.at.into(),
            self.q.stride.into(),
            self.q.head_stride.into(),
            self.cache.keys.into(),
            self.cache.values.into(),
            self.cache.positions.into(),
            self.cache.sequences.into(),
            self.cache.pages.into(),
            self.cache.max_pages.into(),
            n_head_kv.into(),
            group.into(),
            dim_k.into(),
            dim_v.into(),
            self.scores.scale.into(),
            self.scores.softcap.unwrap_or(0.0).into(),
            window.into(),
            chunked.into(),
            positions.into(),
            self.scores.slopes.into(),
            self.scores.sinks.into(),
            self.gates.at.into(),
            self.gates.stride.into(),
            self.gates.head_stride.into(),
            self.parts.into(),
            self.counters.into(),
            self.y.into(),
            self.q8.into(),
        ];
        let (k, v) = self.cache.types;
        let grid = [self.shares, n_head_kv * group.div_ceil(width), self.tokens];
        Launch::new(&format!("attention_{k}_{v}_{width}"), grid, 128, 4 * width * (dim_k + dim_v), &args)
    }
}

/// Attention of many tokens of one sequence at neighbouring positions, on tensor cores: queries, weights and values are
/// rounded to half precision. For sizes of heads see [`Flash::room`].
#[derive(Debug, Clone, Copy)]
pub struct Flash {
    /// Numbers and sizes.
    pub heads: Heads,
    /// Queries of dim_k values.
    pub q: HeadRows,
    /// How many tokens.
    pub tokens: u32,
    /// What they see; of positions and sequences those of the first token count.
    pub cache: Cache,
    /// What is done to scores.
    pub scores: Scores,
    /// The number of all positions, where tokens see those behind them; half of a window is then on each side.
    pub both_ways: Option<u32>,
    /// Of dim_v values, with whose sigmoids results are multiplied; optional.
    pub gates: HeadRows,
    /// f32 (tokens, heads, dim_v), optional.
    pub y: Address,
    /// The same as bf16, optional.
    pub bf16: Address,
}

impl Flash {
    /// Sizes of keys and values for which any GPU with tensor cores has the memory.
    pub const DIMS: [u32; 6] = [32, 64, 80, 96, 128, 256];

    /// Bytes of shared memory that heads of these sizes take, to be compared with [`super::super::Properties::shared_bytes`];
    /// `None`: there is no kernel for them.
    pub fn room(dim_k: u32, dim_v: u32) -> Option<u32> {
        let (_, part) = Flash::kernel(dim_k, dim_v)?;
        // 64 queries, and as many keys and values as the kernel takes at a time, 8 numbers longer than they are
        let positions = if dim_k <= 128 { 64 } else { 32 };
        Some(((64 + positions) * (dim_k + 8) + positions * (part + 8)) * 2)
    }

    /// The kernel for these sizes, and how many numbers of a value a block gives.
    fn kernel(dim_k: u32, dim_v: u32) -> Option<(String, u32)> {
        match (dim_k, dim_v) {
            (512, 512) => Some(("flash_512".to_owned(), 256)),
            (576, 512) => Some(("flash_576_512".to_owned(), 256)),
            _ if dim_k == dim_v && Flash::DIMS.contains(&dim_k) => Some((format!("flash_{dim_k}"), dim_v)),
            _ => None,
        }
    }

    /// Its launch.
    ///
    /// # Errors
    /// Sizes that there is no kernel for.
    pub fn launch(&self) -> Result<Launch, Error> {
        self.heads.check()?;
        let Heads { n_head_kv, group, dim_k, dim_v } = self.heads;
        let kernel = Flash::kernel(dim_k, dim_v).zip(Flash::room(dim_k, dim_v));
        let Some(((name, part), room)) = kernel else {
            return Err(Error::Operands(format!("heads of {dim_k} and {dim_v} values")));
        };
        let (window, chunked) = self.scores.window(self.both_ways.is_some())?;
        let args = [
            self.q.at.into(),
            self.q.stride.into(),
            self.q.head_stride.into(),
            self.tokens.into(),
            self.cache.keys.into(),
            self.cache.values.into(),
            type_number(self.cache.types.0),
            type_number(self.cache.types.1),
            self.cache.positions.into(),
            self.cache.sequences.into(),
            self.cache.pages.into(),
            self.cache.max_pages.into(),
            n_head_kv.into(),
            group.into(),
            self.scores.scale.into(),
            self.scores.softcap.unwrap_or(0.0).into(),
            window.into(),
            chunked.into(),
            self.both_ways.unwrap_or(0).into(),
            self.scores.slopes.into(),
            self.scores.sinks.into(),
            self.gates.at.into(),
            self.gates.stride.into(),
            self.gates.head_stride.into(),
            self.y.into(),
            self.bf16.into(),
        ];
        let grid = [self.tokens.div_ceil(64), n_head_kv * group, dim_v / part];
        Launch::new(&name, grid, 128, room, &args)
    }
}
