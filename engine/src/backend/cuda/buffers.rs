//! What a sequence has on a device: the values of a batch between operations, and the cache.

use braise_kernels::cuda::ops::{
    Argmax, Attend, COLUMNS, Cache, Heads, PAGE, Q8_BYTES, Qkv, TopK, kv_row_bytes,
};
use braise_kernels::cuda::{Address, Error, Properties};
use braise_kernels::ops::KvType;

use super::products::Acts;
use super::room::Room;
use super::{are_few, attention, narrow};
use crate::block::{Attention, Experts, Latent, Mixer, Mlp, Pairs, Rope, Spec, StateSpaceKind};
use crate::kv::KvTypes;

/// Rows of n floats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) at: Address,
    pub(super) n: usize,
}

/// The values of a batch of up to `n_batch` tokens between operations, each row a token's.
#[derive(Debug)]
pub(super) struct Buffers {
    /// (n_batch, n_embd)
    pub(super) x: Rows,
    /// What matrices read of `x`.
    pub(super) input: Acts,
    /// A block's result before it is normalized, (n_batch, n_embd).
    pub(super) y: Address,
    /// A sum of normalized results, (n_batch, n_embd).
    pub(super) branches: Address,
    /// The rows of their matrices.
    pub(super) q: Address,
    pub(super) k: Address,
    pub(super) v: Address,
    /// Of attention, (n_batch, n_head * head_dim_v).
    pub(super) results: Acts,
    /// Shares of the results of few tokens, and counters that are 0.
    pub(super) parts: Address,
    pub(super) counters: Address,
    /// (n_batch, n_ff), the floats of which hold the gates before; and what they gate.
    pub(super) h: Acts,
    pub(super) up: Address,
    pub(super) experts: ExpertBuffers,
    /// Of the expert that all tokens take, (n_batch, n_embd).
    pub(super) shared: Address,
    /// Scores of the experts and of the one that all tokens take, (n_batch, n_expert + 1).
    pub(super) router: Address,
    pub(super) recurrent: RecurrentBuffers,
    pub(super) latent: LatentBuffers,
    /// What layers get of each token besides, (n_batch, layers * n); and what that is made of.
    pub(super) layer_inputs: [Address; 2],
    pub(super) rotations: Vec<Rotation>,
    /// (COLUMNS, n_vocab)
    pub(super) logits: Address,
    pub(super) best: BestBuffers,
    /// COLUMNS counters that are 0.
    pub(super) counter: Address,
    /// n_batch zeros: the sequences of the tokens.
    pub(super) zeros: Address,
    /// Tokens and positions of the batch, and where its run begins and ends, one behind the other.
    pub(super) steps: Address,
    types: KvTypes,
    max_pages: u32,
    layers: Vec<Option<LayerCache>>,
    /// What layers remember of all tokens together, see [`crate::block::Mixer::states`].
    states: Vec<Vec<Address>>,
}

/// What recurrent layers need between their launches, rows of whatever length.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecurrentBuffers {
    /// The products of the input.
    pub(super) work: Address,
    /// What is behind the convolution.
    pub(super) conv: Acts,
    /// That of it which a state space scans.
    pub(super) x: Address,
    /// What dt, B and C are made of; one part of it; B and C normalized.
    pub(super) selected: Address,
    pub(super) part: Acts,
    pub(super) b: Address,
    pub(super) c: Address,
    /// dt, or what a delta net's states decay by; a delta net's gates.
    pub(super) dt: Address,
    pub(super) z: Address,
    /// Results before they are normalized.
    pub(super) y: Address,
    /// What goes into the output matrix.
    pub(super) mixed: Acts,
}

/// What latent attention needs between its launches.
#[derive(Debug, Default)]
pub(super) struct LatentBuffers {
    /// (n_batch, q_rank)
    pub(super) compressed: Acts,
    /// (n_batch, heads, what is mapped and what turns)
    pub(super) q: Address,
    /// (n_batch, rank and what turns)
    pub(super) kv: Address,
    /// What is mapped of the queries, then the results.
    pub(super) heads: Acts,
    pub(super) orders: Vec<HeadOrder>,
}

