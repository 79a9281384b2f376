//! From a layer's Spec to its weights: finds the tensors and checks that they are what the Spec needs.

use std::ops::Range;

use braise_kernels::quant::Type;
use braise_kernels::table::Kernels;

use super::Weight;
use super::layer::{
    AttentionWeights, BothWeights, DeltaNetWeights, DenseWeights, ExpertMatrix, ExpertsWeights, FineGates,
    HeadScores, LatentWeights, LayerInputWeights, LayerInputsWeights, LayerWeights, MixerWeights, MlpWeights,
    NormWeights, NormsWeights, Selection, ShortConvWeights, StateSpaceWeights,
};
use crate::arch;
use crate::block::{
    Attention, Both, DeltaNet, DeltaNetKind, Dense, Experts, Latent, Layer, LayerInputs, Mixer, Mlp, Norm,
    NormKind, NormPlace, ShortConv, Source, Spec, StateSpace, StateSpaceKind,
};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{Gguf, TensorInfo};

/// Finds tensors and checks their shapes.
pub(super) struct Binder<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) arch: &'a str,
    pub(super) kernels: Kernels,
}

/// What belongs to a matrix, and how.
#[derive(Clone, Copy)]
struct Extras {
    /// Numbers of scales: one, or one for each expert; 0: what is called so is something else.
    scales: usize,
    /// Whether the scale is that of the bias too, as llama.cpp has it in feed-forward networks.
    scaled_bias: bool,
}

const PLAIN: Extras = Extras { scales: 1, scaled_bias: false };
const FEED_FORWARD: Extras = Extras { scales: 1, scaled_bias: true };

