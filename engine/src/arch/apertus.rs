//! `apertus`: Apertus. Queries and keys are normalized, and each layer has an activation of its own.

use super::file::{Family, File, malformed};
use super::qwen3::QWEN_3;
use crate::block::{Activation, Mlp, Spec, Xielu};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { gated: false, ..QWEN_3 })?;
    let n_layer = spec.layers.len();
    let numbers = |name: &str| file.floats(&format!("xielu.{name}"), n_layer);
    let [positive, negative] = [numbers("alpha_p")?, numbers("alpha_n")?];
    let [linear, eps] = [numbers("beta")?, numbers("eps")?];
    // factors are kept so that whatever they are they become positive
    let softplus = |x: f32| if x > 20.0 { x } else { x.exp().ln_1p() };
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let xielu = Xielu {
            positive: softplus(positive[i]),
            negative: linear[i] + softplus(negative[i]),
            linear: linear[i],
            eps: eps[i],
        };
        match &mut layer.mlp {
            Mlp::Dense(dense) => dense.activation = Activation::Xielu(xielu),
            _ => return Err(malformed(format!("layer {i} has no dense network"))),
        }
    }
    if let Some(scale) = file.positive("attention.scale")? {
        spec.each_attention(|_, a| a.scale = scale);
    }
    Ok(spec)
}
