//! The tensor index: names, shapes, types, and where the data of each lies.

use std::ops::Range;

use braise_kernels::quant::Type;

use super::reader::Reader;
use crate::error::{Error, ErrorKind, Result};

/// ggml's limit, and so everybody's.
const MAX_DIMS: usize = 4;

/// One tensor of a file: what it is, and where its data lies.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Its shape in ggml's order: `dims[0]` is the row length. At most four, none for a scalar.
    pub dims: Vec<u64>,
    /// The type of its weights.
    pub ty: Type,
    /// Which file of a split set holds the data.
    pub(super) part: usize,
    /// Where in that file; relative to the data section until [`place`].
    pub(super) range: Range<usize>,
}

impl TensorInfo {
    /// Weights in a row: `dims[0]`, a multiple of the type's block.
    pub fn row_len(&self) -> usize {
        // Fits: the row's size in bytes was computed as `usize` when the index was read.
        self.dims.first().map_or(1, |&n| n as usize)
    }

    /// The number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> usize {
        // Fits, as above.
        self.dims.iter().skip(1).map(|&n| n as usize).product()
    }

    /// The size of its data in bytes.
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }

    /// Reads tensor number `index` of the index; its range is relative to the data section.
    fn read(r: &mut Reader<'_>, index: u64) -> Result<TensorInfo> {
        let past_end = |who: &str| malformed(format!("{who} reaches past the end of the file"));
        let number = format!("the name of tensor number {index}");
        let name = r.string().ok_or_else(|| past_end(&number))?;
        let name =
            std::str::from_utf8(name).map_err(|_| malformed(format!("{number} is not UTF-8")))?.to_owned();

        let entry = || past_end(&format!("the index entry of tensor `{name}`"));
        let n_dims = r.u32().ok_or_else(entry)?;
        if n_dims > MAX_DIMS as u32 {
            return Err(malformed(format!("tensor `{name}` has {n_dims} dimensions, more than {MAX_DIMS}")));
        }
        let dims = (0..n_dims).map(|_| r.u64().ok_or_else(entry)).collect::<Result<Vec<_>>>()?;
        let id = r.u32().ok_or_else(entry)?;
        let ty = Type::from_id(id).ok_or_else(|| unknown_type(&name, id))?;
        let offset = r.u64().ok_or_else(entry)?;

        let n_bytes = n_bytes(ty, &dims).ok_or_else(|| malformed(wrong_shape(&name, ty, &dims)))?;
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(n_bytes)?))
            .ok_or_else(|| {
            malformed(format!("the data of tensor `{name}` starts at the absurd offset {offset}"))
        })?;
        Ok(TensorInfo { name, dims, ty, part: 0, range })
    }
}

/// Reads an index of `count` (untrusted) tensors and checks where their data lies.
///
/// `r` reads the whole file of `file_len` bytes; the data section starts behind the index, at the next multiple
/// of `alignment`, a power of two.
pub(super) fn read_index(
    r: &mut Reader<'_>,
    count: u64,
    alignment: usize,
    file_len: usize,
) -> Result<Vec<TensorInfo>> {
    let mut tensors = Vec::new();
    for i in 0..count {
        tensors.push(TensorInfo::read(r, i)?);
    }
    if !tensors.is_empty() {
        place(&mut tensors, r.position(), alignment, file_len)?;
        check_overlap(&tensors)?;
    }
    Ok(tensors)
}

/// Moves the ranges from the data section to the file, and checks that they are aligned and inside.
fn place(tensors: &mut [TensorInfo], index_end: usize, alignment: usize, file_len: usize) -> Result<()> {
    for TensorInfo { name, range, .. } in tensors {
        if !range.start.is_multiple_of(alignment) {
            return Err(malformed(format!(
                "the data of tensor `{name}` starts at offset {}, no multiple of the alignment {alignment}",
                range.start
            )));
        }
        *range = index_end
            .checked_next_multiple_of(alignment)
            .and_then(|base| Some(base.checked_add(range.start)?..base.checked_add(range.end)?))
            .filter(|range| range.end <= file_len)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Malformed,
                    format!(
                        "the data of tensor `{name}` reaches past the end of the file ({file_len} bytes)"
                    ),
                )
                .next("the file is cut short or damaged: download it again")
            })?;
    }
    Ok(())
}

fn check_overlap(tensors: &[TensorInfo]) -> Result<()> {
    let mut in_file: Vec<_> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    in_file.sort_by_key(|t| t.range.start);
    match in_file.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => {
            Err(malformed(format!("the data of tensors `{}` and `{}` overlap", pair[0].name, pair[1].name)))
        }
        None => Ok(()),
    }
}

/// The size of a tensor's data, or `None` if it has too many dimensions, its rows are no whole blocks, or the
/// size overflows.
pub(super) fn n_bytes(ty: Type, dims: &[u64]) -> Option<usize> {
    if dims.len() > MAX_DIMS {
        return None;
    }
    let row = usize::try_from(dims.first().copied().unwrap_or(1)).ok()?;
    // The number of rows on its own, so that it is known to fit even where the rows are empty.
    let rows = dims.iter().skip(1).try_fold(1_usize, |n, &dim| n.checked_mul(usize::try_from(dim).ok()?))?;
    ty.row_bytes(row)?.checked_mul(rows)
}

/// Says why [`n_bytes`] gave no size.
pub(super) fn wrong_shape(name: &str, ty: Type, dims: &[u64]) -> String {
    let row = dims.first().copied().unwrap_or(1);
    if row.is_multiple_of(ty.block() as u64) {
        format!("tensor `{name}` has the absurd shape {dims:?}")
    } else {
        let block = ty.block();
        format!(
            "tensor `{name}` has rows of {row} weights, but {ty} has blocks of {block}, which must be whole"
        )
    }
}

fn unknown_type(name: &str, id: u32) -> Error {
    // Types that ggml had and took out again; their ids are not given to others.
    let removed = match id {
        4 => "Q4_2",
        5 => "Q4_3",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        _ => {
            let what = format!("tensor `{name}` has the unknown ggml type {id}");
            return Error::new(ErrorKind::Unsupported, what)
                .next("use a file in a common quantization, such as Q4_K_M or Q8_0, or a newer braise");
        }
    };
    let what = format!("tensor `{name}` has the ggml type {id} ({removed}), which ggml has removed");
    Error::new(ErrorKind::Unsupported, what)
        .next("use a file in another quantization, such as Q4_0 or Q4_K_M")
}

fn malformed(what: String) -> Error {
    Error::new(ErrorKind::Malformed, what).next("the file is damaged: download it again")
}
