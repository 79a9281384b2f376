//! The start of a file: magic, version and counts, and what a file is that has another magic.

use super::reader::Reader;
use crate::error::{Error, ErrorKind, Result};

/// The first four bytes of every GGUF file, in either byte order.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written. Version 2 has the same layout; 3 only allowed big-endian files.
pub(super) const VERSION: u32 = 3;

/// What stands before metadata and tensor index. The counts are untrusted, but not absurd.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) n_tensors: u64,
    pub(super) n_metadata: u64,
}

impl Header {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Header> {
        if !r.rest().starts_with(&MAGIC) {
            return Err(not_gguf(r.rest()));
        }
        let cut = || {
            Error::new(ErrorKind::Malformed, "the file ends within its header")
                .next("the download was cut short: download it again")
        };
        r.array::<4>().ok_or_else(cut)?;
        let version = r.u32().ok_or_else(cut)?;
        check_version(version)?;
        let n_tensors = r.u64().ok_or_else(cut)?;
        let n_metadata = r.u64().ok_or_else(cut)?;

        // The smallest tensor entry: name length, number of dimensions, type, offset.
        check_count(n_tensors, "tensors", 8 + 4 + 4 + 8, r)?;
        // The smallest pair: key length, type, a value of one byte.
        check_count(n_metadata, "metadata keys", 8 + 4 + 1, r)?;
        Ok(Header { version, n_tensors, n_metadata })
    }
}

fn check_version(version: u32) -> Result<()> {
    let refuse = |what: String, next: &str| Err(Error::new(ErrorKind::NotGguf, what).next(next));
    match version {
        2 | 3 => Ok(()),
        1 => refuse(
            "a GGUF file of version 1, which nobody has written since 2023".to_owned(),
            "get a newer conversion of the model",
        ),
        // Read in the wrong byte order, a small version has its low bytes zero.
        _ if version != 0 && version & 0xffff == 0 => refuse(
            "a big-endian GGUF file".to_owned(),
            "get the little-endian file, which nearly everyone publishes, or convert the model again",
        ),
        _ => refuse(
            format!("a GGUF file of version {version}; versions 2 and 3 are known"),
            "get another conversion of the model, or a newer braise",
        ),
    }
}

/// So that an absurd count gets an error of its own, before the walk runs into the end of the file.
fn check_count(count: u64, of: &str, smallest: u64, r: &Reader<'_>) -> Result<()> {
    let rest = r.rest().len() as u64;
    if count > rest / smallest {
        let what =
            format!("the file claims to hold {count} {of}, more than fit in the {rest} bytes that follow");
        return Err(
            Error::new(ErrorKind::Malformed, what).next("it is cut short or damaged: download it again")
        );
    }
    Ok(())
}

/// Names the format of `bytes` where its first bytes give it away.
fn not_gguf(bytes: &[u8]) -> Error {
    const CONVERT: &str = "convert the model to GGUF, or get a GGUF file of it";
    const DOWNLOAD: &str = "download the model file itself";
    let text = bytes[..bytes.len().min(64)].trim_ascii_start().to_ascii_lowercase();
    let (what, next) = match bytes {
        [] => ("the file is empty", "download it again"),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => ("a zip archive (perhaps a PyTorch checkpoint)", CONVERT),
        // The length of the JSON header in 8 bytes, then the JSON.
        [_, _, _, _, _, _, 0, 0, b'{', ..] => ("a safetensors file", CONVERT),
        // ggml, ggmf, ggjt and ggla, written as little-endian numbers.
        [b'l', b'm', b'g', b'g', ..]
        | [b'f', b'm', b'g', b'g', ..]
        | [b't', b'j', b'g', b'g', ..]
        | [b'a', b'l', b'g', b'g', ..] => {
            ("a GGML file, the format before GGUF", "get a GGUF file of the model")
        }
        _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => {
            ("a web page, not a model", DOWNLOAD)
        }
        _ if text.starts_with(b"version https://git-lfs") => {
            ("a Git LFS pointer, which only stands for the model", "fetch it with `git lfs pull`")
        }
        _ if MAGIC.starts_with(bytes) => ("the file ends within its first four bytes", "download it again"),
        _ => ("not a GGUF file (it does not start with `GGUF`)", "name a .gguf file"),
    };
    Error::new(ErrorKind::NotGguf, what).next(next)
}
