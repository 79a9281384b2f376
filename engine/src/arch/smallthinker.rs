//! `smallthinker`: SmallThinker. Routers read what a layer reads, before attention, so that experts can be fetched
//! meanwhile. Each fourth layer, from the first on, sees all and does not rotate; the others see a window.

use super::file::{Family, File, NEOX};
use crate::block::{Activation, Mlp, Routing, Spec, Window};
use crate::error::Result;

/// Layers from one that sees all to the next.
const PERIOD: usize = 4;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family {
        activation: Activation::Relu,
        routing: (Routing::Softmax, true),
        routing_told: true,
        ..NEOX
    })?;
    for layer in &mut spec.layers {
        if let Mlp::Experts(experts) = &mut layer.mlp {
            experts.routes_first = true;
            experts.normalize = true; // whatever files say
        }
    }
    if let Some(window) = file.count("attention.sliding_window")?.filter(|n| *n > 0) {
        spec.each_attention(|i, a| {
            let slides = !i.is_multiple_of(PERIOD);
            a.window = slides.then_some(Window::Sliding(window));
            a.rope = a.rope.filter(|_| slides);
        });
    }
    Ok(spec)
}
