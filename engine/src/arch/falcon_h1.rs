//! `falcon-h1`: attention beside a state space in every layer. Its multipliers are in the weights of its files.

use super::file::{File, NEOX};
use crate::block::{Mixer, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder_with(&NEOX, |i, heads| {
        Ok(Mixer::Both(file.attention(i, heads, &NEOX)?, file.state_space(i)?))
    })
}
