//! One forward pass: each operation becomes launches.

use braise_kernels::cuda::ops::{Matvec, NormRows, Runs, Then};
use braise_kernels::cuda::{Address, Device, Error, Launch};

use super::buffers::{Buffers, Rows, StepBuffers};
use super::cache::Cache;
use super::narrow;
use super::products::{Acts, Forms};
use super::sequence::{Shape, Wanted};
use super::weights::Weights;
use crate::backend::{Backend, Residual};
use crate::model::{
    AttentionWeights, DeltaNetWeights, DenseWeights, ExpertsWeights, LatentWeights, LayerInputWeights,
    LayerInputsWeights, Model, NormWeights, ShortConvWeights, StateSpaceWeights,
};

/// Most columns that the last block of a product normalizes: it takes them one after the other.
const FUSED_COLUMNS: usize = 2;

/// The launches of a batch. The first error ends them: what is asked for after it does nothing.
pub(super) struct Pass<'a> {
    pub(super) device: &'a mut (dyn Device + Send),
    pub(super) weights: &'a Weights,
    pub(super) model: &'a Model,
    pub(super) buffers: &'a Buffers,
    pub(super) cache: &'a Cache,
    /// Tokens of the batch, and of each of its runs.
    pub(super) n: usize,
    pub(super) runs: &'a [usize],
    /// Tokens whose logits are asked for.
    pub(super) logits: Wanted,
    /// How many of the best logits are asked for besides.
    pub(super) best: Option<usize>,
    /// Experts that a token takes, of the mixture that was routed last.
    pub(super) used: usize,
    /// A product that is added to `x`, which may end with the norm of what reads `x` next.
    pending: Option<Matvec>,
    /// In which forms `x` was prepared last, normalized by which weights, if it has not changed since.
    prepared: Option<(Option<*const f32>, Forms)>,
    result: Result<(), Error>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        device: &'a mut (dyn Device + Send),
        weights: &'a Weights,
        model: &'a Model,
        (buffers, cache): (&'a Buffers, &'a Cache),
        shape: &'a Shape,
    ) -> Pass<'a> {
        let Shape { runs, logits, best, .. } = shape;
        Pass {
            device,
            weights,
            model,
            buffers,
            cache,
            n: shape.n(),
            runs,
            logits: *logits,
            best: *best,
            used: 0,
            pending: None,
            prepared: None,
            result: Ok(()),
        }
    }

    /// What went wrong.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.attempt(Pass::flush);
        self.result
    }

    fn attempt(&mut self, operation: impl FnOnce(&mut Self) -> Result<(), Error>) {
        if self.result.is_ok() {
            self.result = operation(self);
        }
    }

    /// Starts a kernel, after the product that waits.
    pub(super) fn launch(&mut self, launch: Result<Launch, Error>) -> Result<(), Error> {
        self.flush()?;
        self.device.launch(&launch?)
    }

    fn flush(&mut self) -> Result<(), Error> {
        match self.pending.take() {
            Some(product) => self.device.launch(&product.launch()?),
            None => Ok(()),
        }
    }

    /// Lets a product that is added to `x` wait for what comes next.
    pub(super) fn wait_with(&mut self, product: Matvec) -> Result<(), Error> {
        self.flush()?;
        self.pending = Some(product);
        Ok(())
    }

    /// Whatever changes `x` says so.
    pub(super) fn x_changes(&mut self) {
        self.prepared = None;
    }

    /// `x`, normalized by `norm` if there is one, in the forms asked for.
    pub(super) fn input(&mut self, norm: Option<&NormWeights>, forms: Forms) -> Result<Acts, Error> {
        let key = norm.map(|norm| norm.weight.as_ptr());
        let have = self.prepared.filter(|(of, _)| *of == key).map_or(Forms::NONE, |(_, forms)| forms);
        let missing = forms.without(have);
        let acts = self.buffers.input;
        if missing == Forms::NONE {
            return Ok(acts);
        }
        let x = &self.buffers.x;
        let fuses = missing == Forms::Q8 && self.n <= FUSED_COLUMNS && x.n.is_multiple_of(32);
        match (norm, self.pending.take_if(|_| norm.is_some() && fuses)) {
            (Some(norm), Some(product)) => {
                let norm = self.weights.norm(norm)?;
                let then = Some(Then { norm, q8: acts.q8, counter: self.buffers.counter });
                self.launch(Matvec { then, ..product }.launch())?;
            }
            _ => self.prepare((x.at, narrow(x.n)?), self.n, norm, missing, acts)?,
        }
        self.prepared = Some((key, forms.with(have)));
        Ok(acts)
    }

    /// Where the numbers of the batch are.
    pub(super) fn step(&self) -> StepBuffers {
        self.buffers.step(self.n, self.runs.len())
    }

    /// The runs of the batch, for layers that go through them token by token.
    pub(super) fn recurrent_runs(&self) -> Result<Runs, Error> {
        let StepBuffers { starts, positions, sequences, .. } = self.step();
        let longest = narrow(self.runs.iter().copied().max().unwrap_or(0))?;
        Ok(Runs { n: narrow(self.runs.len())?, longest, starts, positions, sequences })
    }

    /// Rows of n values at `x`, normalized if asked for, in some forms.
    pub(super) fn prepare(
        &mut self,
        (x, n): (Address, u32),
        rows: usize,
        norm: Option<&NormWeights>,
        forms: Forms,
        to: Acts,
    ) -> Result<(), Error> {
        self.prepare_rows((x, n, n), narrow(rows)?, norm, forms, to)
    }

    /// The first n values of each token's row, normalized if asked for, in some forms.
    pub(super) fn prepare_part(
        &mut self,
        row: Rows,
        n: usize,
        norm: Option<&NormWeights>,
        forms: Forms,
        to: Acts,
    ) -> Result<(), Error> {
        self.prepare_rows((row.at, narrow(row.n)?, narrow(n)?), narrow(self.n)?, norm, forms, to)
    }

    pub(super) fn prepare_rows(
        &mut self,
        (x, stride, n): (Address, u32, u32),
        rows: u32,
        norm: Option<&NormWeights>,
        forms: Forms,
        to: Acts,
    ) -> Result<(), Error> {
        let norm = norm.map(|norm| self.weights.norm(norm)).transpose()?.unwrap_or_default();
        let wanted = |is: bool, at: Address| if is { at } else { Address::NONE };
        let (y, q8, bf16) = (wanted(forms.f32, to.f32), wanted(forms.q8, to.q8), wanted(forms.bf16, to.bf16));
        let rows = NormRows { x, stride, rows, n, norm, y, q8, bf16, ..NormRows::default() };
        self.launch(rows.launch())
    }
}