/// The heads of all tokens as columns that take the maps of heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadOrder {
    pub(super) n_head: usize,
    /// The heads in turn, (n_batch, n_head).
    pub(super) ids: Address,
    /// Columns head by head, and where those of each begin, of many tokens.
    pub(super) order: Address,
    pub(super) starts: Address,
}

/// What is computed of a mixture; positions are a token's chosen experts, of all tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ExpertBuffers {
    /// (n_batch, n_used)
    pub(super) chosen: Address,
    pub(super) weights: Address,
    /// (positions), (n_expert + 1)
    pub(super) order: Address,
    pub(super) starts: Address,
    /// (positions, n_ff), as those of a dense network.
    pub(super) h: Acts,
    pub(super) up: Address,
    /// (positions, n_embd)
    pub(super) results: Address,
    /// What they read where that is weighed, (positions, n_embd); of a size of its own, (n_batch, latent).
    pub(super) weighed: Acts,
    pub(super) latent: Acts,
}

/// One of the model's ropes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rotation {
    /// Turns a position, of each pair.
    pub(super) turns: Address,
    pub(super) n_pairs: u32,
    pub(super) magnitude: f32,
    pub(super) halves: bool,
    /// (n_batch, n_pairs)
    pub(super) cosines: Address,
    pub(super) sines: Address,
}

/// The best logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct BestBuffers {
    /// (COLUMNS, blocks): logits as integers in the same order, and their places, see [`Argmax`].
    pub(super) keys: Address,
    /// (COLUMNS, k)
    pub(super) places: Address,
    pub(super) values: Address,
}

/// Keys and values of a layer.
#[derive(Debug, Clone, Copy)]
struct LayerCache {
    keys: Address,
    values: Address,
    /// (max_pages): page p of the sequence is page `p % kept` of the cache.
    pages: Address,
    kept: usize,
    /// Positions that a token sees, if fewer than all are kept.
    window: Option<usize>,
}

/// Where the numbers of a batch's tokens are.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepBuffers {
    pub(super) tokens: Address,
    pub(super) positions: Address,
    /// 0, and the number of tokens.
    pub(super) starts: Address,
}

/// Sizes of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Most tokens of a batch.
    pub(super) n_batch: usize,
    pub(super) n_ctx: usize,
    pub(super) kv: KvTypes,
}

/// Tokens that can be forgotten without reading those before them again, at least.
const SPARE: usize = 128;

/// Most positions, so that tables of pages stay small: no memory holds the keys of as many.
const MAX_CTX: usize = 1 << 28;

