//! Writes GGUF files, version 3: what the reader reads.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Write};

use braise_kernels::quant::Type;

use super::header::{MAGIC, VERSION};
use super::tensor;
use super::value::{Value, ValueType};
use super::{ALIGNMENT_KEY, check_alignment};
use crate::error::{Error, ErrorKind, Result};

/// Collects metadata and tensors, then writes them as one file.
///
/// ```
/// use braise_engine::gguf::Writer;
/// use braise_kernels::quant::Type;
///
/// let mut file = Vec::new();
/// Writer::new()
///     .metadata("general.architecture", "llama")
///     .metadata("llama.block_count", 1_u32)
///     .metadata("tokenizer.ggml.tokens", ["<s>", "</s>"])
///     .tensor("token_embd.weight", &[4, 2], Type::F32, vec![0_u8; 32])
///     .write_to(&mut file)?;
/// assert!(file.starts_with(b"GGUF"));
/// # Ok::<(), braise_engine::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Writer<'a> {
    metadata: Vec<(String, Encoded)>,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Debug)]
struct Encoded {
    ty: ValueType,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    dims: Vec<u64>,
    ty: Type,
    data: Cow<'a, [u8]>,
    /// Bytes in the file: `data` once, or over and over.
    len: usize,
}

impl<'a> Writer<'a> {
    /// A file with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key: to a number, a bool, a string, an array of these, or a [`Value`] of another file. A key that was
    /// set before keeps its place and gets the new value. `general.alignment` is also obeyed.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: impl ToValue) -> Self {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        let value = Encoded { ty: value.ty(), bytes };
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    /// Adds a tensor: `dims` in ggml's order (row length first), `data` in the layout of `ty`.
    #[must_use]
    pub fn tensor(mut self, name: &str, dims: &[u64], ty: Type, data: impl Into<Cow<'a, [u8]>>) -> Self {
        let (name, dims, data) = (name.to_owned(), dims.to_vec(), data.into());
        let len = data.len();
        self.tensors.push(Tensor { name, dims, ty, data, len });
        self
    }

    /// Adds a tensor whose data is `pattern`, some whole blocks of `ty`, over and over: for measurements, where the
    /// values do not matter, a model as large as the disk takes no memory.
    #[must_use]
    pub fn repeating_tensor(mut self, name: &str, dims: &[u64], ty: Type, pattern: &'a [u8]) -> Self {
        let (name, dims) = (name.to_owned(), dims.to_vec());
        let len = match tensor::n_bytes(ty, &dims) {
            Some(len) if !pattern.is_empty() && pattern.len().is_multiple_of(ty.bytes()) => len,
            _ => 0, // `header` refuses it
        };
        self.tensors.push(Tensor { name, dims, ty, data: Cow::Borrowed(pattern), len });
        self
    }

    /// The size of the file, in bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Input`], as [`Writer::write_to`].
    pub fn bytes(&self) -> Result<usize> {
        let alignment = self.alignment()?;
        let (header, data_len) = self.header(alignment)?;
        let data_start = header.len().next_multiple_of(alignment);
        data_start.checked_add(data_len).ok_or_else(too_large)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if `out` refuses the bytes; [`ErrorKind::Input`], before anything is written, if
    /// `general.alignment` is no power of two, a tensor's name was used before, its rows are no whole blocks of its
    /// type, or its data is not as long as its shape and type say.
    pub fn write_to(&self, out: &mut impl Write) -> Result<()> {
        let alignment = self.alignment()?;
        let (header, _) = self.header(alignment)?;
        let padding = vec![0; alignment];
        let mut write = |bytes: &[u8], len: usize| -> io::Result<()> {
            for start in (0..len).step_by(bytes.len().max(1)) {
                out.write_all(&bytes[..bytes.len().min(len - start)])?;
            }
            out.write_all(&padding[..len.next_multiple_of(alignment) - len])
        };
        write(&header, header.len())
            .and_then(|()| self.tensors.iter().try_for_each(|tensor| write(&tensor.data, tensor.len)))
            .and_then(|()| out.flush())
            .map_err(|e| Error::new(ErrorKind::Io, format!("cannot write the GGUF file: {e}")))
    }

    /// What the file begins with: all but the data of the tensors.
    ///
    /// # Errors
    /// [`ErrorKind::Input`], as [`Writer::write_to`].
    pub(super) fn header_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.header(self.alignment()?)?.0)
    }

    fn alignment(&self) -> Result<usize> {
        let mut asked = None;
        if let Some((_, value)) = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            let number = Value::decode(value.ty, &value.bytes).and_then(Value::integer);
            asked = Some(number.ok_or_else(|| input(format!("`{ALIGNMENT_KEY}` must be a u32")))?);
        }
        check_alignment(asked).map_err(input)
    }

    /// Everything before the data section, and the length of that.
    fn header(&self, alignment: usize) -> Result<(Vec<u8>, usize)> {
        let mut header = Vec::new();
        header.extend(MAGIC);
        VERSION.put(&mut header);
        (self.tensors.len() as u64).put(&mut header);
        (self.metadata.len() as u64).put(&mut header);
        for (key, value) in &self.metadata {
            key.put(&mut header);
            (value.ty as u32).put(&mut header);
            header.extend(&value.bytes);
        }
        let mut offset = 0_usize;
        let mut names = HashSet::new();
        for Tensor { name, dims, ty, len, .. } in &self.tensors {
            let n_bytes =
                tensor::n_bytes(*ty, dims).ok_or_else(|| input(tensor::wrong_shape(name, *ty, dims)))?;
            if *len != n_bytes {
                return Err(input(format!("tensor `{name}` takes {n_bytes} bytes, but {len} were given")));
            }
            if !names.insert(name) {
                return Err(input(format!("there are two tensors `{name}`")));
            }
            name.put(&mut header);
            (dims.len() as u32).put(&mut header);
            dims.iter().for_each(|dim| dim.put(&mut header));
            (*ty as u32).put(&mut header);
            (offset as u64).put(&mut header);
            offset = n_bytes
                .checked_next_multiple_of(alignment)
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(too_large)?;
        }
        Ok((header, offset))
    }
}

