//! `mamba` and `mamba2`: nothing but state spaces, one a layer.

use super::file::{Family, File, LLAMA};
use crate::block::{Mixer, Mlp, Spec};
use crate::error::Result;

const MAMBA: Family =
    Family { pairs: None, norms: [Some("attn_norm"), None, None, None], feed_forward: false, ..LLAMA };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder_with(&MAMBA, |i, _| Ok(Mixer::StateSpace(file.state_space(i)?)))?;
    // some files have sizes of networks that are not there
    spec.layers.iter_mut().for_each(|layer| layer.mlp = Mlp::Nothing);
    Ok(spec)
}
