//! The key/value cache of several sequences, each key and value in a format of its own.
//!
//! Memory is given out in pages of [`PAGE`] positions, so that sequences come, grow and go without moving what others
//! have: a sequence has a page table for each group of layers whose tokens see equally far. Sequences that began alike
//! share pages until one of them writes there. Where they see a window, the
//! pages before it are given back as the sequence grows. Kernels find blocks and spans at the same positions wherever
//! pages lie, so that results are the same to the bit.

mod pages;

use braise_kernels::ops::{Cached, KEY_BLOCK, KvType, PAGE, row_of, store_key, store_value};
use braise_kernels::sync::{Chunk, Shared, Team, Units, Worker};

use crate::backend::Run;
use crate::block::{Attention, Heads as HeadSizes, Mixer, Spec};
pub(crate) use pages::PageTables;
use pages::window_of;

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

/// How much a cache can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Sequences.
    pub n_seq: usize,
    /// Tokens of one of them, and how many are read at a time.
    pub n_ctx: usize,
    /// Most tokens that are read at a time.
    pub chunk: usize,
    /// Pages of all sequences together, in layers whose tokens see all that came before.
    pub n_pages: usize,
}

impl Room {
    /// For one sequence of `n_ctx` tokens, which are read `chunk` at a time.
    pub fn of_one(n_ctx: usize, chunk: usize) -> Room {
        Room { n_seq: 1, n_ctx, chunk, n_pages: n_ctx.div_ceil(PAGE) }
    }
}

/// Keys and values of each layer, head by head, in the layout that [`braise_kernels::ops::attention`] reads. Memory is
/// taken as positions are written.
#[derive(Debug)]
pub struct KvCache {
    types: KvTypes,
    /// One for each layer that has keys and values of its own.
    layers: Vec<Option<LayerCache>>,
    /// Who has which pages of it.
    pub(crate) pages: PageTables,
    /// Of each group of layers, how many pages were taken when large pages of memory were last asked for.
    large: Vec<usize>,
    /// What layers remember of all tokens together, see [`Mixer::states`]: of the first table all rows of one
    /// sequence after the other, as workers share out its columns; of the second each row of all sequences.
    states: Vec<Vec<Shared<f32>>>,
    n_seq: usize,
}

/// Bytes of what a layer remembers of all sequences, when their contexts are full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerBytes {
    /// Keys and values, which each position has.
    pub positions: usize,
    /// What it remembers of all tokens together, see [`Mixer::states`].
    pub states: usize,
}

impl LayerBytes {
    /// Of a layer with this mixer. `None` if they overflow.
    pub fn new(mixer: &Mixer, room: Room, types: KvTypes) -> Option<LayerBytes> {
        let positions = match mixer.cached() {
            Some(a) => {
                // where a context is shorter than a page, nobody writes the rest of that
                let of_page = PAGE.min(room.n_ctx.checked_next_multiple_of(KEY_BLOCK)?);
                let positions = pages::n_pages(window_of(a, room), room)?.checked_mul(of_page)?;
                types.bytes(&a.heads)?.checked_mul(positions)?
            }
            None => 0,
        };
        let mut states = mixer.states().into_iter();
        let states = states.try_fold(0_usize, |sum, (rows, row_len)| {
            sum.checked_add(rows.checked_mul(row_len)?.checked_mul(size_of::<f32>())?)
        })?;
        Some(LayerBytes { positions, states: states.checked_mul(room.n_seq)? })
    }
}

#[derive(Debug)]
struct LayerCache {
    /// (n_head_kv, bytes of a head's pages)
    keys: Shared<u8>,
    values: Shared<u8>,
    head_dim: usize,
    head_dim_v: usize,
    /// Which group of the page tables it belongs to.
    group: usize,
}