impl Binder<'_> {
    pub(super) fn layer(&self, i: usize, spec: &Spec, layer: &Layer) -> Result<LayerWeights> {
        let n_embd = spec.n_embd;
        let name = |part: &str| format!("blk.{i}.{part}");
        let norm =
            |norm: &Option<Norm>| norm.as_ref().map(|norm| self.norm(&name(""), norm, n_embd)).transpose();
        Ok(LayerWeights {
            mixer: match &layer.mixer {
                Mixer::Attention(a) => MixerWeights::Attention(Box::new(self.attention(&name, a, n_embd)?)),
                Mixer::Latent(latent) => MixerWeights::Latent(Box::new(self.latent(&name, latent, n_embd)?)),
                Mixer::ShortConv(conv) => {
                    MixerWeights::ShortConv(Box::new(self.short_conv(&name, conv, n_embd)?))
                }
                Mixer::StateSpace(s) => {
                    MixerWeights::StateSpace(Box::new(self.state_space(&name, s, n_embd)?))
                }
                Mixer::Nothing => MixerWeights::Nothing,
                Mixer::DeltaNet(d) => MixerWeights::DeltaNet(Box::new(self.delta_net(&name, d, n_embd)?)),
                Mixer::Both(a, s) => MixerWeights::Both(
                    Box::new(self.attention(&name, a, n_embd)?),
                    Box::new(self.state_space(&name, s, n_embd)?),
                ),
            },
            mlp: match &layer.mlp {
                Mlp::Nothing => MlpWeights::Nothing,
                Mlp::Dense(dense) => MlpWeights::Dense(Box::new(self.dense(&name, "", dense, n_embd)?)),
                Mlp::Experts(experts) => MlpWeights::Experts(Box::new(self.experts(&name, experts, n_embd)?)),
                Mlp::Both(both) => MlpWeights::Both(Box::new(self.both(&name, both, n_embd)?)),
            },
            norms: NormsWeights {
                mixer: norm(&layer.norms.mixer)?,
                mixer_out: norm(&layer.norms.mixer_out)?,
                mixer_sum: norm(&layer.norms.mixer_sum)?,
                mlp: norm(&layer.norms.mlp)?,
                mlp_out: norm(&layer.norms.mlp_out)?,
                mlp_sum: norm(&layer.norms.mlp_sum)?,
            },
            parallel: layer.parallel,
            residual_scale: layer.residual_scale,
            input: spec.layer_inputs.map(|inputs| self.layer_input(&name, inputs, n_embd)).transpose()?,
            scale: match layer.scaled {
                true => self.gguf.floats(&name("layer_output_scale.weight"), &[1])?[0],
                false => 1.0,
            },
        })
    }

    pub(super) fn layer_inputs(&self, spec: &Spec, inputs: LayerInputs) -> Result<LayerInputsWeights> {
        let all = self.product(&[inputs.n, spec.layers.len()])?;
        let norm = Norm { tensor: Some("per_layer_proj_norm"), kind: NormKind::Rms, eps: inputs.eps };
        Ok(LayerInputsWeights {
            spec: inputs,
            table: self.weight("per_layer_token_embd", spec.n_vocab, all)?,
            projection: self.weight("per_layer_model_proj", all, spec.n_embd)?,
            norm: self.norm("", &norm, inputs.n)?,
        })
    }

    fn layer_input(
        &self,
        name: &dyn Fn(&str) -> String,
        inputs: LayerInputs,
        n_embd: usize,
    ) -> Result<LayerInputWeights> {
        let norm = Norm { tensor: Some("post_norm"), kind: NormKind::Rms, eps: inputs.eps };
        Ok(LayerInputWeights {
            gate: self.weight(&name("inp_gate"), inputs.n, n_embd)?,
            output: self.weight(&name("proj"), n_embd, inputs.n)?,
            norm: self.norm(&name(""), &norm, n_embd)?,
        })
    }

    /// A normalization of `len` values, whose tensors' names begin with `prefix`.
    pub(super) fn norm(&self, prefix: &str, norm: &Norm, len: usize) -> Result<NormWeights> {
        let Norm { tensor, kind, eps } = *norm;
        let Some(tensor) = tensor else {
            return Ok(NormWeights { kind, eps, weight: vec![1.0; len], bias: Vec::new() });
        };
        let name = |part: &str| format!("{prefix}{tensor}.{part}");
        // the files of some families leave out the suffix
        let plain = format!("{prefix}{tensor}");
        let weight = if self.gguf.tensor(&plain).is_some() { plain } else { name("weight") };
        let weight = self.gguf.floats(&weight, &[len])?;
        Ok(NormWeights { kind, eps, weight, bias: self.optional(&name("bias"), &[len])? })
    }

    /// The first row of a tensor with rows of `len` numbers.
    pub(super) fn first_row(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let rows = self.gguf.require(name)?.rows().max(1);
        let mut all = self.gguf.floats(name, &[len, rows])?;
        all.truncate(len);
        Ok(all)
    }

    fn attention(
        &self,
        name: &dyn Fn(&str) -> String,
        a: &Attention,
        n_embd: usize,
    ) -> Result<AttentionWeights> {
        let heads = &a.heads;
        let (n_head, n_head_kv) = (heads.n_head, heads.n_head_kv);
        let gates = self.product(&[n_head, heads.head_dim])?;
        let gate = match a.gated && self.gguf.tensor(&name("attn_gate.weight")).is_some() {
            true => Some(self.weight(&name("attn_gate"), gates, n_embd)?),
            false => None,
        };
        let q_dim = self.product(&[gates, 1 + usize::from(a.gated && gate.is_none())])?;
        let k_dim = self.product(&[n_head_kv, heads.head_dim])?;
        let v_dim = self.product(&[n_head_kv, heads.head_dim_v])?;
        let q = || self.weight(&name("attn_q"), q_dim, n_embd);
        let k = || self.weight(&name("attn_k"), k_dim, n_embd);
        let (q, kv) = match a.source {
            Source::Own if self.gguf.tensor(&name("attn_qkv.weight")).is_some() => {
                let [q, k, v] = self.parts(&name("attn_qkv"), [q_dim, k_dim, v_dim], n_embd)?;
                (q, Some([k, v]))
            }
            Source::Own => (q()?, Some([k()?, self.weight(&name("attn_v"), v_dim, n_embd)?])),
            Source::Keys => (q()?, Some([k()?, k()?])),
            Source::Layer(_) => (q()?, None),
        };
        let norm = |part: &str, n_head: usize| match a.qk_norm {
            None => Ok(Vec::new()),
            Some(norm) if !norm.weights => Ok(vec![1.0; self.product(&[heads.head_dim, n_head])?]),
            Some(norm) => self.head_norm(&name(part), norm.place, heads.head_dim, n_head),
        };
        Ok(AttentionWeights {
            scores: HeadScores {
                exact: !q.matmul.takes_q8() && q.matmul.packing().is_none(),
                sinks: if a.sinks {
                    self.gguf.floats(&name("attn_sinks.weight"), &[n_head])?
                } else {
                    Vec::new()
                },
                slopes: a.alibi.map_or(Vec::new(), |largest| slopes(n_head, largest)),
            },
            output: self.weight(&name("attn_output"), n_embd, self.product(&[n_head, heads.head_dim_v])?)?,
            q_norm: norm("attn_q_norm.weight", n_head)?,
            k_norm: if kv.is_some() { norm("attn_k_norm.weight", n_head_kv)? } else { Vec::new() },
            v_norm: match a.v_norm {
                Some(eps) => {
                    let norm = Norm { tensor: None, kind: NormKind::Rms, eps };
                    Some(self.norm("", &norm, heads.head_dim_v)?)
                }
                None => None,
            },
            q,
            gate,
            kv,
            spec: a.clone(),
        })
    }

    /// Weights of the normalization of all heads: those of one serve for all, where there are no more.
    fn head_norm(&self, name: &str, place: NormPlace, head_dim: usize, n_head: usize) -> Result<Vec<f32>> {
        let all = self.product(&[head_dim, n_head])?;
        if place == NormPlace::Token {
            self.gguf.floats(name, &[all])
        } else if self.gguf.require(name)?.rows() > 1 {
            self.gguf.floats(name, &[head_dim, n_head])
        } else {
            Ok(self.gguf.floats(name, &[head_dim])?.repeat(n_head))
        }
    }

    fn latent(&self, name: &dyn Fn(&str) -> String, l: &Latent, n_embd: usize) -> Result<LatentWeights> {
        let (n_head, rank) = (l.attention.heads.n_head, l.attention.heads.head_dim_v);
        let q_dim = self.product(&[n_head, l.query_dim()])?;
        let norm = |part: &'static str, len: usize| {
            self.norm(&name(""), &Norm { tensor: Some(part), kind: NormKind::Rms, eps: l.eps }, len)
        };
        let (q_a, q_b) = match l.q_rank {
            None => (self.weight(&name("attn_q"), q_dim, n_embd)?, None),
            Some(rank) => {
                let q_b = (norm("attn_q_a_norm", rank)?, self.weight(&name("attn_q_b"), q_dim, rank)?);
                (self.weight(&name("attn_q_a"), rank, n_embd)?, Some(q_b))
            }
        };
        let (k_b, v_b) = match self.gguf.tensor(&name("attn_kv_b.weight")) {
            Some(fused) => self.split_maps(fused, l)?,
            None => (
                self.matrices(&name("attn_k_b"), n_head, rank, l.nope_dim, PLAIN)?,
                self.matrices(&name("attn_v_b"), n_head, l.v_dim, rank, PLAIN)?,
            ),
        };
        Ok(LatentWeights {
            // compressed keys, of which all heads' are made, take rounding ill: 27 layers in bf16 were off by 3e-3
            scores: HeadScores { exact: true, sinks: Vec::new(), slopes: Vec::new() },
            q_a,
            q_b,
            kv_a: self.weight(&name("attn_kv_a_mqa"), l.attention.heads.head_dim, n_embd)?,
            kv_norm: norm("attn_kv_a_norm", rank)?,
            k_b,
            v_b,
            output: self.weight(&name("attn_output"), n_embd, self.product(&[n_head, l.v_dim])?)?,
            spec: l.clone(),
        })
    }

    /// The maps of keys and of values that old files have in one tensor: of each head the rows for keys, then those for
    /// values. Queries take the former transposed, so these two are copies; what is quantized becomes half precision.
    fn split_maps(&self, fused: &TensorInfo, l: &Latent) -> Result<(Weight, Weight)> {
        let (n_head, rank) = (l.attention.heads.n_head, l.attention.heads.head_dim_v);
        let of_head = l.nope_dim.checked_add(l.v_dim).ok_or_else(absurd)?;
        self.gguf.shaped(&fused.name, &[rank, self.product(&[n_head, of_head])?])?;
        let unknown = || self.gguf.cannot_compute_with(fused);
        let scalar = fused.ty.scalar().ok_or_else(unknown)?;
        let row_bytes = fused.n_bytes() / fused.rows();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut rows = vec![0.0; l.nope_dim * rank];
        for head in self.gguf.data(fused).chunks_exact(of_head * row_bytes) {
            let (of_keys, of_values) = head.split_at(l.nope_dim * row_bytes);
            (scalar.dequantize)(of_keys, &mut rows);
            keys.extend((0..rank).flat_map(|column| rows.iter().skip(column).step_by(rank)));
            values.extend_from_slice(of_values);
        }
        let ty = if matches!(fused.ty, Type::F32 | Type::BF16) { fused.ty } else { Type::F16 };
        let transposed = ty.row_bytes(l.nope_dim).ok_or_else(absurd)?;
        let quantize = ty.scalar().and_then(|scalar| scalar.quantize).ok_or_else(unknown)?;
        let mut bytes = vec![0; transposed * n_head * rank];
        quantize(&keys, &mut bytes);
        let weight = |ty: Type, own: Vec<u8>, cols: usize, row_bytes: usize| {
            Ok::<_, Error>(Weight {
                tensor: fused.clone(),
                cols,
                row_bytes,
                range: 0..own.len() / row_bytes,
                own: Some(own),
                matmul: self.kernels.matmul(ty).ok_or_else(unknown)?.for_rows_of(cols),
                scale: None,
                bias: None,
            })
        };
        Ok((weight(ty, bytes, l.nope_dim, transposed)?, weight(fused.ty, values, rank, row_bytes)?))
    }

    fn short_conv(
        &self,
        name: &dyn Fn(&str) -> String,
        conv: &ShortConv,
        n_embd: usize,
    ) -> Result<ShortConvWeights> {
        let ShortConv { channels, width } = *conv;
        Ok(ShortConvWeights {
            spec: *conv,
            input: self.weight(&name("shortconv.in_proj"), self.product(&[3, channels])?, n_embd)?,
            kernel: self.conv_kernel(&name("shortconv.conv.weight"), &[width, channels])?,
            output: self.weight(&name("shortconv.out_proj"), n_embd, channels)?,
        })
    }

    /// A convolution's numbers (width, channels), which the file has channel by channel.
    fn conv_kernel(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let (of_channel, width) = (self.gguf.floats(name, dims)?, dims[0]);
        let row = |j: usize| of_channel.iter().skip(j).step_by(width).copied();
        Ok((0..width).flat_map(row).collect())
    }

    fn state_space(
        &self,
        name: &dyn Fn(&str) -> String,
        s: &StateSpace,
        n_embd: usize,
    ) -> Result<StateSpaceWeights> {
        let StateSpace { channels, d_state, n_head, n_group, .. } = *s;
        let rms =
            |weight: Vec<f32>, eps: f32| NormWeights { kind: NormKind::Rms, eps, weight, bias: Vec::new() };
        let (mut selection, mut dt_bias, mut norms) = (None, Vec::new(), Vec::new());
        match s.kind {
            StateSpaceKind::One { rank, eps } => {
                let parts = [("ssm_dt_norm", rank), ("ssm_b_norm", d_state), ("ssm_c_norm", d_state)];
                let of_part = |(part, len): (&str, usize), eps| {
                    let weight = self.optional(&name(&format!("{part}.weight")), &[len])?;
                    Ok::<_, Error>(rms(if weight.is_empty() { vec![1.0; len] } else { weight }, eps))
                };
                let of_parts = |eps| parts.into_iter().map(|part| of_part(part, eps)).collect();
                selection = Some(Selection {
                    x: self.weight(&name("ssm_x"), s.selected(), channels)?,
                    norms: eps.map_or(Ok(Vec::new()), of_parts)?,
                    dt: self.weight(&name("ssm_dt"), channels, rank)?,
                });
            }
            StateSpaceKind::Two { eps } => {
                dt_bias = self.gguf.floats(&name("ssm_dt.bias"), &[n_head])?;
                if let Some(eps) = eps {
                    let len = channels / n_group;
                    let all = self.gguf.floats(&name("ssm_norm.weight"), &[len, n_group])?;
                    norms = all.chunks_exact(len).map(|weight| rms(weight.to_vec(), eps)).collect();
                }
            }
        }
        let per_head = |dims: [usize; 2]| match s.kind {
            StateSpaceKind::One { .. } => dims,
            StateSpaceKind::Two { .. } => [1, n_head],
        };
        Ok(StateSpaceWeights {
            spec: *s,
            input: self.weight(&name("ssm_in"), s.inputs(), n_embd)?,
            kernel: self.conv_kernel(&name("ssm_conv1d.weight"), &[s.width, s.conv_channels()])?,
            conv_bias: self.optional(&name("ssm_conv1d.bias"), &[s.conv_channels()])?,
            selection,
            dt_bias,
            a: self.gguf.floats(&name("ssm_a"), &per_head([d_state, n_head]))?,
            d: self.gguf.floats(&name("ssm_d"), &per_head([n_head, 1]))?,
            norms,
            output: self.weight(&name("ssm_out"), n_embd, channels)?,
        })
    }

    fn delta_net(
        &self,
        name: &dyn Fn(&str) -> String,
        d: &DeltaNet,
        n_embd: usize,
    ) -> Result<DeltaNetWeights> {
        let (dim, n) = (d.head_dim, d.head_dim as f32);
        // the length is the root of n times the mean square
        let length = |length: f32| NormWeights {
            kind: NormKind::Rms,
            eps: d.eps / n,
            weight: vec![length / n.sqrt(); dim],
            bias: Vec::new(),
        };
        let norm = Norm { tensor: Some("ssm_norm"), kind: NormKind::Rms, eps: d.eps };
        let is_fine = d.kind == DeltaNetKind::Fine;
        let (fine, inputs, kernel) = if is_fine {
            let fine = FineGates {
                a: self.weight(&name("ssm_f_b"), d.values(), dim)?,
                z: self.weight(&name("ssm_g_b"), d.values(), dim)?,
            };
            (Some(fine), self.fine_inputs(name, d, n_embd)?, self.conv_kernels(name, d)?)
        } else {
            let kernel = self.conv_kernel(&name("ssm_conv1d.weight"), &[d.width, d.conv_channels()])?;
            (None, self.delta_inputs(name, d, n_embd)?, kernel)
        };
        Ok(DeltaNetWeights {
            spec: *d,
            inputs,
            fine,
            kernel,
            q_norm: length(1.0 / n.sqrt()),
            k_norm: length(1.0),
            a: self.gguf.floats(&name("ssm_a"), &if is_fine { [1, d.n_head] } else { [d.n_head, 1] })?,
            dt_bias: self
                .gguf
                .floats(&name("ssm_dt.bias"), &[if is_fine { d.values() } else { d.n_head }])?,
            norm: self.norm(&name(""), &norm, dim)?,
            output: self.weight(
                &name(if is_fine { "attn_output" } else { "ssm_out" }),
                n_embd,
                d.values(),
            )?,
        })
    }

    /// The matrices to q, k, v, z, b and a of a delta net.
    fn delta_inputs(
        &self,
        name: &dyn Fn(&str) -> String,
        d: &DeltaNet,
        n_embd: usize,
    ) -> Result<Vec<Weight>> {
        let (channels, values) = (d.conv_channels(), d.values());
        let mut inputs = Vec::new();
        let all = name("ssm_in");
        if self.gguf.tensor(&format!("{all}.weight")).is_some()
            && self.gguf.tensor(&name("attn_qkv.weight")).is_none()
        {
            // older files: q, k, v and z of the first group of heads, of the second, and so on
            let (all, of_group) = (self.weight(&all, channels + values, n_embd)?, values / d.n_head_k);
            let mut first = 0;
            for rows in [d.head_dim, d.head_dim, of_group, of_group] {
                let group = 2 * (d.head_dim + of_group);
                let starts = (0..d.n_head_k).map(|i| i * group + first);
                inputs.extend(starts.map(|start| all.part(start..start + rows)));
                first += rows;
            }
        } else {
            inputs.push(self.weight(&name("attn_qkv"), channels, n_embd)?);
            inputs.push(self.weight(&name("attn_gate"), values, n_embd)?);
        }
        if d.kind == DeltaNetKind::Neighbours {
            inputs.push(self.weight(&name("ssm_ba"), 2 * d.n_head, n_embd)?);
        } else {
            inputs.push(self.weight(&name("ssm_beta"), d.n_head, n_embd)?);
            inputs.push(self.weight(&name("ssm_alpha"), d.n_head, n_embd)?);
        }
        Ok(inputs)
    }

    /// The matrices to q, k, v and b, and to what a and z are made of.
    fn fine_inputs(&self, name: &dyn Fn(&str) -> String, d: &DeltaNet, n_embd: usize) -> Result<Vec<Weight>> {
        let weight = |part: &str, rows: usize| self.weight(&name(part), rows, n_embd);
        let mut inputs = match self.gguf.tensor(&name("attn_qkv.weight")) {
            Some(_) => vec![weight("attn_qkv", d.conv_channels())?],
            None => {
                vec![weight("attn_q", d.keys())?, weight("attn_k", d.keys())?, weight("attn_v", d.values())?]
            }
        };
        let others = [("ssm_beta", d.n_head), ("ssm_f_a", d.head_dim), ("ssm_g_a", d.head_dim)];
        for (part, rows) in others {
            inputs.push(weight(part, rows)?);
        }
        Ok(inputs)
    }

    /// The numbers (width, channels) of a convolution of q, k and v, for each of which the file has a tensor.
    fn conv_kernels(&self, name: &dyn Fn(&str) -> String, d: &DeltaNet) -> Result<Vec<f32>> {
        let kernel = |part: &str, channels: usize| {
            self.conv_kernel(&name(&format!("ssm_conv1d_{part}.weight")), &[d.width, 1, channels])
        };
        let (q, k, v) = (kernel("q", d.keys())?, kernel("k", d.keys())?, kernel("v", d.values())?);
        let rows = q.chunks_exact(d.keys()).zip(k.chunks_exact(d.keys())).zip(v.chunks_exact(d.values()));
        Ok(rows.flat_map(|((q, k), v)| [q, k, v].concat()).collect())
    }

    /// A dense network; `suffix` tells it from others of the layer.
    fn dense(
        &self,
        name: &dyn Fn(&str) -> String,
        suffix: &str,
        dense: &Dense,
        n_embd: usize,
    ) -> Result<DenseWeights> {
        let name = |part: &str| name(&format!("{part}{suffix}"));
        let n_ff = dense.n_ff;
        let up = name("ffn_up");
        let twice = self.product(&[2, n_ff])?;
        let fused = self.gguf.tensor(&format!("{up}.weight")).is_some_and(|up| up.rows() == twice);
        let (gate, up) = if !dense.gated {
            (None, self.matrices(&up, 1, n_ff, n_embd, FEED_FORWARD)?)
        } else if !fused {
            let gate = self.matrices(&name("ffn_gate"), 1, n_ff, n_embd, FEED_FORWARD)?;
            (Some(gate), self.matrices(&up, 1, n_ff, n_embd, FEED_FORWARD)?)
        } else {
            let [gate, up] = self.parts(&up, [n_ff, n_ff], n_embd)?;
            (Some(gate), up)
        };
        let down = self.matrices(&name("ffn_down"), 1, n_embd, n_ff, FEED_FORWARD)?;
        let divisors = match dense.divided {
            true => self.gguf.floats(&name("ffn.act.scales"), &[n_ff])?,
            false => Vec::new(),
        };
        Ok(DenseWeights { spec: *dense, gate, up, down, divisors })
    }

    fn both(&self, name: &dyn Fn(&str) -> String, both: &Both, n_embd: usize) -> Result<BothWeights> {
        let norm = |norm: &Norm| self.norm(&name(""), norm, n_embd);
        Ok(BothWeights {
            dense: self.dense(name, "", &both.dense, n_embd)?,
            dense_out: norm(&both.dense_out)?,
            experts: self.experts(name, &both.experts, n_embd)?,
            experts_in: norm(&both.experts_in)?,
            experts_out: norm(&both.experts_out)?,
        })
    }

    /// What a router of its own normalization reads: the file has its weights without the factor that keeps scores small.
    fn router_norm(&self, name: &dyn Fn(&str) -> String, eps: f32, n_embd: usize) -> Result<NormWeights> {
        let mut weight = self.gguf.floats(&name("ffn_gate_inp.scale"), &[n_embd])?;
        weight.iter_mut().for_each(|w| *w /= (n_embd as f32).sqrt());
        Ok(NormWeights { kind: NormKind::Rms, eps, weight, bias: Vec::new() })
    }

    fn experts(&self, name: &dyn Fn(&str) -> String, e: &Experts, n_embd: usize) -> Result<ExpertsWeights> {
        let (n, n_ff, n_in) = (e.n_expert, e.expert.n_ff, e.latent.unwrap_or(n_embd));
        let matrix = |part: &str, rows: usize, cols: usize| {
            let extras = Extras { scales: n, scaled_bias: false };
            let weight = self.matrices(&name(part), n, rows, cols, extras)?;
            Ok::<_, Error>(ExpertMatrix { weight, stride: rows, first: 0 })
        };
        let (gate, up) = if self.gguf.tensor(&name("ffn_gate_up_exps.weight")).is_some() {
            let both = || matrix("ffn_gate_up_exps", self.product(&[2, n_ff])?, n_in);
            (Some(both()?), ExpertMatrix { first: n_ff, ..both()? })
        } else {
            let gate = e.expert.gated.then(|| matrix("ffn_gate_exps", n_ff, n_in)).transpose()?;
            (gate, matrix("ffn_up_exps", n_ff, n_in)?)
        };
        let shared = match &e.shared {
            None => None,
            Some((dense, gated)) => {
                let gate = gated.then(|| self.weight(&name("ffn_gate_inp_shexp"), 1, n_embd)).transpose()?;
                // Grok's is called like a dense network
                let named = self.gguf.tensor(&name("ffn_up_shexp.weight")).is_some();
                Some((self.dense(name, if named { "_shexp" } else { "" }, dense, n_embd)?, gate))
            }
        };
        let latent = match e.latent {
            None => None,
            Some(n) => Some([
                self.weight(&name("ffn_latent_down"), n, n_embd)?,
                self.weight(&name("ffn_latent_up"), n_embd, n)?,
            ]),
        };
        // the first of these names is that of files today
        let bias = match self.optional(&name("exp_probs_b.bias"), &[n])? {
            bias if bias.is_empty() => self.optional(&name("exp_probs_b"), &[n])?,
            bias => bias,
        };
        Ok(ExpertsWeights {
            router: match e.router_norm {
                None => self.weight(&name("ffn_gate_inp"), n, n_embd)?,
                Some(_) => {
                    self.matrices(&name("ffn_gate_inp"), 1, n, n_embd, Extras { scales: 0, ..PLAIN })?
                }
            },
            router_norm: e.router_norm.map(|eps| self.router_norm(name, eps, n_embd)).transpose()?,
            bias,
            gate,
            up,
            down: matrix("ffn_down_exps", n_in, n_ff)?,
            latent,
            shared,
            spec: e.clone(),
        })
    }

    /// The matrix `{name}.weight` with its `{name}.scale` and its `{name}.bias`, if they are there.
    pub(super) fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        self.matrices(name, 1, rows, cols, PLAIN)
    }

    /// `n` matrices of one tensor, one after the other.
    fn matrices(&self, name: &str, n: usize, rows: usize, cols: usize, extras: Extras) -> Result<Weight> {
        let tensor = self.gguf.shaped(&format!("{name}.weight"), &[cols, rows, n])?;
        let matmul = self.kernels.matmul(tensor.ty).ok_or_else(|| self.gguf.cannot_compute_with(tensor))?;
        let matmul = matmul.for_rows_of(cols);
        let optional = |part: &str, dims: &[usize]| {
            let values = self.optional(&format!("{name}.{part}"), dims)?;
            Ok::<_, Error>(Some(values).filter(|values| !values.is_empty()))
        };
        let scaled = extras.scales > 0 && arch::has_scale(self.arch, name, tensor.ty);
        let scale = if scaled { optional("scale", &[extras.scales])? } else { None };
        let biased = arch::has_bias(self.arch, name);
        let mut bias = if biased { optional("bias", &[rows, n])? } else { None };
        if let (Some(scale), Some(bias), true) = (&scale, &mut bias, extras.scaled_bias) {
            bias.iter_mut().for_each(|b| *b *= scale[0]);
        }
        Ok(Weight {
            range: 0..tensor.rows(),
            cols,
            row_bytes: tensor.n_bytes() / tensor.rows(),
            own: None,
            tensor: tensor.clone(),
            matmul,
            scale,
            bias,
        })
    }

    /// Several matrices whose rows follow each other in one tensor.
    fn parts<const N: usize>(&self, name: &str, rows: [usize; N], cols: usize) -> Result<[Weight; N]> {
        let all = rows.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n)).ok_or_else(absurd)?;
        let whole = self.weight(name, all, cols)?;
        let mut start = 0;
        Ok(rows.map(|n| {
            let range = start..start + n;
            start += n;
            whole.part(range)
        }))
    }

    /// The numbers of a tensor, none if it is not there.
    fn optional(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        if self.gguf.tensor(name).is_some() { self.gguf.floats(name, dims) } else { Ok(Vec::new()) }
    }

    /// The product of sizes that a file gives.
    fn product(&self, sizes: &[usize]) -> Result<usize> {
        sizes.iter().try_fold(1_usize, |product, n| product.checked_mul(*n)).ok_or_else(absurd)
    }
}

