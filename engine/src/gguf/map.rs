//! A file mapped into memory read-only: the one place of this crate with unsafe code.
#![allow(unsafe_code, reason = "mapping a file cannot be made safe: others may write to it")]

use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, Mmap, MmapMut, UncheckedAdvice};

use super::Residency;

use crate::error::{Error, ErrorKind, Result};
use crate::memory;

/// The bytes of a file, paged in by the operating system when they are first read, or read into memory.
pub(super) struct Map {
    path: PathBuf,
    bytes: Mmap,
    /// Whether they are a file's pages.
    mapped: bool,
    /// Whether they stay in memory.
    locked: bool,
    /// Whether some of them were released, so that nobody should page them in again.
    released: AtomicBool,
}

/// The largest pages that systems map files in, unless told otherwise.
const PAGE: usize = 64 << 10;

/// Bytes that a thread pages in or reads at a time.
const PIECE: usize = 32 << 20;

impl Map {
    pub(super) fn open(path: &Path, residency: Residency) -> Result<Map> {
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
        // What is not in the page cache yet comes in large pages: with small ones a core waits longer for addresses than
        // for data. Not every system can, and none has to.
        let _ = bytes.advise(Advice::HugePage);
        if residency.copy || residency.lock {
            check_room(bytes.len()).map_err(|e| e.file(path))?;
        }
        let mut map = match residency.copy {
            true => Map::copy(path, &bytes)?,
            false => Map::of(path.to_path_buf(), bytes, true),
        };
        if residency.lock {
            map.bytes.lock().map_err(|e| {
                let what = format!("lock {} bytes in memory", map.len());
                Error::io(path, &what, e).next("raise the limit (`ulimit -l`), or leave out --mlock")
            })?;
            map.locked = true;
        }
        Ok(map)
    }

    fn of(path: PathBuf, bytes: Mmap, mapped: bool) -> Map {
        Map { path, bytes, mapped, locked: false, released: AtomicBool::new(false) }
    }

    /// The same bytes in memory of their own.
    fn copy(path: &Path, from: &[u8]) -> Result<Map> {
        Map::in_memory(&path.display().to_string(), from.len(), |to| {
            rayon::scope(|scope| {
                for (to, from) in to.chunks_mut(PIECE).zip(from.chunks(PIECE)) {
                    scope.spawn(|_| to.copy_from_slice(from));
                }
            });
            Ok(())
        })
    }

    /// Pages the file in, on threads of its own that nobody waits for: whoever reads the bytes meanwhile waits only for
    /// what is not there yet. Files that are larger than the memory are left to the operating system.
    pub(super) fn read_ahead(self: &Arc<Self>) {
        const THREADS: usize = 2;
        if !self.mapped || memory::now().is_some_and(|memory| memory.available < self.len() as u64) {
            return;
        }
        for first in 0..THREADS {
            let map = self.clone();
            let work = move || {
                for start in (first * PIECE..map.len()).step_by(THREADS * PIECE) {
                    let len = PIECE.min(map.len() - start);
                    if map.released.load(Ordering::Relaxed) {
                        return;
                    }
                    if map.bytes.advise_range(Advice::PopulateRead, start, len).is_err() {
                        return; // an old kernel, or bytes that cannot be read: who needs them will say so
                    }
                }
            };
            // without the thread, pages come when they are read
            let _ = std::thread::Builder::new().name(format!("braise-read-{first}")).spawn(work);
        }
    }

    /// Lets go of the pages that hold nothing but these bytes, if they are of this map and its file can be read again.
    pub(super) fn release(&self, bytes: &[u8]) {
        let range = bytes.as_ptr_range();
        let start = range.start.addr().wrapping_sub(self.bytes.as_ptr().addr());
        let Some(end) = start.checked_add(bytes.len()).filter(|end| *end <= self.len()) else { return };
        if !self.is_droppable() {
            return;
        }
        self.released.store(true, Ordering::Relaxed);
        // the map begins at a page
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if first < last {
            // SAFETY: the map is of a file and is never written: the pages that are dropped hold what the file does, from
            // where the system reads them again.
            let dropped =
                unsafe { self.bytes.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
            let _ = dropped; // a system that does not do it keeps them
        }
    }

    /// `len` bytes of memory that `fill` writes, under a name that stands for the path.
    pub(super) fn in_memory(
        name: &str,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Map> {
        let failed = |e| Error::io(Path::new(name), &format!("take {len} bytes of memory"), e);
        let mut bytes = MmapMut::map_anon(len).map_err(failed)?;
        let _ = bytes.advise(Advice::HugePage); // as above
        fill(&mut bytes)?;
        let bytes = bytes.make_read_only().map_err(failed)?;
        Ok(Map::of(PathBuf::from(name), bytes, false))
    }

    /// Whether the system may drop them, because it can read them again.
    pub(super) fn is_droppable(&self) -> bool {
        self.mapped && !self.locked
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses to keep `len` bytes in memory that the system cannot drop again, where there is no room: it would end the program.
fn check_room(len: usize) -> Result<()> {
    match memory::now() {
        Some(memory) if memory.available < len as u64 => {
            let what = format!("cannot keep {len} bytes in memory: {} are free", memory.available);
            Err(Error::new(ErrorKind::Memory, what)
                .next("leave out --no-mmap and --mlock, or choose a smaller model"))
        }
        _ => Ok(()),
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
