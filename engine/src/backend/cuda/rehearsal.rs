//! Which kernels a model launches, found out by passes on a device that does nothing: so that a driver that cannot load one of
//! them is found out before anything is copied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use braise_kernels::cuda::ops::COLUMNS;
use braise_kernels::cuda::{
    Address, Device, Error as DeviceError, Graph, Kernel, Launch, Memory, Properties,
};
use braise_kernels::ops::PAGE;

use super::room::Room;
use super::weights::Weights;
use super::{Loaded, MAX_BEST, OnDevice, error};
use crate::backend::cpu::PRIVATE_ROWS;
use crate::backend::{Batch, Run};
use crate::error::Result;
use crate::kv::{KvTypes, Room as Sizes};
use crate::model::Model;
use crate::parts::{Assignment, Location, Part, Parts};
use crate::sequences::Place;

/// Most tokens of a rehearsed batch: many.
const MANY: usize = 8 * COLUMNS as usize;

type Answer<T> = std::result::Result<T, DeviceError>;

/// Kernels by their names.
type Kernels = BTreeMap<&'static str, &'static Kernel>;

/// The kernels that passes through some parts of `model`, in their order, launch on a device of these properties. Others of the
/// same modules may be launched besides, for other numbers of tokens.
pub(super) fn kernels(
    model: &Model,
    parts: &[Part],
    properties: &Properties,
) -> Result<Vec<&'static Kernel>> {
    let seen = Arc::new(Mutex::new(Kernels::new()));
    let mut device =
        Box::new(Rehearsal { properties: properties.clone(), seen: seen.clone(), next: 0, graphs: 0 });
    let weights = Weights::new(model, parts.iter().copied(), &mut Room::on(&mut *device));
    let (weights, _) = weights.map_err(|e| error(model, e))?;
    let spec = model.spec().only(|part| parts.contains(&part));
    let loaded = Mutex::new(Loaded { device, spec, weights, bytes: 0, free_before: 0 });
    // so many sequences that the logits of many tokens are computed at a time
    let (n_ctx, n_seq) = (model.spec().n_ctx.clamp(1, MANY), PRIVATE_ROWS + 1);
    let sizes = Sizes { n_seq, n_ctx, chunk: n_ctx.max(n_seq), n_pages: n_seq * n_ctx.div_ceil(PAGE) };
    let mut on = OnDevice::new(model, &loaded, sizes, KvTypes::default())?;
    // single tokens, few, many of one sequence, and of two
    for (lens, best) in [
        (&[1][..], Some(1)),
        (&[n_ctx.min(COLUMNS as usize)], Some(MAX_BEST.min(model.spec().n_vocab))),
        (&[n_ctx], None),
        (&[1, 1], Some(1)),
        (&[n_ctx - n_ctx / 2, n_ctx / 2], None),
    ] {
        rehearse(&mut on, model, &segments(model, parts), lens, best)?;
    }
    // a page that two sequences have is copied before it is written
    if n_ctx > 1 {
        on.make_room(0, 0, 1)?;
        on.share(0, 1, 1)?;
        on.make_room(1, 1, 1)?;
    }
    drop(on);
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(seen.into_values().collect())
}

/// Reads so many tokens of each sequence, with the logits of all and of the last.
fn rehearse(
    on: &mut OnDevice<'_>,
    model: &Model,
    segments: &[Parts],
    lens: &[usize],
    best: Option<usize>,
) -> Result<()> {
    let (mut runs, mut n) = (Vec::new(), 0);
    for (seq, len) in lens.iter().enumerate().filter(|(_, len)| **len > 0) {
        on.truncate(seq, 0);
        on.make_room(seq, 0, *len)?;
        runs.push(Run { seq, tokens: n..n + len, first: 0 });
        n += len;
    }
    let tokens = vec![0; n];
    let all: Vec<u32> = (0..).take(n).collect();
    let wanted: &[&[u32]] = if model.spec().is_encoder() { &[&[]] } else { &[&all, &all[n - 1..]] };
    for logits in wanted {
        let batch = Batch { tokens: &tokens, runs: &runs, logits };
        on.begin(batch)?;
        segments.iter().try_for_each(|parts| on.run(batch, best, parts))?;
    }
    (0..lens.len()).for_each(|seq| on.truncate(seq, 0));
    Ok(())
}

/// Those of these parts that follow each other, as passes run them.
fn segments(model: &Model, parts: &[Part]) -> Vec<Parts> {
    let location = |part| if parts.contains(&part) { Location::Gpu(0) } else { Location::Cpu };
    let segments = Assignment::new(model.layers.len(), location).segments();
    segments.into_iter().filter(|(place, _)| *place != Location::Cpu).map(|(_, parts)| parts).collect()
}

/// A device that notes what is launched.
struct Rehearsal {
    properties: Properties,
    seen: Arc<Mutex<Kernels>>,
    /// Bytes that were allocated.
    next: u64,
    graphs: usize,
}

impl Device for Rehearsal {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&mut self) -> Answer<Memory> {
        Ok(Memory { free: usize::MAX, total: usize::MAX })
    }

    fn allocate(&mut self, bytes: usize) -> Answer<Address> {
        let at = Address(self.next + 256);
        self.next = (at.0 + bytes as u64).next_multiple_of(256);
        Ok(at)
    }

    fn free(&mut self, _: Address) -> Answer<()> {
        Ok(())
    }

    fn upload(&mut self, _: Address, _: &[u8]) -> Answer<()> {
        Ok(())
    }

    fn download(&mut self, _: Address, _: &mut [u8]) -> Answer<()> {
        Ok(())
    }

    fn clear(&mut self, _: Address, _: usize) -> Answer<()> {
        Ok(())
    }

    fn launch(&mut self, launch: &Launch) -> Answer<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(launch.kernel.name, launch.kernel);
        Ok(())
    }

    fn begin_capture(&mut self) -> Answer<()> {
        Ok(())
    }

    fn end_capture(&mut self) -> Answer<Graph> {
        self.graphs += 1;
        Ok(Graph::new(self.graphs))
    }

    fn replay(&mut self, _: Graph) -> Answer<()> {
        Ok(())
    }

    fn destroy(&mut self, _: Graph) -> Answer<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Answer<()> {
        Ok(())
    }
}
