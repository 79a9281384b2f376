//! A sequence on several devices: each runs the parts of the model that it has, and `x` goes from one to the next through the
//! memory of the machine. What a part remembers of the sequence stays where the part is.

use std::ops::Range;

use super::{SessionOptions, cuda};
use crate::error::Result;
use crate::model::{Model, OnDevices};
use crate::parts::{Location, Parts};
use crate::plan::Plan;
use crate::sample::{self, Scored};
use crate::sequences::{Capacity, SequenceId, Sequences};

#[derive(Debug)]
pub(super) struct Pipeline<'m> {
    model: &'m Model,
    /// What runs where, in the order of execution.
    segments: &'m [(Location, Parts)],
    cpu: Option<OnCpu<'m>>,
    gpus: Vec<cuda::Sequence<'m>>,
}

#[derive(Debug)]
struct OnCpu<'m> {
    all: Box<Sequences<'m>>,
    id: SequenceId,
}

impl<'m> Pipeline<'m> {
    /// A sequence without tokens that has room for `n_ctx` of them, read `n_batch` at a time.
    pub(super) fn new(
        model: &'m Model,
        on: &'m OnDevices,
        (n_ctx, n_batch): (usize, usize),
        options: &SessionOptions,
    ) -> Result<Pipeline<'m>> {
        let of = |loaded| cuda::Sequence::new(model, loaded, (n_ctx, n_batch), options.kv);
        let gpus = on.gpus.iter().map(of).collect::<Result<_>>()?;
        let parts: Vec<Parts> = on.on_cpu().cloned().collect();
        let cpu = match parts.is_empty() {
            true => None,
            false => {
                let options = SessionOptions { n_ctx: Some(n_ctx), chunk: Some(n_batch), ..options.clone() };
                let capacity = Capacity { sequences: 1, tokens: None };
                let mut all = Sequences::of_parts(model, &parts, capacity, &options)?;
                let id = all.add()?;
                Some(OnCpu { all: Box::new(all), id })
            }
        };
        Ok(Pipeline { model, segments: &on.segments, cpu, gpus })
    }

    /// Bytes of the GPUs' memory, and of the machine's for keys, values and states.
    pub(super) fn bytes(&self) -> u64 {
        let on_gpus: usize = self.gpus.iter().map(cuda::Sequence::bytes).sum();
        on_gpus as u64 + self.cpu.as_ref().map_or(0, |cpu| cpu.all.cache_bytes())
    }

    /// Worker threads: none where no part is on the CPU.
    pub(super) fn threads(&self) -> usize {
        self.cpu.as_ref().map_or(0, |cpu| cpu.all.threads())
    }

    /// What the parts on the CPU take of the machine's memory, if there are such.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.cpu.as_ref().map(|cpu| cpu.all.plan())
    }

    /// See [`super::Session::warning`].
    pub(super) fn warning(&self) -> Option<&str> {
        self.cpu.as_ref()?.all.warning()
    }

    /// Whether what the token at position `next` sees is there, if those before it were read once.
    pub(super) fn holds(&self, next: usize) -> bool {
        self.gpus.iter().all(|gpu| gpu.holds(next))
            && self.cpu.as_ref().is_none_or(|cpu| cpu.all.holds(cpu.id, next))
    }

    /// Reads the tokens of `step`, and computes the logits that it asks for.
    pub(super) fn read(&mut self, step: &cuda::Step<'_>) -> Result<()> {
        if let Some(OnCpu { all, id }) = &mut self.cpu {
            all.begin(*id, step.tokens, step.first)?;
        }
        self.gpus.iter_mut().try_for_each(|gpu| gpu.begin(step))?;
        let mut from = None;
        for (location, parts) in self.segments {
            if let Some(from) = from.replace(*location) {
                self.carry(from, *location, step.tokens.len())?;
            }
            match location {
                Location::Cpu => self.on_cpu().run_parts(parts, step.logits.clone()),
                Location::Gpu(i) => self.gpus[*i].run(step, parts)?,
            }
        }
        Ok(())
    }

    /// Computes the logits of other tokens of the batch that was read last.
    pub(super) fn logits(&mut self, step: &cuda::Step<'_>) -> Result<()> {
        match self.end() {
            Location::Cpu => self.on_cpu().run_logits(step.logits.clone()),
            Location::Gpu(i) => self.gpus[i].logits(step)?,
        }
        Ok(())
    }

    /// The logits (rows, n_vocab) that were computed last.
    pub(super) fn download_logits(&mut self, rows: usize) -> Result<Vec<f32>> {
        match self.end() {
            Location::Cpu => Ok(self.logits_on_cpu(rows).to_vec()),
            Location::Gpu(i) => self.gpus[i].download_logits(rows),
        }
    }

    /// The `k` best of each row of logits that were computed last, if so many were asked for.
    pub(super) fn download_best(&mut self, rows: usize, k: usize) -> Result<Vec<Vec<Scored>>> {
        let Location::Gpu(i) = self.end() else {
            let n_vocab = self.model.spec().n_vocab;
            let best = |row: &[f32]| {
                let mut best = Vec::new();
                sample::best(row, k, &mut best);
                best
            };
            return Ok(self.logits_on_cpu(rows).chunks_exact(n_vocab).map(best).collect());
        };
        self.gpus[i].download_best(rows, k)
    }

    /// The values (tokens, n_embd) of the last layer, of some tokens of the batch that was read last.
    pub(super) fn download_values(&mut self, tokens: Range<usize>) -> Result<Vec<f32>> {
        match self.end() {
            Location::Cpu => Ok(self.x_on_cpu(tokens).to_vec()),
            Location::Gpu(i) => self.gpus[i].download_values(tokens),
        }
    }

    /// Whether [`Pipeline::download_best`] spares the transfer of all logits.
    pub(super) fn finds_best(&self) -> bool {
        self.end() != Location::Cpu
    }

    /// Takes the values of `n` tokens from one device to another.
    fn carry(&mut self, from: Location, to: Location, n: usize) -> Result<()> {
        let Pipeline { gpus, model, cpu, .. } = self;
        let mut between = Vec::new();
        let x = match cpu.as_mut().filter(|_| [from, to].contains(&Location::Cpu)) {
            Some(cpu) => &mut cpu.all.buffers.x.get_mut()[..n * model.spec().n_embd],
            None => {
                between.resize(n * model.spec().n_embd, 0.0);
                &mut between
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

    /// Where the output is.
    fn end(&self) -> Location {
        self.segments.last().map_or(Location::Cpu, |(location, _)| *location)
    }

    fn on_cpu(&mut self) -> &mut Sequences<'m> {
        &mut self.cpu.as_mut().expect("a part on the CPU").all
    }

    fn logits_on_cpu(&mut self, rows: usize) -> &[f32] {
        let n_vocab = self.model.spec().n_vocab;
        &self.on_cpu().buffers.logits.get_mut()[..rows * n_vocab]
    }

    fn x_on_cpu(&mut self, tokens: Range<usize>) -> &[f32] {
        let n_embd = self.model.spec().n_embd;
        &self.on_cpu().buffers.x.get_mut()[tokens.start * n_embd..tokens.end * n_embd]
    }
}
