//! The key/value cache: keys and values of the tokens so far, each in a format of its own.
//!
//! A layer whose tokens see a window keeps no more positions than that takes. Where the next tokens would not fit, those
//! that are seen still move to the front, by whole spans, so that kernels see blocks and spans where they always are, and
//! results stay the same to the bit.

use braise_kernels::ops::{Cached, KEY_BLOCK, KvType, SPAN, Window, store_key, store_value};
use braise_kernels::sync::{Chunk, Shared, Team, Units, Worker};

use crate::block::{Attention, Heads as HeadSizes, Mixer, Spec};

/// The formats of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvTypes {
    /// Of the keys.
    pub k: KvType,
    /// Of the values.
    pub v: KvType,
}

impl KvTypes {
    /// Bytes of a position's keys and values in one layer, or `None` if they overflow.
    pub fn bytes(self, a: &HeadSizes) -> Option<usize> {
        let head = self.k.row_bytes(a.head_dim)?.checked_add(self.v.row_bytes(a.head_dim_v)?)?;
        head.checked_mul(a.n_head_kv)
    }
}

/// Keys and values of each layer, head by head, in the layout that [`braise_kernels::ops::attention`] reads. Memory is
/// taken as positions are written.
#[derive(Debug)]
pub struct KvCache {
    types: KvTypes,
    /// One for each layer that has keys and values of its own.
    layers: Vec<Option<LayerCache>>,
    /// What layers remember of all tokens together, see [`Mixer::states`].
    states: Vec<Vec<Shared<f32>>>,
}

/// Bytes of what a layer remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerBytes {
    /// Keys and values, which each position has.
    pub positions: usize,
    /// What it remembers of all tokens together, see [`Mixer::states`].
    pub states: usize,
}

impl LayerBytes {
    /// Of a sequence and a layer with this mixer, in a context of `n_ctx` tokens that are read `chunk` at a time. `None` if they overflow.
    pub fn new(mixer: &Mixer, n_ctx: usize, chunk: usize, types: KvTypes) -> Option<LayerBytes> {
        let positions = match mixer.cached() {
            Some(a) => types.bytes(&a.heads)?.checked_mul(room(a, n_ctx, chunk)?.0)?,
            None => 0,
        };
        let mut states = mixer.states().into_iter();
        let states = states.try_fold(0_usize, |sum, (rows, row_len)| {
            sum.checked_add(rows.checked_mul(row_len)?.checked_mul(size_of::<f32>())?)
        })?;
        Some(LayerBytes { positions, states })
    }

    /// Of several sequences. `None` if they overflow.
    pub fn of_sequences(self, n: usize) -> Option<LayerBytes> {
        Some(LayerBytes { positions: self.positions.checked_mul(n)?, states: self.states.checked_mul(n)? })
    }
}

#[derive(Debug)]
struct LayerCache {
    /// (n_head_kv, bytes of a head's positions)
    keys: Shared<u8>,
    values: Shared<u8>,
    head_dim: usize,
    head_dim_v: usize,
    /// What tokens see, if the cache keeps no more than that takes.
    window: Option<Window>,
    /// Positions that there is room for, and the first of those that are there, a multiple of [`SPAN`].
    room: usize,
    first: usize,
}

/// Tokens that can be forgotten without reading those before them again, at least.
pub(crate) const SPARE: usize = 512;

/// What tokens see of a layer, where positions before it need not be kept.
pub(crate) fn window(a: &Attention) -> Option<Window> {
    // slopes count from the first position
    a.window.filter(|window| {
        let is_whole = match window {
            Window::Sliding(_) => true,
            Window::Chunk(n) => n.is_multiple_of(SPAN),
        };
        is_whole && a.causal && a.alibi.is_none()
    })
}

/// Positions that a layer's cache has room for in a context of `n_ctx` tokens, which are read `chunk` at a time, and its
/// window if these are fewer than all.
fn room(a: &Attention, n_ctx: usize, chunk: usize) -> Option<(usize, Option<Window>)> {
    let all = n_ctx.checked_next_multiple_of(KEY_BLOCK)?;
    let Some(window) = window(a) else { return Some((all, None)) };
    let kept = window.size().checked_add(SPARE + SPAN)?;
    let few = kept.checked_add(chunk.max(SPAN))?.checked_next_multiple_of(KEY_BLOCK)?;
    Some(if few < all { (few, Some(window)) } else { (all, None) })
}

impl LayerCache {
    /// Makes room for `n` tokens from position `next` on.
    fn make_room(&mut self, types: KvTypes, next: usize, n: usize) {
        let Some(window) = self.window else { return };
        if next == 0 {
            self.first = 0;
        }
        if next + n <= self.first + self.room {
            return;
        }
        let first = window.start(next.saturating_sub(SPARE)) / SPAN * SPAN;
        let moved = first - self.first..(next - self.first).next_multiple_of(KEY_BLOCK);
        for (all, ty, dim) in
            [(&mut self.keys, types.k, self.head_dim), (&mut self.values, types.v, self.head_dim_v)]
        {
            let bytes = ty.row_bytes(dim).expect("a position is in memory");
            let head_len = all.row_len();
            for head in all.get_mut().chunks_exact_mut(head_len) {
                head.copy_within(moved.start * bytes..moved.end * bytes, 0);
            }
        }
        self.first = first;
    }
}

