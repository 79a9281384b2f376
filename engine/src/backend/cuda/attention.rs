//! Queries, keys and values, and attention over the cache.

use braise_kernels::cuda::ops::{
    Attend, Epilogue, FinishHeads, Flash, HeadNorm, HeadPlace, Heads, Matrix, Norm, NormRows, Qkv, Scores,
};
use braise_kernels::cuda::{Address, Error};
use braise_kernels::ops::Window;

use super::pass::Pass;
use super::products::{Form, Results, few_form};
use super::weights::norm_kind;
use super::{TENSOR_CORES, are_few, narrow};
use crate::block::{self, Attention, NormPlace};
use crate::model::{AttentionWeights, NormWeights, Weight};

/// Sizes of heads as kernels take them.
pub(super) fn heads(heads: &block::Heads) -> Result<Heads, Error> {
    Ok(Heads {
        n_head_kv: narrow(heads.n_head_kv)?,
        group: narrow(heads.group())?,
        dim_k: narrow(heads.head_dim)?,
        dim_v: narrow(heads.head_dim_v)?,
    })
}

/// Whether there is a kernel for many tokens.
pub(super) fn has_flash(a: &Attention, compute: (u32, u32)) -> bool {
    let dims = [a.heads.head_dim, a.heads.head_dim_v];
    compute >= TENSOR_CORES && dims[0] == dims[1] && Flash::DIMS.iter().any(|dim| *dim as usize == dims[0])
}

/// Blocks that share the positions of a head, so that n tokens keep the device busy.
pub(super) fn shares(heads: &Heads, n: usize, multiprocessors: u32, pages: u32) -> u32 {
    if !are_few(n) {
        return 1;
    }
    const BLOCKS_EACH: u32 = 2; // of a multiprocessor
    let blocks = heads.n_head_kv.saturating_mul(heads.group.div_ceil(8)).saturating_mul(n as u32);
    (multiprocessors.saturating_mul(BLOCKS_EACH) / blocks.max(1)).clamp(1, pages.max(1))
}

/// What a token sees, in positions; all if it is no window.
pub(super) fn window(a: &Attention) -> Option<usize> {
    match a.window {
        Some(Window::Sliding(n)) => Some(n),
        _ => None,
    }
}

