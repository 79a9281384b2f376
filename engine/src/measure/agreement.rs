//! Whether a device computes whole models as the CPU does.

use std::ops::ControlFlow;

use braise_kernels::cuda::{Device, Error as DeviceError};
use braise_kernels::isa::Isa;

use super::{Mix, Shape, synthetic};
use crate::device::{GpuLayers, Placement, place_on};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::sequences::Capacity;
use crate::session::{Logits, Session, SessionOptions};

/// How far logits on a device are from those of the CPU: the sum of the squares of differences, divided by that of the
/// CPU's logits. Other roundings make 1e-3 of that at most, anything that is wrong more than 0.1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Of tokens that are read at once, as prompts are.
    pub many: f64,
    /// Of tokens that are read one by one, most of them by replaying a graph.
    pub few: f64,
}

impl Agreement {
    /// What no rounding makes.
    const WRONG: f64 = 1e-2;

    /// Reads a text with a small model of random weights, of whose parts `layers` are on the device and the others on the
    /// CPU, and with the same model on the CPU.
    ///
    /// # Errors
    /// The device cannot be used, or not all these layers are on it.
    pub fn of(
        device: std::result::Result<Box<dyn Device + Send>, DeviceError>,
        layers: GpuLayers,
    ) -> Result<Agreement> {
        let shape = Shape { layers: LAYERS, ..Shape::TINY };
        let mix = Mix::by_name("Q4_K_M").expect("is one of the mixes");
        let new = || Model::new(synthetic("a small model", &shape, mix)?, Isa::best());
        let (on_cpu, mut on_device) = (new()?, new()?);
        match place_on(&mut on_device, vec![(0, device)], layers, Capacity::ONE, &options(MANY))? {
            Placement::Cpu { because, .. } => Err(Error::new(ErrorKind::Device, because.unwrap_or_default())),
            Placement::Gpu { .. } | Placement::Split(_) => Ok(Agreement {
                many: distance(&on_cpu, &on_device, MANY)?,
                few: distance(&on_cpu, &on_device, 1)?,
            }),
        }
    }

    /// Whether all differences can come from rounding.
    pub fn is_right(&self) -> bool {
        self.many < Self::WRONG && self.few < Self::WRONG
    }
}

/// Layers of the model, and tokens of the text, which are more than the kernels of few tokens take.
const LAYERS: usize = 4;
const MANY: usize = 40;

fn options(chunk: usize) -> SessionOptions {
    SessionOptions { n_ctx: Some(2 * MANY), chunk: Some(chunk), ..SessionOptions::default() }
}

/// See [`Agreement`]: of a text that is read `chunk` tokens at a time.
fn distance(on_cpu: &Model, on_device: &Model, chunk: usize) -> Result<f64> {
    let read = |model: &Model| {
        let n_vocab = model.spec().n_vocab;
        let tokens: Vec<u32> = (0..MANY).map(|i| ((i * i * 31 + i * 7 + 3) % n_vocab) as u32).collect();
        let mut all = Vec::new();
        let mut session = Session::new(model, &options(chunk))?;
        session.eval(&tokens, Logits::All, &mut |_, logits| {
            all.extend_from_slice(logits);
            ControlFlow::Continue(())
        })?;
        Ok::<_, Error>(all)
    };
    let (want, got) = (read(on_cpu)?, read(on_device)?);
    let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    Ok(squares(&mut want.iter().zip(&got).map(|(a, b)| a - b)) / squares(&mut want.iter().copied()))
}
