//! The values of a batch between operations, on a device.

use braise_kernels::cuda::ops::{Argmax, Attend, COLUMNS, Heads, Q8_BYTES, Qkv, TopK};
use braise_kernels::cuda::{Address, Error, Properties};

use super::products::Acts;
use super::room::Room;
use super::{attention, cache, narrow};
use crate::block::{Attention, Experts, Latent, Mixer, Mlp, Pairs, Rope, Spec, StateSpaceKind};
use crate::kv::Room as Sizes;
use crate::sequences::n_logits;

/// Rows of n floats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) at: Address,
    pub(super) n: usize,
}

/// The values of a batch of up to `n_batch` tokens between operations, each row a token's; of up to `n_logits` of them logits
/// are computed at a time.
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
    /// (n_logits, n_vocab)
    pub(super) logits: Address,
    pub(super) best: BestBuffers,
    /// n_logits counters that are 0.
    pub(super) counter: Address,
    /// n_batch zeros: the kinds of the tokens, where a model knows kinds.
    pub(super) zeros: Address,
    /// The numbers of the batch, see [`StepBuffers`].
    pub(super) steps: Address,
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
    /// (n_logits, blocks): logits as integers in the same order, and their places, see [`Argmax`].
    pub(super) keys: Address,
    /// (n_logits, k)
    pub(super) places: Address,
    pub(super) values: Address,
}

/// Where the numbers of a batch are, one behind the other: three of each of its n tokens, of its r runs where they begin and
/// end, and which tokens' logits are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepBuffers {
    /// (n)
    pub(super) tokens: Address,
    pub(super) positions: Address,
    /// Places of their sequences in the cache.
    pub(super) sequences: Address,
    /// (r + 1)
    pub(super) starts: Address,
    pub(super) wanted: Address,
}

impl Buffers {
    /// Takes all that batches on a device of these properties need.
    pub(super) fn new(
        spec: &Spec,
        sizes: Sizes,
        properties: &Properties,
        room: &mut Room<'_>,
    ) -> Result<Buffers, Error> {
        let float = size_of::<f32>();
        let n = sizes.chunk.next_multiple_of(COLUMNS as usize);
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
        let rows = n_logits(sizes);
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
            steps: room.zeros(&[3 * n + sizes.n_seq + 1 + rows], size_of::<u32>())?,
            recurrent: recurrent_buffers(spec, n, room)?,
            latent: latent_buffers(spec, n, room)?,
            layer_inputs: {
                let all = [n, spec.layers.len(), n_inputs];
                [room.zeros(&all, float)?, room.zeros(&all, float)?]
            },
        })
    }

    /// Where the numbers of a batch of n tokens in some runs are.
    pub(super) fn step(&self, n: usize, runs: usize) -> StepBuffers {
        let at = |i: usize| self.steps.offset((i * size_of::<u32>()) as u64);
        let (starts, wanted) = (at(3 * n), at(3 * n + runs + 1));
        StepBuffers { tokens: at(0), positions: at(n), sequences: at(2 * n), starts, wanted }
    }

    /// The heads of latent attention with so many.
    pub(super) fn head_order(&self, n_head: usize) -> &HeadOrder {
        let mut orders = self.latent.orders.iter();
        orders.find(|order| order.n_head == n_head).expect("latent attention of the model")
    }
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
    for a in spec.layers.iter().filter_map(|layer| layer.mixer.attention()) {
        let heads: Heads = attention::heads(&a.heads)?;
        let pages = cache::seen_pages(a, cache::max_pages(sizes))?;
        let most = match attention::has_flash(a, properties) {
            true => sizes.chunk.min(sizes.n_seq.saturating_mul(COLUMNS as usize)),
            false => sizes.chunk,
        };
        let tokens = narrow(most)?;
        let shares = attention::shares_of_all(&heads, tokens, properties.multiprocessors, pages);
        parts = parts.max(Attend::parts(&heads, 1, shares));
        counters = counters.max(Attend::counters(&heads, tokens)).max(Qkv::counters(&heads, tokens));
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
            ids: room.copy(bytemuck::cast_slice(&ids))?,
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
        turns: room.copy(bytemuck::cast_slice(&turns))?,
        n_pairs: narrow(turns.len())?,
        magnitude,
        halves: rope.pairs == Pairs::Halves,
        cosines: room.zeros(&tables, size_of::<f32>())?,
        sines: room.zeros(&tables, size_of::<f32>())?,
    })
}
