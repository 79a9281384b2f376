//! Which devices a model runs on: a GPU, if there is one that runs it and has the memory; else several, or a GPU and the CPU;
//! else the CPU.

mod report;

use std::fmt;
use std::str::FromStr;

use braise_kernels::cuda::{Device, Error as DeviceError, Gpu, Managed, Properties, Survey};

use crate::backend::cuda;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{KvTypes, Room};
use crate::model::Model;
use crate::parts::{Assignment, Location, Part};
use crate::plan::{GpuRoom, Needs, Refusal};
use crate::sequences::{self, Capacity};
use crate::session::SessionOptions;

pub use crate::plan::GpuLayers;
pub use report::{Split, UsedGpu};

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// All GPUs as far as that works, and the CPU for the rest.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, and the CPU for what does not fit there.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Choice, String> {
        let number =
            |n: &str| n.parse().map(Choice::Cuda).map_err(|_| format!("no GPU has the number {n:?}"));
        match text {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "cuda" => Ok(Choice::Cuda(0)),
            _ => match text.strip_prefix("cuda:") {
                Some(n) => number(n),
                None => Err("it must be auto, cpu, cuda or cuda:N".into()),
            },
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Cpu => f.write_str("cpu"),
            Choice::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// Where a model runs, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// On a GPU.
    Gpu {
        /// Its number.
        index: usize,
        /// Its name.
        name: String,
        /// Bytes of its memory that the weights take.
        weight_bytes: usize,
        /// What is slow there, if something is: see [`cuda::slow`].
        slow: Option<String>,
    },
    /// On several devices.
    Split(Split),
    /// On the CPU.
    Cpu {
        /// Why not on a GPU; `None`: nobody asked for one.
        because: Option<String>,
        /// Whether there is a GPU, so that its user would want to know.
        beside_gpu: bool,
    },
}

/// Memory of a GPU that is left to what no plan counts: the translated kernels and the graphs.
const RESERVE: usize = 256 << 20;

/// What a context takes of a GPU's memory: 300 to 500 MB.
const CONTEXT: usize = 512 << 20;

/// GPUs, each with its number, or with why it cannot be used.
type Opened = Vec<(usize, std::result::Result<Box<dyn Device + Send>, DeviceError>)>;
type Offers = Vec<(usize, std::result::Result<Offer, DeviceError>)>;

/// Opens a GPU.
type Open = Box<dyn FnOnce() -> std::result::Result<Box<dyn Device + Send>, DeviceError>>;

/// A GPU that may get parts of a model, and is opened if it does.
struct Offer {
    properties: Properties,
    /// Bytes of its memory that are free.
    free: usize,
    open: Open,
}

impl Offer {
    /// One that is open.
    fn of(mut device: Box<dyn Device + Send>) -> std::result::Result<Offer, DeviceError> {
        let (free, properties) = (device.memory()?.free, device.properties().clone());
        Ok(Offer { properties, free, open: Box::new(|| Ok(device)) })
    }

    /// One that need not be open to know what is free there.
    fn of_gpu(index: usize) -> std::result::Result<Offer, DeviceError> {
        let open = move || Gpu::open(index).map(|gpu| Box::new(gpu) as Box<dyn Device + Send>);
        let Survey { properties, managed } = Gpu::survey(index)?;
        match managed {
            Some(Managed { memory, .. }) => {
                Ok(Offer { properties, free: memory.free.saturating_sub(CONTEXT), open: Box::new(open) })
            }
            None => Offer::of(open()?),
        }
    }
}