impl Backend for Pass<'_> {
    fn embed(&mut self, model: &Model) {
        self.attempt(|pass| pass.embed_tokens(model));
    }

    fn rotations(&mut self) {
        self.attempt(Pass::rotate_positions);
    }

    fn layer_inputs(&mut self, weights: &LayerInputsWeights) {
        self.attempt(|pass| pass.make_layer_inputs(weights));
    }

    fn add_layer_input(&mut self, layer: usize, weights: &LayerInputWeights) {
        self.attempt(|pass| pass.gate_layer_input(layer, weights));
    }

    fn scale(&mut self, factor: f32) {
        self.attempt(|pass| pass.scale_x(factor));
    }

    fn normalize(&mut self, norm: &NormWeights) {
        self.attempt(|pass| pass.normalize_x(norm));
    }

    fn qkv(&mut self, layer: usize, weights: &AttentionWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.queries_keys_values(layer, weights, norm));
    }

    fn attend(&mut self, layer: usize, weights: &AttentionWeights) {
        self.attempt(|pass| pass.attention(layer, weights));
    }

    fn attn_output(&mut self, weights: &AttentionWeights, residual: Residual<'_>) {
        self.attempt(|pass| pass.add_product(&weights.output, pass.buffers.results, residual));
    }

    fn latent(&mut self, layer: usize, weights: &LatentWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.latent_heads(layer, weights, norm));
    }

    fn latent_output(&mut self, weights: &LatentWeights, residual: Residual<'_>) {
        self.attempt(|pass| pass.add_product(&weights.output, pass.buffers.latent.heads, residual));
    }

    fn short_conv(&mut self, layer: usize, weights: &ShortConvWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.short_convolution(layer, weights, norm));
    }

    fn short_conv_output(&mut self, weights: &ShortConvWeights, residual: Residual<'_>) {
        self.attempt(|pass| pass.add_product(&weights.output, pass.buffers.recurrent.mixed, residual));
    }

    fn state_space(&mut self, layer: usize, weights: &StateSpaceWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.scan_states(layer, weights, norm));
    }

    fn state_space_output(&mut self, weights: &StateSpaceWeights, residual: Residual<'_>) {
        self.attempt(|pass| pass.add_product(&weights.output, pass.buffers.recurrent.mixed, residual));
    }

    fn delta_net(&mut self, layer: usize, weights: &DeltaNetWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.delta_heads(layer, weights, norm));
    }

    fn delta_net_output(&mut self, weights: &DeltaNetWeights, residual: Residual<'_>) {
        self.attempt(|pass| pass.add_product(&weights.output, pass.buffers.recurrent.mixed, residual));
    }

    fn up(&mut self, weights: &DenseWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.gate_and_up(weights, norm));
    }

    fn down(&mut self, weights: &DenseWeights, residual: Residual<'_>) {
        self.attempt(|pass| pass.add_product(&weights.down, pass.buffers.h, residual));
    }

    fn route(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.choose_experts(weights, norm));
    }

    fn experts_up(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>) {
        self.attempt(|pass| pass.up_of_experts(weights, norm));
    }

    fn experts_down(&mut self, weights: &ExpertsWeights, residual: Residual<'_>) {
        self.attempt(|pass| pass.down_of_experts(weights, residual));
    }

    fn add_branches(&mut self, residual: Residual<'_>) {
        self.attempt(|pass| pass.add_normalized(pass.buffers.branches, residual));
    }

    fn logits(&mut self, model: &Model) {
        self.attempt(|pass| pass.output_logits(model));
    }
}
