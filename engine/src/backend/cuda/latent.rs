//! Latent attention: the maps that make keys and values of what is cached are applied to queries and results, so that what
//! remains is attention with one key/value head. A head of a token is a column that takes the head's map, as a token takes
//! its experts.

use braise_kernels::cuda::Error;
use braise_kernels::cuda::ops::{
    Epilogue, ExpertsOf, FinishLatent, HeadRows, Matmul, Matvec, OrderByExpert, Ordered,
};

use super::attention::temperature;
use super::buffers::HeadOrder;
use super::narrow;
use super::pass::Pass;
use super::products::{Acts, Form, Results};
use crate::model::{LatentWeights, NormWeights, Weight};

impl Pass<'_> {
    /// Latent attention up to the output matrix.
    pub(super) fn latent_heads(
        &mut self,
        layer: usize,
        weights: &LatentWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let LatentWeights { spec, k_b, v_b, output, .. } = weights;
        let (b, n, n_head) = (&self.buffers.latent, self.n, spec.attention.heads.n_head);
        self.compress(weights, norm)?;
        let form = self.form(k_b, n);
        let rows = (b.q, narrow(spec.query_dim())?, narrow(spec.nope_dim)?);
        self.prepare_rows(rows, narrow(n * n_head)?, None, form.into(), b.heads)?;
        let key_dim = spec.attention.heads.head_dim;
        self.map_heads(k_b, n_head, b.heads, Results { at: self.buffers.q, stride: key_dim })?;
        self.finish_latent(layer, weights)?;

        let stride = narrow(n_head * key_dim)?;
        let q = HeadRows { at: self.buffers.q, stride, head_stride: narrow(key_dim)? };
        let (form, results) = (self.form(v_b, n), self.buffers.results);
        self.attend(layer, (&spec.attention, &weights.scores), [q, HeadRows::default()], form)?;
        self.map_heads(v_b, n_head, results, Results { at: b.heads.f32, stride: spec.v_dim })?;
        match self.form(output, n) {
            Form::F32 => Ok(()),
            to => self.prepare((b.heads.f32, narrow(output.cols())?), n, None, to.into(), b.heads),
        }
    }

    /// Queries, compressed before or not, and what is cached.
    fn compress(&mut self, weights: &LatentWeights, norm: Option<&NormWeights>) -> Result<(), Error> {
        let LatentWeights { q_a, q_b, kv_a, .. } = weights;
        let (b, n) = (&self.buffers.latent, self.n);
        let acts = self.input(norm, self.forms([q_a, kv_a].into_iter()))?;
        let to = |at, weight: &Weight| Results { at, stride: weight.rows() };
        self.multiply(kv_a, acts, n, Epilogue::Store, to(b.kv, kv_a))?;
        let Some((norm, q_b)) = q_b else {
            return self.multiply(q_a, acts, n, Epilogue::Store, to(b.q, q_a));
        };
        self.multiply(q_a, acts, n, Epilogue::Store, to(b.compressed.f32, q_a))?;
        let (row, form) = ((b.compressed.f32, narrow(q_a.rows())?), self.form(q_b, n));
        self.prepare(row, n, Some(norm), form.into(), b.compressed)?;
        self.multiply(q_b, b.compressed, n, Epilogue::Store, to(b.q, q_b))
    }

    /// The parts of queries that turn, and what goes into the cache.
    fn finish_latent(&mut self, layer: usize, weights: &LatentWeights) -> Result<(), Error> {
        let spec = &weights.spec;
        let (b, step) = (self.buffers, self.step());
        let (n_head, rank) = (spec.attention.heads.n_head, spec.attention.heads.head_dim_v);
        let rotation = spec.attention.rope.map(|rope| b.rotations[rope]).unwrap_or_default();
        let finish = FinishLatent {
            n_head: narrow(n_head)?,
            nope: narrow(spec.nope_dim)?,
            rope: narrow(spec.rope_dim())?,
            rank: narrow(rank)?,
            q: b.latent.q,
            q_stride: narrow(n_head * spec.query_dim())?,
            kv: b.latent.kv,
            kv_stride: narrow(weights.kv_a.rows())?,
            kv_norm: self.weights.norm(&weights.kv_norm)?,
            tokens: narrow(self.n)?,
            cosines: rotation.cosines,
            sines: rotation.sines,
            n_pairs: rotation.n_pairs,
            halves: rotation.halves,
            temperature: temperature(&spec.attention)?,
            cache: self.cache.operands(layer, step.positions, step.sequences)?,
            y: b.q,
        };
        self.launch(finish.launch())
    }

    /// The product of each head of a token with the part of `weight` that is the head's.
    fn map_heads(&mut self, weight: &Weight, n_head: usize, acts: Acts, y: Results) -> Result<(), Error> {
        let (columns, rows) = (self.n * n_head, narrow(weight.rows() / n_head)?);
        let HeadOrder { ids, order, starts, .. } = *self.buffers.head_order(n_head);
        if self.form(weight, self.n) == Form::Bf16 {
            let ordered = Ordered { order, starts, experts: narrow(n_head)?, rows, share: 1 };
            let all = self.matmul(weight, acts, columns, Epilogue::Store, y)?;
            let all = Matmul { rows, experts: Some(ordered), ..all }.on(self.device.properties());
            return self.launch(all.launch_of(narrow(self.n)?));
        }
        let all = self.matvec(weight, acts, columns, Epilogue::Store, y)?;
        self.launch(Matvec { rows, experts: Some(ExpertsOf { ids, rows, share: 1 }), ..all }.launch())
    }

    /// The heads of many tokens, in the order of their maps.
    pub(super) fn order_heads(&mut self) -> Result<(), Error> {
        for HeadOrder { n_head, ids, order, starts } in &self.buffers.latent.orders {
            let (n, experts) = (narrow(self.n * n_head)?, narrow(*n_head)?);
            let order = OrderByExpert { chosen: *ids, n, experts, order: *order, starts: *starts };
            self.launch(order.launch())?;
        }
        Ok(())
    }
}