impl KvCache {
    /// An empty cache. `None` if there is not that much memory.
    pub fn new(team: &Team, spec: &Spec, room: Room, types: KvTypes) -> Option<KvCache> {
        let pages = PageTables::new(spec, room)?;
        let layer = |(a, group): (&Attention, usize)| {
            let positions = pages.n_pages(group).checked_mul(PAGE)?;
            let HeadSizes { n_head_kv, head_dim, head_dim_v, .. } = a.heads;
            let heads = |ty: KvType, dim: usize| {
                Shared::zeroed(team, n_head_kv, ty.row_bytes(dim)?.checked_mul(positions)?)
            };
            let (keys, values) = (heads(types.k, head_dim)?, heads(types.v, head_dim_v)?);
            Some(LayerCache { keys, values, head_dim, head_dim_v, group })
        };
        let layers =
            spec.layers.iter().enumerate().map(|(i, l)| match l.mixer.cached().zip(pages.group_of(i)) {
                Some(cached) => Some(Some(layer(cached)?)),
                None => Some(None),
            });
        let layers = layers.collect::<Option<_>>()?;
        let states = spec.layers.iter().map(|l| {
            let table = |(i, (rows, len)): (usize, (usize, usize))| match i {
                0 => Shared::zeroed(team, rows.checked_mul(room.n_seq)?, len),
                _ => Shared::zeroed(team, rows, len.checked_mul(room.n_seq)?),
            };
            l.mixer.states().into_iter().enumerate().map(table).collect()
        });
        let states = states.collect::<Option<_>>()?;
        let large = vec![0; pages.n_groups()];
        Some(KvCache { types, layers, pages, large, states, n_seq: room.n_seq })
    }

    /// Bytes of a full cache, or `None` if they overflow.
    pub fn bytes(spec: &Spec, room: Room, types: KvTypes) -> Option<usize> {
        let mut layers = spec.layers.iter().map(|layer| LayerBytes::new(&layer.mixer, room, types));
        layers.try_fold(0usize, |sum, layer| {
            let layer = layer?;
            sum.checked_add(layer.positions)?.checked_add(layer.states)
        })
    }

    /// Bytes of its pages, of which the system gives memory to what is written.
    pub fn taken(&self) -> usize {
        let layers = self.layers.iter().flatten().map(|layer| layer.keys.bytes() + layer.values.bytes());
        layers.chain(self.states.iter().flatten().map(Shared::bytes)).sum()
    }

    /// See [`PageTables::make_room`].
    pub(crate) fn make_room(&mut self, seq: usize, next: usize, n: usize) {
        for copy in self.pages.make_room(seq, next, n) {
            let n_pages = self.pages.n_pages(copy.group);
            for layer in self.layers.iter_mut().flatten().filter(|layer| layer.group == copy.group) {
                copy_page(&mut layer.keys, n_pages, copy.from, copy.to);
                copy_page(&mut layer.values, n_pages, copy.from, copy.to);
            }
        }
        for group in 0..self.large.len() {
            self.use_large_pages(group);
        }
    }

    /// Has the system hold the keys and values of a group of layers in large pages, now and then as they grow: a core reads
    /// them a fifth faster. Not from the beginning, since each head's are elsewhere and would take a large page at once.
    fn use_large_pages(&mut self, group: usize) {
        let (taken, n_pages) = (self.pages.n_taken(group), self.pages.n_pages(group));
        let large = &mut self.large[group];
        if taken < *large + LARGE_STEP.max(*large / 4) {
            return;
        }
        *large = taken;
        for layer in self.layers.iter_mut().flatten().filter(|layer| layer.group == group) {
            for heads in [&mut layer.keys, &mut layer.values] {
                heads.collapse(heads.row_len() / n_pages * taken);
            }
        }
    }

    /// Gives sequence `to`, which is empty, what `from` has of its first `n` tokens; what layers remember of all tokens
    /// together is that of all that `from` has.
    pub(crate) fn share(&mut self, from: usize, to: usize, n: usize) {
        self.pages.share(from, to, n);
        for tables in &mut self.states {
            for (i, table) in tables.iter_mut().enumerate() {
                // see `KvCache::states` for what is whose
                let n_seq = self.n_seq;
                let len = if i == 0 { usize::MAX } else { table.row_len() };
                let all = table.get_mut();
                for row in all.chunks_exact_mut(len.min(all.len()).max(1)) {
                    let part = row.len() / n_seq;
                    row.copy_within(from * part..(from + 1) * part, to * part);
                }
            }
        }
    }

