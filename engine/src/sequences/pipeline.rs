//! Sequences on several devices: each runs the parts of the model that it has, and `x` goes from one to the next through the
//! memory of the machine. What a part remembers of the sequences stays where the part is.

use std::ops::Range;

use super::place::{Best, OnCpu, Place};
use crate::backend::{Batch, cuda};
use crate::error::Result;
use crate::kv::{KvTypes, PageTables, Room};
use crate::model::{Model, OnDevices};
use crate::parts::Location;

/// Segments on the CPU are what makes it one of the devices.
const ON_CPU: &str = "a part on the CPU";

#[derive(Debug)]
pub(super) struct Pipeline<'m> {
    on: &'m OnDevices,
    n_embd: usize,
    /// `None` if all parts are on GPUs.
    cpu: Option<OnCpu<'m>>,
    gpus: Vec<cuda::OnDevice<'m>>,
    /// The values that go from one GPU to another.
    x: Vec<f32>,
}

impl<'m> Pipeline<'m> {
    /// Takes what sequences of these sizes need on the GPUs.
    pub(super) fn new(
        model: &'m Model,
        on: &'m OnDevices,
        cpu: Option<OnCpu<'m>>,
        room: Room,
        kv: KvTypes,
    ) -> Result<Pipeline<'m>> {
        let gpus = on.gpus.iter().map(|loaded| cuda::OnDevice::new(model, loaded, room, kv));
        let gpus = gpus.collect::<Result<_>>()?;
        Ok(Pipeline { on, n_embd: model.spec().n_embd, cpu, gpus, x: Vec::new() })
    }

    fn devices(&self) -> impl Iterator<Item = &dyn Place> {
        let gpus = self.gpus.iter().map(|gpu| gpu as &dyn Place);
        self.cpu.iter().map(|cpu| cpu as &dyn Place).chain(gpus)
    }

    fn devices_mut(&mut self) -> impl Iterator<Item = &mut (dyn Place + 'm)> {
        let gpus = self.gpus.iter_mut().map(|gpu| gpu as &mut (dyn Place + 'm));
        self.cpu.iter_mut().map(|cpu| cpu as &mut (dyn Place + 'm)).chain(gpus)
    }

    fn at(&mut self, location: Location) -> &mut (dyn Place + 'm) {
        match location {
            Location::Cpu => self.cpu.as_mut().expect(ON_CPU),
            Location::Gpu(i) => &mut self.gpus[i],
        }
    }

    /// Takes the values of `n` tokens from one device to another.
    fn carry(&mut self, from: Location, to: Location, n: usize) -> Result<()> {
        let Pipeline { cpu, gpus, x, .. } = self;
        let x = match cpu.as_mut().filter(|_| [from, to].contains(&Location::Cpu)) {
            Some(cpu) => cpu.x(n),
            None => {
                x.resize(n * self.n_embd, 0.0);
                x
            }
        };
        if let Location::Gpu(i) = from {
            gpus[i].download_x(x)?;
        }
        if let Location::Gpu(i) = to {
            gpus[i].upload_x(x)?;
        }
        Ok(())
    }
}

impl Place for Pipeline<'_> {
    fn pages(&self) -> &PageTables {
        self.devices().next().expect("a device").pages()
    }

    fn holds(&self, seq: usize, n: usize) -> bool {
        self.devices().all(|device| device.holds(seq, n))
    }

    fn truncate(&mut self, seq: usize, n: usize) {
        self.devices_mut().for_each(|device| device.truncate(seq, n));
    }

    fn make_room(&mut self, seq: usize, next: usize, n: usize) -> Result<()> {
        self.devices_mut().try_for_each(|device| device.make_room(seq, next, n))
    }

    fn share(&mut self, from: usize, to: usize, n: usize) -> Result<()> {
        self.devices_mut().try_for_each(|device| device.share(from, to, n))
    }

    fn forward(&mut self, batch: Batch<'_>, best: Option<usize>) -> Result<()> {
        self.gpus.iter_mut().try_for_each(|gpu| gpu.begin(batch))?;
        let mut from = None;
        for (location, parts) in &self.on.segments {
            if let Some(from) = from.replace(*location) {
                self.carry(from, *location, batch.tokens.len())?;
            }
            match location {
                Location::Cpu => self.cpu.as_ref().expect(ON_CPU).run_parts(batch, parts),
                Location::Gpu(i) => self.gpus[*i].run(batch, best, parts)?,
            }
        }
        Ok(())
    }

    fn logits(&mut self, batch: Batch<'_>, best: Option<usize>) -> Result<()> {
        self.at(self.on.end()).logits(batch, best)
    }

    fn rows(&mut self, n: usize) -> Result<&[f32]> {
        self.at(self.on.end()).rows(n)
    }

    fn best(&mut self, n: usize, k: usize) -> Result<&[Best]> {
        self.at(self.on.end()).best(n, k)
    }

    fn values(&mut self, tokens: Range<usize>) -> Result<&[f32]> {
        self.at(self.on.end()).values(tokens)
    }

    fn bytes(&self) -> u64 {
        self.devices().map(|device| device.bytes()).sum()
    }
}
