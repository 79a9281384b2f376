//! Files, prompts and flags that cannot be worked with: each gets one line that names it, says what is wrong and what
//! to do; nothing panics, hangs, takes absurd memory, or leaves half a file behind.

mod files;
mod places;
mod words;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use braise_engine::gguf::ToValue;

use super::tiny::{N_EMBD, Tensor, file, sound, sound_metadata, sound_tensors, vocabulary};
use super::{BRAISE, Home, done, failed, texts};

/// No bad input may take longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Address space that a run may take, in KiB: 4 GiB, of which tiny models need little.
#[cfg(target_os = "linux")]
const MEMORY: &str = "ulimit -v 4194304";
#[cfg(not(target_os = "linux"))]
const MEMORY: &str = "true";

/// A user who may do nothing, for tests that are run by one who may do everything.
const NOBODY: u32 = 65_534;

/// A program that will run braise within the limits.
fn prepare(home: &Home, args: &[&str]) -> Command {
    let mut shell = home.prepare("sh");
    shell.args(["-c", &format!("{MEMORY}; exec \"$0\" \"$@\""), BRAISE]).args(args);
    shell.current_dir(home.dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

#[track_caller]
fn finish(mut command: Command) -> Output {
    let child = command.spawn().expect("starts");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{command:?} takes too long"));
    output.expect("ends")
}

/// The one line of a run that is to fail with `code`.
#[track_caller]
fn refused(home: &Home, args: &[&str], code: i32) -> String {
    let before = listing(home);
    let output = finish(prepare(home, args));
    let (_, stderr) = texts(&output);
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    let error = failed(&output, code);
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert_eq!(listing(home), before, "{args:?}: nothing is left behind");
    error
}

/// Names in the folder where braise runs.
fn listing(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.dir.path()).expect("is a folder");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("is readable").path()).collect();
    names.sort();
    names
}

/// What each kind of work with a model says of `bytes`; they must name the file and agree.
#[track_caller]
fn refused_file(bytes: &[u8], expected: &str) {
    let home = Home::new();
    fs::write(home.path("bad.gguf"), bytes).expect("is written");
    for args in [
        &["logits", "bad.gguf", "--tokens", "1", "-o", "logits.bin"][..],
        &["run", "bad.gguf", "--raw", "ab", "-n", "2"],
        &["run", "bad.gguf", "ab", "-n", "2"],
    ] {
        let error = refused(&home, args, 1);
        assert!(error.starts_with("braise: bad.gguf: ") && error.contains(expected), "{args:?}: {error}");
    }
}

/// The same, with a metadata key set.
fn set(key: &str, value: impl ToValue) -> Vec<u8> {
    file(sound_metadata().metadata(key, value), sound_tensors())
}

/// The same, with one tensor changed.
fn changed(name: &str, change: impl FnOnce(&mut Tensor)) -> Vec<u8> {
    let mut tensors = sound_tensors();
    change(tensors.iter_mut().find(|tensor| tensor.name == name).expect("is there"));
    file(sound_metadata(), tensors)
}

/// The only place of `what` in `bytes`.
#[track_caller]
fn find(bytes: &[u8], what: &[u8]) -> usize {
    let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(what)).collect();
    assert_eq!(found.len(), 1, "{what:?}");
    found[0]
}

/// The sound file with the bytes after `what` overwritten, `skip` bytes on.
fn patched(what: &str, skip: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = sound();
    let at = find(&bytes, what.as_bytes()) + what.len() + skip;
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// A home with the sound file as `good.gguf`.
fn with_model() -> Home {
    let home = Home::new();
    fs::write(home.path("good.gguf"), sound()).expect("is written");
    home
}

/// A seed with which random weights say something: what they pick may be a token that is not shown, or an end.
fn speaking_seed(home: &Home, mode: &[&str]) -> String {
    let says = |seed: &String| {
        let args = [&["run", "good.gguf", "ab", "-n", "3", "--seed", seed], mode].concat();
        !done(&finish(prepare(home, &args))).trim().is_empty()
    };
    (1..30).map(|seed: u32| seed.to_string()).find(says).expect("one of thirty answers has text")
}

#[test]
fn the_sound_file_works() {
    let home = with_model();
    for mode in [&[][..], &["--raw"]] {
        let seed = speaking_seed(&home, mode);
        let args = [&["run", "good.gguf", "ab", "-n", "3", "--seed", &seed], mode].concat();
        assert!(!done(&finish(prepare(&home, &args))).trim().is_empty());
    }
    let logits = ["logits", "good.gguf", "--tokens", "1,2,3", "-o", "logits.bin"];
    done(&finish(prepare(&home, &logits)));
    let written = fs::metadata(home.path("logits.bin")).expect("is there").len();
    assert_eq!(written, 3 * 4 * vocabulary().len() as u64);
}