impl Pass<'_> {
    pub(super) fn queries_keys_values(
        &mut self,
        layer: usize,
        weights: &AttentionWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let AttentionWeights { spec, q, kv, .. } = weights;
        let (b, all) = (self.buffers, || [q].into_iter().chain(kv.iter().flatten()));
        let acts = self.input(norm, self.forms(all()))?;
        // each token of a launch for all matrices reads them for itself
        let types = kv.as_ref().map(|[k, v]| [q, k, v].map(|weight| weight.matmul.weights()));
        if let Some(types) = types.filter(|types| self.n == 1 && Qkv::has_kernel(*types)) {
            let heads = self.finish_heads(layer, weights, self.head_norm(weights)?)?;
            let v_norm = weights.v_norm.as_ref().map(|norm| self.weights.norm(norm)).transpose()?;
            let fuses = !is_of_token(spec) && Qkv::can_finish(&heads);
            let mut w = [Matrix::default(); 3];
            for (w, weight) in w.iter_mut().zip(all()) {
                *w = self.weights.matrix(self.model, weight)?;
            }
            let qkv = Qkv {
                types,
                w,
                x: if few_form(types[0]) == Form::Q8 { acts.q8 } else { acts.f32 },
                k: narrow(q.cols())?,
                heads,
                v_norm: v_norm.filter(|_| fuses),
                counters: if fuses { b.counters } else { Address::NONE },
            };
            self.launch(qkv.launch())?;
            if fuses {
                return Ok(());
            }
        } else {
            for (weight, at) in all().zip([b.q, b.k, b.v]) {
                self.multiply(weight, acts, self.n, Epilogue::Store, Results { at, stride: weight.rows() })?;
            }
        }
        if let Some(norm) = weights.v_norm.as_ref().filter(|_| kv.is_some()) {
            let rows = self.n * spec.heads.n_head_kv;
            let norm = self.weights.norm(norm)?;
            self.normalize_rows(b.v, narrow(spec.heads.head_dim_v)?, rows, norm)?;
        }
        let head_norm = self.head_norm_of_all(weights)?;
        let finish = self.finish_heads(layer, weights, head_norm)?;
        self.launch(finish.launch())
    }

    /// What becomes of heads between their matrices and attention.
    fn finish_heads(
        &self,
        layer: usize,
        weights: &AttentionWeights,
        norm: Option<HeadNorm>,
    ) -> Result<FinishHeads, Error> {
        let AttentionWeights { spec, q, kv, .. } = weights;
        let b = self.buffers;
        let step = b.step(self.n);
        let rotation = spec.rope.map(|rope| b.rotations[rope]).unwrap_or_default();
        let (k, v) = if kv.is_some() { (b.k, b.v) } else { (Address::NONE, Address::NONE) };
        let stride = |of: usize| kv.as_ref().map_or(Ok(0), |kv| narrow(kv[of].rows()));
        Ok(FinishHeads {
            heads: heads(&spec.heads)?,
            q: b.q,
            q_stride: narrow(q.rows())?,
            q_head_stride: narrow(q_head_stride(spec))?,
            k,
            k_stride: stride(0)?,
            v,
            v_stride: stride(1)?,
            tokens: narrow(self.n)?,
            clamp: spec.clamp,
            norm,
            cosines: rotation.cosines,
            sines: rotation.sines,
            n_pairs: rotation.n_pairs,
            halves: rotation.halves,
            temperature: spec.temperature.map(|t| Ok((t.scale, narrow(t.every)?))).transpose()?,
            cache: b.cache(cached_layer(layer, spec), step.positions),
        })
    }

    /// The norm of each head.
    fn head_norm(&self, weights: &AttentionWeights) -> Result<Option<HeadNorm>, Error> {
        let Some(norm) = weights.spec.qk_norm else { return Ok(None) };
        Ok(Some(HeadNorm {
            kind: norm_kind(norm.kind),
            eps: norm.eps,
            place: match norm.place {
                NormPlace::RotatedHead => HeadPlace::AfterRotation,
                NormPlace::Head | NormPlace::Token => HeadPlace::BeforeRotation,
            },
            q: self.weights.floats(&weights.q_norm)?,
            k: self.weights.floats(&weights.k_norm)?,
            stride: narrow(weights.spec.heads.head_dim)?,
        }))
    }

    /// The same; that of all heads of a token together is done here.
    fn head_norm_of_all(&mut self, weights: &AttentionWeights) -> Result<Option<HeadNorm>, Error> {
        let AttentionWeights { spec, q, kv, .. } = weights;
        let norm = self.head_norm(weights)?;
        let Some(HeadNorm { kind, eps, .. }) = norm.filter(|_| is_of_token(spec)) else { return Ok(norm) };
        let k = kv.as_ref().map(|[k, _]| (self.buffers.k, k.rows(), &weights.k_norm));
        for (at, n, weight) in [(self.buffers.q, q.rows(), &weights.q_norm)].into_iter().chain(k) {
            let norm = Norm { kind, eps, weight: self.weights.floats(weight)?, bias: Address::NONE };
            self.normalize_rows(at, narrow(n)?, self.n, norm)?;
        }
        Ok(None)
    }

    /// Normalizes rows of n values in place.
    fn normalize_rows(&mut self, at: Address, n: u32, rows: usize, norm: Norm) -> Result<(), Error> {
        let rows = narrow(rows)?;
        self.launch(NormRows { x: at, stride: n, rows, n, norm, y: at, ..NormRows::default() }.launch())
    }

    /// Attention, in the form that the output matrix takes.
    pub(super) fn attention(&mut self, layer: usize, weights: &AttentionWeights) -> Result<(), Error> {
        let AttentionWeights { spec, q, output, .. } = weights;
        let (b, to) = (self.buffers, self.form(output, self.n));
        let properties = self.device.properties();
        // that of single tokens knows no window that sees both ways
        let many = !are_few(self.n) || (!spec.causal && spec.window.is_some());
        let is_flash = many && has_flash(spec, properties.compute);
        let multiprocessors = properties.multiprocessors;
        let heads = heads(&spec.heads)?;
        let scores = Scores {
            scale: spec.scale,
            softcap: spec.softcap,
            window: window(spec).map(narrow).transpose()?,
            slopes: self.weights.floats(&weights.scores.slopes)?,
            sinks: self.weights.floats(&weights.scores.sinks)?,
        };
        let (q_stride, q_head_stride) = (narrow(q.rows())?, narrow(q_head_stride(spec))?);
        let behind_query = b.q.offset((spec.heads.head_dim * size_of::<f32>()) as u64);
        let gates = if spec.gated { behind_query } else { Address::NONE };
        let (tokens, step) = (narrow(self.n)?, b.step(self.n));
        let wanted = |form: Form, at: Address| if form == to { at } else { Address::NONE };
        if is_flash {
            let both_ways = if spec.causal { None } else { Some(tokens) };
            let cache = b.cache(cached_layer(layer, spec), step.positions);
            let bf16 = wanted(Form::Bf16, b.results.bf16);
            let y = if bf16 == Address::NONE { b.results.f32 } else { Address::NONE };
            let q = b.q;
            let flash =
                Flash { heads, q, q_stride, q_head_stride, tokens, cache, scores, both_ways, gates, y, bf16 };
            self.launch(flash.launch())?;
            return if to == Form::Q8 { self.finish_results(output, to) } else { Ok(()) };
        }
        // what sees all positions sees as much as the last token does
        let positions = if spec.causal { step.positions } else { step.last_positions };
        let q8 = if heads.dim_v.is_multiple_of(32) { wanted(Form::Q8, b.results.q8) } else { Address::NONE };
        let attend = Attend {
            heads,
            q: b.q,
            q_stride,
            q_head_stride,
            tokens,
            cache: b.cache(cached_layer(layer, spec), positions),
            scores,
            gates,
            shares: shares(&heads, self.n, multiprocessors, b.seen_pages(spec)?),
            parts: b.parts,
            counters: b.counters,
            y: if q8 == Address::NONE { b.results.f32 } else { Address::NONE },
            q8,
        };
        self.launch(attend.launch())?;
        if to == Form::F32 || q8 != Address::NONE {
            return Ok(());
        }
        self.finish_results(output, to)
    }

    /// Results in floats become what the output matrix takes.
    fn finish_results(&mut self, output: &Weight, to: Form) -> Result<(), Error> {
        let results = self.buffers.results;
        self.prepare((results.f32, narrow(output.cols())?), self.n, None, to.into(), results)
    }
}

/// Whether all heads of a token are normalized together.
fn is_of_token(a: &Attention) -> bool {
    a.qk_norm.is_some_and(|norm| norm.place == NormPlace::Token)
}

/// The layer whose keys and values a layer reads.
pub(super) fn cached_layer(layer: usize, a: &Attention) -> usize {
    match a.source {
        block::Source::Layer(of) => of,
        block::Source::Own | block::Source::Keys => layer,
    }
}

/// Distance of queries, behind each of which may be its gate.
fn q_head_stride(a: &Attention) -> usize {
    if a.gated { 2 * a.heads.head_dim } else { a.heads.head_dim }
}
