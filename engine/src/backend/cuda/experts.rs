//! Mixtures of experts. Few tokens are multiplied one by one with the matrices of their experts; of many, those of an expert
//! together.

use braise_kernels::cuda::ops::{Choose, Epilogue, OrderByExpert, Route, SumExperts};
use braise_kernels::cuda::{Address, Error};

use super::narrow;
use super::pass::Pass;
use super::products::{Form, Forms, Results, few_form};
use crate::backend::Residual;
use crate::block::Routing;
use crate::model::{ExpertMatrix, ExpertsWeights, NormWeights, Weight};

impl Pass<'_> {
    /// Scores of all experts, and which ones each token takes. Scores are never of bf16: they decide.
    pub(super) fn choose_experts(
        &mut self,
        weights: &ExpertsWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let (spec, b, n) = (&weights.spec, self.buffers, self.n);
        let exact = |weight: &Weight| few_form(weight.matmul.weights());
        let gate = weights.shared.as_ref().and_then(|(_, gate)| gate.as_ref());
        let mut forms = Forms::from(exact(&weights.router));
        forms = gate.map_or(forms, |gate| forms.with(exact(gate).into()));
        if weights.router_norm.is_none() && !spec.routes_first {
            // the experts will read the same
            forms = forms.with(self.forms_of_experts(weights));
        }
        let acts = self.input(weights.router_norm.as_ref().or(norm), forms)?;
        let stride = spec.n_expert + 1;
        let scores = Results { at: b.router, stride };
        let product = self.matvec(&weights.router, acts, n, Epilogue::Store, scores)?;
        self.launch(product.launch())?;
        if let Some(gate) = gate {
            let at = b.router.offset((spec.n_expert * size_of::<f32>()) as u64);
            let product = self.matvec(gate, acts, n, Epilogue::Store, Results { at, stride })?;
            self.launch(product.launch())?;
        }
        self.used = spec.n_used;
        let route = Route {
            scores: b.router,
            stride: narrow(stride)?,
            tokens: narrow(n)?,
            n: narrow(spec.n_expert)?,
            used: narrow(spec.n_used)?,
            by: match spec.routing {
                Routing::Softmax => Choose::Softmax,
                Routing::Sigmoid => Choose::Sigmoid,
                Routing::SoftmaxOfChosen => Choose::SoftmaxOfChosen,
            },
            bias: self.weights.floats(&weights.bias)?,
            groups: spec.groups.map(|groups| Ok((narrow(groups.n)?, narrow(groups.used)?))).transpose()?,
            normalize: spec.normalize,
            scale: spec.scale,
            chosen: b.experts.chosen,
            weights: b.experts.weights,
        };
        self.launch(route.launch())?;
        if self.forms_of_experts(weights).bf16 || self.form(&weights.down.weight, n) == Form::Bf16 {
            let order = OrderByExpert {
                chosen: b.experts.chosen,
                n: narrow(n * spec.n_used)?,
                experts: narrow(spec.n_expert)?,
                order: b.experts.order,
                starts: b.experts.starts,
            };
            self.launch(order.launch())?;
        }
        Ok(())
    }

    fn forms_of_experts(&self, weights: &ExpertsWeights) -> Forms {
        let shared = weights.shared.iter().flat_map(|(shared, _)| shared.gate.iter().chain([&shared.up]));
        let chosen = weights.gate.iter().chain([&weights.up]).map(|matrix| &matrix.weight);
        self.forms(chosen.chain(shared))
    }

    /// The values between the matrices of the chosen experts, and of the one that all tokens take.
    pub(super) fn up_of_experts(
        &mut self,
        weights: &ExpertsWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let ExpertsWeights { spec, gate, up, down, .. } = weights;
        let acts = self.input(norm, self.forms_of_experts(weights))?;
        let (h, n_ff, activation) = (self.buffers.experts.h, spec.expert.n_ff, spec.expert.activation);
        let (to, columns) = (self.form(&down.weight, self.n), self.n * self.used);
        let y = Results { at: h.f32, stride: n_ff };
        let (size, first) = ((n_ff, self.used), gate.as_ref().unwrap_or(up));
        let same = |gate: &ExpertMatrix| gate.weight.matmul.weights() == up.weight.matmul.weights();
        if self.form(&up.weight, self.n) == Form::Bf16 || !gate.as_ref().is_none_or(same) {
            let of_up = Results { at: self.buffers.experts.up, ..y };
            self.multiply_experts(first, acts, size, Epilogue::Store, y)?;
            if gate.is_some() {
                self.multiply_experts(up, acts, size, Epilogue::Store, of_up)?;
            }
            let gated = gate.is_some().then_some(of_up.at);
            self.activate(activation, h, gated, (columns * n_ff) as u64, to)?;
        } else {
            let mut product = self.matvec_experts(first, acts, size, Epilogue::Activate(activation), y)?;
            if gate.is_some() {
                product.w[1] = self.weights.expert_matrix(self.model, up)?;
                product.epilogue = Epilogue::Gated(activation);
            }
            self.launch_into(product, h, to, columns)?;
        }
        match &weights.shared {
            Some((shared, _)) => self.gate_and_up(shared, norm),
            None => Ok(()),
        }
    }

    /// Adds the weighted sums of the experts' results: `x += scale * sum`; where results are normalized, `y = sum` before.
    pub(super) fn down_of_experts(
        &mut self,
        weights: &ExpertsWeights,
        residual: Residual<'_>,
    ) -> Result<(), Error> {
        let (b, n) = (self.buffers, self.n);
        let (results, stride) = (b.experts.results, b.x.n);
        let y = Results { at: results, stride };
        self.multiply_experts(&weights.down, b.experts.h, (stride, 1), Epilogue::Store, y)?;
        let (mut shared, mut gates) = (Address::NONE, Address::NONE);
        if let Some((of_all, gate)) = &weights.shared {
            shared = b.shared;
            self.multiply(&of_all.down, b.h, n, Epilogue::Store, Results { at: shared, stride })?;
            if gate.is_some() {
                gates = b.router.offset((weights.spec.n_expert * size_of::<f32>()) as u64);
            }
        }
        let normalized = residual.norm.is_some();
        let sum = SumExperts {
            results,
            weights: b.experts.weights,
            used: narrow(self.used)?,
            shared,
            gates,
            gate_stride: narrow(weights.spec.n_expert + 1)?,
            tokens: narrow(n)?,
            n: narrow(b.x.n)?,
            factor: if normalized { 1.0 } else { residual.scale },
            add: !normalized,
            x: if normalized { b.y } else { b.x.at },
        };
        self.x_changes();
        self.launch(sum.launch())?;
        self.finish_block(residual)
    }
}
