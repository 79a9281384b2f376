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
use crate::kv::{KvTypes, Room};
use crate::parts::{Assignment, Location, Part, Parts};
use crate::plan::DevicePlan;

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
    /// The weights on GPUs, if the model or a part of it runs there.
    pub(crate) on_device: Option<OnDevices>,
    /// Who is told how far a copy there is.
    pub(crate) watch: Option<cuda::Watch>,
}

/// Where a model runs that does not run on the CPU alone.
#[derive(Debug)]
pub(crate) struct OnDevices {
    /// The parts on each GPU; [`Location::Gpu`] counts them.
    pub(crate) gpus: Vec<Mutex<cuda::Loaded>>,
    /// What runs where, in the order of execution.
    pub(crate) segments: Vec<(Location, Parts)>,
}

impl OnDevices {
    /// The GPU on which all of the model is, if there is one.
    pub(crate) fn alone(&self) -> Option<&Mutex<cuda::Loaded>> {
        match (&self.gpus[..], &self.segments[..]) {
            ([loaded], [_]) => Some(loaded),
            _ => None,
        }
    }

    /// What sequences of these sizes make of each GPU's memory.
    ///
    /// # Errors
    /// The context is too large for a GPU.
    pub(crate) fn plans(&self, model: &Model, room: Room, kv: KvTypes) -> Result<Vec<DevicePlan>> {
        let plan = |loaded| cuda::lock(loaded).plan(room, kv).map_err(|e| cuda::error(model, e));
        self.gpus.iter().map(plan).collect()
    }

    /// Where the output is.
    pub(crate) fn end(&self) -> Location {
        self.segments.last().map_or(Location::Cpu, |(location, _)| *location)
    }

    /// The segments on the CPU.
    pub(crate) fn on_cpu(&self) -> impl Iterator<Item = &Parts> {
        self.segments.iter().filter(|(place, _)| *place == Location::Cpu).map(|(_, parts)| parts)
    }
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
            watch: None,
            gguf,
        })
    }

    /// Lets `watch` be told how far copies to devices are from now on, one device after the other; or nobody.
    pub fn watch_loading(&mut self, watch: Option<cuda::Watch>) {
        self.watch = watch;
    }

    /// Copies the weights to a device, on which all sessions that are made from now on run. Gives the bytes of its memory
    /// that they take.
    ///
    /// # Errors
    /// There are no kernels for the model ([`cuda::unsupported`]), the device has too little memory, or was lost, or
    /// the watch ended it. The model then runs where it ran before.
    pub fn move_to(&mut self, device: Box<dyn Device + Send>) -> Result<usize> {
        let whole = Assignment::new(self.layers.len(), |_| Location::Gpu(0));
        Ok(self.split(vec![device], &whole)?.into_iter().sum())
    }

    /// Whether parts of the model are on different devices.
    pub fn is_divided(&self) -> bool {
        self.on_device.as_ref().is_some_and(|on| on.alone().is_none())
    }

    /// Where a part of the model is; [`Location::Gpu`] counts those that it is on.
    pub fn location(&self, part: Part) -> Location {
        let segments = self.on_device.iter().flat_map(|on| &on.segments);
        segments
            .clone()
            .find(|(_, parts)| parts.contains(&part))
            .map_or(Location::Cpu, |(location, _)| *location)
    }

    /// The devices that have parts of the model, the CPU before GPUs.
    pub fn locations(&self) -> Vec<Location> {
        let Some(on) = &self.on_device else { return vec![Location::Cpu] };
        let cpu = on.on_cpu().next().map(|_| Location::Cpu);
        cpu.into_iter().chain((0..on.gpus.len()).map(Location::Gpu)).collect()
    }

    /// Gives back what the model has on devices. Sessions that are made from now on run on the CPU.
    pub fn move_to_cpu(&mut self) {
        self.on_device = None;
    }

    /// Copies the weights of the parts that `assignment` puts on GPUs to `devices`, of which [`Location::Gpu`] counts. Sessions
    /// that are made from now on run where it says. Gives the bytes of each device's memory that they take.
    ///
    /// # Errors
    /// As [`Model::move_to`]; or the assignment is that of another model, names devices that are not there, or parts what
    /// must lie together ([`Assignment::torn`]).
    pub fn split(
        &mut self,
        devices: Vec<Box<dyn Device + Send>>,
        assignment: &Assignment,
    ) -> Result<Vec<usize>> {
        let is_missing = |to: Location| matches!(to, Location::Gpu(i) if i >= devices.len());
        let foreign =
            assignment.n_layer() != self.layers.len() || assignment.parts().any(|(_, to)| is_missing(to));
        if foreign || assignment.torn(&self.spec).is_some() {
            return Err(Error::new(ErrorKind::Input, "the layers cannot be divided like this")
                .file(self.gguf.path())
                .next("divide them elsewhere, or not at all"));
        }
        let load = |(i, device)| {
            let here = assignment.parts().filter(|(_, place)| *place == Location::Gpu(i));
            let here: Vec<_> = here.map(|(part, _)| part).collect();
            cuda::Loaded::new(self, &here, device)
        };
        let loaded = devices.into_iter().enumerate().map(load).collect::<Result<Vec<_>>>()?;
        let bytes = loaded.iter().map(cuda::Loaded::bytes).collect();
        let gpus = loaded.into_iter().map(Mutex::new).collect();
        self.on_device = Some(OnDevices { gpus, segments: assignment.segments() });
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

    /// The types of a part's matrices, those that are tables too.
    pub(crate) fn stored_types(&self, part: Part) -> Vec<Type> {
        let weights: Vec<&Weight> = match part {
            Part::Input => [&self.token_embd].into_iter().chain(&self.position_embd).collect(),
            Part::Mixer(i) => self.layers[i].mixer.matrices(),
            Part::Mlp(i) => self.layers[i].mlp.matrices().into_iter().map(|(weight, _)| weight).collect(),
            Part::Output => vec![self.output()],
        };
        weights.into_iter().map(|weight| weight.tensor.ty).collect()
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
