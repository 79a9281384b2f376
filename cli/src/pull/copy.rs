//! Copies that are counted, checksummed and shown as they go.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use indicatif::DecimalBytes;
use sha2::{Digest, Sha256};

use crate::progress::Progress;
use crate::store::refused;

/// What went through a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its size.
    pub bytes: u64,
    /// Its checksum, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Copies `from` to the new file `to`. `source` names `from` in errors.
pub fn copy(from: &mut dyn Read, source: &str, to: &Path, progress: &mut Progress) -> Result<Copied> {
    let mut file = File::create(to).map_err(|e| refused(to, "create", e))?;
    let mut copying = Copying::default();
    copying.pump(from, &mut file, progress).map_err(|side| match side {
        Side::Read(e) => anyhow!("{source}: cannot be read to its end: {e}; pull again"),
        Side::Write(e) => refused(to, "write", e),
    })?;
    Ok(copying.finish())
}

/// The checksum of a file.
pub fn checksum(path: &Path) -> Result<Copied> {
    let mut file = File::open(path).with_context(|| format!("{}: cannot open", path.display()))?;
    Ok(Copying::of(&mut file, path)?.finish())
}

/// Refuses, before anything is written, what would not fit beside `dir`.
pub fn check_space(dir: &Path, need: u64) -> Result<()> {
    // a file system that cannot say how much is free says so when it is full
    fs4::available_space(dir).map_or(Ok(()), |available| check_available(dir, need, available))
}

fn check_available(dir: &Path, need: u64, available: u64) -> Result<()> {
    ensure!(
        need <= available,
        "{}: needs {} for the download, but only {} are free; free some space, or set BRAISE_HOME to a folder on \
         another disk",
        dir.display(),
        DecimalBytes(need),
        DecimalBytes(available)
    );
    Ok(())
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum Side {
    /// Where it comes from.
    Read(io::Error),
    /// Where it goes.
    Write(io::Error),
}

/// Bytes that are written at a time, a large page: a file system that keeps files in large pages makes them of large
/// writes, and weights in large pages are read faster.
const WRITE: usize = 2 << 20;

/// A copy under way.
#[derive(Debug, Default)]
pub struct Copying {
    hash: Sha256,
    bytes: u64,
}

impl Copying {
    /// One that has come as far as `file`, which lies at `path`, goes.
    pub fn of(file: &mut File, path: &Path) -> Result<Copying> {
        let mut progress = Progress::new("checking", file.metadata().map(|meta| meta.len()).ok());
        let mut copying = Copying::default();
        copying.pump(file, &mut io::sink(), &mut progress).map_err(|side| match side {
            Side::Read(e) | Side::Write(e) => {
                anyhow!("{}: cannot read: {e}; check the disk", path.display())
            }
        })?;
        Ok(copying)
    }

    /// Bytes copied so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies `from` to its end. Where it fails to read, all that was read is written.
    pub fn pump(
        &mut self,
        from: &mut dyn Read,
        to: &mut dyn Write,
        progress: &mut Progress,
    ) -> Result<(), Side> {
        let mut buffer = Vec::with_capacity(WRITE);
        loop {
            let read = from.take(WRITE as u64).read_to_end(&mut buffer);
            self.hash.update(&buffer);
            to.write_all(&buffer).map_err(Side::Write)?;
            self.bytes += buffer.len() as u64;
            progress.set(self.bytes);
            if read.map_err(Side::Read)? == 0 {
                return Ok(());
            }
            buffer.clear();
        }
    }

    /// What went through it.
    pub fn finish(self) -> Copied {
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Copied { bytes: self.bytes, sha256 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_equal_and_its_checksum_right() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let to = dir.path().join("x");
        let copied =
            copy(&mut &b"abc"[..], "test", &to, &mut Progress::new("copying", None)).expect("is copied");
        assert_eq!(std::fs::read(&to).expect("is readable"), b"abc");
        // FIPS 180-2, appendix B.1
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(copied, Copied { bytes: 3, sha256: expected.into() });
        assert_eq!(checksum(&to).expect("is read"), copied);
    }

    #[test]
    fn too_little_space_is_refused_with_both_sizes() {
        let dir = Path::new("store");
        assert!(check_available(dir, 5, 5).is_ok());
        let error = check_available(dir, 3_000_000, 1_000_000).expect_err("does not fit").to_string();
        assert!(error.contains("needs 3.00 MB") && error.contains("only 1.00 MB"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_names_the_file_and_the_way_out() {
        let progress = &mut Progress::new("copying", None);
        let error = copy(&mut &b"abc"[..], "test", Path::new("/dev/full"), progress).expect_err("is full");
        let error = error.to_string();
        assert!(error.contains("/dev/full: cannot write") && error.contains("free some space"), "{error}");
    }
}
