//! A model: a file's weights bound to its [`Spec`], each with the kernel that multiplies it.

use std::path::Path;

use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_kernels::table::{Kernels, MatMul};

use crate::arch;
use crate::block::{Attention, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{Gguf, TensorInfo};

/// A model, ready to run. Its matrices stay in the mapped file.
#[derive(Debug)]
pub struct Model {
    gguf: Gguf,
    spec: Spec,
    kernels: Kernels,
    pub(crate) token_embd: Weight,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) output_norm: Vec<f32>,
    /// `None`: the token embedding serves as output matrix too.
    output: Option<Weight>,
}

/// A matrix in the file, (rows, cols), one row after the other.
#[derive(Debug)]
pub struct Weight {
    tensor: TensorInfo,
    pub(crate) matmul: MatMul,
    /// What products are multiplied with; in files with weights of few bits, whose own scales have little range.
    pub(crate) scale: Option<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// The weights of one layer.
#[derive(Debug)]
pub struct LayerWeights {
    pub(crate) attn_norm: Vec<f32>,
    pub(crate) q: Weight,
    pub(crate) k: Weight,
    pub(crate) v: Weight,
    pub(crate) attn_output: Weight,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate: Weight,
    pub(crate) up: Weight,
    pub(crate) down: Weight,
}

impl Weight {
    /// Rows: values that come out.
    pub fn rows(&self) -> usize {
        self.tensor.rows()
    }

    /// Columns: values that go in.
    pub fn cols(&self) -> usize {
        self.tensor.row_len()
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.tensor.name
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.tensor.n_bytes() / self.tensor.rows()
    }
}

impl LayerWeights {
    /// The matrices, in the order of their use.
    pub(crate) fn matrices(&self) -> [&Weight; 7] {
        [&self.q, &self.k, &self.v, &self.attn_output, &self.gate, &self.up, &self.down]
    }
}

impl Model {
    /// Maps the file at `path` and binds its weights, with the kernels of level `isa`.
    ///
    /// # Errors
    /// As [`Gguf::open`]; and the architecture, a tensor's type or shape is not supported, or a tensor is missing.
    pub fn open(path: &Path, isa: Isa) -> Result<Model> {
        Model::new(Gguf::open(path)?, isa)
    }

    /// Binds the weights of an open file.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn new(gguf: Gguf, isa: Isa) -> Result<Model> {
        let kernels = Kernels::new(isa).map_err(|e| Error::new(ErrorKind::Input, e.to_string()))?;
        let mut spec = arch::spec(&gguf)?;
        let binder = Binder { gguf: &gguf, kernels };
        let n_embd = spec.n_embd;
        if gguf.tensor("rope_freqs.weight").is_some() {
            spec.rope.factors = Some(binder.vector("rope_freqs.weight", spec.rope.n_dims / 2)?);
        }
        let token_embd = binder.weight("token_embd", spec.n_vocab, n_embd)?;
        let output_norm = binder.vector("output_norm.weight", n_embd)?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => Some(binder.weight("output", spec.n_vocab, n_embd)?),
            None => None,
        };
        let layers = (spec.layers.iter().enumerate())
            .map(|(i, layer)| binder.layer(i, n_embd, &layer.attention, layer.mlp.n_ff))
            .collect::<Result<_>>()?;
        gguf.read_ahead();
        Ok(Model { spec, kernels, token_embd, layers, output_norm, output, gguf })
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// What the model is made of.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The kernels it runs with.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// The matrix that turns the last layer's result into logits.
    pub(crate) fn output(&self) -> &Weight {
        self.output.as_ref().unwrap_or(&self.token_embd)
    }

    /// The bytes of a matrix.
    pub(crate) fn data(&self, weight: &Weight) -> &[u8] {
        self.gguf.data(&weight.tensor)
    }

    /// All matrices that tokens are multiplied with.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.layers.iter().flat_map(LayerWeights::matrices).chain([self.output()])
    }

    /// The formats of the matrices, each with the level that its kernel is written for.
    pub fn formats(&self) -> Vec<(Type, Isa)> {
        let mut formats: Vec<_> = self.weights().map(|w| (w.matmul.weights(), w.matmul.isa())).collect();
        formats.sort_by_key(|(ty, _)| ty.name());
        formats.dedup();
        formats
    }

    /// Those formats whose kernel is written for a slower level than those of others: a format that has
    /// no kernel of its own yet runs, but slowly.
    pub fn slow_formats(&self) -> Vec<(Type, Isa)> {
        self.formats().into_iter().filter(|(_, isa)| *isa < self.kernels.dot_isa()).collect()
    }
}

