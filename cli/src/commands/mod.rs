//! One file a command: its arguments, and what it does.

pub mod bench;
pub mod doctor;
pub mod embed;
pub mod info;
pub mod list;
pub mod logits;
pub mod pull;
pub mod rm;
pub mod run;
pub mod show;
pub mod tokenize;

use anyhow::Result;

use crate::args::Command;

/// Does what was asked for.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Pull(args) => pull::run(&args),
        Command::List(args) => list::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}