impl Buffers {
    /// Takes all that batches on a device of these properties need.
    pub(super) fn new(
        spec: &Spec,
        sizes: Sizes,
        properties: &Properties,
        room: &mut Room<'_>,
    ) -> Result<Buffers, Error> {
        if sizes.n_ctx > MAX_CTX {
            return Err(Error::Operands(format!(
                "a context of {} tokens is too large for a GPU",
                sizes.n_ctx
            )));
        }
        let float = size_of::<f32>();
        let n = sizes.n_batch.next_multiple_of(COLUMNS as usize);
        let n_embd = spec.n_embd;
        let attentions = || spec.layers.iter().filter_map(|layer| layer.mixer.attention());
        let widest = |f: &dyn Fn(&Attention) -> usize| attentions().map(f).max().unwrap_or(0);
        let dense = spec.layers.iter().filter_map(|layer| match &layer.mlp {
            Mlp::Dense(dense) => Some(dense.n_ff),
            Mlp::Experts(experts) => experts.shared.map(|(dense, _)| dense.n_ff),
            Mlp::Both(both) => Some(both.dense.n_ff),
            Mlp::Nothing => None,
        });
        let n_inputs = spec.layer_inputs.map_or(0, |inputs| inputs.n);
        let n_ff = dense.max().unwrap_or(0).max(n_inputs);
        let experts = spec.layers.iter().filter_map(|layer| match &layer.mlp {
            Mlp::Experts(experts) => Some(experts),
            Mlp::Both(both) => Some(&both.experts),
            Mlp::Dense(_) | Mlp::Nothing => None,
        });
        let experts: Vec<&Experts> = experts.collect();
        let n_expert = experts.iter().map(|e| e.n_expert).max();
        let (parts, counters) = attention_room(spec, &sizes, properties)?;
        let max_pages = sizes.n_ctx.div_ceil(PAGE as usize);
        let rows = COLUMNS as usize;
        let is_normed = |l: &crate::block::Layer| l.norms.mixer_out.is_some() || l.norms.mlp_out.is_some();
        let branched = spec.layers.iter().any(|l| matches!(l.mlp, Mlp::Both(_)));
        let normed = branched || n_inputs > 0 || spec.layers.iter().any(is_normed);
        let optional = |is: bool, len: usize| if is { len } else { 0 };
        Ok(Buffers {
            x: Rows { at: room.zeros(&[n, n_embd], float)?, n: n_embd },
            input: acts(n, n_embd, room)?,
            y: room.zeros(&[n, optional(normed, n_embd)], float)?,
            branches: room.zeros(&[n, optional(branched, n_embd)], float)?,
            q: room.zeros(
                &[n, widest(&|a| a.heads.n_head * a.heads.head_dim * (1 + usize::from(a.gated)))],
                float,
            )?,
            k: room.zeros(&[n, widest(&|a| a.heads.n_head_kv * a.heads.head_dim)], float)?,
            v: room.zeros(&[n, widest(&|a| a.heads.n_head_kv * a.heads.head_dim_v)], float)?,
            results: acts(n, widest(&|a| a.heads.n_head * a.heads.head_dim_v), room)?,
            parts: room.zeros(&[parts], float)?,
            counters: room.zeros(&[counters], float)?,
            h: acts(n, n_ff, room)?,
            up: room.zeros(&[n, n_ff], float)?,
            experts: expert_buffers(&experts, n, n_embd, room)?,
            shared: room.zeros(&[n, optional(experts.iter().any(|e| e.shared.is_some()), n_embd)], float)?,
            router: room.zeros(&[n, n_expert.map_or(0, |n| n + 1)], float)?,
            rotations: spec
                .ropes
                .iter()
                .map(|rope| rotation(rope, &sizes, n, room))
                .collect::<Result<_, _>>()?,
            logits: room.zeros(&[rows, spec.n_vocab], float)?,
            best: BestBuffers {
                keys: room.zeros(&[rows, Argmax::BLOCKS as usize], size_of::<u64>())?,
                places: room.zeros(&[rows, TopK::MOST as usize], size_of::<u32>())?,
                values: room.zeros(&[rows, TopK::MOST as usize], float)?,
            },
            counter: room.zeros(&[rows], size_of::<u32>())?,
            zeros: room.zeros(&[n], size_of::<u32>())?,
            steps: room.zeros(&[2 * n + 2], size_of::<u32>())?,
            types: sizes.kv,
            max_pages: narrow(max_pages)?,
            layers: cache(spec, &sizes, max_pages, room)?,
            recurrent: recurrent_buffers(spec, n, room)?,
            latent: latent_buffers(spec, n, room)?,
            layer_inputs: {
                let all = [n, spec.layers.len(), n_inputs];
                [room.zeros(&all, float)?, room.zeros(&all, float)?]
            },
            states: (spec.layers.iter())
                .map(|layer| {
                    let tables = layer.mixer.states().into_iter();
                    tables.map(|(rows, n)| room.zeros(&[rows, n], float)).collect()
                })
                .collect::<Result<_, _>>()?,
        })
    }

