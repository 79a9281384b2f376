//! Which parts of a model go to which device, by what each takes and what is free. First that of these which fits:
//!
//! ```text
//! 1  everything on one GPU, the first that it fits
//! 2  everything over several GPUs in their order, layers that follow each other on each
//! 3  the input on the CPU: of its table a token takes a row
//! 4  the experts of the first layers on the CPU besides, of as few as can be: of these a token takes some
//! 5  the first layers on the CPU besides
//! ```
//!
//! Layers that a GPU has no kernels for are on the CPU in any case.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::parts::{Assignment, Location, Part};

/// How much of a model goes to GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuLayers {
    /// As much as fits.
    #[default]
    Auto,
    /// Everything.
    All,
    /// The last so many of the layers and the output, which counts as one.
    Last(usize),
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<GpuLayers, String> {
        match text {
            "auto" => Ok(GpuLayers::Auto),
            "all" => Ok(GpuLayers::All),
            n => n.parse().map(GpuLayers::Last).map_err(|_| "it must be a number, all or auto".into()),
        }
    }
}

impl fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuLayers::Auto => f.write_str("auto"),
            GpuLayers::All => f.write_str("all"),
            GpuLayers::Last(n) => write!(f, "{n}"),
        }
    }
}

/// What a model asks of the GPUs that its parts are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Of each part, in order.
    pub parts: Vec<PartNeeds>,
    /// Bytes of the output's that it does not take where the input is: of a table that serves as both.
    pub shared: usize,
}

/// What a part asks of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartNeeds {
    /// Bytes of its weights and of what it remembers of a sequence.
    pub bytes: usize,
    /// See [`bound_to`](crate::parts::bound_to).
    pub bound_to: Option<Part>,
    /// Whether it is a mixture of experts.
    pub is_mixture: bool,
}

/// What a GPU has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuRoom {
    /// Bytes that are free.
    pub free: usize,
    /// Bytes that are taken as soon as a part is there, whichever it is: for values between operations, code and graphs.
    pub fixed: usize,
    /// Parts that it has no kernels for.
    pub lacks: Vec<Part>,
}

impl GpuRoom {
    /// Whether there is room for parts of so many bytes.
    fn has(&self, bytes: usize) -> bool {
        self.fixed.saturating_add(bytes) <= self.free
    }
}

/// Why a model cannot be where it was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The GPUs lack so many bytes.
    Memory(usize),
    /// No GPU has kernels for this part.
    Kernels(Part),
}

/// Parts that go to GPUs, by their order.
type Chosen = Vec<bool>;

impl Needs {
    /// Where each part of the model goes, [`Location::Gpu`] counting `gpus`.
    ///
    /// # Errors
    /// What was asked for does not fit, or there are no kernels for all of it. [`GpuLayers::Auto`] always finds something,
    /// the CPU alone if nothing else.
    pub fn assign(&self, gpus: &[GpuRoom], layers: GpuLayers) -> Result<Assignment, Refusal> {
        let n_layer = self.n_layer();
        let all = vec![true; self.parts.len()];
        let runnable = self.without_torn(self.with_kernels(gpus));
        match layers {
            GpuLayers::Last(0) => Ok(self.on_cpu()),
            GpuLayers::Last(n) if n <= n_layer => {
                let first = Part::Mixer(n_layer + 1 - n);
                let last = self.ordered().zip(&runnable).map(|(part, runs)| *runs && part >= first);
                self.fill(gpus, &self.without_torn(last.collect())).map_err(Refusal::Memory)
            }
            GpuLayers::All | GpuLayers::Last(_) => {
                let lacking = self.ordered().zip(&runnable).find(|(_, runs)| !*runs);
                match lacking {
                    Some((part, _)) => Err(Refusal::Kernels(part)),
                    None => self.whole(gpus, &all).map_err(Refusal::Memory),
                }
            }
            GpuLayers::Auto => {
                let whole = if runnable == all { self.whole(gpus, &all).ok() } else { None };
                Ok(whole.or_else(|| self.split(gpus, runnable)).unwrap_or_else(|| self.on_cpu()))
            }
        }
    }

