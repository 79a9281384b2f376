//! Sets of files: big models come in parts named `NAME-00001-of-0000N.gguf`.
//!
//! Every part is a GGUF file with the keys `split.no` (from 0), `split.count` and `split.tensors.count` (of the
//! whole set); the other metadata is in the first part alone. Convention of the ggml project's `gguf-split`.

use std::path::Path;

use super::{Part, Residency};
use crate::error::{Error, ErrorKind, Result};

/// Opens the set that the file at `path` belongs to: all parts in order, or the one file.
pub(super) fn open(path: &Path, residency: Residency) -> Result<Vec<Part>> {
    let opened = Part::open(path, residency)?;
    let Some(split) = Split::of(&opened)? else { return Ok(vec![opened]) };

    let suffix = split.suffix(split.no);
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(stem) = name.and_then(|name| name.strip_suffix(&suffix)) else {
        return Err(Error::new(
            ErrorKind::Input,
            format!("this is {split}, but its name does not end in `{suffix}`"),
        )
        .file(path)
        .next("give all parts the names they were published with, so that they can be found"));
    };

    let mut parts = Vec::new();
    for no in 0..split.count {
        if no != split.no {
            let sibling = Split { no, ..split };
            parts.push(sibling.open(&path.with_file_name(format!("{stem}{}", split.suffix(no))), residency)?);
        }
    }
    parts.insert(split.no as usize, opened);
    check_total(&parts)?;
    Ok(parts)
}

/// Which part of how many a file says it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Split {
    no: u32,
    count: u32,
}

impl Split {
    /// `None` for a model in one file.
    fn of(part: &Part) -> Result<Option<Split>> {
        let Some(count) = part.metadata.u32("split.count")?.filter(|&count| count > 1) else {
            return Ok(None);
        };
        let no = part.metadata.require_u32("split.no")?;
        if no >= count {
            let what = format!("`split.no` is {no}, but `split.count` is only {count}");
            return Err(Error::new(ErrorKind::Malformed, what)
                .file(part.map.path())
                .next("the file is damaged: download it again"));
        }
        Ok(Some(Split { no, count }))
    }

    fn suffix(&self, no: u32) -> String {
        format!("-{:05}-of-{:05}.gguf", no + 1, self.count)
    }

    /// Opens the file that should be this part.
    fn open(&self, path: &Path, residency: Residency) -> Result<Part> {
        if !path.exists() {
            return Err(Error::new(ErrorKind::Io, format!("{self} is missing"))
                .file(path)
                .next("download it, and keep all parts in one folder"));
        }
        let part = Part::open(path, residency)?;
        let found = Split::of(&part)?;
        if found == Some(*self) {
            return Ok(part);
        }
        let found = found.map_or("a whole model".to_owned(), |split| split.to_string());
        Err(Error::new(ErrorKind::Malformed, format!("this should be {self}, but says that it is {found}"))
            .file(path)
            .next("download all parts of the set again, from one place"))
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "part {} of {}", self.no + 1, self.count)
    }
}

/// Compares the number of tensors with the one that the first part announces.
fn check_total(parts: &[Part]) -> Result<()> {
    let first = &parts[0];
    let total: u64 = parts.iter().map(|part| part.tensors.len() as u64).sum();
    match first.metadata.u64("split.tensors.count")? {
        Some(announced) if announced != total => {
            let what =
                format!("the set should hold {announced} tensors, but its parts hold {total} together");
            Err(Error::new(ErrorKind::Malformed, what)
                .file(first.map.path())
                .next("download all parts of the set again, from one place"))
        }
        _ => Ok(()),
    }
}