fn too_large() -> Error {
    input("the tensors together are larger than any file".to_owned())
}

fn input(what: String) -> Error {
    Error::new(ErrorKind::Input, what)
}

/// What can be a metadata value: every [`Element`], and any [`Value`] that was read.
pub trait ToValue {
    /// The type it is written as.
    fn ty(&self) -> ValueType;

    /// Appends its bytes.
    fn encode(&self, out: &mut Vec<u8>);
}

impl<T: Element> ToValue for T {
    fn ty(&self) -> ValueType {
        T::TYPE
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.put(out);
    }
}

impl ToValue for Value<'_> {
    fn ty(&self) -> ValueType {
        Value::ty(self)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => v.put(out),
            Value::I8(v) => v.put(out),
            Value::U16(v) => v.put(out),
            Value::I16(v) => v.put(out),
            Value::U32(v) => v.put(out),
            Value::I32(v) => v.put(out),
            Value::F32(v) => v.put(out),
            Value::Bool(v) => v.put(out),
            Value::Str(v) => string(v, out),
            Value::Array(v) => {
                array_start(v.ty(), v.len(), out);
                out.extend(v.elements());
            }
            Value::U64(v) => v.put(out),
            Value::I64(v) => v.put(out),
            Value::F64(v) => v.put(out),
        }
    }
}

/// A Rust type that stands for one metadata type, so that even an empty array of it has a type.
pub trait Element {
    /// The type it is written as.
    const TYPE: ValueType;

    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($t:ty = $ty:ident),*) => {$(
        impl Element for $t {
            const TYPE: ValueType = ValueType::$ty;

            fn put(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
        }
    )*};
}

numbers!(
    u8 = U8,
    i8 = I8,
    u16 = U16,
    i16 = I16,
    u32 = U32,
    i32 = I32,
    u64 = U64,
    i64 = I64,
    f32 = F32,
    f64 = F64
);

impl Element for bool {
    const TYPE: ValueType = ValueType::Bool;

    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Element for str {
    const TYPE: ValueType = ValueType::Str;

    fn put(&self, out: &mut Vec<u8>) {
        string(self.as_bytes(), out);
    }
}

impl Element for String {
    const TYPE: ValueType = ValueType::Str;

    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().put(out);
    }
}

/// A string that need not be UTF-8, such as a token.
#[derive(Debug, Clone, Copy)]
pub struct ByteStr<'a>(pub &'a [u8]);

impl Element for ByteStr<'_> {
    const TYPE: ValueType = ValueType::Str;

    fn put(&self, out: &mut Vec<u8>) {
        string(self.0, out);
    }
}

impl<T: Element> Element for [T] {
    const TYPE: ValueType = ValueType::Array;

    fn put(&self, out: &mut Vec<u8>) {
        array_start(T::TYPE, self.len(), out);
        self.iter().for_each(|element| element.put(out));
    }
}

impl<T: Element, const N: usize> Element for [T; N] {
    const TYPE: ValueType = ValueType::Array;

    fn put(&self, out: &mut Vec<u8>) {
        self.as_slice().put(out);
    }
}

impl<T: Element> Element for Vec<T> {
    const TYPE: ValueType = ValueType::Array;

    fn put(&self, out: &mut Vec<u8>) {
        self.as_slice().put(out);
    }
}

impl<T: Element + ?Sized> Element for &T {
    const TYPE: ValueType = T::TYPE;

    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u64).put(out);
    out.extend(bytes);
}

fn array_start(ty: ValueType, len: usize, out: &mut Vec<u8>) {
    (ty as u32).put(out);
    (len as u64).put(out);
}
