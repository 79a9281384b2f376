//! Queries, keys and values of a layer.

use super::{FinishHeads, Matrix, Norm, NormKind, check};
use crate::cuda::module::Kernel;
use crate::cuda::{Address, Arg, Error, Launch};
use crate::quant::Type;

/// The products of single tokens with the matrices of queries, keys and values, and what [`FinishHeads`] does to them, in one
/// launch. Each token reads the weights for itself: several tokens share them in a [`super::Matvec`] for each matrix.
#[derive(Debug, Clone, Copy)]
pub struct Qkv {
    /// Types of the matrices of queries, keys and values; see [`Qkv::has_kernel`].
    pub types: [Type; 3],
    /// The matrices. Where `heads.k` is not there, the first one alone.
    pub w: [Matrix; 3],
    /// Quantized activations (tokens, k); f32 for F32, F16 and BF16.
    pub x: Address,
    /// Values in a row.
    pub k: u32,
    /// Where the products go (rows of all heads, one behind the other), and what becomes of them there.
    pub heads: FinishHeads,
    /// By which root mean square values are normalized, if they are.
    pub v_norm: Option<Norm>,
    /// u32, [`Qkv::counters`] of them, 0; they are 0 afterwards. [`Address::NONE`]: the products are left as they are.
    pub counters: Address,
}

impl Qkv {
    /// Rows of a matrix that a block computes.
    const ROWS: u32 = 32;

    /// Whether there is a kernel for matrices of these types: all of one, or two types that files combine.
    pub fn has_kernel(types: [Type; 3]) -> bool {
        kernel(types).is_some()
    }

    /// Whether heads of these sizes can be finished in the launch: each begins with a block.
    pub fn can_finish(heads: &FinishHeads) -> bool {
        [heads.q_head_stride, heads.heads.dim_k, heads.heads.dim_v]
            .iter()
            .all(|n| n.is_multiple_of(Qkv::ROWS))
    }

    /// Counters that `tokens` need.
    pub fn counters(heads: &super::Heads, tokens: u32) -> usize {
        heads.n_head_kv as usize * (heads.group as usize + 2) * tokens as usize
    }

    /// Its launch.
    ///
    /// # Errors
    /// There is no kernel for the types, rows are not whole blocks, or heads cannot be finished.
    pub fn launch(&self) -> Result<Launch, Error> {
        let Qkv { types, w, k, heads, .. } = self;
        let alone = heads.k == Address::NONE;
        let types = if alone { [types[0]; 3] } else { *types };
        let Some((name, second)) = kernel(types) else {
            return Err(Error::Operands(format!("no kernel multiplies {types:?} together")));
        };
        check(self.counters == Address::NONE || Qkv::can_finish(heads), || {
            format!("heads of {} and {} values cannot be finished", heads.heads.dim_k, heads.heads.dim_v)
        })?;
        let by_rms = |norm: &Norm| norm.kind == NormKind::Rms && norm.bias == Address::NONE;
        check(self.v_norm.as_ref().is_none_or(by_rms), || "values are normalized otherwise".to_owned())?;
        check(heads.q_head_stride >= heads.heads.dim_k, || "heads overlap".to_owned())?;
        let of_heads = heads.args(self.v_norm.unwrap_or_default())?;
        let n_head_kv = heads.heads.n_head_kv;
        let rows = [
            (n_head_kv * heads.heads.group).checked_mul(heads.q_head_stride),
            n_head_kv.checked_mul(if alone { 0 } else { heads.heads.dim_k }),
            n_head_kv.checked_mul(if alone { 0 } else { heads.heads.dim_v }),
        ];
        let mut blocks = 0;
        let mut row_bytes = [0; 3];
        for (i, rows) in rows.into_iter().enumerate() {
            let bytes = types[i].row_bytes(*k as usize).filter(|_| *k > 0).map(|bytes| bytes as u64);
            let (Some(bytes), Some(rows)) = (bytes, rows.filter(|rows| *rows < 1 << 30)) else {
                return Err(Error::Operands(format!("rows of {k} values in {}", types[i])));
            };
            (row_bytes[i], blocks) = (bytes, blocks + rows.div_ceil(Qkv::ROWS));
        }
        let [q, k_, v] = if alone { [w[0], Matrix::default(), Matrix::default()] } else { *w };
        let mut args: Vec<Arg> = [q, k_, v].map(|w| w.data.into()).into();
        args.extend([q, k_, v].map(|w| Arg::from(w.scale)));
        args.extend([q, k_, v].map(|w| Arg::from(w.bias)));
        args.extend(row_bytes.map(Arg::U64));
        args.extend([Arg::U32(second), self.x.into(), (*k).into(), self.counters.into()]);
        args.extend(of_heads);
        Launch::new(&name, [blocks, heads.tokens, 1], 512, heads.shared(), &args)
    }
}

/// The kernel for matrices of these types, and a bit for each matrix whose type is the second of the kernel's name.
fn kernel(types: [Type; 3]) -> Option<(String, u32)> {
    let name = |ty: Type| ty.name().to_lowercase();
    let first = types[0];
    let Some(second) = types.into_iter().find(|ty| *ty != first) else {
        return Some((format!("qkv_{}", name(first)), 0)).filter(|(name, _)| Kernel::find(name).is_ok());
    };
    if types.into_iter().any(|ty| ty != first && ty != second) {
        return None;
    }
    [(first, second), (second, first)].into_iter().find_map(|(first, second)| {
        let kernel = format!("qkv_{}_{}", name(first), name(second));
        let bits = (0..3).filter(|i| types[*i] == second).map(|i| 1 << i).sum();
        Kernel::find(&kernel).ok().map(|_| (kernel, bits))
    })
}
