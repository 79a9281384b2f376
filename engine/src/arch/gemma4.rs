//! `gemma4`: Gemma 4. Most layers see a window and have heads and a rotation of their own; the last ones may read the keys
//! and values of earlier ones; small models feed each token into every layer, and large ones may have mixtures beside
//! their dense networks.

use super::file::{Family, File, check_base, malformed};
use super::gemma2::GEMMA_2;
use crate::block::{
    Attention, Both, Dense, Experts, Heads, LayerInputs, Mixer, Mlp, Norm, NormKind, NormPlace, Rope,
    Scaling, Source, Spec,
};
use crate::error::Result;

const GEMMA_4: Family = Family { qk_norm: Some(true), ..GEMMA_2 };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let n_layer = file.n_layer()?;
    let windows = file.windows(n_layer, 6, None)?;
    let eps = file.eps(NormKind::Rms)?;
    let shared = file.count("attention.shared_kv_layers")?.unwrap_or(0);
    let own = n_layer.checked_sub(shared).filter(|own| shared == 0 || *own >= 2);
    let own = own.ok_or_else(|| malformed(format!("{shared} of {n_layer} layers read others' keys")))?;
    let local = |heads: Heads| {
        let head_dim = file.size_or("attention.key_length_swa", heads.head_dim)?;
        let head_dim_v = file.size_or("attention.value_length_swa", heads.head_dim_v)?;
        Ok(Heads { head_dim, head_dim_v, ..heads })
    };
    let mut spec = file.decoder_with(&GEMMA_4, |i, heads| {
        let slides = windows[i].is_some();
        let heads = if slides { local(heads)? } else { heads };
        let source = if i >= own {
            // of the last two layers with keys of their own, the one before sees a window
            Source::Layer(own - 1 - usize::from(slides))
        } else if file.has(&format!("blk.{i}.attn_v.weight")) || file.has(&format!("blk.{i}.attn_qkv.weight"))
        {
            Source::Own
        } else {
            Source::Keys
        };
        let attention = file.attention(i, heads, &GEMMA_4)?;
        let (rope, window) = (Some(usize::from(slides)), windows[i]);
        Ok(Mixer::Attention(Attention { scale: 1.0, rope, window, source, v_norm: Some(eps), ..attention }))
    })?;
    spec.embedding.scale = (spec.n_embd as f32).sqrt();
    spec.output.softcap = file.positive("final_logit_softcapping")?;
    let n = file.count("embedding_length_per_layer_input")?.unwrap_or(0);
    spec.layer_inputs = (n > 0).then_some(LayerInputs { n, eps });
    add_local_rope(file, &mut spec, &windows.iter().map(Option::is_some).collect::<Vec<_>>())?;
    check_sources(&spec)?;
    let n_ff = file.counts("feed_forward_length", n_layer)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.scaled = file.has(&format!("blk.{i}.layer_output_scale.weight"));
        if let Mlp::Experts(experts) = &layer.mlp {
            let norm = |tensor| Norm { tensor: Some(tensor), kind: NormKind::Rms, eps };
            layer.mlp = Mlp::Both(Box::new(Both {
                dense: Dense { n_ff: n_ff[i], ..experts.expert },
                dense_out: norm("post_ffw_norm_1"),
                experts: Experts { router_norm: Some(eps), ..experts.clone() },
                experts_in: norm("pre_ffw_norm_2"),
                experts_out: norm("post_ffw_norm_2"),
            }));
        }
    }
    Ok(spec)
}

/// Adds the rotation of layers with a window, which others' factors do not concern.
fn add_local_rope(file: &File<'_>, spec: &mut Spec, slides: &[bool]) -> Result<()> {
    let global = &spec.ropes[0];
    let n_dims = file.count("rope.dimension_count_swa")?.unwrap_or(global.n_dims);
    let base = file.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local = Rope { n_dims, base, scaling: Scaling::NONE, factors: None, ..global.clone() };
    check_base(&local)?;
    let heads = spec.layers.iter().filter_map(|layer| layer.mixer.attention()).map(|a| a.heads.head_dim);
    for (head_dim, slides) in heads.zip(slides) {
        let n_dims = if *slides { local.n_dims } else { global.n_dims };
        if n_dims > head_dim || n_dims % 2 != 0 {
            return Err(malformed(format!("{n_dims} of a head's {head_dim} values cannot be rotated")));
        }
    }
    spec.ropes.push(local);
    Ok(())
}

/// Whether keys and values that a layer does not make are of the shape that it needs.
fn check_sources(spec: &Spec) -> Result<()> {
    for (i, layer) in spec.layers.iter().enumerate() {
        let Some(a) = layer.mixer.attention() else { continue };
        let sound = match a.source {
            Source::Own => true,
            Source::Keys => a.heads.head_dim == a.heads.head_dim_v,
            Source::Layer(of) => {
                let of = spec.layers[of].mixer.cached();
                let per_head = a.qk_norm.is_none_or(|norm| norm.place == NormPlace::Head);
                per_head && of.is_some_and(|of| of.heads == a.heads && of.window == a.window)
            }
        };
        if !sound {
            return Err(malformed(format!("layer {i} reads keys and values of another shape")));
        }
    }
    Ok(())
}
