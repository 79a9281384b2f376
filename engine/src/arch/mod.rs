//! Architectures: one file a family turns GGUF metadata into a [`Spec`]. This is their registry.

mod llama;

use crate::block::Spec;
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::Gguf;

type ToSpec = fn(&Gguf) -> Result<Spec>;

/// The families, by the name in `general.architecture`.
const FAMILIES: &[(&str, ToSpec)] = &[("llama", llama::spec)];

/// Reads what kind of model a file holds.
///
/// # Errors
/// The architecture is not named or not known, or its metadata is missing or makes no sense.
pub fn spec(gguf: &Gguf) -> Result<Spec> {
    let name = gguf.metadata().require_str("general.architecture")?;
    let Some((_, to_spec)) = FAMILIES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the architecture `{name}` is not supported"),
        )
        .file(gguf.path())
        .next(format!("supported are: {}", known.join(", "))));
    };
    to_spec(gguf).map_err(|e| e.file(gguf.path()))
}
