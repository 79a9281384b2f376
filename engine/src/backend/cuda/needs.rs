//! What the parts of a model take of a device's memory, counted by the code that takes it.

use braise_kernels::cuda::Properties;

use super::{sequence_bytes, weight_bytes};
use crate::block::{Layer, Mlp, Spec};
use crate::error::Result;
use crate::kv::KvTypes;
use crate::model::{MlpWeights, Model};
use crate::parts::{Part, bound_to};
use crate::plan::{Needs, PartNeeds};

/// What each part of `model` needs in a session that has room for `n_ctx` tokens, read `n_batch` at a time; and the bytes that
/// one takes on a device of these properties besides, whichever parts are there: those of all parts, which are the most.
///
/// # Errors
/// The context is too large for a GPU.
pub(crate) fn needs(
    model: &Model,
    sizes: (usize, usize),
    kv: KvTypes,
    properties: &Properties,
) -> Result<(Needs, usize)> {
    let spec = model.spec();
    let session = |spec: &Spec| sequence_bytes(model, spec, sizes, kv, properties);
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
