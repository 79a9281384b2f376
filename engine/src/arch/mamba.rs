//! `mamba` and `mamba2`: nothing but state spaces, one a layer.

use super::file::{Family, File, LLAMA};
use crate::block::{Mixer, Spec};
use crate::error::Result;

const MAMBA: Family =
    Family { pairs: None, norms: [Some("attn_norm"), None, None, None], feed_forward: false, ..LLAMA };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder_with(&MAMBA, |i, _| Ok(Mixer::StateSpace(file.state_space(i)?)))
}