    /// Bytes of all parts, beside [`GpuRoom::fixed`].
    pub fn bytes(&self) -> usize {
        let sum = self.parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.bytes));
        sum.saturating_sub(self.shared)
    }

    fn n_layer(&self) -> usize {
        self.parts.len() / 2 - 1
    }

    fn ordered(&self) -> impl Iterator<Item = Part> {
        Part::all(self.n_layer())
    }

    fn on_cpu(&self) -> Assignment {
        Assignment::new(self.n_layer(), |_| Location::Cpu)
    }

    /// All on the first GPU that has room for it, else over several.
    fn whole(&self, gpus: &[GpuRoom], all: &[bool]) -> Result<Assignment, usize> {
        let on_one = (0..gpus.len()).find_map(|i| {
            let room = |(j, gpu): (usize, &GpuRoom)| GpuRoom {
                free: if i == j { gpu.free } else { 0 },
                ..gpu.clone()
            };
            let alone: Vec<GpuRoom> = gpus.iter().enumerate().map(room).collect();
            self.fill(&alone, all).ok()
        });
        on_one.map_or_else(|| self.fill(gpus, all), Ok)
    }

    /// Some of the parts that GPUs can run on GPUs and the others on the CPU, if that is possible.
    fn split(&self, gpus: &[GpuRoom], runnable: Chosen) -> Option<Assignment> {
        let parts: Vec<Part> = self.ordered().collect();
        let is_of_experts = |i: usize| self.parts[i].is_mixture && self.parts[i].bound_to.is_none();
        let experts = (0..parts.len()).filter(|i| is_of_experts(*i)).map(|i| vec![i]);
        let layers = (0..self.n_layer()).map(|i| vec![2 * i + 1, 2 * i + 2]);
        let mut chosen = runnable;
        for leave in [vec![], vec![0]].into_iter().chain(experts).chain(layers) {
            leave.into_iter().for_each(|i| chosen[i] = false);
            chosen = self.without_torn(chosen);
            let has_layers =
                parts.iter().zip(&chosen).any(|(part, chosen)| *chosen && part.layer().is_some());
            if !has_layers {
                return None;
            }
            if let Ok(assignment) = self.fill(gpus, &chosen) {
                return Some(assignment);
            }
        }
        None
    }

    /// The parts of layers that some GPU has kernels for.
    fn with_kernels(&self, gpus: &[GpuRoom]) -> Chosen {
        let runs = |part: &Part| gpus.iter().any(|gpu| !gpu.lacks.contains(part));
        let lacking: Vec<Part> = self.ordered().filter(|part| !runs(part)).collect();
        let of_layer = |part: Part| {
            lacking.iter().any(|l| *l == part || l.layer().is_some_and(|i| part.layer() == Some(i)))
        };
        self.ordered().map(|part| !of_layer(part)).collect()
    }

    /// The same, less parts that would be torn from what they are bound to, and networks of layers whose mixer is not chosen.
    fn without_torn(&self, mut chosen: Chosen) -> Chosen {
        let bonds: Vec<(usize, usize)> = self.bonds().collect();
        while let Some((i, j)) = bonds.iter().find(|(i, j)| chosen[*i] != chosen[*j]) {
            (chosen[*i], chosen[*j]) = (false, false);
        }
        (0..self.n_layer()).for_each(|i| chosen[2 * i + 2] &= chosen[2 * i + 1]);
        chosen
    }

    /// Parts that are bound to an earlier one, each with that.
    fn bonds(&self) -> impl Iterator<Item = (usize, usize)> {
        self.parts.iter().enumerate().filter_map(|(i, part)| Some((i, self.index(part.bound_to?))))
    }

    fn index(&self, part: Part) -> usize {
        match part {
            Part::Input => 0,
            Part::Mixer(i) => 2 * i + 1,
            Part::Mlp(i) => 2 * i + 2,
            Part::Output => self.parts.len() - 1,
        }
    }

    /// Parts that lie on one GPU, if they are on GPUs: a layer, or several that are bound together.
    fn units(&self) -> Vec<Range<usize>> {
        let n = self.parts.len();
        // before each layer, and before the output
        let ends = (1..n).step_by(2).chain([n]);
        let mut start = 0;
        let ends = ends.filter(|end| !self.bonds().any(|(i, j)| j < *end && i >= *end));
        ends.map(|end| std::mem::replace(&mut start, end)..end).collect()
    }

    /// The parts that are chosen on the GPUs in their order, each filled before the next; or how many bytes are missing.
    fn fill(&self, gpus: &[GpuRoom], chosen: &[bool]) -> Result<Assignment, usize> {
        let (parts, output): (Vec<Part>, _) = (self.ordered().collect(), self.parts.len() - 1);
        let mut locations = vec![Location::Cpu; self.parts.len()];
        let bytes =
            |unit: &[usize]| unit.iter().fold(0_usize, |sum, i| sum.saturating_add(self.parts[*i].bytes));
        let is_chosen = |unit: Range<usize>| unit.filter(|i| chosen[*i]).collect::<Vec<_>>();
        let both = chosen[0] && chosen[output];
        let all = bytes(&is_chosen(0..self.parts.len())).saturating_sub(if both { self.shared } else { 0 });
        let (mut gpu, mut used, mut placed) = (0, 0_usize, 0_usize);
        for unit in self.units().into_iter().map(is_chosen).filter(|unit| !unit.is_empty()) {
            // what the GPU that lacks the fewest bytes for all that is left lacks
            let mut missing: Option<usize> = None;
            loop {
                let Some(room) = gpus.get(gpu) else { return Err(missing.unwrap_or(all).max(1)) };
                let has_input = unit[0] == 0 || locations[0] == Location::Gpu(gpu);
                let twice = if unit.contains(&output) && has_input && both { self.shared } else { 0 };
                let takes = bytes(&unit).saturating_sub(twice);
                if room.has(used.saturating_add(takes))
                    && !unit.iter().any(|i| room.lacks.contains(&parts[*i]))
                {
                    unit.iter().for_each(|i| locations[*i] = Location::Gpu(gpu));
                    (used, placed) = (used + takes, placed + takes);
                    break;
                }
                let needed = room.fixed.saturating_add(used).saturating_add(all - placed.min(all));
                let lacks = needed.saturating_sub(room.free);
                missing = Some(missing.map_or(lacks, |missing| missing.min(lacks)));
                (gpu, used) = (gpu + 1, 0);
            }
        }
        let mut locations = locations.into_iter();
        Ok(Assignment::new(self.n_layer(), |_| locations.next().unwrap_or(Location::Cpu)))
    }
}

#[cfg(test)]
mod tests;