impl KvCache {
    /// Room for `n_ctx` tokens, which are read `chunk` at a time. `None` if there is not that much memory.
    pub fn new(team: &Team, spec: &Spec, n_ctx: usize, chunk: usize, types: KvTypes) -> Option<KvCache> {
        let heads = |n: usize, ty: KvType, dim: usize, room: usize| {
            Shared::zeroed(team, n, ty.row_bytes(dim)?.checked_mul(room)?)
        };
        let layer = |a: &Attention| {
            let (room, window) = room(a, n_ctx, chunk)?;
            let HeadSizes { n_head_kv, head_dim, head_dim_v, .. } = a.heads;
            Some(LayerCache {
                keys: heads(n_head_kv, types.k, head_dim, room)?,
                values: heads(n_head_kv, types.v, head_dim_v, room)?,
                head_dim,
                head_dim_v,
                window,
                room,
                first: 0,
            })
        };
        let layers = spec.layers.iter().map(|l| match l.mixer.cached() {
            Some(a) => Some(Some(layer(a)?)),
            None => Some(None),
        });
        let layers = layers.collect::<Option<_>>()?;
        let states = spec.layers.iter().map(|l| {
            let tables = l.mixer.states().into_iter();
            tables.map(|(rows, row_len)| Shared::zeroed(team, rows, row_len)).collect()
        });
        let states = states.collect::<Option<_>>()?;
        Some(KvCache { types, layers, states })
    }

    /// Bytes of a full cache, or `None` if they overflow.
    pub fn bytes(spec: &Spec, n_ctx: usize, chunk: usize, types: KvTypes) -> Option<usize> {
        let mut layers = spec.layers.iter().map(|layer| LayerBytes::new(&layer.mixer, n_ctx, chunk, types));
        layers.try_fold(0usize, |sum, layer| {
            let layer = layer?;
            sum.checked_add(layer.positions)?.checked_add(layer.states)
        })
    }

    /// Bytes that were taken for it.
    pub fn taken(&self) -> usize {
        let layers = self.layers.iter().flatten().map(|layer| layer.keys.bytes() + layer.values.bytes());
        layers.chain(self.states.iter().flatten().map(Shared::bytes)).sum()
    }

    /// Makes room for `n` tokens from position `next` on, no more of them than a chunk.
    pub(crate) fn make_room(&mut self, next: usize, n: usize) {
        self.layers.iter_mut().flatten().for_each(|layer| layer.make_room(self.types, next, n));
    }

    /// Whether what the token at position `next` sees is there, if those before it were read once.
    pub(crate) fn holds(&self, next: usize) -> bool {
        let starts = |layer: &LayerCache| layer.window.map_or(0, |window| window.start(next));
        self.layers.iter().flatten().all(|layer| layer.first <= starts(layer))
    }

    /// The first position that a layer's cache holds.
    pub(crate) fn first(&self, layer: usize) -> usize {
        self.layer(layer).first
    }

    fn layer(&self, layer: usize) -> &LayerCache {
        self.layers[layer].as_ref().expect("a layer with keys and values of its own")
    }

    /// What a layer remembers of all tokens together, see [`Mixer::states`].
    pub(crate) fn states(&self, layer: usize) -> &[Shared<f32>] {
        &self.states[layer]
    }

    /// The chunk's key heads of a layer, to be written.
    pub(crate) fn keys<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { keys, head_dim, first, .. } = self.layer(layer);
        Heads {
            all: keys.rows(chunk, heads),
            head_len: keys.row_len(),
            ty: self.types.k,
            dim: *head_dim,
            first: *first,
        }
    }

    /// The chunk's value heads of a layer, to be written.
    pub(crate) fn values<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { values, head_dim_v, first, .. } = self.layer(layer);
        Heads {
            all: values.rows(chunk, heads),
            head_len: values.row_len(),
            ty: self.types.v,
            dim: *head_dim_v,
            first: *first,
        }
    }

    /// Keys and values of a head, from the position [`KvCache::first`] on.
    pub(crate) fn head<'a>(
        &'a self,
        layer: usize,
        worker: &'a Worker<'_>,
        head: usize,
    ) -> (Cached<'a>, Cached<'a>) {
        let LayerCache { keys, values, head_dim, head_dim_v, .. } = self.layer(layer);
        let part = |all: &'a Shared<u8>| &all.read(worker)[head * all.row_len()..][..all.row_len()];
        let k = Cached { ty: self.types.k, dim: *head_dim, data: part(keys) };
        (k, Cached { ty: self.types.v, dim: *head_dim_v, data: part(values) })
    }
}

/// Some neighbouring heads of a layer's keys or values, to be written one after the other.
pub(crate) struct Heads<'a> {
    /// Heads that are not written yet.
    all: &'a mut [u8],
    /// Bytes of a head's part of the cache.
    head_len: usize,
    ty: KvType,
    /// Values of one token in a head.
    dim: usize,
    /// The first position that is there.
    first: usize,
}

impl Heads<'_> {
    /// Writes the next head's keys (tokens, head_dim) for the positions from `first` on.
    pub(crate) fn store_keys(&mut self, first: usize, keys: &[f32]) {
        self.store(first, keys, store_key);
    }

    /// Writes the next head's values (tokens, head_dim_v) for the positions from `first` on.
    pub(crate) fn store_values(&mut self, first: usize, values: &[f32]) {
        self.store(first, values, store_value);
    }

    fn store(&mut self, first: usize, rows: &[f32], store: fn(KvType, &mut [u8], usize, &[f32])) {
        let head = self.all.split_off_mut(..self.head_len).expect("a head of the chunk");
        for (t, row) in rows.chunks_exact(self.dim).enumerate() {
            store(self.ty, head, first - self.first + t, row);
        }
    }
}
