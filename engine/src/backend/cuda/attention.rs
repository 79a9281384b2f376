//! Queries, keys and values, and attention over the cache.

use braise_kernels::cuda::ops::{
    Attend, Epilogue, FinishHeads, Flash, HeadNorm, HeadPlace, Heads, NormRows, Scores,
};
use braise_kernels::cuda::{Address, Error};
use braise_kernels::ops::Window;

use super::pass::Pass;
use super::products::{Form, Results};
use super::weights::norm_kind;
use super::{TENSOR_CORES, are_few, narrow};
use crate::block::{self, Attention, NormPlace};
use crate::model::{AttentionWeights, NormWeights};

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
        let Some([k, v]) = kv else {
            return Err(Error::Operands("no kernel for keys and values of another layer".to_owned()));
        };
        let acts = self.input(norm, self.forms([q, k, v].into_iter()))?;
        let b = self.buffers;
        for (weight, at) in [(q, b.q), (k, b.k), (v, b.v)] {
            self.multiply(weight, acts, self.n, Epilogue::Store, Results { at, stride: weight.rows() })?;
        }
        let heads = heads(&spec.heads)?;
        if let Some(norm) = &weights.v_norm {
            let rows = self.n * spec.heads.n_head_kv;
            let norm = self.weights.norm(norm)?;
            self.normalize_rows(b.v, heads.dim_v, rows, norm)?;
        }
        let head_norm = self.head_norm(weights)?;
        let step = b.step(self.n);
        let rotation = spec.rope.map(|rope| b.rotations[rope]).unwrap_or_default();
        let finish = FinishHeads {
            heads,
            q: b.q,
            q_stride: narrow(q.rows())?,
            q_head_stride: narrow(q_head_stride(spec))?,
            k: b.k,
            k_stride: narrow(k.rows())?,
            v: b.v,
            v_stride: narrow(v.rows())?,
            tokens: narrow(self.n)?,
            clamp: spec.clamp,
            norm: head_norm,
            cosines: rotation.cosines,
            sines: rotation.sines,
            n_pairs: rotation.n_pairs,
            halves: rotation.halves,
            temperature: spec.temperature.map(|t| Ok((t.scale, narrow(t.every)?))).transpose()?,
            cache: b.cache(layer, step.positions),
        };
        self.launch(finish.launch())
    }

    /// The norm of each head; that of all heads of a token together is done here.
    fn head_norm(&mut self, weights: &AttentionWeights) -> Result<Option<HeadNorm>, Error> {
        let AttentionWeights { spec, q, kv, .. } = weights;
        let Some(norm) = spec.qk_norm else { return Ok(None) };
        let (kind, eps) = (norm_kind(norm.kind), norm.eps);
        let of = [self.weights.floats(&weights.q_norm)?, self.weights.floats(&weights.k_norm)?];
        let place = match norm.place {
            NormPlace::Head => HeadPlace::BeforeRotation,
            NormPlace::RotatedHead => HeadPlace::AfterRotation,
            NormPlace::Token => {
                let k_rows = kv.as_ref().map_or(0, |[k, _]| k.rows());
                let sides = [(self.buffers.q, q.rows(), of[0]), (self.buffers.k, k_rows, of[1])];
                for (at, n, weight) in sides {
                    let norm = braise_kernels::cuda::ops::Norm { kind, eps, weight, bias: Address::NONE };
                    self.normalize_rows(at, narrow(n)?, self.n, norm)?;
                }
                return Ok(None);
            }
        };
        Ok(Some(HeadNorm { kind, eps, place, q: of[0], k: of[1], stride: narrow(spec.heads.head_dim)? }))
    }

    /// Normalizes rows of n values in place.
    fn normalize_rows(
        &mut self,
        at: Address,
        n: u32,
        rows: usize,
        norm: braise_kernels::cuda::ops::Norm,
    ) -> Result<(), Error> {
        let rows = narrow(rows)?;
        self.launch(NormRows { x: at, stride: n, rows, n, norm, y: at, ..NormRows::default() }.launch())
    }

    /// Attention, in the form that the output matrix takes.
    pub(super) fn attention(&mut self, layer: usize, weights: &AttentionWeights) -> Result<(), Error> {
        let AttentionWeights { spec, q, output, .. } = weights;
        let (b, to) = (self.buffers, self.form(output, self.n));
        let properties = self.device.properties();
        let is_flash = !are_few(self.n) && has_flash(spec, properties.compute);
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
            let cache = b.cache(layer, step.positions);
            // `to` is never quantized here: there are tensor cores for the output matrix too
            let (y, bf16) = (wanted(Form::F32, b.results.f32), wanted(Form::Bf16, b.results.bf16));
            let q = b.q;
            let flash =
                Flash { heads, q, q_stride, q_head_stride, tokens, cache, scores, both_ways, gates, y, bf16 };
            return self.launch(flash.launch());
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
            cache: b.cache(layer, positions),
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
        let row = (b.results.f32, narrow(output.cols())?);
        self.prepare(row, self.n, None, to.into(), b.results)
    }
}

/// Distance of queries, behind each of which may be its gate.
fn q_head_stride(a: &Attention) -> usize {
    if a.gated { 2 * a.heads.head_dim } else { a.heads.head_dim }
}
