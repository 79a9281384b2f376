//! Which catalogue the program uses.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use braise_engine::catalogue::Catalogue;

/// The built-in catalogue, or the file that `BRAISE_CATALOGUE` names.
pub fn load() -> Result<Catalogue> {
    let Some(path) = std::env::var_os("BRAISE_CATALOGUE").map(PathBuf::from) else {
        return Ok(Catalogue::built_in()?);
    };
    let text = std::fs::read_to_string(&path).map_err(anyhow::Error::from);
    text.and_then(|text| Ok(Catalogue::parse(&text)?)).map_err(|why| {
        let path = path.display();
        anyhow!("{path}: the catalogue cannot be used: {why}; correct it, or unset BRAISE_CATALOGUE")
    })
}