    fn layer(&self, layer: usize) -> &LayerCache {
        self.layers[layer].as_ref().expect("a layer with keys and values of its own")
    }

    /// What a layer remembers of all tokens together: sequence s has the s-th part of the first table's rows, and of each
    /// row of the second.
    pub(crate) fn states(&self, layer: usize) -> &[Shared<f32>] {
        &self.states[layer]
    }

    /// The chunk's key heads of a layer, to be written.
    pub(crate) fn keys<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { keys, head_dim, group, .. } = self.layer(layer);
        let (ty, pages) = (self.types.k, (&self.pages, *group));
        Heads { all: keys.rows(chunk, heads), head_len: keys.row_len(), ty, dim: *head_dim, pages }
    }

    /// The chunk's value heads of a layer, to be written.
    pub(crate) fn values<'a>(&'a self, layer: usize, chunk: &'a Chunk<'_>, heads: Units) -> Heads<'a> {
        let LayerCache { values, head_dim_v, group, .. } = self.layer(layer);
        let (ty, pages) = (self.types.v, (&self.pages, *group));
        Heads { all: values.rows(chunk, heads), head_len: values.row_len(), ty, dim: *head_dim_v, pages }
    }

    /// Keys and values of a head of sequence `seq`.
    pub(crate) fn head<'a>(
        &'a self,
        (layer, seq): (usize, usize),
        worker: &'a Worker<'_>,
        head: usize,
    ) -> (Cached<'a>, Cached<'a>) {
        let LayerCache { keys, values, head_dim, head_dim_v, group } = self.layer(layer);
        let part = |all: &'a Shared<u8>| &all.read(worker)[head * all.row_len()..][..all.row_len()];
        let pages = self.pages.pages(*group, seq);
        let k = Cached { ty: self.types.k, dim: *head_dim, data: part(keys), pages };
        (k, Cached { ty: self.types.v, dim: *head_dim_v, data: part(values), pages })
    }
}

/// Large pages of memory are asked for after so many more pages, or a quarter more.
const LARGE_STEP: usize = 8;

/// Copies a page of each head, of which there are `n_pages`.
fn copy_page(heads: &mut Shared<u8>, n_pages: usize, from: u32, to: u32) {
    let head_len = heads.row_len();
    let page = head_len / n_pages;
    let [from, to] = [from, to].map(|at| at as usize * page);
    for head in heads.get_mut().chunks_exact_mut(head_len) {
        head.copy_within(from..from + page, to);
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
    /// The page tables, and the layer's group.
    pages: (&'a PageTables, usize),
}

impl Heads<'_> {
    /// Writes the next head's keys (tokens, head_dim) of some runs.
    pub(crate) fn store_keys(&mut self, runs: &[Run], keys: &[f32]) {
        self.store(runs, keys, store_key);
    }

    /// Writes the next head's values (tokens, head_dim_v) of some runs.
    pub(crate) fn store_values(&mut self, runs: &[Run], values: &[f32]) {
        self.store(runs, values, store_value);
    }

    fn store(&mut self, runs: &[Run], rows: &[f32], store: fn(KvType, &mut [u8], usize, &[f32])) {
        let head = self.all.split_off_mut(..self.head_len).expect("a head of the chunk");
        let mut rows = rows.chunks_exact(self.dim);
        for run in runs {
            let (tables, group) = self.pages;
            let pages = tables.pages(group, run.seq);
            for (position, row) in (run.first..).zip(rows.by_ref().take(run.tokens.len())) {
                store(self.ty, head, row_of(pages, position), row);
            }
        }
    }
}
