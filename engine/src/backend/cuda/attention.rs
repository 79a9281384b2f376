//! Queries, keys and values, and attention over the cache.

use braise_kernels::cuda::ops::{
    Attend, Epilogue, FinishHeads, Flash, HeadNorm, HeadPlace, HeadRows, Heads, Matrix, Norm, NormRows, Qkv,
    Scores, Temperature,
};
use braise_kernels::cuda::{Address, Error, Properties};

use super::pass::Pass;
use super::products::{Form, Results, few_form};
use super::weights::norm_kind;
use super::{TENSOR_CORES, are_few, narrow};
use crate::block::{self, Attention, NormPlace};
use crate::model::{AttentionWeights, HeadScores, NormWeights};

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
pub(super) fn has_flash(a: &Attention, properties: &Properties) -> bool {
    let room = heads(&a.heads).ok().and_then(|heads| Flash::room(heads.dim_k, heads.dim_v));
    properties.compute >= TENSOR_CORES && room.is_some_and(|room| room <= properties.shared_bytes)
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

/// How queries grow, as kernels take it.
pub(super) fn temperature(a: &Attention) -> Result<Temperature, Error> {
    let Some(block::Temperature { scale, every, offset }) = a.temperature else {
        return Ok(Temperature::default());
    };
    Ok(Temperature { scale, every: narrow(every)?, offset: narrow(offset)? })
}

impl Pass<'_> {
    pub(super) fn queries_keys_values(
        &mut self,
        layer: usize,
        weights: &AttentionWeights,
        norm: Option<&NormWeights>,
    ) -> Result<(), Error> {
        let AttentionWeights { spec, q, gate, kv, .. } = weights;
        let (b, all) = (self.buffers, || [q].into_iter().chain(kv.iter().flatten()));
        let acts = self.input(norm, self.forms(all().chain(gate)))?;
        if let Some(gate) = gate {
            let y = Results { at: self.gates(weights)?.at, stride: gate.rows() };
            self.multiply(gate, acts, self.n, Epilogue::Store, y)?;
        }
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
            q_head_stride: self.queries(weights)?.head_stride,
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
            temperature: temperature(spec)?,
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

    /// The queries of the batch.
    fn queries(&self, weights: &AttentionWeights) -> Result<HeadRows, Error> {
        let rows = weights.q.rows();
        let head_stride = narrow(rows / weights.spec.heads.n_head)?;
        Ok(HeadRows { at: self.buffers.q, stride: narrow(rows)?, head_stride })
    }

    /// What its results are gated by: behind each query, or behind the queries of all tokens.
    fn gates(&self, weights: &AttentionWeights) -> Result<HeadRows, Error> {
        let q = self.queries(weights)?;
        let dim = weights.spec.heads.head_dim;
        let behind = |values: usize| q.at.offset((values * size_of::<f32>()) as u64);
        Ok(match &weights.gate {
            _ if !weights.spec.gated => HeadRows::default(),
            None => HeadRows { at: behind(dim), ..q },
            Some(gate) => {
                let (stride, head_stride) = (narrow(gate.rows())?, narrow(dim)?);
                HeadRows { at: behind(self.n * weights.q.rows()), stride, head_stride }
            }
        })
    }

    /// Attention, in the form that the output matrix takes.
    pub(super) fn attention(&mut self, layer: usize, weights: &AttentionWeights) -> Result<(), Error> {
        let rows = [self.queries(weights)?, self.gates(weights)?];
        let to = self.form(&weights.output, self.n);
        self.attend(layer, (&weights.spec, &weights.scores), rows, to)
    }

    /// Attention of queries, gated or not, over the cache: the results in form `to`.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        (spec, scores): (&Attention, &HeadScores),
        [q, gates]: [HeadRows; 2],
        to: Form,
    ) -> Result<(), Error> {
        let (b, properties) = (self.buffers, self.device.properties());
        let multiprocessors = properties.multiprocessors;
        let is_flash = !are_few(self.n) && has_flash(spec, properties);
        let heads = heads(&spec.heads)?;
        let scores = Scores {
            scale: spec.scale,
            softcap: spec.softcap,
            window: spec.window,
            slopes: self.weights.floats(&scores.slopes)?,
            sinks: self.weights.floats(&scores.sinks)?,
        };
        let tokens = narrow(self.n)?;
        let cache = b.cache(cached_layer(layer, spec), b.step(self.n).positions);
        let wanted = |form: Form, at: Address| if form == to { at } else { Address::NONE };
        let (q8, bf16) = (wanted(Form::Q8, b.results.q8), wanted(Form::Bf16, b.results.bf16));
        let floats = |other: Address| if other == Address::NONE { b.results.f32 } else { Address::NONE };
        // a text whose tokens see both ways is read at once
        let is_done = if is_flash {
            let (both_ways, y) = ((!spec.causal).then_some(tokens), floats(bf16));
            self.launch(Flash { heads, q, tokens, cache, scores, both_ways, gates, y, bf16 }.launch())?;
            to != Form::Q8
        } else {
            let q8 = if heads.dim_v.is_multiple_of(32) { q8 } else { Address::NONE };
            let shares = shares(&heads, self.n, multiprocessors, b.seen_pages(spec)?);
            let (parts, counters, y) = (b.parts, b.counters, floats(q8));
            let attend = Attend { heads, q, tokens, cache, scores, gates, shares, parts, counters, y, q8 };
            self.launch(attend.launch_both_ways(if spec.causal { 0 } else { tokens }))?;
            to == Form::F32 || q8 != Address::NONE
        };
        if is_done {
            return Ok(());
        }
        let row = narrow(spec.heads.n_head * spec.heads.head_dim_v)?;
        self.prepare((b.results.f32, row), self.n, None, to.into(), b.results)
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
