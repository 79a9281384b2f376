//! The key/value cache: keys and values of all tokens so far, in half precision.

use braise_kernels::sync::{Chunk, Shared, Team, Units, Worker};
use half::f16;

use crate::backend::cpu::CacheRows;
use crate::block::{Attention, Spec};

/// Keys and values of each layer, (n_head_kv, n_ctx, head_dim). Memory is taken as positions are written.
#[derive(Debug)]
pub struct KvCache {
    n_ctx: usize,
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
                keys: Shared::zeroed(team, a.n_head_kv, n_ctx.checked_mul(a.head_dim)?)?,
                values: Shared::zeroed(team, a.n_head_kv, n_ctx.checked_mul(a.head_dim_v)?)?,
                head_dim: a.head_dim,
                head_dim_v: a.head_dim_v,
            })
        };
        let layers = spec.layers.iter().map(|l| layer(&l.attention)).collect::<Option<_>>()?;
        Some(KvCache { n_ctx, layers })
    }

    /// Bytes of a full cache, or `None` if they overflow.
    pub fn bytes(spec: &Spec, n_ctx: usize) -> Option<usize> {
        let values = spec.layers.iter().map(|l| &l.attention).try_fold(0usize, |sum, a| {
            sum.checked_add(a.n_head_kv.checked_mul(a.head_dim.checked_add(a.head_dim_v)?)?)
        })?;
        values.checked_mul(n_ctx)?.checked_mul(size_of::<f16>())
    }

    /// The chunk's key heads of a layer, to be written.
    pub(crate) fn keys<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> CacheRows<'a> {
        let LayerCache { keys, head_dim, .. } = &self.layers[layer];
        CacheRows { rows: keys.rows(chunk, heads), head_len: keys.row_len(), row_len: *head_dim }
    }

    /// The chunk's value heads of a layer, to be written.
    pub(crate) fn values<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> CacheRows<'a> {
        let LayerCache { values, head_dim_v, .. } = &self.layers[layer];
        CacheRows { rows: values.rows(chunk, heads), head_len: values.row_len(), row_len: *head_dim_v }
    }

    /// The first `n` keys of a head, (n, head_dim).
    pub(crate) fn key_head<'a>(
        &'a self,
        layer: usize,
        worker: &'a Worker<'_>,
        head: usize,
        n: usize,
    ) -> &'a [f16] {
        let LayerCache { keys, head_dim, .. } = &self.layers[layer];
        &keys.read(worker)[head * self.n_ctx * head_dim..][..n * head_dim]
    }

    /// The first `n` values of a head, (n, head_dim_v).
    pub(crate) fn value_head<'a>(
        &'a self,
        layer: usize,
        worker: &'a Worker<'_>,
        head: usize,
        n: usize,
    ) -> &'a [f16] {
        let LayerCache { values, head_dim_v, .. } = &self.layers[layer];
        &values.read(worker)[head * self.n_ctx * head_dim_v..][..n * head_dim_v]
    }
}
