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

use braise_kernels::quant::Type;

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
    /// At least one; their tensors have moved to `tensors`.
    parts: Vec<Part>,
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
        Gguf::open_with(path, Residency::default())
    }

    /// As [`Gguf::open`], with the bytes kept as `residency` says.
    ///
    /// # Errors
    /// As [`Gguf::open`], and [`ErrorKind::Io`] if there is not enough memory to copy or lock them.
    pub fn open_with(path: &Path, residency: Residency) -> Result<Gguf> {
        Gguf::of_parts(path, split::open(path, residency)?)
    }

    /// Begins to page in what lies in files, in the background.
    pub(crate) fn read_ahead(&self) {
        self.parts.iter().for_each(|part| part.map.read_ahead());
    }

    /// Says that `bytes`, if they lie in a file, will hardly be read again: their pages leave this program's memory, and come
    /// back when they are read. What others have there stays.
    pub(crate) fn release(&self, bytes: &[u8]) {
        self.parts.iter().for_each(|part| part.map.release(bytes));
    }

    /// The file that `writer` would write, in memory alone; `name` stands for its path in messages.
    ///
    /// # Errors
    /// As [`Writer::write_to`], [`ErrorKind::Io`] if there is not enough memory, and [`ErrorKind::Malformed`] for
    /// metadata that contradicts itself.
    pub fn in_memory(name: &str, writer: &Writer<'_>) -> Result<Gguf> {
        let len = writer.bytes()?;
        let map = Map::in_memory(name, len, |mut bytes| writer.write_to(&mut bytes))?;
        let part = Part::read(Arc::new(map), len).map_err(|e| e.file(Path::new(name)))?;
        Gguf::of_parts(Path::new(name), vec![part])
    }

    /// The same without the tensors' data, which takes no time and no memory: what is known of a model before there is one.
    ///
    /// # Errors
    /// As [`Gguf::in_memory`].
    pub(crate) fn outline(name: &str, writer: &Writer<'_>) -> Result<Gguf> {
        let header = writer.header_bytes()?;
        let map = Map::in_memory(name, header.len(), |bytes| {
            bytes.copy_from_slice(&header);
            Ok(())
        })?;
        let part = Part::read(Arc::new(map), writer.bytes()?).map_err(|e| e.file(Path::new(name)))?;
        Gguf::of_parts(Path::new(name), vec![part])
    }

    /// Adds a tensor `name` that is the data of the tensor `of` once more. Files cannot say that; it is for measurements
    /// of models that are larger than the memory.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if there is no tensor `of`, and [`ErrorKind::Input`] if there is one called `name`.
    pub(crate) fn alias(&mut self, name: String, of: &str) -> Result<()> {
        let tensor = TensorInfo { name: name.clone(), ..self.require(of)?.clone() };
        if self.by_name.contains_key(&name) {
            return Err(Error::new(ErrorKind::Input, format!("there are two tensors `{name}`")));
        }
        self.by_name.insert(name, self.tensors.len());
        self.tensors.push(tensor);
        Ok(())
    }

    fn of_parts(path: &Path, mut parts: Vec<Part>) -> Result<Gguf> {
        let mut tensors = Vec::new();
        let mut by_name = HashMap::new();
        for (i, part) in parts.iter_mut().enumerate() {
            for mut tensor in std::mem::take(&mut part.tensors) {
                tensor.part = i;
                if by_name.insert(tensor.name.clone(), tensors.len()).is_some() {
                    let what = format!("the tensor `{}` occurs twice", tensor.name);
                    return Err(Error::new(ErrorKind::Malformed, what)
                        .file(part.map.path())
                        .next("the file is damaged: download it again"));
                }
                tensors.push(tensor);
            }
        }
        Ok(Gguf { path: path.to_path_buf(), parts, tensors, by_name })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files of the set in their order; one for most models.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.map.path())
    }

    /// The size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len as u64).sum()
    }

    /// How many of these are pages of files that the system drops where the memory is wanted, and reads again: neither
    /// copied nor locked.
    pub fn droppable_bytes(&self) -> u64 {
        self.parts.iter().filter(|part| part.map.is_droppable()).map(|part| part.len as u64).sum()
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.parts[0].version
    }

    /// The metadata, of a set: that of its first file.
    pub fn metadata(&self) -> &Metadata {
        &self.parts[0].metadata
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

    /// The tensor of this name and shape (in ggml's order; missing dimensions are 1), without which the model cannot run.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if there is none, or it has another shape.
    pub fn shaped(&self, name: &str, dims: &[usize]) -> Result<&TensorInfo> {
        let tensor = self.require(name)?;
        let same =
            |i: usize| tensor.dims.get(i).copied().unwrap_or(1) == dims.get(i).map_or(1, |d| *d as u64);
        if !(0..4).all(same) {
            let len = dims.iter().rposition(|d| *d != 1).map_or(1, |last| last + 1);
            let what =
                format!("the tensor `{name}` has the shape {:?} instead of {:?}", tensor.dims, &dims[..len]);
            return Err(Error::new(ErrorKind::Malformed, what)
                .file(&self.path)
                .next("the file is damaged or of a variant that is not supported"));
        }
        Ok(tensor)
    }

    /// The numbers of a tensor of this name and shape.
    ///
    /// # Errors
    /// As [`Gguf::shaped`]; and its type cannot be computed with.
    pub fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.shaped(name, dims)?;
        let scalar = tensor.ty.scalar().ok_or_else(|| self.cannot_compute_with(tensor))?;
        let mut values = vec![0.0; tensor.row_len() * tensor.rows()];
        (scalar.dequantize)(self.data(tensor), &mut values);
        Ok(values)
    }

    /// The error of a tensor whose type cannot be computed with.
    pub(crate) fn cannot_compute_with(&self, tensor: &TensorInfo) -> Error {
        let supported: Vec<_> =
            Type::ALL.iter().filter(|ty| ty.scalar().is_some()).map(|ty| ty.name()).collect();
        let what = format!(
            "the tensor `{}` has the type {}, which cannot be computed with yet",
            tensor.name, tensor.ty
        );
        Error::new(ErrorKind::Unsupported, what)
            .file(&self.path)
            .next(format!("use a file with the types {}", supported.join(", ")))
    }

    /// The data of a tensor of this file, as it lies there: rows one after the other, `n_bytes()` in all.
    ///
    /// # Panics
    /// If `tensor` is of another file and lies outside this one, or the file is an outline.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.parts[tensor.part].map[tensor.range.clone()]
    }
}

