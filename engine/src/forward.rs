//! The forward pass: from a batch of tokens to logits, in execution order.

use crate::backend::Backend;
use crate::model::Model;

/// Runs the batch that `backend` holds through `model`, up to the logits of those tokens that it was asked for.
pub fn forward<B: Backend>(backend: &mut B, model: &Model) {
    backend.embed(&model.token_embd);
    for (i, (spec, weights)) in model.spec().layers.iter().zip(&model.layers).enumerate() {
        backend.qkv(i, &spec.attention, weights);
        backend.attend(i, &spec.attention);
        backend.attn_output(&spec.attention, weights);
        backend.gate_up(&spec.mlp, weights);
        backend.down(&spec.mlp, weights);
    }
    logits(backend, model);
}

/// Logits of other tokens of the batch that went through `forward` last.
pub fn logits<B: Backend>(backend: &mut B, model: &Model) {
    backend.logits(&model.output_norm, model.output());
}
