//! Which device a model runs on: a GPU, if there is one that runs it and has the memory, else the CPU.

use std::fmt;
use std::str::FromStr;

use braise_kernels::cuda::{Device, Error as DeviceError, Gpu};

use crate::backend::cuda;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::session::SessionOptions;

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// A GPU if that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, or nothing.
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

/// Moves `model` to where `choice` says. `options` are those of the sessions to come, of which one has to fit.
///
/// # Errors
/// A GPU was asked for by number, and is not there, cannot run the model, or has too little memory.
pub fn place(model: &mut Model, choice: Choice, options: &SessionOptions) -> Result<Placement> {
    match choice {
        Choice::Cpu => Ok(Placement::Cpu { because: None, beside_gpu: false }),
        Choice::Cuda(index) => match Gpu::open(index) {
            Ok(gpu) => place_on(model, index, Box::new(gpu)),
            Err(e) => Err(cuda::error(model, e)),
        },
        Choice::Auto => {
            let count = match Gpu::count() {
                Ok(count) => count,
                Err(e) => {
                    let beside_gpu = e != DeviceError::NoDriver;
                    return Ok(Placement::Cpu { because: Some(e.to_string()), beside_gpu });
                }
            };
            let open = |index| Ok(Box::new(Gpu::open(index)?) as Box<dyn Device + Send>);
            place_on_any(model, (0..count).map(open), options)
        }
    }
}

/// Moves `model` to the first device that runs it; else it stays on the CPU.
///
/// # Errors
/// None that a user could do anything about.
pub fn place_on_any(
    model: &mut Model,
    devices: impl Iterator<Item = std::result::Result<Box<dyn Device + Send>, DeviceError>>,
    options: &SessionOptions,
) -> Result<Placement> {
    let (mut because, mut beside_gpu) = ("there is no GPU".to_owned(), false);
    for (index, device) in devices.enumerate() {
        beside_gpu = true;
        let fits = device.map_err(|e| e.to_string()).and_then(|mut device| {
            check(model, &mut *device, options)?;
            // what another program took meanwhile is an error like any other
            place_on(model, index, device).map_err(|e| e.to_string())
        });
        match fits {
            Ok(placement) => return Ok(placement),
            Err(e) => because = e,
        }
    }
    Ok(Placement::Cpu { because: Some(because), beside_gpu })
}

fn place_on(model: &mut Model, index: usize, device: Box<dyn Device + Send>) -> Result<Placement> {
    let name = device.properties().name.clone();
    let slow = cuda::slow(model.spec(), device.properties());
    let weight_bytes = model.move_to(device)?;
    Ok(Placement::Gpu { index, name, weight_bytes, slow })
}

/// Fails with the reason if `device` cannot run `model` in a session with these options.
fn check(
    model: &Model,
    device: &mut (dyn Device + Send),
    options: &SessionOptions,
) -> std::result::Result<(), String> {
    let properties = device.properties().clone();
    if let Some(what) = cuda::unsupported(model) {
        return Err(format!("there are no GPU kernels for {what}"));
    }
    let free = device.memory().map_err(|e| e.to_string())?.free;
    let words = |e: Error| e.to_string();
    let weights = cuda::weight_bytes(model).map_err(words)?;
    let sizes = options.sizes(model.spec());
    let sequence = cuda::sequence_bytes(model, sizes, options.kv, &properties).map_err(words)?;
    let needed = weights.saturating_add(sequence).saturating_add(RESERVE);
    if needed <= free {
        return Ok(());
    }
    let gb = |bytes: usize| format!("{:.1} GB", bytes as f64 / 1e9);
    Err(format!("the model takes {} on a GPU, and {} has {} free", gb(needed), properties.name, gb(free)))
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
