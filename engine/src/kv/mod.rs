//! The key/value cache: keys and values of all tokens so far, in half precision.

use braise_kernels::ops::{KEY_BLOCK, store_key};
use braise_kernels::sync::{Chunk, Shared, Team, Units, Worker};
use half::f16;

use crate::block::{Attention, Spec};

/// Keys and values of each layer, head by head, in the layout that [`braise_kernels::ops::attention`] reads. Memory is
/// taken as positions are written.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

#[derive(Debug)]
struct LayerCache {
    keys: Shared<f16>,
    values: Shared<f16>,
    head_dim: usize,
    head_dim_v: usize,
}

impl KvCache {
    /// Room for `n_ctx` tokens. `None` if there is not that much memory.
    pub fn new(team: &Team, spec: &Spec, n_ctx: usize) -> Option<KvCache> {
        let layer = |a: &Attention| {
            Some(LayerCache {
                keys: Shared::zeroed(
                    team,
                    a.n_head_kv,
                    n_ctx.checked_next_multiple_of(KEY_BLOCK)?.checked_mul(a.head_dim)?,
                )?,
                values: Shared::zeroed(team, a.n_head_kv, n_ctx.checked_mul(a.head_dim_v)?)?,
                head_dim: a.head_dim,
                head_dim_v: a.head_dim_v,
            })
        };
        let layers = spec.layers.iter().map(|l| layer(&l.attention)).collect::<Option<_>>()?;
        Some(KvCache { layers })
    }

    /// Bytes of a full cache, or `None` if they overflow.
    pub fn bytes(spec: &Spec, n_ctx: usize) -> Option<usize> {
        let values = spec.layers.iter().map(|l| &l.attention).try_fold(0usize, |sum, a| {
            sum.checked_add(a.n_head_kv.checked_mul(a.head_dim.checked_add(a.head_dim_v)?)?)
        })?;
        values.checked_mul(n_ctx.checked_next_multiple_of(KEY_BLOCK)?)?.checked_mul(size_of::<f16>())
    }

    /// The chunk's key heads of a layer, to be written.
    pub(crate) fn keys<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { keys, head_dim, .. } = &self.layers[layer];
        Heads { all: keys.rows(chunk, heads), head_len: keys.row_len(), row_len: *head_dim }
    }

    /// The chunk's value heads of a layer, to be written.
    pub(crate) fn values<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { values, head_dim_v, .. } = &self.layers[layer];
        Heads { all: values.rows(chunk, heads), head_len: values.row_len(), row_len: *head_dim_v }
    }

    /// Keys and values of a head, of the first `n` positions; the last block of keys is whole.
    pub(crate) fn head<'a>(
        &'a self,
        layer: usize,
        worker: &'a Worker<'_>,
        head: usize,
        n: usize,
    ) -> (&'a [f16], &'a [f16]) {
        let LayerCache { keys, values, head_dim, head_dim_v } = &self.layers[layer];
        let k = &keys.read(worker)[head * keys.row_len()..][..n.next_multiple_of(KEY_BLOCK) * head_dim];
        (k, &values.read(worker)[head * values.row_len()..][..n * head_dim_v])
    }
}

/// Some neighbouring heads of a layer's keys or values, to be written one after the other.
pub(crate) struct Heads<'a> {
    /// Heads that are not written yet.
    all: &'a mut [f16],
    /// Values in a head's part of the cache.
    head_len: usize,
    /// Values of one token in a head.
    row_len: usize,
}

impl Heads<'_> {
    /// Writes the next head's keys (tokens, head_dim) for the positions from `first` on.
    pub(crate) fn store_keys(&mut self, first: usize, keys: &[f32]) {
        let row_len = self.row_len;
        let head = self.next();
        for (t, key) in keys.chunks_exact(row_len).enumerate() {
            store_key(head, first + t, key);
        }
    }

    /// Writes the next head's values (tokens, head_dim_v) for the positions from `first` on.
    pub(crate) fn store_values(&mut self, first: usize, values: &[f32]) {
        let at = first * self.row_len;
        for (to, from) in self.next()[at..at + values.len()].iter_mut().zip(values) {
            *to = f16::from_f32(*from);
        }
    }

    fn next(&mut self) -> &mut [f16] {
        self.all.split_off_mut(..self.head_len).expect("a head of the chunk")
    }
}
