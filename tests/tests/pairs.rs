//! `benches/pairs.py`, which compares braise with its peers, on programs that only pretend to measure.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program that prints `text` and ends with `code`, whatever it is asked.
fn program(dir: &Path, name: &str, text: &str, code: u8) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{text}\nEND\necho broken >&2\nexit {code}\n"))
        .expect("is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("is set");
    path
}

/// Whether there is a Python that runs the script; if not, the test says that it is skipped.
fn has_python() -> bool {
    let new_enough = "import sys; sys.exit(sys.version_info < (3, 9))";
    let found =
        Command::new("python3").args(["-c", new_enough]).status().is_ok_and(|status| status.success());
    if !found {
        println!("skipped: there is no Python 3.9 or newer");
    }
    found
}

fn pairs(args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/pairs.py");
    Command::new("python3").arg(script).args(args).output().expect("Python is there")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("is UTF-8")
}

#[test]
fn ratios_shares_and_failures_are_in_the_table_and_the_record() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let row = r#"[{"samples_ts": [10.0, 30.0, 20.0], "limit_ts": 40.0, "build_commit": "abc1"}]"#;
    let braise = program(dir.path(), "braise", row, 0);
    let slow = program(dir.path(), "slow", r#"[{"samples_ts": [8.0], "build_commit": "def2"}]"#, 0);
    let broken = program(dir.path(), "broken", "", 3);
    let wrong = program(dir.path(), "wrong", r#"[{"samples_ts": [NaN]}]"#, 0);
    let [braise, slow, broken, wrong] = [braise, slow, broken, wrong].map(|p| p.display().to_string());
    let record = dir.path().join("v1.2").display().to_string();
    let peers = [
        format!("slow={slow} -fa 1"),
        format!("broken={broken}"),
        format!("wrong={wrong}"),
        "absent=/nowhere/x".to_owned(),
    ];
    let mut args = vec!["--braise", &braise, "--model", "m.gguf", "--test", "pp8", "--test", "tg4@16"];
    peers.iter().for_each(|peer| args.extend(["--peer", peer]));
    args.extend(["--turns", "2", "--others", "99", "--unfair", "slow=is old", "--record", &record]);
    let output = pairs(&args);
    let (table, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{log}");

    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split('|').map(str::trim).collect()).skip(2).collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert_eq!(rows[0][1..7], ["m.gguf", "pp8", "20", "0.50", "8", "2.50"], "{table}");
    assert_eq!(rows[0][7], "failed with code 3: broken");
    assert!(rows[0][9].starts_with("printed something else"), "{table}");
    assert_eq!(rows[0][11..14], ["cannot be started: No such file or directory", "-", "2 of 2"]);
    // at a depth, the peer whose help knows no such test says so
    assert_eq!(rows[1][1..7], ["m.gguf", "tg4@16", "20", "0.50", "has no such test", "-"]);

    let report = fs::read_to_string(format!("{record}.md")).expect("is written");
    for part in [table.as_str(), "braise: abc1;", "slow: def2; `slow -fa 1`", "**unfair**: slow=is old"] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert!(!report.contains(&dir.path().display().to_string()), "folders of this machine: {report}");
    let runs = fs::read_to_string(format!("{record}.jsonl")).expect("is written");
    assert_eq!(runs.lines().count(), 2 * 2 * 5);
}

#[test]
fn a_peer_that_fails_now_and_then_is_counted() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let row = r#"[{"samples_ts": [10.0]}]"#;
    let braise = program(dir.path(), "braise", row, 0).display().to_string();
    let once = dir.path().join("once");
    let flaky = dir.path().join("flaky");
    // fails until its mark is there
    let script =
        format!("#!/bin/sh\n[ -e {0} ] && echo '{row}' && exit 0\ntouch {0}; exit 1\n", once.display());
    fs::write(&flaky, script).expect("is written");
    fs::set_permissions(&flaky, fs::Permissions::from_mode(0o755)).expect("is set");
    let peer = format!("flaky={}", flaky.display());
    let output = pairs(&[
        "--braise", &braise, "--peer", &peer, "--model", "m.gguf", "--test", "pp8", "--turns", "2",
        "--others", "99",
    ]);
    let table = text(&output.stdout);
    assert!(table.contains("| 10 | - | 10 (1 failed) | 1.00 | 2 of 2 |"), "{table}");
}

#[test]
fn without_a_result_of_braise_it_fails() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let broken = program(dir.path(), "braise", "", 1).display().to_string();
    let run = |test: &str| pairs(&["--braise", &broken, "--model", "m.gguf", "--test", test, "--turns", "1"]);
    assert_eq!(run("pp8").status.code(), Some(1));
    let wrong = run("pp0");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("write pp512"), "{}", text(&wrong.stderr));
}
