//! Queries, keys and values, and attention over the cache.

use std::ops::Range;

use braise_kernels::cuda::ops::{
    Attend, Cache, Epilogue, FinishHeads, Flash, HeadNorm, HeadPlace, HeadRows, Heads, Matrix, Norm,
    NormRows, Qkv, Scores, Temperature,
};
use braise_kernels::cuda::{Address, Error, Properties};

use super::pass::Pass;
use super::products::{Acts, Form, Results, few_form};
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
        let step = self.step();
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

    /// Attention of queries, gated or not, over the cache, the results in form `to`: runs of many tokens each by itself, those
    /// of few together.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        (spec, scores): (&Attention, &HeadScores),
        rows: [HeadRows; 2],
        to: Form,
    ) -> Result<(), Error> {
        let scores = Scores {
            scale: spec.scale,
            softcap: spec.softcap,
            window: spec.window,
            slopes: self.weights.floats(&scores.slopes)?,
            sinks: self.weights.floats(&scores.sinks)?,
        };
        let attending = Attending { layer: cached_layer(layer, spec), spec, scores, rows, to };
        let has_flash = has_flash(spec, self.device.properties());
        let (mut few, mut next) = (0..0, 0);
        for i in 0..self.runs.len() {
            let run = next..next + self.runs[i];
            next = run.end;
            let is_many = has_flash && !are_few(run.len());
            // a launch of single tokens that see both ways knows one number of positions
            if !is_many && spec.causal {
                few.end = next;
                continue;
            }
            self.attend_few(&attending, std::mem::replace(&mut few, next..next))?;
            if is_many {
                self.attend_many(&attending, run)?;
            } else {
                self.attend_few(&attending, run)?;
            }
        }
        self.attend_few(&attending, few)
    }

    /// Attention of tokens of one run.
    fn attend_many(&mut self, attending: &Attending<'_>, tokens: Range<usize>) -> Result<(), Error> {
        let &Attending { spec, scores, to, .. } = attending;
        let ([q, gates], cache, results) = self.operands(attending, &tokens)?;
        let n = narrow(tokens.len())?;
        let bf16 = if to == Form::Bf16 { results.bf16 } else { Address::NONE };
        let flash = Flash {
            heads: heads(&spec.heads)?,
            q,
            tokens: n,
            cache,
            scores,
            // a text whose tokens see both ways is read at once
            both_ways: (!spec.causal).then_some(n),
            gates,
            y: if bf16 == Address::NONE { results.f32 } else { Address::NONE },
            bf16,
        };
        self.launch(flash.launch())?;
        if to == Form::Q8 { self.finish_results(attending, results, tokens.len()) } else { Ok(()) }
    }

    /// Attention of neighbouring tokens, each by itself: of any runs, or of one whose tokens see both ways.
    fn attend_few(&mut self, attending: &Attending<'_>, tokens: Range<usize>) -> Result<(), Error> {
        if tokens.is_empty() {
            return Ok(());
        }
        let &Attending { spec, scores, to, .. } = attending;
        let ([q, gates], cache, results) = self.operands(attending, &tokens)?;
        let (n, heads) = (narrow(tokens.len())?, heads(&spec.heads)?);
        let is_q8 = to == Form::Q8 && heads.dim_v.is_multiple_of(32);
        let (b, multiprocessors) = (self.buffers, self.device.properties().multiprocessors);
        let attend = Attend {
            heads,
            q,
            tokens: n,
            cache,
            scores,
            gates,
            shares: shares(&heads, n, multiprocessors, self.cache.seen_pages(spec)?),
            parts: b.parts,
            counters: b.counters,
            y: if is_q8 { Address::NONE } else { results.f32 },
            q8: if is_q8 { results.q8 } else { Address::NONE },
        };
        self.launch(attend.launch_both_ways(if spec.causal { 0 } else { n }))?;
        if is_q8 || to == Form::F32 {
            return Ok(());
        }
        self.finish_results(attending, results, tokens.len())
    }

    /// What attention of some tokens reads: queries and gates, and the cache; and where its results go.
    fn operands(
        &self,
        attending: &Attending<'_>,
        tokens: &Range<usize>,
    ) -> Result<([HeadRows; 2], Cache, Acts), Error> {
        let (first, step) = (tokens.start, self.step());
        let behind = |at: Address, n: usize| match at {
            Address::NONE => at,
            _ => at.offset((n * size_of::<u32>()) as u64),
        };
        let rows =
            attending.rows.map(|rows| HeadRows { at: behind(rows.at, first * rows.stride as usize), ..rows });
        let (positions, sequences) = (behind(step.positions, first), behind(step.sequences, first));
        let cache = self.cache.operands(attending.layer, positions, sequences)?;
        Ok((rows, cache, self.buffers.results.behind(first, attending.n_results())))
    }

    /// Results of n tokens in floats become what reads them.
    fn finish_results(&mut self, attending: &Attending<'_>, results: Acts, n: usize) -> Result<(), Error> {
        let row = narrow(attending.n_results())?;
        self.prepare((results.f32, row), n, None, attending.to.into(), results)
    }
}

/// Attention of all tokens of a batch.
struct Attending<'a> {
    /// Whose keys and values they read.
    layer: usize,
    spec: &'a Attention,
    scores: Scores,
    /// Queries and gates.
    rows: [HeadRows; 2],
    /// The form of the results.
    to: Form,
}

impl Attending<'_> {
    /// Results of a token.
    fn n_results(&self) -> usize {
        self.spec.heads.n_head * self.spec.heads.head_dim_v
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
