//! What layers get of each token besides: see [`crate::block::LayerInputs`].

use std::f32::consts::FRAC_1_SQRT_2;

use braise_kernels::cuda::ops::{ActivateRows, EmbedRows, Epilogue, Norm, NormRows};
use braise_kernels::cuda::{Address, Error};

use super::narrow;
use super::pass::Pass;
use super::products::{Form, Results};
use crate::backend::{Residual, Target};
use crate::block::Activation;
use crate::model::{LayerInputWeights, LayerInputsWeights};

impl Pass<'_> {
    /// Those of all layers, from the embeddings in `x`.
    pub(super) fn make_layer_inputs(&mut self, weights: &LayerInputsWeights) -> Result<(), Error> {
        let LayerInputsWeights { spec, table, projection, norm } = weights;
        let ([inputs, projected], of_all) = (self.buffers.layer_inputs, table.cols());
        let embed = EmbedRows {
            ty: table.matmul.weights(),
            w: self.weights.rows(self.model, table)?,
            ids: self.step().tokens,
            tokens: narrow(self.n)?,
            n: narrow(of_all)?,
            factor: (spec.n as f32).sqrt() * FRAC_1_SQRT_2,
            add: false,
            y: inputs,
        };
        self.launch(embed.launch())?;
        let acts = self.input(None, self.form(projection, self.n).into())?;
        let y = Results { at: projected, stride: of_all };
        self.multiply(projection, acts, self.n, Epilogue::Store, y)?;
        // what is projected counts 1 / sqrt(n_embd) of itself; where it is divided by its root mean square, only what is
        // added to the square knows of that
        let norm = self.weights.norm(norm)?;
        let norm = Norm { eps: norm.eps * self.buffers.x.n as f32, ..norm };
        let (n, rows) = (narrow(spec.n)?, narrow(self.n * (of_all / spec.n))?);
        let (sum, factor) = (inputs, FRAC_1_SQRT_2);
        self.launch(
            NormRows { x: projected, stride: n, rows, n, norm, sum, factor, ..NormRows::default() }.launch(),
        )
    }

    /// Adds `norm(output(gelu(gate(x)) * ` the input of layer `layer` `))` to `x`.
    pub(super) fn gate_layer_input(
        &mut self,
        layer: usize,
        weights: &LayerInputWeights,
    ) -> Result<(), Error> {
        let LayerInputWeights { gate, output, norm } = weights;
        let (h, n, [inputs, _]) = (self.buffers.h, gate.rows(), self.buffers.layer_inputs);
        let acts = self.input(None, self.form(gate, self.n).into())?;
        self.multiply(gate, acts, self.n, Epilogue::Store, Results { at: h.f32, stride: n })?;
        let to = self.form(output, self.n);
        let wanted = |form: Form, at: Address| if form == to { at } else { Address::NONE };
        let activate = ActivateRows {
            gate: h.f32,
            gate_stride: narrow(n)?,
            up: inputs.offset((layer * n * size_of::<f32>()) as u64),
            up_stride: narrow(self.model.spec().layers.len() * n)?,
            rows: narrow(self.n)?,
            n: narrow(n)?,
            activation: Activation::Gelu,
            divisors: Address::NONE,
            y: wanted(Form::F32, h.f32),
            q8: wanted(Form::Q8, h.q8),
            bf16: wanted(Form::Bf16, h.bf16),
        };
        self.launch(activate.launch())?;
        self.add_product(output, h, Residual { norm: Some(norm), scale: 1.0, to: Target::X })
    }
}
