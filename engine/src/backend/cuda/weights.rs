//! A model's numbers on a device.

use std::borrow::Cow;
use std::collections::HashMap;

use braise_kernels::cuda::ops::{Matrix, Norm, NormKind, WEIGHT_PADDING};
use braise_kernels::cuda::{Address, Error};

use super::load::Upload;
use super::room::Room;
use crate::block;
use crate::model::{
    AttentionWeights, DeltaNetWeights, DenseWeights, ExpertMatrix, ExpertsWeights, LatentWeights,
    LayerWeights, MixerWeights, MlpWeights, Model, NormWeights, StateSpaceWeights, Weight,
};
use crate::parts::Part;

/// Where on the device the numbers are that lie at some place in the host's memory. Matrices that several layers or
/// operations share, as an embedding and an output matrix may, are there once.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// By address and length on the host, which do not change while the model is there.
    at: HashMap<(usize, usize), Address>,
}

impl Weights {
    /// Takes room for all numbers of some parts of `model` that kernels read; what has to be copied there.
    pub(super) fn new<'m>(
        model: &'m Model,
        parts: impl Iterator<Item = Part>,
        room: &mut Room<'_>,
    ) -> Result<(Weights, Vec<Upload<'m>>), Error> {
        let (mut weights, mut uploads) = (Weights::default(), Vec::new());
        let mut numbers = Numbers { model, all: Vec::new() };
        parts.for_each(|part| numbers.of_part(part));
        for (place, bytes) in numbers.all {
            let key = (place, bytes.len());
            if !bytes.is_empty() && !weights.at.contains_key(&key) {
                let to = room.take(bytes.len() + WEIGHT_PADDING)?;
                weights.at.insert(key, to);
                uploads.push(Upload { bytes, padding: WEIGHT_PADDING, to });
            }
        }
        Ok((weights, uploads))
    }

    fn find(&self, (place, len): (usize, usize), what: &str) -> Result<Address, Error> {
        if len == 0 {
            return Ok(Address::NONE);
        }
        let found = self.at.get(&(place, len)).copied();
        found.ok_or_else(|| Error::Operands(format!("{what} is not on the device")))
    }

    /// Numbers that belong to no matrix; no place where there are none.
    pub(super) fn floats(&self, values: &[f32]) -> Result<Address, Error> {
        self.find((values.as_ptr().addr(), size_of_val(values)), "a vector")
    }

    /// The rows of a matrix.
    pub(super) fn rows(&self, model: &Model, weight: &Weight) -> Result<Address, Error> {
        let data = model.data(weight);
        self.find((data.as_ptr().addr(), data.len()), weight.name())
    }

    /// A matrix with what belongs to it.
    pub(super) fn matrix(&self, model: &Model, weight: &Weight) -> Result<Matrix, Error> {
        let optional = |values: &Option<Vec<f32>>| self.floats(values.as_deref().unwrap_or(&[]));
        Ok(Matrix {
            data: self.rows(model, weight)?,
            scale: optional(&weight.scale)?,
            bias: optional(&weight.bias)?,
        })
    }

    /// The matrices of all experts, from the first row that belongs to the first of them.
    pub(super) fn expert_matrix(&self, model: &Model, matrix: &ExpertMatrix) -> Result<Matrix, Error> {
        let ExpertMatrix { weight, first, .. } = matrix;
        let mut all = self.matrix(model, weight)?;
        all.data = all.data.offset((first * weight.row_bytes()) as u64);
        if all.bias != Address::NONE {
            all.bias = all.bias.offset((first * size_of::<f32>()) as u64);
        }
        Ok(all)
    }

    /// A normalization.
    pub(super) fn norm(&self, norm: &NormWeights) -> Result<Norm, Error> {
        Ok(Norm {
            kind: norm_kind(norm.kind),
            eps: norm.eps,
            weight: self.floats(&norm.weight)?,
            bias: self.floats(&norm.bias)?,
        })
    }

    /// Normalizations of neighbouring parts of a row, whose weights lie one behind the other.
    pub(super) fn norms(&self, norms: &[NormWeights]) -> Result<Norm, Error> {
        let Some(first) = norms.first() else { return Ok(Norm::default()) };
        let bytes = norms.iter().map(|norm| size_of_val(&norm.weight[..])).sum();
        let weight = self.find((norms.as_ptr().addr(), bytes), "a norm")?;
        Ok(Norm { kind: norm_kind(first.kind), eps: first.eps, weight, bias: Address::NONE })
    }
}

pub(super) fn norm_kind(kind: block::NormKind) -> NormKind {
    match kind {
        block::NormKind::Rms => NormKind::Rms,
        block::NormKind::Layer => NormKind::Layer,
    }
}

/// All numbers of a model, in the order of the layers, each with the place on the host that it is found by.
struct Numbers<'m> {
    model: &'m Model,
    all: Vec<(usize, Cow<'m, [u8]>)>,
}

impl<'m> Numbers<'m> {
    fn of_part(&mut self, part: Part) {
        let model = self.model;
        match part {
            Part::Input => {
                self.weight(&model.token_embd);
                model.position_embd.iter().for_each(|weight| self.weight(weight));
                model.kind_embd.iter().for_each(|values| self.floats(values));
                self.norm(&model.embd_norm);
                if let Some(inputs) = &model.layer_inputs {
                    [&inputs.table, &inputs.projection].into_iter().for_each(|weight| self.weight(weight));
                    self.of_norm(&inputs.norm);
                }
            }
            Part::Mixer(i) => self.mixer(&model.layers[i]),
            Part::Mlp(i) => self.mlp(&model.layers[i]),
            Part::Output => {
                self.norm(&model.output_norm);
                self.weight(model.output());
            }
        }
    }

