//! `braise rm`: removes models from the local store.

use anyhow::{Result, bail};
use braise_engine::catalogue::Name;
use clap::Args;
use indicatif::DecimalBytes;

use crate::models::Models;
use crate::output::print;

/// Remove models from the local store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise rm smollm2:135m")]
pub struct RmArgs {
    /// Names, as `braise list` shows them
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Does what was asked for.
pub fn run(args: &RmArgs) -> Result<()> {
    let models = Models::open()?;
    for text in &args.names {
        let name: Name = text.parse()?;
        let Some(stored) = models.stored(&name)? else {
            let known: Vec<_> = models.store.list()?.iter().map(|model| model.name.to_string()).collect();
            match known.is_empty() {
                true => bail!("{name} is not in the store, which is empty; there is nothing to remove"),
                false => bail!("{name} is not in the store; it has {}", known.join(", ")),
            }
        };
        models.store.remove(&stored)?;
        print(&format!("{} is removed ({})\n", stored.name, DecimalBytes(stored.bytes)))?;
    }
    Ok(())
}
