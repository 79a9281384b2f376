//! A file mapped into memory read-only: the one place of this crate with unsafe code.
#![allow(unsafe_code, reason = "mapping a file cannot be made safe: others may write to it")]

use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut};

use crate::error::{Error, ErrorKind, Result};

/// The bytes of a file, paged in by the operating system when they are first read.
pub(super) struct Map {
    path: PathBuf,
    bytes: Mmap,
}

impl Map {
    pub(super) fn open(path: &Path) -> Result<Map> {
        let failed = |e| Error::io(path, "open the file", e).next("check the path and its permissions");
        // Asked before opening: to open a named pipe would wait for its writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::new(ErrorKind::Io, "not a regular file")
                .file(path)
                .next("name a .gguf file, not a folder, pipe or device"));
        }
        let file = File::open(path).map_err(failed)?;
        // SAFETY: The map is read-only and lives as long as `bytes`, so all of it can be read, as long as nobody
        // else touches the file. That is a contract with the user (see `Gguf::open`), which no code can enforce:
        // a process that truncates the file kills this one (SIGBUS) on the next read past its new end, and one
        // that rewrites it changes bytes behind shared references, which Rust calls undefined behaviour. What is
        // read after open is therefore bounds-checked again and never trusted for memory safety, only for its
        // meaning; the exception is `&str`, whose bytes were UTF-8 when they were checked. Every program that
        // maps weights accepts this; the alternative is a copy of the whole model in memory.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|e| {
            Error::io(path, "map the file into memory", e).next("copy it to a local disk and open that copy")
        })?;
        Ok(Map { path: path.to_path_buf(), bytes })
    }

    /// `len` bytes of memory that `fill` writes, under a name that stands for the path.
    pub(super) fn in_memory(
        name: &str,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Map> {
        let failed = |e| Error::io(Path::new(name), &format!("take {len} bytes of memory"), e);
        let mut bytes = MmapMut::map_anon(len).map_err(failed)?;
        fill(&mut bytes)?;
        Ok(Map { path: PathBuf::from(name), bytes: bytes.make_read_only().map_err(failed)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Map({}, {} bytes)", self.path.display(), self.len())
    }
}
