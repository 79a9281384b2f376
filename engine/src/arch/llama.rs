//! `llama`: Llama 1 to 3, Mistral, SmolLM2 and what else was given their shape.

use crate::block::{Attention, Layer, Mlp, Pairs, Rope, Scaling, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{Gguf, Metadata};

/// The Spec of a file of this family.
pub(super) fn spec(gguf: &Gguf) -> Result<Spec> {
    let meta = gguf.metadata();
    let positive = |key: &str| match meta.require_u32(key)? {
        0 => Err(malformed(format!("`{key}` is 0"))),
        n => Ok(n as usize),
    };
    if meta.u32("llama.expert_count")?.is_some_and(|n| n > 0) {
        return Err(Error::new(ErrorKind::Unsupported, "mixtures of experts are not supported yet")
            .next("use a dense model"));
    }
    let n_embd = positive("llama.embedding_length")?;
    let n_head = positive("llama.attention.head_count")?;
    let n_head_kv = match meta.u32("llama.attention.head_count_kv")? {
        Some(_) => positive("llama.attention.head_count_kv")?,
        None => n_head,
    };
    let head_dim = match meta.u32("llama.attention.key_length")? {
        Some(_) => positive("llama.attention.key_length")?,
        None => n_embd / n_head,
    };
    let head_dim_v = match meta.u32("llama.attention.value_length")? {
        Some(_) => positive("llama.attention.value_length")?,
        None => head_dim,
    };
    if n_head % n_head_kv != 0 || head_dim == 0 {
        let what = format!(
            "{n_head} query heads, {n_head_kv} key/value heads and {n_embd} values do not fit each other"
        );
        return Err(malformed(what));
    }
    let attention =
        Attention { n_head, n_head_kv, head_dim, head_dim_v, scale: 1.0 / (head_dim as f32).sqrt() };
    let layer = Layer { attention, mlp: Mlp { n_ff: positive("llama.feed_forward_length")? } };
    let n_layers = positive("llama.block_count")?;
    if gguf.tensors().len() < n_layers {
        return Err(malformed(format!("{n_layers} layers, but only {} tensors", gguf.tensors().len())));
    }
    let norm_eps = meta.require_f32("llama.attention.layer_norm_rms_epsilon")?;
    if !(0.0..1.0).contains(&norm_eps) {
        return Err(malformed(format!("a normalization epsilon of {norm_eps}")));
    }
    let n_vocab = gguf.require("token_embd.weight")?.rows();
    if n_vocab == 0 {
        return Err(malformed("the tensor `token_embd.weight` has no rows".to_owned()));
    }
    let n_ctx = positive("llama.context_length")?;
    Ok(Spec {
        arch: "llama".to_owned(),
        n_vocab,
        n_embd,
        n_ctx,
        norm_eps,
        rope: rope(meta, head_dim, n_ctx)?,
        layers: vec![layer; n_layers],
    })
}

fn rope(meta: &Metadata, head_dim: usize, n_ctx: usize) -> Result<Rope> {
    let n_dims = meta.u32("llama.rope.dimension_count")?.map_or(head_dim, |n| n as usize);
    if n_dims > head_dim || n_dims % 2 != 0 {
        return Err(malformed(format!("{n_dims} of a head's {head_dim} values cannot be rotated")));
    }
    let base = meta.f32("llama.rope.freq_base")?.unwrap_or(10_000.0);
    // `scale_linear` is the name in files from before there were kinds of scaling
    let factor = match meta.f32("llama.rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => meta.f32("llama.rope.scale_linear")?,
    };
    let factor = factor.filter(|f| *f != 0.0).unwrap_or(1.0);
    if !(base > 1.0 && base.is_finite() && factor > 0.0 && factor.is_finite()) {
        let what = format!("a rotation base of {base} with a scaling factor of {factor} makes no sense");
        return Err(malformed(what));
    }
    let scale = 1.0 / factor;
    let scaling = match meta.str("llama.rope.scaling.type")? {
        Some("none") => Scaling::None,
        None | Some("linear") if factor == 1.0 => Scaling::None,
        None | Some("linear") => Scaling::Linear { scale },
        Some("yarn") => {
            let or = |key: &str, default: f32| match meta.f32(key)?.unwrap_or(default) {
                value if value.is_finite() => Ok(value),
                value => Err(malformed(format!("`{key}` is {value}"))),
            };
            Scaling::Yarn {
                scale,
                n_ctx_orig: meta
                    .u32("llama.rope.scaling.original_context_length")?
                    .filter(|n| *n > 0)
                    .map_or(n_ctx, |n| n as usize),
                ext_factor: or("llama.rope.scaling.yarn_ext_factor", 1.0)?,
                attn_factor: or(
                    "llama.rope.scaling.yarn_attn_factor",
                    or("llama.rope.scaling.attn_factor", 1.0)?,
                )?,
                beta_fast: or("llama.rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: or("llama.rope.scaling.yarn_beta_slow", 1.0)?,
            }
        }
        Some(other) => {
            let what = format!("the rotation scaling `{other}` is not supported");
            return Err(Error::new(ErrorKind::Unsupported, what).next("supported are: none, linear, yarn"));
        }
    };
    Ok(Rope { n_dims, pairs: Pairs::Neighbours, base, scaling, factors: None })
}

fn malformed(what: String) -> Error {
    Error::new(ErrorKind::Malformed, what).next("get another conversion of the model")
}
