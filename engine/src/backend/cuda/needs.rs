//! What the parts of a model take of a device's memory, counted by the code that takes it.

use braise_kernels::cuda::Properties;

use super::{count, error, weight_bytes};
use crate::block::{Layer, Mlp, Spec};
use crate::error::{Error, Result};
use crate::kv::{KvTypes, Room as Sizes};
use crate::model::{MlpWeights, Model};
use crate::parts::{Part, bound_to};
use crate::plan::{Needs, PartNeeds};

/// What each part of `model` needs for sequences of these sizes; and the bytes that these take on a device of these properties
/// besides, whichever parts are there: those of all parts, which are the most.
///
/// # Errors
/// The context is too large for a GPU.
pub(crate) fn needs(
    model: &Model,
    sizes: Sizes,
    kv: KvTypes,
    properties: &Properties,
) -> Result<(Needs, usize)> {
    let spec = model.spec();
    let session = |spec: &Spec| {
        let (cache, buffers) = count(spec, sizes, kv, properties).map_err(|e| error(model, e))?;
        Ok::<_, Error>(cache.saturating_add(buffers))
    };
    let whole = session(spec)?;
    let mut remembered: Vec<usize> = Vec::new();
    for (i, layer) in spec.layers.iter().enumerate() {
        let bytes = match spec.layers[..i].iter().position(|other| other.mixer == layer.mixer) {
            Some(same) => remembered[same],
            // what one more such layer takes
            None => {
                let mut more = spec.clone();
                more.layers.push(Layer { mlp: Mlp::Nothing, ..layer.clone() });
                session(&more)?.saturating_sub(whole)
            }
        };
        remembered.push(bytes);
    }
    let fixed = whole.saturating_sub(remembered.iter().sum());
    let weights = |parts: &[Part]| weight_bytes(model, parts.iter().copied());
    let part = |part: Part| {
        let (is_mixture, of_sequence) = match part {
            Part::Mixer(i) => (false, remembered[i]),
            Part::Mlp(i) => (matches!(model.layers[i].mlp, MlpWeights::Experts(_) | MlpWeights::Both(_)), 0),
            Part::Input | Part::Output => (false, 0),
        };
        let bytes = weights(&[part])?.saturating_add(of_sequence);
        Ok(PartNeeds { bytes, bound_to: bound_to(spec, part), is_mixture })
    };
    let parts = Part::all(spec.layers.len()).map(part).collect::<Result<_>>()?;
    let ends = [Part::Input, Part::Output];
    let alone = weights(&ends[..1])?.saturating_add(weights(&ends[1..])?);
    Ok((Needs { parts, shared: alone.saturating_sub(weights(&ends)?) }, fixed))
}