    /// Where the numbers of a batch of n tokens are.
    pub(super) fn step(&self, n: usize) -> StepBuffers {
        let part = |i: usize| self.steps.offset((i * n * size_of::<u32>()) as u64);
        StepBuffers { tokens: part(0), positions: part(1), starts: part(2) }
    }

    /// The cache of a layer, for tokens at `positions`.
    pub(super) fn cache(&self, layer: usize, positions: Address) -> Cache {
        let layer = self.layers[layer].expect("a layer with keys and values of its own");
        Cache {
            keys: layer.keys,
            values: layer.values,
            types: (self.types.k, self.types.v),
            positions,
            sequences: self.zeros,
            pages: layer.pages,
            max_pages: self.max_pages,
        }
    }

    /// A table of what a layer remembers of all tokens together.
    pub(super) fn states(&self, layer: usize, table: usize) -> Address {
        self.states[layer][table]
    }

    /// The heads of latent attention with so many.
    pub(super) fn head_order(&self, n_head: usize) -> &HeadOrder {
        let mut orders = self.latent.orders.iter();
        orders.find(|order| order.n_head == n_head).expect("latent attention of the model")
    }

    /// Pages of which a token sees something at most.
    pub(super) fn seen_pages(&self, a: &Attention) -> Result<u32, Error> {
        seen_pages(a, self.max_pages as usize)
    }

    /// Whether what the token at position `next` sees is there, if the positions before `end` were written.
    pub(super) fn hold(&self, next: usize, end: usize) -> bool {
        let page = |position: usize| position / PAGE as usize;
        self.layers.iter().flatten().all(|layer| match layer.window {
            None => true,
            Some(window) => {
                page(end.saturating_sub(1)).saturating_sub(page((next + 1).saturating_sub(window)))
                    < layer.kept
            }
        })
    }
}

fn seen_pages(a: &Attention, max_pages: usize) -> Result<u32, Error> {
    let of_window = a.window.map_or(max_pages, |window| window.size() / PAGE as usize + 2);
    narrow(of_window.min(max_pages))
}

/// Rows of k values in all forms.
fn acts(rows: usize, k: usize, room: &mut Room<'_>) -> Result<Acts, Error> {
    Ok(Acts {
        f32: room.zeros(&[rows, k], size_of::<f32>())?,
        q8: room.zeros(&[rows, k.div_ceil(32)], Q8_BYTES)?,
        bf16: room.zeros(&[rows, k], size_of::<u16>())?,
    })
}

/// Floats and counters that attention of the batches takes, at most.
fn attention_room(spec: &Spec, sizes: &Sizes, properties: &Properties) -> Result<(usize, usize), Error> {
    let (mut parts, mut counters) = (0, 0);
    let max_pages = sizes.n_ctx.div_ceil(PAGE as usize);
    for a in spec.layers.iter().filter_map(|layer| layer.mixer.attention()) {
        let heads: Heads = attention::heads(&a.heads)?;
        let pages = seen_pages(a, max_pages)?;
        let few = 1..=sizes.n_batch.min(COLUMNS as usize);
        let all = (!are_few(sizes.n_batch) && !attention::has_flash(a, properties)).then_some(sizes.n_batch);
        for n in few.chain(all) {
            let shares = attention::shares(&heads, n, properties.multiprocessors, pages);
            let tokens = narrow(n)?;
            parts = parts.max(Attend::parts(&heads, tokens, shares));
            counters = counters.max(Attend::counters(&heads, tokens)).max(Qkv::counters(&heads, tokens));
        }
    }
    Ok((parts, counters))
}