/// How a file's bytes are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residency {
    /// In memory of their own, in large pages where the system has them: read faster than a file's pages, which most
    /// systems keep small, but they take the time to copy, and are not shared with other programs.
    pub copy: bool,
    /// Never swapped out.
    pub lock: bool,
}

/// One file of a set, or the only one.
#[derive(Debug)]
struct Part {
    map: Arc<Map>,
    /// Bytes of the whole file.
    len: usize,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl Part {
    fn open(path: &Path, residency: Residency) -> Result<Part> {
        let map = Map::open(path, residency)?;
        let len = map.len();
        Part::read(Arc::new(map), len).map_err(|e| e.file(path))
    }

    /// Reads the header of a file of `len` bytes.
    fn read(map: Arc<Map>, len: usize) -> Result<Part> {
        let mut r = Reader::new(&map);
        let Header { version, n_tensors, n_metadata } = Header::read(&mut r)?;
        let metadata = Metadata::read(&map, &mut r, n_metadata)?;
        let alignment = check_alignment(metadata.u32(ALIGNMENT_KEY)?).map_err(|what| {
            Error::new(ErrorKind::Malformed, what).next("get another conversion of the model")
        })?;
        let tensors = tensor::read_index(&mut r, n_tensors, alignment, len)?;
        Ok(Part { map, len, version, metadata, tensors })
    }
}

/// The alignment that [`ALIGNMENT_KEY`] asks for, or what is wrong with it.
fn check_alignment(asked: Option<u32>) -> std::result::Result<usize, String> {
    let alignment = asked.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(format!("`{ALIGNMENT_KEY}` is {alignment}, which is no power of two"));
    }
    Ok(alignment as usize)
}

#[cfg(test)]
mod tests;