/// Moves as much of `model` as `layers` says to the GPUs that `choice` says. `capacity` and `options` are those of the sequences
/// to come, which have to fit.
///
/// # Errors
/// A GPU was asked for by number, and is not there, cannot run the model, or has too little memory; or layers were asked for
/// that GPUs have no kernels or no memory for.
pub fn place(
    model: &mut Model,
    choice: Choice,
    layers: GpuLayers,
    capacity: Capacity,
    options: &SessionOptions,
) -> Result<Placement> {
    let refuse = |why: String, next: &str| {
        let what = format!("--gpu-layers {layers}: {why}");
        Err(Error::new(ErrorKind::Device, what).file(model.gguf().path()).next(next))
    };
    let on_cpu = matches!(layers, GpuLayers::Auto | GpuLayers::Last(0));
    match choice {
        Choice::Cpu if on_cpu => Ok(Placement::Cpu { because: None, beside_gpu: false }),
        Choice::Cpu => refuse("the device is the CPU".to_owned(), "leave one of the two out"),
        Choice::Cuda(_) | Choice::Auto if layers == GpuLayers::Last(0) => {
            Ok(Placement::Cpu { because: None, beside_gpu: false })
        }
        Choice::Cuda(index) => {
            let gpu = Gpu::open(index).map_err(|e| cuda::error(model, e))?;
            match try_on(model, vec![(index, Offer::of(Box::new(gpu)))], layers, capacity, options)? {
                Placement::Cpu { because, .. } => {
                    let why = because.unwrap_or_else(|| "there is no GPU".to_owned());
                    Err(Error::new(ErrorKind::Device, why)
                        .file(model.gguf().path())
                        .next("choose a smaller context or a smaller model, or run it on the CPU"))
                }
                placement => Ok(placement),
            }
        }
        Choice::Auto => match Gpu::count() {
            Ok(count) => {
                // of several not all may be needed, and each that is opened loses memory
                let offer = |index: usize| match count {
                    1 => Gpu::open(index).and_then(|gpu| Offer::of(Box::new(gpu))),
                    _ => Offer::of_gpu(index),
                };
                let offers = (0..count).map(|index| (index, offer(index))).collect();
                place_offers(model, offers, layers, capacity, options)
            }
            Err(e) if on_cpu => {
                let beside_gpu = e != DeviceError::NoDriver;
                Ok(Placement::Cpu { because: Some(e.to_string()), beside_gpu })
            }
            Err(e) => refuse(e.to_string(), "run the model on the CPU"),
        },
    }
}

/// Moves as much of `model` as `layers` says to `devices`, each of which has a number; what does not fit stays on the CPU, and
/// all of it if a device fails.
///
/// # Errors
/// Layers were asked for that the devices have no kernels or no memory for; or the model's watch ended it.
pub fn place_on(
    model: &mut Model,
    devices: Opened,
    layers: GpuLayers,
    capacity: Capacity,
    options: &SessionOptions,
) -> Result<Placement> {
    let offers = devices.into_iter().map(|(index, device)| (index, device.and_then(Offer::of)));
    place_offers(model, offers.collect(), layers, capacity, options)
}

/// The same with what GPUs offer.
fn place_offers(
    model: &mut Model,
    offers: Offers,
    layers: GpuLayers,
    capacity: Capacity,
    options: &SessionOptions,
) -> Result<Placement> {
    match try_on(model, offers, layers, capacity, options) {
        // another program took the memory meanwhile, or the device was lost
        Err(e) if layers == GpuLayers::Auto && e.kind() == ErrorKind::Device => {
            Ok(Placement::Cpu { because: Some(e.to_string()), beside_gpu: true })
        }
        placed => placed,
    }
}

/// The same, but a device that fails is an error.
fn try_on(
    model: &mut Model,
    offers: Offers,
    layers: GpuLayers,
    capacity: Capacity,
    options: &SessionOptions,
) -> Result<Placement> {
    let beside_gpu = !offers.is_empty();
    let sizes = (sequences::room(model, capacity, options)?, options.kv);
    let (mut candidates, mut because) = (Vec::new(), None);
    for (index, offer) in offers {
        let offer = offer.map_err(|e| e.to_string());
        match offer.and_then(|offer| Candidate::new(model, index, offer, sizes)) {
            Ok(candidate) => candidates.push(candidate),
            Err(e) => because = Some(e),
        }
    }
    let on_cpu = |because: String| Ok(Placement::Cpu { because: Some(because), beside_gpu });
    let Some(first) = candidates.first() else {
        let because = because.unwrap_or_else(|| "there is no GPU".to_owned());
        return match layers {
            GpuLayers::Auto | GpuLayers::Last(0) => on_cpu(because),
            _ => Err(Error::new(ErrorKind::Device, because)
                .file(model.gguf().path())
                .next("run it on the CPU")),
        };
    };
    let needs = first.needs.clone();
    let rooms: Vec<GpuRoom> = candidates.iter().map(|candidate| candidate.room.clone()).collect();
    let why = Why::new(model, &candidates, &needs);
    let assignment = match needs.assign(&rooms, layers) {
        Ok(assignment) => assignment,
        Err(refusal) => return Err(why.refusal(model, layers, refusal)),
    };
    let (used, assignment) = used(candidates, &assignment);
    if used.is_empty() {
        return on_cpu(why.not_on_gpu());
    }
    let mut gpus: Vec<UsedGpu> = used.iter().map(|candidate| UsedGpu::of(model, candidate)).collect();
    let devices = used.into_iter().map(|candidate| (candidate.open)()).collect::<std::result::Result<_, _>>();
    let devices = devices.map_err(|e| cuda::error(model, e))?;
    let bytes = model.split(devices, &assignment)?;
    gpus.iter_mut().zip(bytes).for_each(|(gpu, bytes)| gpu.weight_bytes = bytes);
    gpus.iter_mut().zip(cuda::slow_on_devices(model)).for_each(|(gpu, slow)| gpu.slow = slow);
    if let ([gpu], [_]) = (&gpus[..], &assignment.segments()[..]) {
        let UsedGpu { index, name, weight_bytes, slow } = gpu.clone();
        return Ok(Placement::Gpu { index, name, weight_bytes, slow });
    }
    let because = match layers {
        GpuLayers::Auto => why.too_little(),
        GpuLayers::All | GpuLayers::Last(_) => format!("--gpu-layers {layers}"),
    };
    Ok(Placement::Split(Split::new(&assignment, gpus, &because, &why.lacking)))
}