fn expert_buffers(
    all: &[&Experts],
    n: usize,
    n_embd: usize,
    room: &mut Room<'_>,
) -> Result<ExpertBuffers, Error> {
    let most = |f: &dyn Fn(&Experts) -> usize| all.iter().map(|e| f(e)).max();
    let Some(used) = most(&|e| e.n_used) else { return Ok(ExpertBuffers::default()) };
    let latent = most(&|e| e.latent.unwrap_or(0)).unwrap_or(0);
    let (n_expert, n_ff) = (most(&|e| e.n_expert).unwrap_or(0), most(&|e| e.expert.n_ff).unwrap_or(0));
    let word = size_of::<u32>();
    let positions = n.checked_mul(used).ok_or_else(|| Error::Operands(format!("{used} experts a token")))?;
    Ok(ExpertBuffers {
        chosen: room.zeros(&[positions], word)?,
        weights: room.zeros(&[positions], word)?,
        order: room.zeros(&[positions], word)?,
        starts: room.zeros(&[n_expert + 1], word)?,
        h: acts(positions, n_ff, room)?,
        up: room.zeros(&[positions, n_ff], word)?,
        results: room.zeros(&[positions, n_embd.max(latent)], word)?,
        weighed: acts(
            if all.iter().any(|e| e.weigh_inputs) { positions } else { 0 },
            n_embd.max(latent),
            room,
        )?,
        latent: acts(n, latent, room)?,
    })
}

fn latent_buffers(spec: &Spec, n: usize, room: &mut Room<'_>) -> Result<LatentBuffers, Error> {
    let all = spec.layers.iter().filter_map(|layer| match &layer.mixer {
        Mixer::Latent(latent) => Some(latent),
        _ => None,
    });
    let all: Vec<&Latent> = all.collect();
    let most = |f: &dyn Fn(&Latent) -> usize| all.iter().map(|latent| f(latent)).max().unwrap_or(0);
    let n_head = |latent: &Latent| latent.attention.heads.n_head;
    let word = size_of::<u32>();
    let mut orders: Vec<HeadOrder> = Vec::new();
    for n_head in all.iter().map(|latent| n_head(latent)) {
        if orders.iter().any(|order| order.n_head == n_head) {
            continue;
        }
        let ids = (0..n * n_head).map(|column| narrow(column % n_head)).collect::<Result<Vec<_>, _>>()?;
        orders.push(HeadOrder {
            n_head,
            ids: room.copy(bytemuck::cast_slice(&ids), 0)?,
            order: room.zeros(&[n, n_head], word)?,
            starts: room.zeros(&[n_head + 1], word)?,
        });
    }
    Ok(LatentBuffers {
        compressed: acts(n, most(&|latent| latent.q_rank.unwrap_or(0)), room)?,
        q: room.zeros(&[n, most(&|latent| n_head(latent) * latent.query_dim())], word)?,
        kv: room.zeros(&[n, most(&|latent| latent.attention.heads.head_dim)], word)?,
        heads: acts(n, most(&|latent| n_head(latent) * latent.nope_dim.max(latent.v_dim)), room)?,
        orders,
    })
}

