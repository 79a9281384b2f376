//! What sequences have on a device: pages of keys and values, and what recurrent layers remember.
//!
//! Who has which pages is known on the host ([`PageTables`]). Their pages are several of the device's, which lie one behind the
//! other, so that a page is copied at once. The device has its own tables, of which a step uploads what has changed.

use braise_kernels::cuda::ops::{Cache as Operands, CopyWords, PAGE, kv_row_bytes};
use braise_kernels::cuda::{Address, Device, Error};
use braise_kernels::ops::{KvType, PAGE as HOST_PAGE};

use super::narrow;
use super::room::Room;
use crate::backend::Run;
use crate::block::{Attention, Spec};
use crate::kv::{KvTypes, PageTables, Room as Sizes};

/// Pages of the device in one of the tables on the host.
const PARTS: usize = HOST_PAGE / PAGE as usize;
const _: () = assert!(HOST_PAGE == PARTS * PAGE as usize);

/// Most positions, so that tables of pages stay small: no memory holds the keys of as many.
const MAX_CTX: usize = 1 << 28;

/// Blocks that copy a page, or a state.
const COPY_BLOCKS: u32 = 64;

/// What all sequences have.
#[derive(Debug)]
pub(super) struct Cache {
    types: KvTypes,
    pub(super) tables: PageTables,
    /// Of each group of the tables.
    groups: Vec<Group>,
    layers: Vec<Option<LayerCache>>,
    /// What layers remember of all tokens together, see [`crate::block::Mixer::states`].
    states: Vec<Vec<State>>,
    max_pages: usize,
}

/// Page tables on the device.
#[derive(Debug)]
struct Group {
    /// u32 (n_seq, max_pages)
    pages: Address,
    /// What the device knows of each sequence, in pages of the host.
    known: Vec<Vec<u32>>,
}

/// Keys and values of a layer, each with the bytes of a page of the host.
#[derive(Debug, Clone, Copy)]
struct LayerCache {
    keys: (Address, usize),
    values: (Address, usize),
    group: usize,
}

/// (n_seq, bytes)
#[derive(Debug, Clone, Copy)]
struct State {
    at: Address,
    bytes: usize,
}

impl Cache {
    /// Takes the memory.
    pub(super) fn new(
        spec: &Spec,
        sizes: Sizes,
        types: KvTypes,
        room: &mut Room<'_>,
    ) -> Result<Cache, Error> {
        let too_large =
            || Error::Operands(format!("a context of {} tokens is too large for a GPU", sizes.n_ctx));
        if sizes.n_ctx > MAX_CTX {
            return Err(too_large());
        }
        let tables = PageTables::new(spec, sizes).ok_or_else(too_large)?;
        let max_pages = max_pages(&sizes);
        let groups = (0..tables.n_groups()).map(|_| {
            let pages = room.zeros(&[sizes.n_seq, max_pages], size_of::<u32>())?;
            Ok(Group { pages, known: vec![Vec::new(); sizes.n_seq] })
        });
        let groups = groups.collect::<Result<_, Error>>()?;
        let mut layer = |(a, group): (&Attention, usize)| {
            let mut heads = |ty: KvType, dim: usize| {
                let row = kv_row_bytes(ty, narrow(dim)?) as usize;
                let page = [a.heads.n_head_kv, HOST_PAGE];
                let at = room.zeros(&[tables.n_pages(group), page[0], page[1]], row)?;
                Ok::<_, Error>((at, page[0] * page[1] * row))
            };
            let (keys, values) = (heads(types.k, a.heads.head_dim)?, heads(types.v, a.heads.head_dim_v)?);
            Ok::<_, Error>(LayerCache { keys, values, group })
        };
        let layers = spec.layers.iter().enumerate().map(|(i, l)| l.mixer.cached().zip(tables.group_of(i)));
        let layers = layers.map(|cached| cached.map(&mut layer).transpose()).collect::<Result<_, _>>()?;
        let states = spec.layers.iter().map(|layer| {
            let tables = layer.mixer.states().into_iter().map(|(rows, n)| {
                let at = room.zeros(&[sizes.n_seq, rows, n], size_of::<f32>())?;
                Ok(State { at, bytes: rows * n * size_of::<f32>() })
            });
            tables.collect::<Result<_, Error>>()
        });
        let states = states.collect::<Result<_, _>>()?;
        Ok(Cache { types, tables, groups, layers, states, max_pages })
    }

