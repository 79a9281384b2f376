//! The values of metadata: twelve scalar types and arrays of them, decoded where they lie.

use std::fmt;

use super::reader::Reader;

/// Arrays of arrays of arrays: deeper than any model needs, and shallow enough to walk by recursion.
const MAX_NESTING: usize = 8;

/// The type of a metadata value, with its id in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// All types, in the order of their ids.
    pub const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64]
    };

    /// The type with this id in a file.
    pub fn from_id(id: u32) -> Option<ValueType> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Its name, as Rust would say it.
    pub const fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            Str => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }

    /// Bytes of one value, or `None` where each says its own length.
    const fn size(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            Str | Array => None,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One value of metadata; strings and arrays borrow from the mapped file.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// By convention UTF-8, but some vocabularies hold raw bytes.
    Str(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Decodes a value from exactly its bytes, which [`value_bytes`] found.
    pub(super) fn decode(ty: ValueType, bytes: &'a [u8]) -> Option<Value<'a>> {
        let mut r = Reader::new(bytes);
        Some(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(r.array()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(r.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(r.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(r.array()?)),
            ValueType::U32 => Value::U32(r.u32()?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(r.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(r.array()?)),
            ValueType::Bool => Value::Bool(r.array::<1>()? != [0]),
            ValueType::Str => Value::Str(r.string()?),
            ValueType::Array => {
                let ty = ValueType::from_id(r.u32()?)?;
                let len = usize::try_from(r.u64()?).ok()?;
                Value::Array(Array { ty, len, elements: r.rest() })
            }
            ValueType::U64 => Value::U64(r.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(r.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(r.array()?)),
        })
    }

    /// Its type.
    pub fn ty(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// An integer of any type, if it fits `T`: converters do not agree on widths and signs.
    pub fn integer<T: TryFrom<i128>>(self) -> Option<T> {
        let wide = match self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::Str(_) | Value::Array(_) => return None,
        };
        T::try_from(wide).ok()
    }

    /// A float of either width, rounded to `f32`.
    pub fn float(self) -> Option<f32> {
        match self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A bool; integers are not taken for one.
    pub fn boolean(self) -> Option<bool> {
        match self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// A string's bytes, whatever they are.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Str(v) => Some(v),
            _ => None,
        }
    }

    /// A string, if it is UTF-8.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// An array of any type.
    pub fn array(self) -> Option<Array<'a>> {
        match self {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }

    /// What it is, for messages: `the u32 7`, `a string`, `an array of 3 f32 values`.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Str(_) => "a string".to_owned(),
            Value::Array(a) => format!("an array of {} {} values", a.len, a.ty),
            scalar => format!("the {} {scalar}", self.ty()),
        }
    }
}

impl fmt::Display for Value<'_> {
    /// The value for people: strings lossily where they are not UTF-8, arrays by their first few elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::Str(v) => String::from_utf8_lossy(v).fmt(f),
            Value::Array(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
        }
    }
}

/// An array of metadata values of one type, decoded while it is walked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    ty: ValueType,
    len: usize,
    elements: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of its elements.
    pub fn ty(&self) -> ValueType {
        self.ty
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements, in order. They were checked when the file was opened; should the file have been changed by
    /// others since, the iterator may end early.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let ty = self.ty;
        let mut r = Reader::new(self.elements);
        (0..self.len).map_while(move |_| Value::decode(ty, value_bytes(&mut r, ty).ok()?))
    }

    /// Its elements as they lie in the file.
    pub(super) fn elements(&self) -> &'a [u8] {
        self.elements
    }

    /// All elements through `convert`, or `None` if it refuses one.
    pub(super) fn collect<T>(&self, convert: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        // One allocation of the right size; `len` was checked against the file's size when it was opened.
        let mut all = Vec::with_capacity(self.len.min(self.elements.len()));
        for value in self.iter() {
            all.push(convert(value)?);
        }
        (all.len() == self.len).then_some(all)
    }
}

impl fmt::Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        f.write_str("[")?;
        for (i, value) in self.iter().take(SHOWN).enumerate() {
            write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
        }
        if self.len > SHOWN {
            write!(f, ", ... ({} in all)", self.len)?;
        }
        f.write_str("]")
    }
}

/// Walks over one value and gives its bytes; an error says what is wrong with it, as a verb phrase.
pub(super) fn value_bytes<'a>(r: &mut Reader<'a>, ty: ValueType) -> Result<&'a [u8], String> {
    let before = r.clone();
    skip(r, ty, 0)?;
    Ok(&before.rest()[..r.position() - before.position()])
}

fn skip(r: &mut Reader<'_>, ty: ValueType, depth: usize) -> Result<(), String> {
    let past_end = || "reaches past the end of the file".to_owned();
    match ty {
        ValueType::Str => r.string().map(|_| ()).ok_or_else(past_end),
        ValueType::Array => {
            let id = r.u32().ok_or_else(past_end)?;
            let n = r.u64().ok_or_else(past_end)?;
            let ty = ValueType::from_id(id)
                .ok_or_else(|| format!("is an array of the unknown value type {id}"))?;
            if depth == MAX_NESTING {
                return Err(format!("nests arrays more than {MAX_NESTING} deep"));
            }
            if ty.size().is_some() {
                return skip_scalars(r, ty, n);
            }
            // However large `n` is, the walk ends with the file: each of these elements takes at least 8 bytes.
            (0..n).try_for_each(|_| skip(r, ty, depth + 1))
        }
        scalar => skip_scalars(r, scalar, 1),
    }
}

fn skip_scalars(r: &mut Reader<'_>, ty: ValueType, n: u64) -> Result<(), String> {
    let bytes = ty
        .size()
        .and_then(|size| n.checked_mul(size))
        .and_then(|size| r.take(size))
        .ok_or("reaches past the end of the file")?;
    if ty == ValueType::Bool
        && let Some(byte) = bytes.iter().find(|&&byte| byte > 1)
    {
        return Err(format!("holds the byte {byte} as a bool, which is neither 0 nor 1"));
    }
    Ok(())
}
