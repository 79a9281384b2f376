//! Places that cannot be read from or written to.

use std::fs;
use std::io::pipe;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::{BRAISE, NOBODY, failed, finish, listing, prepare, refused, speaking_seed, texts, with_model};

#[test]
fn what_is_no_regular_file() {
    let home = with_model();
    fs::create_dir(home.path("folder.gguf")).expect("is created");
    let fifo = home.path("fifo.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("starts").success());
    for command in
        [&["run"][..], &["tokenize"], &["info"], &["pull"], &["logits", "--tokens", "1", "-o", "o"]]
    {
        let text: &[&str] = if ["run", "tokenize"].contains(&command[0]) { &["ab"] } else { &[] };
        let error = refused(&home, &[command, &["folder.gguf"], text].concat(), 1);
        assert!(error.contains("folder.gguf is a folder"), "{command:?}: {error}");
        let error = refused(&home, &[command, &["fifo.gguf"], text].concat(), 1);
        assert!(error.contains("fifo.gguf: not a regular file"), "{command:?}: {error}");
        let error = refused(&home, &[command, &["good.gguf/x.gguf"], text].concat(), 1);
        assert!(error.contains("good.gguf/x.gguf: "), "{command:?}: {error}");
    }
}

#[test]
fn files_that_may_not_be_read_or_written() {
    let home = with_model();
    let mode = |name: &str, mode| {
        fs::set_permissions(home.path(name), PermissionsExt::from_mode(mode)).expect("is mine");
    };
    fs::create_dir(home.path("closed")).expect("is created");
    fs::copy(home.path("good.gguf"), home.path("closed/good.gguf")).expect("is copied");
    fs::copy(home.path("good.gguf"), home.path("secret.gguf")).expect("is copied");
    mode("", 0o755);
    mode("good.gguf", 0o644);
    mode("secret.gguf", 0o000);
    mode("closed", 0o000);
    let root = home.dir.path().metadata().expect("is there").uid() == 0;
    let logits = |model: &str, to: &str| {
        let mut command = prepare(&home, &["logits", model, "--tokens", "1", "-o", to]);
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        finish(command)
    };
    for (model, to, expected) in [
        ("secret.gguf", "/tmp/never", "secret.gguf: cannot open the file: Permission denied"),
        ("closed/good.gguf", "/tmp/never", "closed/good.gguf: cannot open the file: Permission denied"),
        ("good.gguf", "closed/logits.bin", "closed/logits.bin: cannot create the file: Permission denied"),
        ("good.gguf", "no/such/folder/logits.bin", "logits.bin: cannot create the file: No such file"),
        ("good.gguf", "secret.gguf/logits.bin", "logits.bin: cannot create the file: Not a directory"),
    ] {
        let output = logits(model, to);
        let (_, stderr) = texts(&output);
        if root && stderr.contains("sh: ") {
            println!("skipped: the program cannot be run by another user: {stderr}");
            return;
        }
        let error = failed(&output, 1);
        assert!(error.contains(expected), "{model} {to}: {error}");
    }
    mode("closed", 0o755);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let home = with_model();
    let error = refused(&home, &["logits", "good.gguf", "--tokens", "1", "-o", "/dev/full"], 1);
    assert!(error.contains("/dev/full: cannot write: No space left"), "{error}");
    // a limit on the size of files stands in for the disk's
    let limited = "trap '' XFSZ; ulimit -f 1 && exec \"$0\" \"$@\"";
    let tokens = format!("--tokens={}", ["1"; 60].join(","));
    let mut command = home.prepare("sh");
    command.args(["-c", limited, BRAISE, "logits", "good.gguf", &tokens, "-o", "logits.bin"]);
    command.current_dir(home.dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before = listing(&home);
    let error = failed(&finish(command), 1);
    assert!(error.contains("logits.bin: cannot write: File too large"), "{error}");
    assert_eq!(listing(&home), before);

    let full = || fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let seed = speaking_seed(&home, &["--raw"]);
    let run = ["run", "good.gguf", "ab", "-n", "3", "--seed", &seed, "--raw"];
    for args in [&run[..], &["tokenize", "good.gguf", "ab"]] {
        let mut command = prepare(&home, args);
        command.stdout(full());
        let error = failed(&finish(command), 1);
        assert!(error.contains("cannot write to standard output"), "{error}");
    }
}

#[test]
fn pipes_that_are_closed_early() {
    let home = with_model();
    for args in [
        &["run", "good.gguf", "--raw", "ab"][..],
        &["run", "good.gguf", "ab"],
        &["tokenize", "good.gguf", "ab"],
        &["tokenize", "good.gguf", "ab", "--ids"],
        &["info", "good.gguf"],
    ] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let mut command = prepare(&home, args);
        command.stdout(writer);
        let output = finish(command);
        let (_, stderr) = texts(&output);
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    // nobody hears the error: its code must do
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let mut command = prepare(&home, &["run", "none.gguf", "ab"]);
    command.stderr(writer);
    assert_eq!(finish(command).status.code(), Some(1));
}
