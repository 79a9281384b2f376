//! `kimi-linear`: delta nets whose decays are fine in most layers, attention over compressed keys and values, without
//! positions, in the others.

use super::deepseek2::latent;
use super::file::{Family, File, LLAMA};
use super::qwen3next::checked;
use crate::block::{DeltaNet, DeltaNetKind, Mixer, NormKind, Spec};
use crate::error::Result;

const KIMI_LINEAR: Family = Family { pairs: None, routing_told: true, ..LLAMA };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let (head_dim, width) = (file.size("kda.head_dim")?, file.size("ssm.conv_kernel")?);
    let eps = file.eps(NormKind::Rms)?;
    file.decoder_with(&KIMI_LINEAR, |i, heads| {
        // layers without keys are delta nets
        let n_head = heads.n_head;
        Ok(match heads.n_head_kv {
            0 => {
                let kind = DeltaNetKind::Fine;
                let delta_net = DeltaNet { n_head, n_head_k: n_head, head_dim, width, eps, kind };
                Mixer::DeltaNet(checked(delta_net)?)
            }
            _ => Mixer::Latent(latent(file, file.attention(i, heads, &KIMI_LINEAR)?)?),
        })
    })
}
