//! What all commands share: help, wrong usage, and what happens to standard output.

use std::fs;
use std::io::{Write, pipe};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{BRAISE, Home, done, failed, texts};

const COMMANDS: [&str; 10] =
    ["run", "pull", "list", "rm", "tokenize", "embed", "logits", "info", "bench", "doctor"];

#[test]
fn every_command_explains_itself() {
    let home = Home::new();
    assert!(COMMANDS.iter().all(|command| done(&home.braise(&["--help"])).contains(command)));
    for command in COMMANDS {
        let help = done(&home.braise(&[command, "--help"]));
        assert!(help.contains("Examples:") && help.contains(&format!("braise {command}")), "{help}");
    }
    assert!(home.files().is_empty());
}

#[test]
fn wrong_usage_is_one_line_and_code_2() {
    let home = Home::new();
    let cases: [(&[&str], &str); 16] = [
        (&["rnu"], "unrecognized subcommand 'rnu'"),
        (&["run", "--tmp", "1"], "'--temp'"),
        (&["run", "--temp", "hot"], "'--temp <T>'"),
        (&["run", "--threads", "0", "hi"], "--threads"),
        (&["run", "--raw", "--system", "x", "hi"], "--system"),
        (&["run", "--speculate", "often", "hi"], "'often'"),
        (&["run", "--speculate", "off", "--draft", "tiny", "hi"], "--draft"),
        (&["run", "tiny", ""], "the prompt is empty"),
        (&["run", "tiny"], "the prompt is empty"), // nothing comes from standard input
        (&["pull"], "<NAME|ADDRESS|PATH>"),
        (&["rm"], "<NAME>"),
        (&["tokenize", "tiny"], "<TEXT>"),
        (&["embed", "tiny"], "<TEXT>"),
        (&["embed", "tiny", "--stdin"], "there are no texts"),
        (&["logits", "tiny", "--tokens", "1,x", "-o", "f"], "'x'"),
        (&["list", "--output", "xml"], "'xml'"),
    ];
    for (args, expected) in cases {
        let error = failed(&home.braise(args), 2);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    assert!(home.files().is_empty());
}

#[test]
fn no_command_is_wrong_usage_that_gets_help() {
    let output = Home::new().braise(&[]);
    let (stdout, stderr) = texts(&output);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("Usage: braise"), "{stderr}");
}

#[test]
fn what_is_no_model_is_named() {
    let home = Home::new();
    let cases: [(&[&str], &str); 9] = [
        (&["run", "no/such.gguf", "hi"], "no/such.gguf: there is no such file"),
        (&["tokenize", "no-such.gguf", "hi"], "no-such.gguf: there is no such file"),
        (&["logits", ".", "--tokens", "1", "-o", "f"], "no name of a model"),
        (&["logits", "./", "--tokens", "1", "-o", "f"], "is a folder"),
        (&["info", "tinny"], "did you mean tiny:1m?"),
        (&["run", "tinny"], "did you mean tiny:1m?"), // though nothing comes from standard input either
        (&["run", "https://example.org/x.gguf", "hi"], "`braise pull https://example.org/x.gguf`"),
        (&["run", "../../etc:1b", "hi"], "no such file"),
        (&["info", "tiny:..-q4_0"], "no name of a model"),
    ];
    for (args, expected) in cases {
        let error = failed(&home.braise(args), 1);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    assert!(home.files().is_empty());
}

#[test]
fn standard_input_that_is_not_text_is_refused() {
    let home = Home::new();
    for args in [&["run", "tiny"][..], &["tokenize", "tiny", "--stdin"]] {
        let mut child = home
            .prepare(BRAISE)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        child.stdin.take().expect("is piped").write_all(b"ab\xff").expect("is read");
        let error = failed(&child.wait_with_output().expect("ends"), 1);
        assert!(error.contains("not UTF-8 (byte 2)"), "{error}");
    }
}

#[test]
fn a_silent_pipe_is_left_unread_unless_it_is_awaited() {
    let home = Home::new();
    let start = |words: &[&str]| {
        let mut braise = home.prepare(BRAISE);
        braise.args(["run", "no/such.gguf"]).args(words);
        braise.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let begin = Instant::now();
    let (mut left, mut late, mut awaited, mut only) =
        (start(&["hi"]), start(&["hi"]), start(&["hi", "-"]), start(&[]));
    let open = left.stdin.take();
    sleep(Duration::from_millis(200));
    late.stdin.take().expect("is piped").write_all(b"ab\xff").expect("is read");
    let error = failed(&late.wait_with_output().expect("ends"), 1);
    assert!(error.contains("not UTF-8 (byte 2)"), "what comes in time is read: {error}");
    let output = left.wait_with_output().expect("ends");
    assert!(failed(&output, 1).contains("there is no such file"));
    assert!(texts(&output).1.contains("note: nothing came on standard input for 2 s"));
    assert!(begin.elapsed() > Duration::from_secs(2));
    drop(open);
    for waiting in [&mut awaited, &mut only] {
        assert!(waiting.try_wait().expect("is known").is_none(), "it waits");
        waiting.stdin.take().expect("is piped").write_all(b"\xff").expect("is read");
    }
    for waiting in [awaited, only] {
        let error = failed(&waiting.wait_with_output().expect("ends"), 1);
        assert!(error.contains("not UTF-8 (byte 0)"), "{error}");
    }
}

#[test]
fn a_broken_catalogue_is_named() {
    let home = Home::new();
    fs::write(home.path("models.toml"), "default = 3").expect("is written");
    let error = failed(&home.braise(&["pull", "tiny"]), 1);
    assert!(error.contains("models.toml") && error.contains("line 1: invalid type: integer `3`"), "{error}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::new();
    for args in [&["info"][..], &["list"], &["list", "--output", "json"], &["run", "--help"]] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let child = home.prepare(BRAISE).args(args).stdout(writer).stderr(Stdio::piped()).spawn();
        let output = child.expect("starts").wait_with_output().expect("ends");
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        assert!(!stderr.contains("braise: ") && !stderr.contains("panicked"), "{args:?}: {stderr}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_output_is_a_failure() {
    let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = Home::new().prepare(BRAISE).arg("info").stdout(full).output().expect("starts");
    let error = failed(&output, 1);
    assert!(error.contains("cannot write to standard output"), "{error}");
}

#[test]
fn info_tells_of_this_machine() {
    let home = Home::new();
    assert!(done(&home.braise(&["info"])).contains("| memory "));
    let json: serde_json::Value =
        serde_json::from_str(&done(&home.braise(&["info", "--output", "json"]))).expect("is JSON");
    assert!(json["memory_bytes"].as_u64() > Some(1 << 20), "{json}");
    assert!(json["threads"].as_u64() >= Some(1), "{json}");
}
