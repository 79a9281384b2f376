//! Layers that remember all tokens so far together: short convolutions, state spaces, delta nets. What goes into their output
//! matrices is in the buffer `mixed`.

use braise_kernels::cuda::ops::{
    Convolve, DeltaGates, DeltaNet, Epilogue, GateHeads, NormParts, NormRows, StateSpace,
};
use braise_kernels::cuda::{Address, Error};

use super::buffers::Rows;
use super::narrow;
use super::pass::Pass;
use super::products::{Acts, Form, Forms, Results};
use crate::block::DeltaNetKind;
use crate::model::{DeltaNetWeights, NormWeights, Selection, ShortConvWeights, StateSpaceWeights, Weight};

/// The value number i behind an address.
fn value(at: Address, i: usize) -> Address {
    at.offset((i * size_of::<f32>()) as u64)
}

impl Pass<'_> {
    /// The gated convolution of `x`.
    pub(super) fn short_convolution(
        &mut self,
        layer: usize,
        weights: &ShortConvWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let ShortConvWeights { spec, input, kernel, output } = weights;
        let b = self.buffers.recurrent;
        self.project(std::slice::from_ref(input), norm, input.rows())?;
        let to = self.to_mixed(output);
        let convolve = Convolve {
            x: value(b.work, 2 * spec.channels),
            x_stride: narrow(input.rows())?,
            gates: b.work,
            kernel: self.weights.floats(kernel)?,
            width: narrow(spec.width)?,
            channels: narrow(spec.channels)?,
            out_gates: value(b.work, spec.channels),
            runs: self.recurrent_runs()?,
            past: self.cache.states(layer, 0),
            y: to.f32,
            q8: to.q8,
            bf16: to.bf16,
            ..Convolve::default()
        };
        self.launch(convolve.launch())
    }

    /// The scan of a selective state space.
    pub(super) fn scan_states(
        &mut self,
        layer: usize,
        weights: &StateSpaceWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let StateSpaceWeights { spec, input, selection, .. } = weights;
        let (b, runs) = (self.buffers.recurrent, self.recurrent_runs()?);
        let stride = spec.inputs();
        self.project(std::slice::from_ref(input), norm, stride)?;
        let (conv_first, gate_first) = spec.conv_and_gate();
        let conv_channels = spec.conv_channels();
        let conv_forms = selection.as_ref().map_or(Forms::NONE, |s| self.form(&s.x, self.n).into());
        let wanted = |is: bool, at: Address| if is { at } else { Address::NONE };
        let convolve = Convolve {
            x: value(b.work, conv_first),
            x_stride: narrow(stride)?,
            kernel: self.weights.floats(&weights.kernel)?,
            width: narrow(spec.width)?,
            channels: narrow(conv_channels)?,
            bias: self.weights.floats(&weights.conv_bias)?,
            activated: true,
            runs,
            past: self.cache.states(layer, 0),
            y: b.conv.f32,
            q8: wanted(conv_forms.q8, b.conv.q8),
            bf16: wanted(conv_forms.bf16, b.conv.bf16),
            ..Convolve::default()
        };
        self.launch(convolve.launch())?;
        let mut scan = StateSpace {
            x: b.conv.f32,
            a: self.weights.floats(&weights.a)?,
            a_each: weights.a.len() > spec.n_head,
            d: self.weights.floats(&weights.d)?,
            z: value(b.work, gate_first),
            z_stride: narrow(stride)?,
            channels: narrow(spec.channels)?,
            n_head: narrow(spec.n_head)?,
            n_group: narrow(spec.n_group)?,
            d_state: narrow(spec.d_state)?,
            runs,
            states: self.cache.states(layer, 1),
            ..StateSpace::default()
        };
        match selection {
            Some(selection) => {
                scan = StateSpace { dt: b.dt, dt_stride: narrow(spec.channels)?, ..scan };
                (scan.b, scan.c, scan.bc_stride) = self.select(selection, spec.selected(), spec.d_state)?;
            }
            None => {
                // x lies before b and c: alone it is what the scan takes
                let floats = Forms { f32: true, ..Forms::NONE };
                let x = Rows { at: b.conv.f32, n: conv_channels };
                self.prepare_part(x, spec.channels, None, floats, Acts { f32: b.x, ..Acts::default() })?;
                scan = StateSpace {
                    x: b.x,
                    dt: value(b.work, stride - spec.n_head),
                    dt_stride: narrow(stride)?,
                    dt_bias: self.weights.floats(&weights.dt_bias)?,
                    b: value(b.conv.f32, spec.channels),
                    c: value(b.conv.f32, spec.channels + spec.group_values()),
                    bc_stride: narrow(conv_channels)?,
                    ..scan
                };
            }
        }
        let to = self.to_mixed(&weights.output);
        if weights.norms.is_empty() {
            scan = StateSpace { y: to.f32, q8: to.q8, bf16: to.bf16, ..scan };
            return self.launch(scan.launch());
        }
        self.launch(StateSpace { y: b.y, ..scan }.launch())?;
        let rows = NormRows {
            x: b.y,
            stride: narrow(spec.channels)?,
            rows: narrow(self.n)?,
            n: narrow(spec.channels / spec.n_group)?,
            norm: self.weights.norms(&weights.norms)?,
            y: to.f32,
            q8: to.q8,
            bf16: to.bf16,
            ..NormRows::default()
        };
        self.launch(NormParts { rows, parts: narrow(spec.n_group)? }.launch())
    }

    /// dt, and where B and C are and how far those of tokens are from each other, where they come from the convolution.
    fn select(
        &mut self,
        selection: &Selection,
        n: usize,
        d_state: usize,
    ) -> Result<(Address, Address, u32), Error> {
        let (b, rank) = (self.buffers.recurrent, selection.dt.cols());
        let y = Results { at: b.selected, stride: n };
        self.multiply(&selection.x, b.conv, self.n, Epilogue::Store, y)?;
        let forms = self.form(&selection.dt, self.n).into();
        let part = |first: usize| Rows { at: value(b.selected, first), n };
        self.prepare_part(part(0), rank, selection.norms.first(), forms, b.part)?;
        let dt = Results { at: b.dt, stride: selection.dt.rows() };
        self.multiply(&selection.dt, b.part, self.n, Epilogue::Store, dt)?;
        let [_, of_b, of_c] = &selection.norms[..] else {
            return Ok((part(rank).at, part(rank + d_state).at, narrow(n)?));
        };
        let floats = Forms { f32: true, ..Forms::NONE };
        for (i, norm, at) in [(0, of_b, b.b), (1, of_c, b.c)] {
            let to = Acts { f32: at, ..Acts::default() };
            self.prepare_part(part(rank + i * d_state), d_state, Some(norm), floats, to)?;
        }
        Ok((b.b, b.c, narrow(d_state)?))
    }

    /// The heads of a gated delta net.
    pub(super) fn delta_heads(
        &mut self,
        layer: usize,
        weights: &DeltaNetWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let DeltaNetWeights { spec, inputs, fine, .. } = weights;
        let (b, runs, channels) = (self.buffers.recurrent, self.recurrent_runs()?, spec.conv_channels());
        let (n_head, dim, values) = (spec.n_head, spec.head_dim, spec.values());
        let stride = inputs.iter().map(Weight::rows).sum();
        self.project(inputs, norm, stride)?;
        let convolve = Convolve {
            x: b.work,
            x_stride: narrow(stride)?,
            kernel: self.weights.floats(&weights.kernel)?,
            width: narrow(spec.width)?,
            channels: narrow(channels)?,
            activated: true,
            runs,
            past: self.cache.states(layer, 0),
            y: b.conv.f32,
            ..Convolve::default()
        };
        self.launch(convolve.launch())?;
        let gates = |first: usize| Ok(DeltaGates { at: value(b.work, first), stride: narrow(stride)? });
        let shared = n_head / spec.n_head_k;
        let (of_b, of_a, grouped) = match spec.kind {
            DeltaNetKind::Neighbours => {
                let groups = (narrow(shared)?, narrow(2 * shared)?);
                (gates(channels + values)?, gates(channels + values + shared)?, Some(groups))
            }
            DeltaNetKind::Strided => (gates(channels + values)?, gates(channels + values + n_head)?, None),
            DeltaNetKind::Fine => (gates(channels)?, DeltaGates { at: b.dt, stride: narrow(values)? }, None),
        };
        let (mut z, mut z_stride) = (value(b.work, channels), stride);
        if let Some(fine) = fine {
            for (i, weight, at) in [(0, &fine.a, b.dt), (1, &fine.z, b.z)] {
                let row = Rows { at: value(b.work, channels + n_head + i * dim), n: stride };
                self.prepare_part(row, dim, None, self.form(weight, self.n).into(), b.part)?;
                let y = Results { at, stride: values };
                self.multiply(weight, b.part, self.n, Epilogue::Store, y)?;
            }
            (z, z_stride) = (b.z, values);
        }
        let delta = DeltaNet {
            x: b.conv.f32,
            x_stride: narrow(channels)?,
            n_head: narrow(n_head)?,
            n_head_k: narrow(spec.n_head_k)?,
            head_dim: narrow(dim)?,
            neighbours: spec.kind == DeltaNetKind::Neighbours,
            q_norm: self.weights.norm(&weights.q_norm)?,
            k_norm: self.weights.norm(&weights.k_norm)?,
            b: of_b,
            a: of_a,
            grouped,
            fine: fine.is_some(),
            rate: self.weights.floats(&weights.a)?,
            a_bias: self.weights.floats(&weights.dt_bias)?,
            runs,
            states: self.cache.states(layer, 1),
            y: b.y,
        };
        self.launch(delta.launch())?;
        let to = self.to_mixed(&weights.output);
        let gate = GateHeads {
            x: b.y,
            tokens: narrow(self.n)?,
            n_head: narrow(n_head)?,
            head_dim: narrow(dim)?,
            norm: self.weights.norm(&weights.norm)?,
            z,
            z_stride: narrow(z_stride)?,
            by_sigmoid: fine.is_some(),
            y: to.f32,
            q8: to.q8,
            bf16: to.bf16,
        };
        self.launch(gate.launch())
    }

    /// `work = ` the products of all `weights`, one behind the other in rows of `stride`.
    fn project(
        &mut self,
        weights: &[Weight],
        norm: Option<&NormWeights>,
        stride: usize,
    ) -> Result<(), Error> {
        let acts = self.input(norm, self.forms(weights.iter()))?;
        let mut first = 0;
        for weight in weights {
            let y = Results { at: value(self.buffers.recurrent.work, first), stride };
            self.multiply(weight, acts, self.n, Epilogue::Store, y)?;
            first += weight.rows();
        }
        Ok(())
    }

    /// Where the output matrix finds what it takes, in its form alone.
    fn to_mixed(&self, output: &Weight) -> Acts {
        let (form, mixed) = (self.form(output, self.n), self.buffers.recurrent.mixed);
        let wanted = |of: Form, at: Address| if form == of { at } else { Address::NONE };
        Acts {
            f32: wanted(Form::F32, mixed.f32),
            q8: wanted(Form::Q8, mixed.q8),
            bf16: wanted(Form::Bf16, mixed.bf16),
        }
    }
}