/// The GPUs that have parts, and where the parts are in terms of these.
fn used(candidates: Vec<Candidate>, assignment: &Assignment) -> (Vec<Candidate>, Assignment) {
    let is_used = |i: usize| assignment.parts().any(|(_, on)| on == Location::Gpu(i));
    let on = |part| match assignment.of(part) {
        Location::Cpu => Location::Cpu,
        Location::Gpu(i) => Location::Gpu((0..i).filter(|i| is_used(*i)).count()),
    };
    let of_used = Assignment::new(assignment.n_layer(), on);
    let used = candidates.into_iter().enumerate().filter(|(i, _)| is_used(*i));
    (used.map(|(_, candidate)| candidate).collect(), of_used)
}

/// A GPU that may get parts of a model.
struct Candidate {
    index: usize,
    properties: Properties,
    open: Open,
    needs: Needs,
    room: GpuRoom,
}

impl Candidate {
    fn new(
        model: &Model,
        index: usize,
        Offer { properties, free, open }: Offer,
        (room, kv): (Room, KvTypes),
    ) -> std::result::Result<Candidate, String> {
        let (needs, fixed) = cuda::needs(model, room, kv, &properties).map_err(|e| e.to_string())?;
        let lacks = |part: &Part| cuda::unsupported_part(model, *part).is_some();
        let lacks = Part::all(model.layers.len()).filter(lacks).collect();
        let room = GpuRoom { free, fixed: fixed.saturating_add(RESERVE), lacks };
        Ok(Candidate { index, properties, open, needs, room })
    }
}

/// Why a model is not on a GPU as a whole.
struct Why {
    /// Of each layer, what there are no kernels for; and the first of that, of any part.
    lacking: Vec<Option<String>>,
    kernels: Option<String>,
    /// Names of the GPUs, bytes that are free there, and that the model takes.
    names: String,
    free: usize,
    needed: usize,
}

impl Why {
    fn new(model: &Model, candidates: &[Candidate], needs: &Needs) -> Why {
        let lacks = |part: Part| cuda::unsupported_part(model, part);
        let of_layer = |i| lacks(Part::Mixer(i)).or_else(|| lacks(Part::Mlp(i)));
        let lacking = (0..model.layers.len()).map(of_layer).collect();
        let kernels = Part::all(model.layers.len()).find_map(lacks);
        let names: Vec<&str> = candidates.iter().map(|gpu| gpu.properties.name.as_str()).collect();
        Why {
            lacking,
            kernels,
            names: names.join(" and "),
            free: candidates.iter().fold(0, |sum, gpu| sum.saturating_add(gpu.room.free)),
            needed: candidates.iter().fold(needs.bytes(), |sum, gpu| sum.saturating_add(gpu.room.fixed)),
        }
    }

    fn too_little(&self) -> String {
        let has = if self.names.contains(" and ") { "have" } else { "has" };
        format!(
            "the model takes {} on a GPU, and {} {has} {} free",
            gb(self.needed),
            self.names,
            gb(self.free)
        )
    }

    fn not_on_gpu(&self) -> String {
        match &self.kernels {
            Some(what) => format!("there are no GPU kernels for {what}"),
            None => self.too_little(),
        }
    }

    fn refusal(&self, model: &Model, layers: GpuLayers, refusal: Refusal) -> Error {
        let (why, next) = match refusal {
            Refusal::Memory(missing) => {
                let what = format!(
                    "{missing} bytes are missing on the GPU: {} has {} free",
                    self.names,
                    gb(self.free)
                );
                (what, "choose fewer layers, a smaller context or a cache of 8 bits; auto takes what fits")
            }
            Refusal::Kernels(_) => (self.not_on_gpu(), "auto leaves the layers that need them on the CPU"),
        };
        let what = format!("--gpu-layers {layers}: {why}");
        Error::new(ErrorKind::Device, what).file(model.gguf().path()).next(next)
    }
}

fn gb(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_printed() {
        for (text, choice) in [("auto", Choice::Auto), ("cpu", Choice::Cpu), ("cuda:3", Choice::Cuda(3))] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Choice::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }
}
