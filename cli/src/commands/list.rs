//! `braise list`: what is in the local store.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use indicatif::{DecimalBytes, HumanDuration};
use serde::Serialize;

use crate::output::{Format, markdown, notice, print, print_json};
use crate::store::{Store, Stored};

/// List the models in the local store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise list
  braise list --output json")]
pub struct ListArgs {
    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Md, value_name = "FORM")]
    output: Format,
}

/// One model, as scripts read it.
#[derive(Serialize)]
struct Row {
    name: String,
    bytes: u64,
    /// Seconds since 1970-01-01 00:00 UTC.
    modified: u64,
    path: PathBuf,
    source: Option<String>,
    sha256: Option<String>,
}

impl Row {
    fn new(model: Stored) -> Self {
        let modified = model.modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (source, sha256) = model.manifest.map(|manifest| (manifest.source, manifest.sha256)).unzip();
        Self { name: model.name.to_string(), bytes: model.bytes, modified, path: model.path, source, sha256 }
    }
}

/// Does what was asked for.
pub fn run(args: &ListArgs) -> Result<()> {
    let models = Store::open()?.list()?;
    match args.output {
        Format::Json => print_json(&models.into_iter().map(Row::new).collect::<Vec<_>>()),
        Format::Md => {
            if models.is_empty() {
                notice("no models yet; `braise pull smollm2:135m` fetches a small one");
            }
            print(&table(&models, SystemTime::now()))
        }
    }
}

fn table(models: &[Stored], now: SystemTime) -> String {
    let row = |model: &Stored| {
        let age = now.duration_since(model.modified).unwrap_or_default();
        let size = DecimalBytes(model.bytes).to_string();
        let path = model.path.display().to_string();
        vec![model.name.to_string(), size, format!("{} ago", HumanDuration(age)), path]
    };
    markdown(&["name", "size", "modified", "path"], &[1], models.iter().map(row))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_row_says_size_age_and_place() {
        let modified = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let name = "a:1b-q4_0".parse().expect("is a name");
        let model = Stored { name, path: "/m/a.gguf".into(), bytes: 98_362_432, modified, manifest: None };
        let table = table(std::slice::from_ref(&model), modified + Duration::from_secs(7200));
        assert_eq!(table.lines().nth(2), Some("| a:1b-q4_0 | 98.36 MB | 2 hours ago | /m/a.gguf |"));
        assert_eq!(Row::new(model).modified, 1_000_000);
    }
}
