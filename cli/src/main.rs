//! braise: runs language models from GGUF files at the full speed of the machine.
//!
//! The way of a command, in the order of the modules: [`args`] reads the command line, [`commands`] has one file for
//! each command, [`models`] finds the file that a name means, in the [`store`] or through [`pull`] from the
//! [`catalogue`], and [`failure`] tells what went wrong.

mod args;
mod catalogue;
mod chat;
mod commands;
mod engine;
mod failure;
mod interrupt;
mod machine;
mod models;
mod output;
mod progress;
mod prompt;
mod pull;
mod stats;
mod store;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if failure::is_answer(&e) => {
            let _ = e.print(); // a reader that went away has read enough
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            match e.kind() {
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => output::notice(e.render()),
                _ => output::notice(failure::usage_line(&e)),
            }
            return ExitCode::from(2);
        }
    };
    let Err(error) = commands::run(cli.command) else { return ExitCode::SUCCESS };
    let (code, line) = failure::explain(&error);
    if let Some(line) = line {
        output::notice(line);
    }
    ExitCode::from(code)
}