    /// The cache of a layer, for tokens at `positions` in their `sequences`.
    pub(super) fn operands(
        &self,
        layer: usize,
        positions: Address,
        sequences: Address,
    ) -> Result<Operands, Error> {
        let layer = self.layers[layer].ok_or_else(|| Error::Operands("a layer without keys".to_owned()))?;
        Ok(Operands {
            keys: layer.keys.0,
            values: layer.values.0,
            types: (self.types.k, self.types.v),
            positions,
            sequences,
            pages: self.groups[layer.group].pages,
            max_pages: narrow(self.max_pages)?,
        })
    }

    /// A table of what a layer remembers of all tokens together, of all sequences.
    pub(super) fn states(&self, layer: usize, table: usize) -> Address {
        self.states[layer][table].at
    }

    /// Pages of which a token sees something at most.
    pub(super) fn seen_pages(&self, a: &Attention) -> Result<u32, Error> {
        seen_pages(a, self.max_pages)
    }

    /// See [`PageTables::make_room`].
    pub(super) fn make_room(
        &mut self,
        device: &mut dyn Device,
        (seq, next, n): (usize, usize, usize),
    ) -> Result<(), Error> {
        for page in self.tables.make_room(seq, next, n) {
            for layer in self.layers.iter().flatten().filter(|layer| layer.group == page.group) {
                for (at, bytes) in [layer.keys, layer.values] {
                    copy(device, at, bytes, (page.from as usize, page.to as usize))?;
                }
            }
        }
        Ok(())
    }

    /// Gives sequence `to`, which is empty, what `from` has of its first `n` tokens.
    pub(super) fn share(
        &mut self,
        device: &mut dyn Device,
        (from, to): (usize, usize),
        n: usize,
    ) -> Result<(), Error> {
        self.tables.share(from, to, n);
        self.states.iter().flatten().try_for_each(|state| copy(device, state.at, state.bytes, (from, to)))
    }

    /// Tells the device which pages the sequences of some runs have.
    pub(super) fn upload_tables(&mut self, device: &mut dyn Device, runs: &[Run]) -> Result<(), Error> {
        for (index, group) in self.groups.iter_mut().enumerate() {
            for seq in runs.iter().map(|run| run.seq) {
                let (pages, known) = (self.tables.pages(index, seq), &mut group.known[seq]);
                let same = pages.iter().zip(&*known).take_while(|(page, known)| page == known).count();
                if same < pages.len() {
                    const EACH: u32 = PARTS as u32;
                    let parts = |page: u32| (0..EACH).map(move |part| page * EACH + part);
                    let changed: Vec<u32> = pages[same..].iter().copied().flat_map(parts).collect();
                    let first = seq * self.max_pages + same * PARTS;
                    let at = group.pages.offset((first * size_of::<u32>()) as u64);
                    device.upload(at, bytemuck::cast_slice(&changed))?;
                }
                // of what is behind, the device keeps what it had
                known.truncate(same);
                known.extend(&pages[same..]);
            }
        }
        Ok(())
    }
}

/// Copies thing number `from` of things of so many bytes over number `to`.
fn copy(device: &mut dyn Device, at: Address, bytes: usize, (from, to): (usize, usize)) -> Result<(), Error> {
    if bytes == 0 {
        return Ok(());
    }
    let place = |i: usize| at.offset(i as u64 * bytes as u64);
    let copy = CopyWords { from: place(from), bytes: bytes as u64, to: place(to), blocks: COPY_BLOCKS };
    device.launch(&copy.launch()?)
}

/// Pages of the device that the longest sequence has.
pub(super) fn max_pages(sizes: &Sizes) -> usize {
    sizes.n_ctx.div_ceil(HOST_PAGE).saturating_mul(PARTS)
}

/// Pages of the device of which a token sees something at most, where a sequence has `max_pages`.
pub(super) fn seen_pages(a: &Attention, max_pages: usize) -> Result<u32, Error> {
    let of_window = a.window.map_or(max_pages, |window| window.size() / PAGE as usize + 2);
    narrow(of_window.min(max_pages))
}
