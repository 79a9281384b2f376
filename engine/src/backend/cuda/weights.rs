//! A model's numbers on a device.

use std::collections::HashMap;

use braise_kernels::cuda::ops::{Matrix, Norm, NormKind, WEIGHT_PADDING};
use braise_kernels::cuda::{Address, Error};

use super::room::Room;
use crate::block;
use crate::model::{
    AttentionWeights, DenseWeights, ExpertMatrix, ExpertsWeights, LayerWeights, MixerWeights, MlpWeights,
    Model, NormWeights, Weight,
};

/// Where on the device the numbers are that lie at some place in the host's memory. Matrices that several layers or
/// operations share, as an embedding and an output matrix may, are there once.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// By address and length on the host, which do not change while the model is there.
    at: HashMap<(usize, usize), Address>,
}

impl Weights {
    /// Copies all numbers of `model` that kernels read into `room`.
    pub(super) fn new(model: &Model, room: &mut Room<'_>) -> Result<Weights, Error> {
        let mut weights = Weights::default();
        let mut numbers = Numbers { model, all: Vec::new() };
        numbers.of_model();
        for bytes in numbers.all {
            let key = (bytes.as_ptr().addr(), bytes.len());
            if !bytes.is_empty() && !weights.at.contains_key(&key) {
                weights.at.insert(key, room.copy(bytes, WEIGHT_PADDING)?);
            }
        }
        Ok(weights)
    }

    fn find(&self, bytes: &[u8], what: &str) -> Result<Address, Error> {
        if bytes.is_empty() {
            return Ok(Address::NONE);
        }
        let found = self.at.get(&(bytes.as_ptr().addr(), bytes.len())).copied();
        found.ok_or_else(|| Error::Operands(format!("{what} is not on the device")))
    }

    /// Numbers that belong to no matrix; no place where there are none.
    pub(super) fn floats(&self, values: &[f32]) -> Result<Address, Error> {
        self.find(bytemuck::cast_slice(values), "a vector")
    }

    /// The rows of a matrix.
    pub(super) fn rows(&self, model: &Model, weight: &Weight) -> Result<Address, Error> {
        self.find(model.data(weight), weight.name())
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
}

pub(super) fn norm_kind(kind: block::NormKind) -> NormKind {
    match kind {
        block::NormKind::Rms => NormKind::Rms,
        block::NormKind::Layer => NormKind::Layer,
    }
}

/// All numbers of a model, in the order of the layers.
struct Numbers<'m> {
    model: &'m Model,
    all: Vec<&'m [u8]>,
}

impl<'m> Numbers<'m> {
    fn of_model(&mut self) {
        let model = self.model;
        self.weight(&model.token_embd);
        model.position_embd.iter().for_each(|weight| self.weight(weight));
        model.kind_embd.iter().for_each(|values| self.floats(values));
        self.norm(&model.embd_norm);
        model.layers.iter().for_each(|layer| self.layer(layer));
        self.norm(&model.output_norm);
        self.weight(model.output());
    }

    fn layer(&mut self, layer: &'m LayerWeights) {
        let norms = &layer.norms;
        let norms =
            [&norms.mixer, &norms.mixer_out, &norms.mixer_sum, &norms.mlp, &norms.mlp_out, &norms.mlp_sum];
        norms.into_iter().for_each(|norm| self.norm(norm));
        if let MixerWeights::Attention(attention) = &layer.mixer {
            self.attention(attention);
        }
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
    }

    fn attention(&mut self, a: &'m AttentionWeights) {
        [&a.q, &a.output].into_iter().chain(a.kv.iter().flatten()).for_each(|weight| self.weight(weight));
        let vectors = [&a.q_norm, &a.k_norm, &a.scores.sinks, &a.scores.slopes];
        vectors.into_iter().for_each(|values| self.floats(values));
        self.norm(&a.v_norm);
    }

    fn dense(&mut self, dense: &'m DenseWeights) {
        dense.gate.iter().chain([&dense.up, &dense.down]).for_each(|weight| self.weight(weight));
    }

    fn experts(&mut self, experts: &'m ExpertsWeights) {
        self.weight(&experts.router);
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
        self.all.push(self.model.data(weight));
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
        self.all.push(bytemuck::cast_slice(values));
    }
}
