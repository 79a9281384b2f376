//! `qwen3next`: gated delta nets in most layers, attention with gated results in the others.

use super::file::{Family, File, NEOX, malformed};
use crate::block::{DeltaNet, DeltaNetKind, Mixer, NormKind, Spec};
use crate::error::Result;

const QWEN_3_NEXT: Family = Family {
    norms: [Some("attn_norm"), None, Some("post_attention_norm"), None],
    qk_norm: Some(true),
    ..NEOX
};

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    hybrid(file, DeltaNetKind::Neighbours)
}

/// The same with delta nets of a kind.
pub(super) fn hybrid(file: &File<'_>, kind: DeltaNetKind) -> Result<Spec> {
    let n_layer = file.n_layer()?;
    let period = file.size_or("full_attention_interval", 4)?;
    let recurrent = match file.flags("attention.recurrent_layers", n_layer)? {
        Some(list) => list,
        None => (0..n_layer).map(|i| !(i + 1).is_multiple_of(period)).collect(),
    };
    let delta_net = delta_net(file, kind)?;
    let mut spec = file.decoder_with(&QWEN_3_NEXT, |i, heads| {
        Ok(match recurrent[i] {
            true => Mixer::DeltaNet(delta_net),
            false => Mixer::Attention(file.attention(i, heads, &QWEN_3_NEXT)?),
        })
    })?;
    spec.each_attention(|_, a| a.gated = true);
    Ok(spec)
}

fn delta_net(file: &File<'_>, kind: DeltaNetKind) -> Result<DeltaNet> {
    let (n_head, n_head_k) = (file.size("ssm.time_step_rank")?, file.size("ssm.group_count")?);
    let (head_dim, width) = (file.size("ssm.state_size")?, file.size("ssm.conv_kernel")?);
    let values = file.size("ssm.inner_size")?;
    let eps = file.eps(NormKind::Rms)?;
    let delta_net = checked(DeltaNet { n_head, n_head_k, head_dim, width, eps, kind })?;
    if delta_net.values() != values {
        return Err(malformed(format!("{values} values in {n_head} heads of {head_dim}")));
    }
    Ok(delta_net)
}

/// A delta net, if its sizes fit each other.
pub(super) fn checked(delta_net: DeltaNet) -> Result<DeltaNet> {
    let DeltaNet { n_head, n_head_k, head_dim, width, .. } = delta_net;
    if n_head == 0
        || n_head > 1 << 12
        || head_dim > 1 << 12
        || width > 64
        || !head_dim.is_multiple_of(DeltaNet::UNIT)
        || !n_head.is_multiple_of(n_head_k)
    {
        return Err(malformed(format!(
            "a delta net of {n_head} heads of {head_dim} values, {n_head_k} heads of keys, and a convolution over {width} \
             tokens"
        )));
    }
    Ok(delta_net)
}
