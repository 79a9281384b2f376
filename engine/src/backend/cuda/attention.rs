//! Queries, keys and values, and attention over the cache.

use std::ops::Range;

use braise_kernels::cuda::ops::{
    Attend, Cache, Epilogue, FinishHeads, Flash, HeadNorm, HeadPlace, Heads, Matrix, Norm, NormRows, Qkv,
    Scores,
};
use braise_kernels::cuda::{Address, Error};
use braise_kernels::ops::Window;

use super::pass::Pass;
use super::products::{Acts, Form, Results, few_form};
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

/// Blocks that keep a device of so many multiprocessors busy, for each that the heads of a token are.
fn busy(heads: &Heads, multiprocessors: u32) -> u32 {
    const BLOCKS_EACH: u32 = 2; // of a multiprocessor
    let blocks = heads.n_head_kv.saturating_mul(heads.group.div_ceil(8));
    multiprocessors.saturating_mul(BLOCKS_EACH) / blocks.max(1)
}

/// Blocks that share the positions of a head, of which a token sees some pages at most, so that n tokens keep the device busy.
pub(super) fn shares(heads: &Heads, n: u32, multiprocessors: u32, pages: u32) -> u32 {
    (busy(heads, multiprocessors) / n.max(1)).clamp(1, pages.max(1))
}

/// The most shares that up to n tokens have together.
pub(super) fn shares_of_all(heads: &Heads, n: u32, multiprocessors: u32, pages: u32) -> u32 {
    busy(heads, multiprocessors).min(n.saturating_mul(pages)).max(n)
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
        let step = self.step();
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
            cache: self.cache.operands(cached_layer(layer, spec), step.positions, step.sequences)?,
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

    /// Attention, in the form that the output matrix takes: runs of many tokens each by itself, those of few together.
    pub(super) fn attention(&mut self, layer: usize, weights: &AttentionWeights) -> Result<(), Error> {
        let spec = &weights.spec;
        let has_flash = has_flash(spec, self.device.properties().compute);
        // that of single tokens knows no window that sees both ways
        let is_many = |n: usize| has_flash && (!are_few(n) || (!spec.causal && spec.window.is_some()));
        let (mut few, mut next) = (0..0, 0);
        for i in 0..self.runs.len() {
            let run = next..next + self.runs[i];
            next = run.end;
            if is_many(run.len()) {
                self.attend_few(layer, weights, std::mem::replace(&mut few, next..next))?;
                self.attend_many(layer, weights, run)?;
            } else {
                few.end = next;
            }
        }
        self.attend_few(layer, weights, few)
    }

    /// Attention of tokens of one run.
    fn attend_many(
        &mut self,
        layer: usize,
        weights: &AttentionWeights,
        tokens: Range<usize>,
    ) -> Result<(), Error> {
        let AttentionWeights { spec, output, .. } = weights;
        let (at, to) = (self.attending(layer, weights, &tokens)?, self.form(output, self.n));
        let n = narrow(tokens.len())?;
        // the first one's position counts
        let positions = self.step().positions.offset((tokens.start * size_of::<u32>()) as u64);
        let bf16 = if to == Form::Bf16 { at.results.bf16 } else { Address::NONE };
        let flash = Flash {
            heads: at.heads,
            q: at.q,
            q_stride: at.q_stride,
            q_head_stride: at.q_head_stride,
            tokens: n,
            cache: Cache { positions, ..at.cache },
            scores: at.scores,
            both_ways: if spec.causal { None } else { Some(n) },
            gates: at.gates,
            y: if bf16 == Address::NONE { at.results.f32 } else { Address::NONE },
            bf16,
        };
        self.launch(flash.launch())?;
        if to == Form::Q8 { self.finish_results(output, at.results, tokens.len()) } else { Ok(()) }
    }

    /// Attention of neighbouring tokens of any runs, each by itself.
    fn attend_few(
        &mut self,
        layer: usize,
        weights: &AttentionWeights,
        tokens: Range<usize>,
    ) -> Result<(), Error> {
        if tokens.is_empty() {
            return Ok(());
        }
        let AttentionWeights { spec, output, .. } = weights;
        let (at, to) = (self.attending(layer, weights, &tokens)?, self.form(output, self.n));
        let n = narrow(tokens.len())?;
        let is_q8 = to == Form::Q8 && at.heads.dim_v.is_multiple_of(32);
        let (b, multiprocessors) = (self.buffers, self.device.properties().multiprocessors);
        let attend = Attend {
            heads: at.heads,
            q: at.q,
            q_stride: at.q_stride,
            q_head_stride: at.q_head_stride,
            tokens: n,
            cache: at.cache,
            scores: at.scores,
            gates: at.gates,
            shares: shares(&at.heads, n, multiprocessors, self.cache.seen_pages(spec)?),
            parts: b.parts,
            counters: b.counters,
            y: if is_q8 { Address::NONE } else { at.results.f32 },
            q8: if is_q8 { at.results.q8 } else { Address::NONE },
        };
        self.launch(attend.launch())?;
        if is_q8 || to == Form::F32 {
            return Ok(());
        }
        self.finish_results(output, at.results, tokens.len())
    }

    /// What attention of some tokens reads, and where its results go.
    fn attending(
        &self,
        layer: usize,
        weights: &AttentionWeights,
        tokens: &Range<usize>,
    ) -> Result<Attending, Error> {
        let AttentionWeights { spec, q, output, .. } = weights;
        let (first, step) = (tokens.start, self.step());
        let number = |at: Address| at.offset((first * size_of::<u32>()) as u64);
        // what sees all positions sees as much as the last token does
        let positions = if spec.causal { step.positions } else { step.last_positions };
        let layer = cached_layer(layer, spec);
        let queries = self.buffers.q.offset((first * q.rows() * size_of::<f32>()) as u64);
        let behind_query = queries.offset((spec.heads.head_dim * size_of::<f32>()) as u64);
        Ok(Attending {
            heads: heads(&spec.heads)?,
            q: queries,
            q_stride: narrow(q.rows())?,
            q_head_stride: narrow(q_head_stride(spec))?,
            gates: if spec.gated { behind_query } else { Address::NONE },
            cache: self.cache.operands(layer, number(positions), number(step.sequences))?,
            scores: Scores {
                scale: spec.scale,
                softcap: spec.softcap,
                window: window(spec).map(narrow).transpose()?,
                slopes: self.weights.floats(&weights.scores.slopes)?,
                sinks: self.weights.floats(&weights.scores.sinks)?,
            },
            results: self.buffers.results.behind(first, output.cols()),
        })
    }

    /// Results of n tokens in floats become what the output matrix takes.
    fn finish_results(&mut self, output: &Weight, results: Acts, n: usize) -> Result<(), Error> {
        let forms = self.form(output, self.n).into();
        self.prepare((results.f32, narrow(output.cols())?), n, None, forms, results)
    }
}

/// Of some neighbouring tokens.
struct Attending {
    heads: Heads,
    q: Address,
    q_stride: u32,
    q_head_stride: u32,
    gates: Address,
    cache: Cache,
    scores: Scores,
    results: Acts,
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
