//! Tells the program which commit it was built from, for its benchmark reports.

use std::process::Command;

fn main() {
    let commit = git(&["rev-parse", "--short=9", "HEAD"]);
    // this file grows with every commit and checkout
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=BRAISE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// What git answers; nothing outside a repository, or without git.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