/// Finds tensors and checks that they are what a Spec needs.
struct Binder<'a> {
    gguf: &'a Gguf,
    kernels: Kernels,
}

impl Binder<'_> {
    fn layer(&self, i: usize, n_embd: usize, a: &Attention, n_ff: usize) -> Result<LayerWeights> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let (q_dim, k_dim) = (a.n_head * a.head_dim, a.n_head_kv * a.head_dim);
        let (v_dim, out_dim) = (a.n_head_kv * a.head_dim_v, a.n_head * a.head_dim_v);
        Ok(LayerWeights {
            attn_norm: self.vector(&name("attn_norm.weight"), n_embd)?,
            q: self.weight(&name("attn_q"), q_dim, n_embd)?,
            k: self.weight(&name("attn_k"), k_dim, n_embd)?,
            v: self.weight(&name("attn_v"), v_dim, n_embd)?,
            attn_output: self.weight(&name("attn_output"), n_embd, out_dim)?,
            ffn_norm: self.vector(&name("ffn_norm.weight"), n_embd)?,
            gate: self.ffn_weight(&name("ffn_gate"), n_ff, n_embd)?,
            up: self.ffn_weight(&name("ffn_up"), n_ff, n_embd)?,
            down: self.ffn_weight(&name("ffn_down"), n_embd, n_ff)?,
        })
    }

    /// The matrix `{name}.weight` with its `{name}.scale` and its `{name}.bias`, if they are there.
    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let tensor = self.shaped(&format!("{name}.weight"), &[cols, rows])?;
        let matmul = self.kernels.matmul(tensor.ty).ok_or_else(|| self.no_kernel(tensor))?;
        let optional = |part: &str, len: usize| {
            let name = format!("{name}.{part}");
            self.gguf.tensor(&name).map(|_| self.vector(&name, len)).transpose()
        };
        let scale = optional("scale", 1)?.map(|scale| scale[0]);
        Ok(Weight { tensor: tensor.clone(), matmul, scale, bias: optional("bias", rows)? })
    }

    /// A matrix of the feed-forward network: here the scale is that of the bias too, as llama.cpp has it.
    fn ffn_weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let mut weight = self.weight(name, rows, cols)?;
        if let (Some(scale), Some(bias)) = (weight.scale, &mut weight.bias) {
            bias.iter_mut().for_each(|b| *b *= scale);
        }
        Ok(weight)
    }

    /// A vector of any float type, as floats.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.shaped(name, &[len])?;
        let scalar = tensor.ty.scalar().ok_or_else(|| self.no_kernel(tensor))?;
        let mut values = vec![0.0; len];
        (scalar.dequantize)(self.gguf.data(tensor), &mut values);
        Ok(values)
    }

    fn shaped(&self, name: &str, dims: &[usize]) -> Result<&TensorInfo> {
        let tensor = self.gguf.require(name)?;
        let same =
            |i: usize| tensor.dims.get(i).copied().unwrap_or(1) == dims.get(i).map_or(1, |d| *d as u64);
        if !(0..4).all(same) {
            let what = format!("the tensor `{name}` has the shape {:?} instead of {dims:?}", tensor.dims);
            return Err(Error::new(ErrorKind::Malformed, what)
                .file(self.gguf.path())
                .next("the file is damaged or of a variant that is not supported"));
        }
        Ok(tensor)
    }

    fn no_kernel(&self, tensor: &TensorInfo) -> Error {
        let supported: Vec<_> =
            Type::ALL.iter().filter(|ty| ty.scalar().is_some()).map(|ty| ty.name()).collect();
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "the tensor `{}` has the type {}, which cannot be computed with yet",
                tensor.name, tensor.ty
            ),
        )
        .file(self.gguf.path())
        .next(format!("use a file with the types {}", supported.join(", ")))
    }
}
