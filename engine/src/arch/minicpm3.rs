//! `minicpm3`: MiniCPM 3. Attention over compressed keys and values, with the factors of MiniCPM.

use super::deepseek2::latent;
use super::file::{File, NEOX};
use super::minicpm;
use crate::block::{Mixer, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file
        .decoder_with(&NEOX, |i, heads| Ok(Mixer::Latent(latent(file, file.attention(i, heads, &NEOX)?)?)))?;
    minicpm::scale(file, &mut spec)?;
    Ok(spec)
}
