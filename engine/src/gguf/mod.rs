//! GGUF files: the one format that braise reads models from, mapped and read in place.
//!
//! A file is, all little-endian: the magic `GGUF`, a version, the number of tensors and of metadata pairs; the
//! pairs (key, value type, value); the tensor index (name, shape, type, offset); and, aligned, the data. Big models
//! are split over several files. The format is described in `docs/gguf.md` of the ggml project.
//!
//! Opening walks over metadata and index once, and checks them: nothing in a file is trusted, so that what
//! [`Gguf`] hands out needs no further checks. Strings, arrays and tensor data are never copied.

mod header;
mod map;
mod metadata;
mod reader;
mod split;
mod tensor;
mod value;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use header::Header;
use map::Map;
pub use metadata::Metadata;
use reader::Reader;
pub use tensor::TensorInfo;
pub use value::{Array, Value, ValueType};
pub use writer::{ByteStr, Element, ToValue, Writer};

/// The key that says at which multiples, in bytes, the data of tensors starts.
const ALIGNMENT_KEY: &str = "general.alignment";

/// The alignment of files that do not say it.
const DEFAULT_ALIGNMENT: u32 = 32;

/// A model file, or a set of them, open for reading.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    maps: Vec<Arc<Map>>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Opens the file at `path` and, if it is one part of a set, all other parts beside it.
    ///
    /// The files stay mapped: nobody may shorten or rewrite them while they are open. A shortened file ends the
    /// process when a missing page is read; a rewritten one gives wrong numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a file cannot be read or a part is missing, [`ErrorKind::NotGguf`] for another format,
    /// version or byte order, [`ErrorKind::Malformed`] if a file contradicts itself or is cut short,
    /// [`ErrorKind::Unsupported`] for a tensor type that is not known, and [`ErrorKind::Input`] for a part whose
    /// file name does not say so.
    pub fn open(path: &Path) -> Result<Gguf> {
        let mut parts = split::open(path)?.into_iter();
        let Some(first) = parts.next() else {
            return Err(Error::new(ErrorKind::Input, "no files").file(path));
        };
        let mut gguf = Gguf {
            path: path.to_path_buf(),
            maps: Vec::new(),
            version: first.version,
            metadata: first.metadata,
            tensors: Vec::new(),
            by_name: HashMap::new(),
        };
        gguf.add(first.map, first.tensors)?;
        parts.try_for_each(|part| gguf.add(part.map, part.tensors))?;
        Ok(gguf)
    }

    fn add(&mut self, map: Arc<Map>, tensors: Vec<TensorInfo>) -> Result<()> {
        for mut tensor in tensors {
            tensor.part = self.maps.len();
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                let what = format!("the tensor `{}` occurs twice", tensor.name);
                return Err(Error::new(ErrorKind::Malformed, what)
                    .file(map.path())
                    .next("the file is damaged: download it again"));
            }
            self.tensors.push(tensor);
        }
        self.maps.push(map);
        Ok(())
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files of the set in their order; one for most models.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.maps.iter().map(|map| map.path())
    }

    /// The size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.len() as u64).sum()
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata, of a set: that of its first file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// The tensor of this name, without which the model cannot run.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if there is none.
    pub fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("the tensor `{name}` is missing"))
                .file(&self.path)
                .next("the file holds no complete model: get another conversion of it")
        })
    }

    /// The data of a tensor of this file, as it lies there: rows one after the other, `n_bytes()` in all.
    ///
    /// # Panics
    /// If `tensor` is of another file and lies outside this one.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.maps[tensor.part][tensor.range.clone()]
    }
}

/// One file of a set, or the only one.
struct Part {
    map: Arc<Map>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl Part {
    fn open(path: &Path) -> Result<Part> {
        Part::read(Arc::new(Map::open(path)?)).map_err(|e| e.file(path))
    }

    fn read(map: Arc<Map>) -> Result<Part> {
        let mut r = Reader::new(&map);
        let Header { version, n_tensors, n_metadata } = Header::read(&mut r)?;
        let metadata = Metadata::read(&map, &mut r, n_metadata)?;
        let alignment = check_alignment(metadata.u32(ALIGNMENT_KEY)?)?;
        let tensors = tensor::read_index(&mut r, n_tensors, alignment, map.len())?;
        Ok(Part { map, version, metadata, tensors })
    }
}

/// The alignment that [`ALIGNMENT_KEY`] asks for.
fn check_alignment(asked: Option<u32>) -> Result<usize> {
    let alignment = asked.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        let what = format!("`{ALIGNMENT_KEY}` is {alignment}, which is no power of two");
        return Err(Error::new(ErrorKind::Malformed, what).next("get another conversion of the model"));
    }
    Ok(alignment as usize)
}

#[cfg(test)]
mod tests;
