//! Mixtures of experts. Few tokens are multiplied one by one with the matrices of their experts; of many, those of an expert
//! together.

use braise_kernels::cuda::ops::{Choose, Epilogue, OrderByExpert, Route, SumExperts, WeighRows};
use braise_kernels::cuda::{Address, Error};

use super::dense::ends_product;
use super::narrow;
use super::pass::Pass;
use super::products::{Acts, Form, Forms, Results, few_form};
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
        if self.forms_of_chosen(weights).bf16 || self.form(&weights.down.weight, n) == Form::Bf16 {
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

    /// The forms of `x` that the mixture reads.
    fn forms_of_experts(&self, weights: &ExpertsWeights) -> Forms {
        let chosen = match &weights.latent {
            Some([into, _]) => self.form(into, self.n).into(),
            None if weights.spec.weigh_inputs => Forms { f32: true, ..Forms::NONE },
            None => self.forms_of_chosen(weights),
        };
        let shared = weights.shared.iter().flat_map(|(shared, _)| shared.gate.iter().chain([&shared.up]));
        chosen.with(self.forms(shared))
    }

    /// The forms that the chosen experts read.
    fn forms_of_chosen(&self, weights: &ExpertsWeights) -> Forms {
        self.forms(weights.gate.iter().chain([&weights.up]).map(|matrix| &matrix.weight))
    }

    /// What the chosen experts read, and how many of a token have the same.
    fn input_of_experts(&mut self, weights: &ExpertsWeights, acts: Acts) -> Result<(Acts, usize), Error> {
        let (spec, b, forms) = (&weights.spec, self.buffers.experts, self.forms_of_chosen(weights));
        let (mut acts, mut width) = (acts, self.buffers.x.n);
        if let Some([into, _]) = &weights.latent {
            width = into.rows();
            let y = Results { at: b.latent.f32, stride: width };
            self.multiply(into, acts, self.n, Epilogue::Store, y)?;
            acts = b.latent;
            if !spec.weigh_inputs && forms != Form::F32.into() {
                self.prepare((acts.f32, narrow(width)?), self.n, None, forms, acts)?;
            }
        }
        if !spec.weigh_inputs {
            return Ok((acts, self.used));
        }
        let wanted = |is: bool, at: Address| if is { at } else { Address::NONE };
        let weigh = WeighRows {
            x: acts.f32,
            n: narrow(width)?,
            rows: narrow(self.n * self.used)?,
            share: narrow(self.used)?,
            weights: b.weights,
            y: wanted(forms.f32, b.weighed.f32),
            q8: wanted(forms.q8, b.weighed.q8),
            bf16: wanted(forms.bf16, b.weighed.bf16),
        };
        self.launch(weigh.launch())?;
        Ok((b.weighed, 1))
    }

    /// The values between the matrices of the chosen experts, and of the one that all tokens take.
    pub(super) fn up_of_experts(
        &mut self,
        weights: &ExpertsWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let ExpertsWeights { spec, gate, up, down, .. } = weights;
        let acts = self.input(norm, self.forms_of_experts(weights))?;
        let (acts, share) = self.input_of_experts(weights, acts)?;
        let (h, n_ff, activation) = (self.buffers.experts.h, spec.expert.n_ff, spec.expert.activation);
        let (to, columns) = (self.form(&down.weight, self.n), self.n * self.used);
        let y = Results { at: h.f32, stride: n_ff };
        let (size, first) = ((n_ff, share), gate.as_ref().unwrap_or(up));
        let same = |gate: &ExpertMatrix| gate.weight.matmul.weights() == up.weight.matmul.weights();
        let ends = ends_product(activation) && gate.as_ref().is_none_or(same);
        if self.form(&up.weight, self.n) == Form::Bf16 || !ends {
            let of_up = Results { at: self.buffers.experts.up, ..y };
            self.multiply_experts(first, acts, size, Epilogue::Store, y)?;
            if gate.is_some() {
                self.multiply_experts(up, acts, size, Epilogue::Store, of_up)?;
            }
            let gated = gate.is_some().then_some(of_up.at);
            self.activate((activation, &[]), h, gated, (columns, n_ff), to)?;
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
        let (b, n, spec) = (self.buffers, self.n, &weights.spec);
        let (results, n_embd) = (b.experts.results, b.x.n);
        let width = spec.latent.unwrap_or(n_embd);
        let y = Results { at: results, stride: width };
        self.multiply_experts(&weights.down, b.experts.h, (width, 1), Epilogue::Store, y)?;
        let (mut shared, mut gates) = (Address::NONE, Address::NONE);
        if let Some((of_all, gate)) = &weights.shared {
            shared = b.shared;
            let y = Results { at: shared, stride: n_embd };
            self.multiply(&of_all.down, b.h, n, Epilogue::Store, y)?;
            if gate.is_some() {
                gates = b.router.offset((spec.n_expert * size_of::<f32>()) as u64);
            }
        }
        let normalized = residual.norm.is_some();
        let sum = SumExperts {
            results,
            weights: if spec.weigh_inputs { Address::NONE } else { b.experts.weights },
            used: narrow(self.used)?,
            shared,
            gates,
            gate_stride: narrow(spec.n_expert + 1)?,
            tokens: narrow(n)?,
            n: narrow(n_embd)?,
            factor: if normalized { 1.0 } else { residual.scale },
            add: !normalized,
            x: if normalized { b.y } else { b.x.at },
        };
        self.x_changes();
        match &weights.latent {
            None => self.launch(sum.launch())?,
            Some([_, back]) => self.sum_from_latent(sum, back)?,
        }
        self.finish_block(residual)
    }

    /// The sum of experts whose results are of a size of their own: it goes through the matrix `back` first, and then comes
    /// what the expert gives that all take.
    fn sum_from_latent(&mut self, sum: SumExperts, back: &Weight) -> Result<(), Error> {
        let (acts, width) = (self.buffers.experts.latent, narrow(back.cols())?);
        let (none, x) = (Address::NONE, acts.f32);
        let alone = SumExperts { shared: none, gates: none, n: width, factor: 1.0, add: false, x, ..sum };
        self.launch(alone.launch())?;
        let form = self.form(back, self.n);
        if form != Form::F32 {
            self.prepare((x, width), self.n, None, form.into(), acts)?;
        }
        let epilogue = if sum.add { Epilogue::Add(sum.factor) } else { Epilogue::Store };
        self.multiply(back, acts, self.n, epilogue, Results { at: sum.x, stride: back.rows() })?;
        if sum.shared == none {
            return Ok(());
        }
        self.launch(SumExperts { used: 0, add: true, ..sum }.launch())
    }
}