fn recurrent_buffers(spec: &Spec, n: usize, room: &mut Room<'_>) -> Result<RecurrentBuffers, Error> {
    // rows of each buffer, in the order of the fields
    let (mut work, mut conv, mut selected, mut part, mut each, mut mixed) = (0, 0, 0, 0, 0, 0);
    let mut scans = false;
    for layer in &spec.layers {
        match &layer.mixer {
            Mixer::ShortConv(s) => (work, mixed) = (work.max(3 * s.channels), mixed.max(s.channels)),
            Mixer::StateSpace(s) | Mixer::Both(_, s) => {
                (work, conv) = (work.max(s.inputs()), conv.max(s.conv_channels()));
                if let StateSpaceKind::One { rank, .. } = s.kind {
                    (selected, part) = (selected.max(s.selected()), part.max(rank));
                }
                (each, mixed, scans) = (each.max(s.channels), mixed.max(s.channels), true);
            }
            Mixer::DeltaNet(d) => {
                // q, k, v and z, and two numbers of each head or as many as a head has
                let others = 2 * (d.n_head + d.head_dim);
                work = work.max(d.conv_channels() + d.values() + others);
                (conv, part) = (conv.max(d.conv_channels()), part.max(d.head_dim));
                (each, mixed) = (each.max(d.values()), mixed.max(d.values()));
            }
            Mixer::Attention(_) | Mixer::Latent(_) | Mixer::Nothing => {}
        }
    }
    let float = size_of::<f32>();
    Ok(RecurrentBuffers {
        work: room.zeros(&[n, work], float)?,
        conv: acts(n, conv, room)?,
        x: room.zeros(&[n, if scans { each } else { 0 }], float)?,
        selected: room.zeros(&[n, selected], float)?,
        part: acts(n, part, room)?,
        b: room.zeros(&[n, selected], float)?,
        c: room.zeros(&[n, selected], float)?,
        dt: room.zeros(&[n, each], float)?,
        z: room.zeros(&[n, each], float)?,
        y: room.zeros(&[n, each], float)?,
        mixed: acts(n, mixed, room)?,
    })
}

fn rotation(rope: &Rope, sizes: &Sizes, n: usize, room: &mut Room<'_>) -> Result<Rotation, Error> {
    let (frequencies, magnitude) = rope.frequencies(sizes.n_ctx);
    let turns: Vec<f64> = frequencies.iter().map(|radians| radians / std::f64::consts::TAU).collect();
    let tables = [n, turns.len()];
    Ok(Rotation {
        turns: room.copy(bytemuck::cast_slice(&turns), 0)?,
        n_pairs: narrow(turns.len())?,
        magnitude,
        halves: rope.pairs == Pairs::Halves,
        cosines: room.zeros(&tables, size_of::<f32>())?,
        sines: room.zeros(&tables, size_of::<f32>())?,
    })
}

/// The cache of each layer that has keys and values of its own.
fn cache(
    spec: &Spec,
    sizes: &Sizes,
    max_pages: usize,
    room: &mut Room<'_>,
) -> Result<Vec<Option<LayerCache>>, Error> {
    let mut tables: Vec<(usize, Address)> = Vec::new();
    let mut layer = |a: &Attention| {
        let (kept, window) = kept_pages(a, sizes, max_pages);
        let pages = match tables.iter().find(|(of, _)| *of == kept) {
            Some((_, table)) => *table,
            None => {
                let pages = (0..max_pages).map(|page| narrow(page % kept)).collect::<Result<Vec<_>, _>>()?;
                let table = room.copy(bytemuck::cast_slice(&pages), 0)?;
                tables.push((kept, table));
                table
            }
        };
        let mut heads = |ty: KvType, dim: usize| {
            let row = kv_row_bytes(ty, narrow(dim)?) as usize;
            room.zeros(&[kept, a.heads.n_head_kv, PAGE as usize], row)
        };
        let keys = heads(sizes.kv.k, a.heads.head_dim)?;
        Ok(LayerCache { keys, values: heads(sizes.kv.v, a.heads.head_dim_v)?, pages, kept, window })
    };
    spec.layers.iter().map(|l| l.mixer.cached().map(&mut layer).transpose()).collect()
}

/// Pages that a layer keeps, and its window if these are fewer than all: where a sequence outgrows them, the first ones are
/// written again.
fn kept_pages(a: &Attention, sizes: &Sizes, max_pages: usize) -> (usize, Option<usize>) {
    // slopes count from the first position
    let window = a.window.filter(|_| a.causal && a.alibi.is_none());
    let Some(window) = window.map(|window| window.size()) else { return (max_pages, None) };
    let positions = window.saturating_add(sizes.n_batch).saturating_add(SPARE);
    // what is not a whole number of pages may begin and end anywhere in one
    let kept = positions.div_ceil(PAGE as usize) + 1;
    if kept < max_pages { (kept, Some(window)) } else { (max_pages, None) }
}
