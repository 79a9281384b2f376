//! The key/value cache: keys and values of all tokens so far, each in a format of its own.

use braise_kernels::ops::{Cached, KEY_BLOCK, KvType, store_key, store_value};
use braise_kernels::sync::{Chunk, Shared, Team, Units, Worker};

use crate::block::{Heads as HeadSizes, Spec};

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
    /// What layers remember of all tokens together, see [`crate::block::Mixer::states`].
    states: Vec<Vec<Shared<f32>>>,
}

#[derive(Debug)]
struct LayerCache {
    /// (n_head_kv, bytes of a head's positions)
    keys: Shared<u8>,
    values: Shared<u8>,
    head_dim: usize,
    head_dim_v: usize,
}

impl KvCache {
    /// Room for `n_ctx` tokens. `None` if there is not that much memory.
    pub fn new(team: &Team, spec: &Spec, n_ctx: usize, types: KvTypes) -> Option<KvCache> {
        let n_ctx = n_ctx.checked_next_multiple_of(KEY_BLOCK)?;
        let heads = |n: usize, ty: KvType, dim: usize| {
            Shared::zeroed(team, n, ty.row_bytes(dim)?.checked_mul(n_ctx)?)
        };
        let layer = |a: &HeadSizes| {
            Some(LayerCache {
                keys: heads(a.n_head_kv, types.k, a.head_dim)?,
                values: heads(a.n_head_kv, types.v, a.head_dim_v)?,
                head_dim: a.head_dim,
                head_dim_v: a.head_dim_v,
            })
        };
        let layers = spec.layers.iter().map(|l| match l.mixer.cached() {
            Some(a) => Some(Some(layer(&a.heads)?)),
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
    pub fn bytes(spec: &Spec, n_ctx: usize, types: KvTypes) -> Option<usize> {
        let mut layers = spec.layers.iter().filter_map(|l| l.mixer.cached());
        let position = layers.try_fold(0usize, |sum, a| sum.checked_add(types.bytes(&a.heads)?))?;
        let mut states = spec.layers.iter().flat_map(|l| l.mixer.states());
        let states = states
            .try_fold(0usize, |sum, (rows, len)| sum.checked_add(rows.checked_mul(len)?.checked_mul(4)?))?;
        position.checked_mul(n_ctx.checked_next_multiple_of(KEY_BLOCK)?)?.checked_add(states)
    }

    fn layer(&self, layer: usize) -> &LayerCache {
        self.layers[layer].as_ref().expect("a layer with keys and values of its own")
    }

    /// What a layer remembers of all tokens together, see [`crate::block::Mixer::states`].
    pub(crate) fn states(&self, layer: usize) -> &[Shared<f32>] {
        &self.states[layer]
    }

    /// The chunk's key heads of a layer, to be written.
    pub(crate) fn keys<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { keys, head_dim, .. } = self.layer(layer);
        Heads { all: keys.rows(chunk, heads), head_len: keys.row_len(), ty: self.types.k, dim: *head_dim }
    }

    /// The chunk's value heads of a layer, to be written.
    pub(crate) fn values<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { values, head_dim_v, .. } = self.layer(layer);
        Heads {
            all: values.rows(chunk, heads),
            head_len: values.row_len(),
            ty: self.types.v,
            dim: *head_dim_v,
        }
    }

    /// Keys and values of a head.
    pub(crate) fn head<'a>(
        &'a self,
        layer: usize,
        worker: &'a Worker<'_>,
        head: usize,
    ) -> (Cached<'a>, Cached<'a>) {
        let LayerCache { keys, values, head_dim, head_dim_v } = self.layer(layer);
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
            store(self.ty, head, first + t, row);
        }
    }
}
