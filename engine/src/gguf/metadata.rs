//! The key-value pairs of a file: walked over at open, decoded when asked for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::map::Map;
use super::reader::Reader;
use super::value::{Value, ValueType, value_bytes};
use crate::error::{Error, ErrorKind, Result};

/// The next step for a file whose metadata cannot be used.
const NEXT: &str = "get the model again, or a newer conversion of it";

/// The metadata of a file, in the file's order. It keeps the file mapped.
#[derive(Debug)]
pub struct Metadata {
    map: Arc<Map>,
    entries: Vec<Entry>,
    by_key: HashMap<String, usize>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    ty: ValueType,
    /// Where the value lies in the map.
    bytes: Range<usize>,
}

impl Metadata {
    /// Walks over `count` pairs (untrusted) that start where `r`, a reader of `map`, stands.
    pub(super) fn read(map: &Arc<Map>, r: &mut Reader<'_>, count: u64) -> Result<Metadata> {
        let mut metadata = Metadata { map: map.clone(), entries: Vec::new(), by_key: HashMap::new() };
        for i in 0..count {
            let entry = Entry::read(r, i)?;
            if metadata.by_key.insert(entry.key.clone(), metadata.entries.len()).is_some() {
                return Err(malformed(format!("the metadata key `{}` occurs twice", entry.key)));
            }
            metadata.entries.push(entry);
        }
        Ok(metadata)
    }

    /// All keys with their values, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries.iter().filter_map(|entry| Some((entry.key.as_str(), self.value(entry)?)))
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.value(self.entries.get(*self.by_key.get(key)?)?)
    }

    fn value(&self, entry: &Entry) -> Option<Value<'_>> {
        Value::decode(entry.ty, self.map.get(entry.bytes.clone())?)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(malformed(format!("the metadata key `{key}` is {}, not {wanted}", value.describe()))
                .file(self.map.path())),
        }
    }

    fn missing(&self, key: &str) -> Error {
        malformed(format!("the metadata key `{key}` is missing")).file(self.map.path())
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $get:ident, $require:ident -> $t:ty = $wanted:literal, $convert:expr;)*) => {
        /// Getters by type: `Ok(None)` if the key is missing, which is an error of the `require_` variants.
        /// A value that is not of the type, or does not fit it, is an error that names the key, what was
        /// wanted and what was found.
        impl Metadata {
            $(
                $(#[$doc])*
                pub fn $get(&self, key: &str) -> Result<Option<$t>> {
                    self.typed(key, $wanted, $convert)
                }

                #[doc = concat!("Like [`", stringify!($get), "`](Self::", stringify!($get), "), for a key that must be there.")]
                pub fn $require(&self, key: &str) -> Result<$t> {
                    self.$get(key)?.ok_or_else(|| self.missing(key))
                }
            )*
        }
    };
}

getters! {
    /// An integer, stored in any integer type.
    u32, require_u32 -> u32 = "an integer from 0 to 2^32 - 1", Value::integer;
    /// An integer, stored in any integer type.
    u64, require_u64 -> u64 = "an integer from 0 to 2^64 - 1", Value::integer;
    /// An integer, stored in any integer type.
    i32, require_i32 -> i32 = "an integer from -2^31 to 2^31 - 1", Value::integer;
    /// A float, stored as `f32` or `f64`.
    f32, require_f32 -> f32 = "a float", Value::float;
    /// A bool.
    bool, require_bool -> bool = "a bool", Value::boolean;
    /// A string, borrowed from the file.
    str, require_str -> &str = "a UTF-8 string", Value::text;
    /// Integers, stored in any integer type.
    u32s, require_u32s -> Vec<u32> = "an array of integers from 0 to 2^32 - 1", |v| v.array()?.collect(Value::integer);
    /// Integers, stored in any integer type.
    i32s, require_i32s -> Vec<i32> = "an array of integers from -2^31 to 2^31 - 1", |v| v.array()?.collect(Value::integer);
    /// Floats, stored as `f32` or `f64`.
    f32s, require_f32s -> Vec<f32> = "an array of floats", |v| v.array()?.collect(Value::float);
    /// Bools.
    bools, require_bools -> Vec<bool> = "an array of bools", |v| v.array()?.collect(Value::boolean);
    /// Strings, borrowed from the file.
    strs, require_strs -> Vec<&str> = "an array of UTF-8 strings", |v| v.array()?.collect(Value::text);
    /// Strings that need not be UTF-8, borrowed from the file: the tokens of some vocabularies.
    byte_strs, require_byte_strs -> Vec<&[u8]> = "an array of strings", |v| v.array()?.collect(Value::bytes);
}

impl Entry {
    fn read(r: &mut Reader<'_>, index: u64) -> Result<Entry> {
        let key = r.string().ok_or_else(|| {
            malformed(format!("the metadata key number {index} reaches past the end of the file"))
        })?;
        let key = std::str::from_utf8(key)
            .map_err(|_| malformed(format!("the metadata key number {index} is not UTF-8")))?
            .to_owned();
        let wrong = |how: String| malformed(format!("the metadata key `{key}` {how}"));
        let id = r.u32().ok_or_else(|| wrong("reaches past the end of the file".to_owned()))?;
        let ty = ValueType::from_id(id).ok_or_else(|| wrong(format!("has the unknown value type {id}")))?;
        let start = r.position();
        value_bytes(r, ty).map_err(wrong)?;
        Ok(Entry { key, ty, bytes: start..r.position() })
    }
}

fn malformed(what: String) -> Error {
    Error::new(ErrorKind::Malformed, what).next(NEXT)
}
