//! The forward pass: from a batch of tokens to logits, in execution order.

use crate::backend::{Backend, Residual, Target};
use crate::model::{LayerWeights, MixerWeights, MlpWeights, Model};
use crate::parts::{Part, Parts, WHOLE};

/// Runs the batch that `backend` holds through `model`, up to the logits of those tokens that it was asked for.
pub fn forward<B: Backend>(backend: &mut B, model: &Model) {
    forward_parts(backend, model, &WHOLE);
}

/// The same with some parts of the model alone, of which the first takes the `x` that `backend` holds, unless it is
/// [`Part::Input`].
pub fn forward_parts<B: Backend>(backend: &mut B, model: &Model, parts: &Parts) {
    if parts.contains(&Part::Input) {
        input(backend, model);
    } else if (0..model.layers.len()).any(|i| parts.contains(&Part::Mixer(i))) {
        backend.rotations();
    }
    for (i, layer) in model.layers.iter().enumerate() {
        if parts.contains(&Part::Mixer(i)) {
            mixer(backend, i, layer);
        }
        if parts.contains(&Part::Mlp(i)) {
            mlp(backend, i, layer);
        }
    }
    if parts.contains(&Part::Output) {
        logits(backend, model);
    }
}

fn input<B: Backend>(backend: &mut B, model: &Model) {
    backend.embed(model);
    if let Some(norm) = &model.embd_norm {
        backend.normalize(norm);
    }
    if let Some(inputs) = &model.layer_inputs {
        backend.layer_inputs(inputs);
    }
}

/// See [`mlp`] for where a parallel layer's mixer ends.
fn mixer<B: Backend>(backend: &mut B, i: usize, layer: &LayerWeights) {
    if let MlpWeights::Experts(experts) = &layer.mlp
        && experts.spec.routes_first
    {
        backend.route(experts, None);
    }
    mix(backend, i, layer);
    if !layer.parallel {
        mixer_output(backend, layer);
    }
}

fn mlp<B: Backend>(backend: &mut B, i: usize, layer: &LayerWeights) {
    up(backend, layer);
    if layer.parallel {
        mixer_output(backend, layer);
    }
    down(backend, layer);
    if let Some(input) = &layer.input {
        backend.add_layer_input(i, input);
    }
    if layer.scale != 1.0 {
        backend.scale(layer.scale);
    }
}

/// What looks at other tokens, up to its output matrix.
fn mix<B: Backend>(backend: &mut B, i: usize, layer: &LayerWeights) {
    let norm = layer.norms.mixer.as_ref();
    match &layer.mixer {
        MixerWeights::Attention(attention) => {
            backend.qkv(i, attention, norm);
            backend.attend(i, attention);
        }
        MixerWeights::Latent(latent) => backend.latent(i, latent, norm),
        MixerWeights::ShortConv(conv) => backend.short_conv(i, conv, norm),
        MixerWeights::StateSpace(s) => backend.state_space(i, s, norm),
        MixerWeights::Both(attention, s) => {
            backend.qkv(i, attention, norm);
            backend.attend(i, attention);
            backend.state_space(i, s, norm);
        }
        MixerWeights::DeltaNet(d) => backend.delta_net(i, d, norm),
        MixerWeights::Nothing => {}
    }
}

fn mixer_output<B: Backend>(backend: &mut B, layer: &LayerWeights) {
    let residual =
        Residual { norm: layer.norms.mixer_out.as_ref(), scale: layer.residual_scale, to: Target::X };
    match &layer.mixer {
        MixerWeights::Attention(attention) => backend.attn_output(attention, residual),
        MixerWeights::Latent(latent) => backend.latent_output(latent, residual),
        MixerWeights::ShortConv(conv) => backend.short_conv_output(conv, residual),
        MixerWeights::StateSpace(s) => backend.state_space_output(s, residual),
        MixerWeights::Both(attention, s) => {
            backend.attn_output(attention, residual);
            backend.state_space_output(s, residual);
        }
        MixerWeights::DeltaNet(d) => backend.delta_net_output(d, residual),
        MixerWeights::Nothing => {}
    }
    if let Some(norm) = &layer.norms.mixer_sum {
        backend.normalize(norm);
    }
}

/// The feed-forward network, up to its last matrix.
fn up<B: Backend>(backend: &mut B, layer: &LayerWeights) {
    let norm = layer.norms.mlp.as_ref();
    match &layer.mlp {
        MlpWeights::Dense(dense) => backend.up(dense, norm),
        MlpWeights::Experts(experts) => {
            if !experts.spec.routes_first {
                backend.route(experts, norm);
            }
            backend.experts_up(experts, norm);
        }
        MlpWeights::Both(both) => {
            backend.route(&both.experts, Some(&both.experts_in));
            backend.experts_up(&both.experts, Some(&both.experts_in));
            backend.up(&both.dense, norm);
        }
        MlpWeights::Nothing => {}
    }
}

fn down<B: Backend>(backend: &mut B, layer: &LayerWeights) {
    let residual =
        Residual { norm: layer.norms.mlp_out.as_ref(), scale: layer.residual_scale, to: Target::X };
    match &layer.mlp {
        MlpWeights::Dense(dense) => backend.down(dense, residual),
        MlpWeights::Experts(experts) => backend.experts_down(experts, residual),
        MlpWeights::Both(both) => {
            let branch = |norm, to| Residual { norm: Some(norm), scale: 1.0, to };
            backend.down(&both.dense, branch(&both.dense_out, Target::FirstBranch));
            backend.experts_down(&both.experts, branch(&both.experts_out, Target::Branch));
            backend.add_branches(residual);
        }
        MlpWeights::Nothing => {}
    }
    if let Some(norm) = &layer.norms.mlp_sum {
        backend.normalize(norm);
    }
}

/// Logits of other tokens of the batch that went through `forward` last.
pub fn logits<B: Backend>(backend: &mut B, model: &Model) {
    backend.logits(model);
}
