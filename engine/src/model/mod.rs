//! A model: a file's weights bound to its [`Spec`], each with the kernel that multiplies it.

mod bind;
mod layer;

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use braise_kernels::cuda::Device;
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_kernels::table::{Kernels, MatMul};

use crate::arch;
use crate::backend::cuda;
use crate::block::{Norm, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{Gguf, TensorInfo};

use bind::Binder;
pub use layer::{
    AttentionWeights, BothWeights, DeltaNetWeights, DenseWeights, ExpertMatrix, ExpertsWeights, FineGates,
    HeadScores, LatentWeights, LayerInputWeights, LayerInputsWeights, LayerWeights, MixerWeights, MlpWeights,
    NormWeights, NormsWeights, Selection, ShortConvWeights, StateSpaceWeights,
};

/// A model, ready to run. Its matrices stay in the mapped file.
#[derive(Debug)]
pub struct Model {
    gguf: Gguf,
    spec: Spec,
    kernels: Kernels,
    pub(crate) token_embd: Weight,
    /// (n_ctx, n_embd), where positions are learned.
    pub(crate) position_embd: Option<Weight>,
    /// What is added to all embeddings, n_embd values, and what normalizes the sum.
    pub(crate) kind_embd: Option<Vec<f32>>,
    pub(crate) embd_norm: Option<NormWeights>,
    pub(crate) layer_inputs: Option<LayerInputsWeights>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) output_norm: Option<NormWeights>,
    /// `None`: the token embedding serves as output matrix too.
    output: Option<Weight>,
    /// The weights on a GPU, if that is where the model runs.
    pub(crate) on_device: Option<Mutex<cuda::Loaded>>,
}

/// A matrix, (rows, cols), one row after the other: a tensor of the file, or neighbouring rows of one.
#[derive(Debug)]
pub struct Weight {
    tensor: TensorInfo,
    cols: usize,
    row_bytes: usize,
    /// The rows in memory of their own, where the file has them in another order.
    own: Option<Vec<u8>>,
    range: Range<usize>,
    pub(crate) matmul: MatMul,
    /// What products are multiplied with, one number or one for each expert; in files with weights of few bits, whose
    /// own scales have little range.
    pub(crate) scale: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Weight {
    /// Rows: values that come out.
    pub fn rows(&self) -> usize {
        self.range.len()
    }

    /// Columns: values that go in.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.tensor.name
    }

    /// What the products of some rows, of one expert, are multiplied with.
    pub(crate) fn scale_of(&self, rows: &Range<usize>) -> Option<f32> {
        let scale = self.scale.as_ref()?;
        Some(scale[rows.start / (self.rows() / scale.len())])
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
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
        let spec = arch::spec(&gguf)?;
        let binder = Binder { gguf: &gguf, arch: &spec.arch, kernels };
        let n_embd = spec.n_embd;
        let token_embd = binder.weight("token_embd", spec.n_vocab, n_embd)?;
        let position_embd = match spec.embedding.positions {
            true => Some(binder.weight("position_embd", spec.n_ctx, n_embd)?),
            false => None,
        };
        let kind_embd = match spec.embedding.kinds {
            true => Some(binder.first_row("token_types.weight", n_embd)?),
            false => None,
        };
        let norm = |norm: Option<Norm>| norm.map(|norm| binder.norm("", &norm, n_embd)).transpose();
        let (embd_norm, output_norm) = (norm(spec.embedding.norm)?, norm(spec.output.norm)?);
        let output = match gguf.tensor("output.weight") {
            Some(_) => Some(binder.weight("output", spec.n_vocab, n_embd)?),
            None => None,
        };
        let layer_inputs = spec.layer_inputs.map(|inputs| binder.layer_inputs(&spec, inputs)).transpose()?;
        let layers = (spec.layers.iter().enumerate())
            .map(|(i, layer)| binder.layer(i, &spec, layer))
            .collect::<Result<_>>()?;
        gguf.read_ahead();
        Ok(Model {
            spec,
            kernels,
            token_embd,
            position_embd,
            kind_embd,
            embd_norm,
            layer_inputs,
            layers,
            output_norm,
            output,
            on_device: None,
            gguf,
        })
    }

    /// Copies the weights to a device, on which all sessions that are made from now on run. Gives the bytes of its memory
    /// that they take.
    ///
    /// # Errors
    /// There are no kernels for the model ([`cuda::unsupported`]), the device has too little memory, or was lost. The
    /// model then runs where it ran before.
    pub fn move_to(&mut self, device: Box<dyn Device + Send>) -> Result<usize> {
        let loaded = cuda::Loaded::new(self, device)?;
        let bytes = loaded.bytes();
        self.on_device = Some(Mutex::new(loaded));
        Ok(bytes)
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
    pub(crate) fn data<'a>(&'a self, weight: &'a Weight) -> &'a [u8] {
        let bytes = weight.row_bytes();
        let all = weight.own.as_deref().unwrap_or_else(|| self.gguf.data(&weight.tensor));
        &all[weight.range.start * bytes..weight.range.end * bytes]
    }

    /// Bytes of matrices that the file has in another order, and memory besides.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.weights().filter_map(|weight| weight.own.as_ref()).map(|own| own.len() as u64).sum()
    }

    /// All matrices that tokens are multiplied with.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        let layers = self.layers.iter().flat_map(LayerWeights::matrices);
        let inputs = self.layer_inputs.iter().map(|inputs| &inputs.projection);
        layers.map(|(weight, _)| weight).chain(inputs).chain([self.output()])
    }

    /// The formats of the matrices, each with the level that its kernel for few tokens, or for many, is written for.
    pub fn formats(&self, many: bool) -> Vec<(Type, Isa)> {
        let isa = |matmul: MatMul| matmul.packed_isa().filter(|_| many).unwrap_or(matmul.isa());
        let mut formats: Vec<_> = self.weights().map(|w| (w.matmul.weights(), isa(w.matmul))).collect();
        formats.sort_by_key(|(ty, _)| ty.name());
        formats.dedup();
        formats
    }

    /// Those formats whose kernel is written for a slower level than those of others, with that level: a format that has
    /// no kernel of its own yet runs, but slowly.
    pub fn slow_formats(&self, many: bool) -> Vec<(Type, Isa)> {
        let best = if many { self.kernels.packed_isa() } else { self.kernels.dot_isa() };
        self.formats(many).into_iter().filter(|(_, isa)| *isa < best).collect()
    }
}
