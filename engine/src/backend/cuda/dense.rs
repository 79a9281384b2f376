//! Embedding, feed-forward network, residual sum and logits.

use braise_kernels::cuda::ops::{
    ActivateRows, Argmax, EmbedRows, Epilogue, Matvec, NormRows, Rotations, ScaleValues, TopK,
};
use braise_kernels::cuda::{Address, Error};
use braise_kernels::quant::Type;

use super::buffers::Rows;
use super::pass::Pass;
use super::products::{Acts, Form, Forms, Results};
use super::sequence::Wanted;
use super::{are_few, narrow};
use crate::backend::{Residual, Target};
use crate::block::Activation;
use crate::model::{DenseWeights, Model, NormWeights, Weight};

impl Pass<'_> {
    pub(super) fn embed_tokens(&mut self, model: &Model) -> Result<(), Error> {
        let step = self.step();
        let spec = &model.spec().embedding;
        let table = &model.token_embd;
        let (tokens, n, y) = (narrow(self.n)?, narrow(table.cols())?, self.buffers.x.at);
        let rows = |weight: &Weight, w, ids, factor, add| {
            EmbedRows { ty: weight.matmul.weights(), w, ids, tokens, n, factor, add, y }.launch()
        };
        let w = self.weights.rows(model, table)?;
        self.launch(rows(table, w, step.tokens, spec.scale, false))?;
        if let Some(positions) = &model.position_embd {
            let w = self.weights.rows(model, positions)?;
            self.launch(rows(positions, w, step.positions, 1.0, true))?;
        }
        if let Some(kind) = &model.kind_embd {
            // a table of one row, which all tokens have
            let (ty, w) = (Type::F32, self.weights.floats(kind)?);
            let ids = self.buffers.zeros;
            self.launch(EmbedRows { ty, w, ids, tokens, n, factor: 1.0, add: true, y }.launch())?;
        }
        self.rotate_positions()?;
        self.x_changes();
        Ok(())
    }

    /// What layers read of all tokens: the cosines and sines of their positions, and the order of their heads.
    pub(super) fn rotate_positions(&mut self) -> Result<(), Error> {
        let positions = self.step().positions;
        for rotation in &self.buffers.rotations {
            let rotations = Rotations {
                turns: rotation.turns,
                n_pairs: rotation.n_pairs,
                magnitude: rotation.magnitude,
                positions,
                tokens: narrow(self.n)?,
                cosines: rotation.cosines,
                sines: rotation.sines,
            };
            self.launch(rotations.launch())?;
        }
        if !are_few(self.n) {
            self.order_heads()?;
        }
        Ok(())
    }

    /// `h = f(gate(n)) * up(n)` with `n` the normalized `x`, or `h = f(up(n))`, in the form that `down` takes.
    pub(super) fn gate_and_up(
        &mut self,
        weights: &DenseWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let DenseWeights { spec, gate, up, down, divisors } = weights;
        let n = self.n;
        let forms = self.forms(gate.iter().chain([up]));
        let acts = self.input(norm, forms)?;
        let (h, to) = (self.buffers.h, self.form(down, n));
        let y = Results { at: h.f32, stride: spec.n_ff };
        let same = |gate: &Weight| gate.matmul.weights() == up.matmul.weights();
        let ends = ends_product(spec.activation) && divisors.is_empty() && gate.as_ref().is_none_or(same);
        if self.form(up, n) == Form::Bf16 || !ends {
            // gates lie where the activated values will be
            let (of_gate, of_up) = (y, Results { at: self.buffers.up, ..y });
            self.multiply(gate.as_ref().unwrap_or(up), acts, n, Epilogue::Store, of_gate)?;
            if gate.is_some() {
                self.multiply(up, acts, n, Epilogue::Store, of_up)?;
            }
            let gated = gate.is_some().then_some(of_up.at);
            return self.activate((spec.activation, divisors), h, gated, (n, spec.n_ff), to);
        }
        let first = gate.as_ref().unwrap_or(up);
        let mut product = self.matvec(first, acts, n, Epilogue::Activate(spec.activation), y)?;
        if gate.is_some() {
            product.w[1] = self.weights.matrix(self.model, up)?;
            product.epilogue = Epilogue::Gated(spec.activation);
        }
        self.launch_into(product, h, to, n)
    }

    /// A product whose activations are needed in form `to`.
    pub(super) fn launch_into(&mut self, product: Matvec, h: Acts, to: Form, n: usize) -> Result<(), Error> {
        if to == Form::Q8 {
            return self.launch(Matvec { y: Address::NONE, q8: h.q8, ..product }.launch());
        }
        self.launch(product.launch())?;
        match to {
            Form::Bf16 => self.prepare((h.f32, product.rows), n, None, Form::Bf16.into(), h),
            Form::F32 | Form::Q8 => Ok(()),
        }
    }

    /// The activation of rows of n values at `h.f32`, times what they gate, over divisors, in form `to`.
    pub(super) fn activate(
        &mut self,
        (activation, divisors): (Activation, &[f32]),
        h: Acts,
        up: Option<Address>,
        (rows, n): (usize, usize),
        to: Form,
    ) -> Result<(), Error> {
        let wanted = |form: Form, at: Address| if form == to { at } else { Address::NONE };
        let (rows, n) = (narrow(rows)?, narrow(n)?);
        let values = ActivateRows {
            gate: h.f32,
            gate_stride: n,
            up: up.unwrap_or(Address::NONE),
            up_stride: n,
            rows,
            n,
            activation,
            divisors: self.weights.floats(divisors)?,
            y: wanted(Form::F32, h.f32),
            q8: wanted(Form::Q8, h.q8),
            bf16: wanted(Form::Bf16, h.bf16),
        };
        self.launch(values.launch())
    }

    /// The forms that some matrices take of the batch.
    pub(super) fn forms<'w>(&self, weights: impl Iterator<Item = &'w Weight>) -> Forms {
        weights.fold(Forms::NONE, |forms, weight| forms.with(self.form(weight, self.n).into()))
    }

    /// `x += scale * weight(acts)`; where results are normalized, they are in `y` before.
    pub(super) fn add_product(
        &mut self,
        weight: &Weight,
        acts: Acts,
        residual: Residual<'_>,
    ) -> Result<(), Error> {
        let (x, n) = (self.buffers.x, self.n);
        let to = |at: Address| Results { at, stride: x.n };
        if residual.norm.is_some() {
            self.multiply(weight, acts, n, Epilogue::Store, to(self.buffers.y))?;
            return self.finish_block(residual);
        }
        let epilogue = Epilogue::Add(residual.scale);
        self.x_changes();
        if self.form(weight, n) == Form::Bf16 {
            return self.multiply(weight, acts, n, epilogue, to(x.at));
        }
        let product = self.matvec(weight, acts, n, epilogue, to(x.at))?;
        self.wait_with(product)
    }

    /// `x += scale * norm(y)`, where results are normalized.
    pub(super) fn finish_block(&mut self, residual: Residual<'_>) -> Result<(), Error> {
        match residual.norm {
            Some(_) => self.add_normalized(self.buffers.y, residual),
            None => Ok(()),
        }
    }

    /// `x += scale * norm(y)`; or the sum of branches in place of `x`.
    pub(super) fn add_normalized(&mut self, y: Address, residual: Residual<'_>) -> Result<(), Error> {
        let norm = residual.norm.map(|norm| self.weights.norm(norm)).transpose()?.unwrap_or_default();
        let n = narrow(self.buffers.x.n)?;
        let mut rows = NormRows { x: y, stride: n, rows: narrow(self.n)?, n, norm, ..NormRows::default() };
        match residual.to {
            // what there was is from the batch before; branches have no factor
            Target::FirstBranch => rows.y = self.buffers.branches,
            Target::Branch => (rows.sum, rows.factor) = (self.buffers.branches, residual.scale),
            Target::X => (rows.sum, rows.factor) = (self.buffers.x.at, residual.scale),
        }
        self.x_changes();
        self.launch(rows.launch())
    }

    /// `x *= factor`.
    pub(super) fn scale_x(&mut self, factor: f32) -> Result<(), Error> {
        let Rows { at, n } = self.buffers.x;
        self.x_changes();
        self.launch(ScaleValues { x: at, n: (self.n * n) as u64, factor, cap: None }.launch())
    }

    /// `x = norm(x)`.
    pub(super) fn normalize_x(&mut self, norm: &NormWeights) -> Result<(), Error> {
        let Rows { at, n } = self.buffers.x;
        self.x_changes();
        let floats = Forms { f32: true, ..Forms::NONE };
        self.prepare((at, narrow(n)?), self.n, Some(norm), floats, Acts { f32: at, ..Acts::default() })
    }

    /// The logits that are asked for, and the best of them if some are.
    pub(super) fn output_logits(&mut self, model: &Model) -> Result<(), Error> {
        let (output, spec) = (model.output(), &model.spec().output);
        let n = self.logits.count(self.n);
        if n == 0 {
            return Ok(());
        }
        let (norm, forms) = (model.output_norm.as_ref(), Forms::from(self.form(output, n)));
        let acts = match self.logits {
            Wanted::All => self.input(norm, forms)?,
            Wanted::Some(_) => {
                let (x, acts) = (self.buffers.x, self.buffers.input);
                let (tokens, n_embd) = (narrow(n)?, narrow(x.n)?);
                let rows = EmbedRows {
                    ty: Type::F32,
                    w: x.at,
                    ids: self.step().wanted,
                    tokens,
                    n: n_embd,
                    factor: 1.0,
                    add: false,
                    y: acts.f32,
                };
                self.x_changes();
                self.launch(rows.launch())?;
                self.prepare((acts.f32, n_embd), n, norm, forms, acts)?;
                acts
            }
        };
        let (logits, n_vocab) = (self.buffers.logits, output.rows());
        self.multiply(output, acts, n, Epilogue::Store, Results { at: logits, stride: n_vocab })?;
        if spec.scale != 1.0 || spec.softcap.is_some() {
            let n = (n * n_vocab) as u64;
            self.launch(ScaleValues { x: logits, n, factor: spec.scale, cap: spec.softcap }.launch())?;
        }
        self.best_logits(narrow(n)?, narrow(n_vocab)?)
    }

    fn best_logits(&mut self, rows: u32, n: u32) -> Result<(), Error> {
        let (logits, best) = (self.buffers.logits, self.buffers.best);
        match self.best {
            None => Ok(()),
            Some(1) => {
                let (tokens, counters) = (best.places, self.buffers.counter);
                self.launch(Argmax { logits, n, rows, best: best.keys, counters, tokens }.launch())
            }
            Some(k) => {
                let k = narrow(k)?;
                self.launch(TopK { logits, n, rows, k, places: best.places, values: best.values }.launch())
            }
        }
    }
}

/// Whether products of few tokens may end with this activation.
pub(super) fn ends_product(activation: Activation) -> bool {
    !matches!(activation, Activation::Xielu(_))
}
