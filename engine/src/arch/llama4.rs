//! `llama4`: Llama 4. Three of four layers see a chunk and rotate; in the others queries grow with their position. Experts
//! read what is weighed by their scores' sigmoids.

use super::file::{Family, File, LLAMA, check_base};
use crate::block::{Mlp, NormKind, NormPlace, QkNorm, Routing, Spec, Temperature, Window};
use crate::error::Result;

/// Positions in a chunk, and in a step of the queries' growth; files need not tell.
const CHUNK: usize = 8192;

/// Layers from one that does not rotate to the next.
const PERIOD: usize = 4;

/// Experts of the model whose queries and keys are not normalized, which files do not tell.
const MAVERICK: usize = 128;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { routing: (Routing::Sigmoid, false), ..LLAMA })?;
    for layer in &mut spec.layers {
        if let Mlp::Experts(experts) = &mut layer.mlp {
            experts.weigh_inputs = true;
        }
    }
    if file.count("attention.sliding_window")? == Some(0) {
        return Ok(spec); // small models without any of this
    }
    spec.ropes[0].base = file.positive("rope.freq_base_swa")?.unwrap_or(spec.ropes[0].base);
    check_base(&spec.ropes[0])?;
    let chunks = file.windows(spec.layers.len(), PERIOD, Some(CHUNK))?;
    let normalizes = file.count("expert_count")? != Some(MAVERICK);
    let eps = file.eps(NormKind::Rms)?;
    spec.each_attention(|i, a| {
        a.window = chunks[i].map(|_| Window::Chunk(CHUNK));
        if (i + 1).is_multiple_of(PERIOD) {
            a.rope = None;
            a.temperature = Some(Temperature { scale: 0.1, every: CHUNK, offset: 1 });
        } else if normalizes {
            a.qk_norm =
                Some(QkNorm { kind: NormKind::Rms, eps, place: NormPlace::RotatedHead, weights: false });
        }
    });
    Ok(spec)
}