fn absurd() -> Error {
    Error::new(ErrorKind::Malformed, "sizes of heads or layers that overflow")
        .next("the file is damaged: download it again")
}

impl Weight {
    /// Some of its rows.
    fn part(&self, rows: Range<usize>) -> Weight {
        Weight {
            tensor: self.tensor.clone(),
            cols: self.cols,
            row_bytes: self.row_bytes,
            own: None,
            range: self.range.start + rows.start..self.range.start + rows.end,
            matmul: self.matmul,
            scale: self.scale.clone(),
            bias: self.bias.as_ref().map(|bias| bias[rows].to_vec()),
        }
    }
}

/// ALiBi's slopes: powers of `2^(-largest / n)`, where n is the power of two up to the number of heads; the heads beyond
/// take odd powers of its root (Press et al. 2021, arXiv 2108.12409, and their code).
fn slopes(n_head: usize, largest: f32) -> Vec<f32> {
    let n = if n_head.is_power_of_two() { n_head } else { n_head.next_power_of_two() / 2 };
    let slope = |head: usize| match head.checked_sub(n) {
        None => (-largest * (head + 1) as f32 / n as f32).exp2(),
        Some(head) => (-largest * (2 * head + 1) as f32 / (2 * n) as f32).exp2(),
    };
    (0..n_head).map(slope).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_powers() {
        assert_eq!(slopes(2, 8.0), [1.0 / 16.0, 1.0 / 256.0]);
        assert_eq!(slopes(3, 8.0), [1.0 / 16.0, 1.0 / 256.0, 1.0 / 4.0]);
    }
}