    fn mixer(&mut self, layer: &'m LayerWeights) {
        let norms = &layer.norms;
        [&norms.mixer, &norms.mixer_out, &norms.mixer_sum].into_iter().for_each(|norm| self.norm(norm));
        match &layer.mixer {
            MixerWeights::Attention(attention) => self.attention(attention),
            MixerWeights::ShortConv(conv) => {
                [&conv.input, &conv.output].into_iter().for_each(|weight| self.weight(weight));
                self.floats(&conv.kernel);
            }
            MixerWeights::StateSpace(s) => self.state_space(s),
            MixerWeights::Both(attention, s) => {
                self.attention(attention);
                self.state_space(s);
            }
            MixerWeights::DeltaNet(d) => self.delta_net(d),
            MixerWeights::Latent(l) => self.latent(l),
            MixerWeights::Nothing => {}
        }
    }

    fn mlp(&mut self, layer: &'m LayerWeights) {
        let norms = &layer.norms;
        [&norms.mlp, &norms.mlp_out, &norms.mlp_sum].into_iter().for_each(|norm| self.norm(norm));
        match &layer.mlp {
            MlpWeights::Dense(dense) => self.dense(dense),
            MlpWeights::Experts(experts) => self.experts(experts),
            MlpWeights::Both(both) => {
                self.dense(&both.dense);
                self.experts(&both.experts);
                let norms = [&both.dense_out, &both.experts_in, &both.experts_out];
                norms.into_iter().for_each(|norm| self.of_norm(norm));
            }
            MlpWeights::Nothing => {}
        }
        if let Some(input) = &layer.input {
            [&input.gate, &input.output].into_iter().for_each(|weight| self.weight(weight));
            self.of_norm(&input.norm);
        }
    }

    fn attention(&mut self, a: &'m AttentionWeights) {
        let matrices = [&a.q, &a.output].into_iter().chain(&a.gate).chain(a.kv.iter().flatten());
        matrices.for_each(|weight| self.weight(weight));
        let vectors = [&a.q_norm, &a.k_norm, &a.scores.sinks, &a.scores.slopes];
        vectors.into_iter().for_each(|values| self.floats(values));
        self.norm(&a.v_norm);
    }

    fn latent(&mut self, l: &'m LatentWeights) {
        let q_b = l.q_b.iter().map(|(_, q_b)| q_b);
        [&l.q_a, &l.kv_a, &l.k_b, &l.v_b, &l.output]
            .into_iter()
            .chain(q_b)
            .for_each(|weight| self.weight(weight));
        l.q_b.iter().map(|(norm, _)| norm).chain([&l.kv_norm]).for_each(|norm| self.of_norm(norm));
        [&l.scores.sinks, &l.scores.slopes].into_iter().for_each(|values| self.floats(values));
    }

    fn state_space(&mut self, s: &'m StateSpaceWeights) {
        let selection = s.selection.iter().flat_map(|selection| [&selection.x, &selection.dt]);
        [&s.input, &s.output].into_iter().chain(selection).for_each(|weight| self.weight(weight));
        let vectors = [&s.kernel, &s.conv_bias, &s.dt_bias, &s.a, &s.d];
        vectors.into_iter().for_each(|values| self.floats(values));
        s.selection.iter().flat_map(|selection| &selection.norms).for_each(|norm| self.of_norm(norm));
        let parts: Vec<f32> = s.norms.iter().flat_map(|norm| &norm.weight).copied().collect();
        self.all.push((s.norms.as_ptr().addr(), Cow::Owned(bytemuck::cast_slice(&parts).to_vec())));
    }

    fn delta_net(&mut self, d: &'m DeltaNetWeights) {
        let fine = d.fine.iter().flat_map(|fine| [&fine.a, &fine.z]);
        d.inputs.iter().chain([&d.output]).chain(fine).for_each(|weight| self.weight(weight));
        [&d.kernel, &d.a, &d.dt_bias].into_iter().for_each(|values| self.floats(values));
        [&d.q_norm, &d.k_norm, &d.norm].into_iter().for_each(|norm| self.of_norm(norm));
    }

    fn dense(&mut self, dense: &'m DenseWeights) {
        dense.gate.iter().chain([&dense.up, &dense.down]).for_each(|weight| self.weight(weight));
        self.floats(&dense.divisors);
    }

    fn experts(&mut self, experts: &'m ExpertsWeights) {
        [&experts.router]
            .into_iter()
            .chain(experts.latent.iter().flatten())
            .for_each(|weight| self.weight(weight));
        self.norm(&experts.router_norm);
        self.floats(&experts.bias);
        let matrices = experts.gate.iter().chain([&experts.up, &experts.down]);
        matrices.for_each(|matrix| self.weight(&matrix.weight));
        if let Some((shared, gate)) = &experts.shared {
            self.dense(shared);
            gate.iter().for_each(|gate| self.weight(gate));
        }
    }

    fn weight(&mut self, weight: &'m Weight) {
        self.numbers(self.model.data(weight));
        weight.scale.iter().chain(&weight.bias).for_each(|values| self.floats(values));
    }

    fn norm(&mut self, norm: &'m Option<NormWeights>) {
        norm.iter().for_each(|norm| self.of_norm(norm));
    }

    fn of_norm(&mut self, norm: &'m NormWeights) {
        self.floats(&norm.weight);
        self.floats(&norm.bias);
    }

    fn floats(&mut self, values: &'m [f32]) {
        self.numbers(bytemuck::cast_slice(values));
    }

    fn numbers(&mut self, bytes: &'m [u8]) {
        self.all.push((bytes.as_ptr().addr(), Cow::Borrowed(bytes)));
    }
}
