//! A file that is being fetched: what has come of it is kept when a download breaks off, and the next one goes on there.
//!
//! A server's name for the version of the file (its ETag, or the date of its last change) is kept beside it, so that two
//! versions never become one file. What has no such name is not kept.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::copy::{Copied, Copying, Side};
use crate::progress::Progress;
use crate::store::refused;

/// The beginning of a file, in a folder of its own.
#[derive(Debug)]
pub struct Partial {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    copying: Copying,
    origin: Origin,
}

/// What the file is the beginning of.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Origin {
    address: String,
    version: Option<String>,
}

impl Partial {
    /// What is in `dir` of the file at `address`; the beginning of any other file there is thrown away.
    pub fn open(dir: &Path, address: &str) -> Result<Partial> {
        fs::create_dir_all(dir).map_err(|e| refused(dir, "create", e))?;
        let path = dir.join("model.gguf");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = file.map_err(|e| refused(&path, "open", e))?;
        let kept = fs::read(origin_path(dir)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let kept = kept.filter(|origin: &Origin| origin.address == address && origin.version.is_some());
        let Some(origin) = kept else {
            let origin = Origin { address: address.to_owned(), version: None };
            let mut partial =
                Partial { dir: dir.to_owned(), path, file, copying: Copying::default(), origin };
            partial.restart(None)?;
            return Ok(partial);
        };
        let copying = Copying::of(&mut file, &path)?;
        Ok(Partial { dir: dir.to_owned(), path, file, copying, origin })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that are there.
    pub fn bytes(&self) -> u64 {
        self.copying.bytes()
    }

    /// The server's name for what they are the beginning of; nothing if there is none, or nothing has come.
    pub fn version(&self) -> Option<&str> {
        self.origin.version.as_deref().filter(|_| self.bytes() > 0)
    }

    /// Throws away what is there, to begin with a file that the server calls `version`.
    pub fn restart(&mut self, version: Option<String>) -> Result<()> {
        let path = origin_path(&self.dir);
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(refused(&path, "remove", e));
        }
        let emptied = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        emptied.map_err(|e| refused(&self.path, "write", e))?;
        self.copying = Copying::default();
        self.origin.version = version;
        if self.origin.version.is_some() {
            fs::write(&path, serde_json::to_vec_pretty(&self.origin)?)
                .map_err(|e| refused(&path, "write", e))?;
        }
        Ok(())
    }

    /// Puts all of `from` behind what is there. The outer error is that of the disk, the inner one that of `from`.
    pub fn append(&mut self, from: &mut dyn io::Read, progress: &mut Progress) -> Result<io::Result<()>> {
        match self.copying.pump(from, &mut self.file, progress) {
            Ok(()) => Ok(Ok(())),
            Err(Side::Read(e)) => Ok(Err(e)),
            Err(Side::Write(e)) => Err(refused(&self.path, "write", e)),
        }
    }

    /// Makes the file that is whole now `to`, on the same file system.
    pub fn finish(mut self, to: &Path) -> Result<Copied> {
        fs::rename(&self.path, to).map_err(|e| refused(to, "write", e))?;
        self.origin.version = None;
        Ok(std::mem::take(&mut self.copying).finish())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.version().is_none() {
            // what cannot be removed now is thrown away by the next download
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn origin_path(dir: &Path) -> PathBuf {
    dir.join("origin.json")
}
