//! What all families read of a file: keys with checks, and the layout that most of them share.

use crate::block::{
    Activation, Attention, Dense, Embedding, Experts, Factors, Groups, Heads, Layer, Mixer, Mlp, Norm,
    NormKind, NormPlace, Norms, Output, Pairs, Pooling, QkNorm, Rope, Routing, Scaling, Source, Spec,
    StateSpace, StateSpaceKind, Window,
};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{Gguf, Value};

/// Most layers, heads, experts and the like that make sense; beyond, the number is damaged.
const MAX_COUNT: usize = 1 << 16;

/// A file whose keys begin with the name of its architecture.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) arch: &'a str,
}

/// How a family differs from others in what its files do not say.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// Which values are rotated together; `None`: none are.
    pub(super) pairs: Option<Pairs>,
    /// How it normalizes.
    pub(super) norm: NormKind,
    /// What normalizations of a layer are called: for the mixer, of what it gives, and the same for the feed-forward
    /// network; `None`: there is none.
    pub(super) norms: [Option<&'static str>; 4],
    /// The same of the sums behind the two. Families that have them normalize the embedding and not the output.
    pub(super) sums: Option<[&'static str; 2]>,
    /// Whether queries and keys are normalized; `None`: if the file has weights for that.
    pub(super) qk_norm: Option<bool>,
    /// Between the matrices of the feed-forward network.
    pub(super) activation: Activation,
    /// Whether there is a gate between them.
    pub(super) gated: bool,
    /// Of mixtures: how scores become weights, and whether these are divided by their sum.
    pub(super) routing: (Routing, bool),
    /// Whether files say how to route; what others say about it does not count.
    pub(super) routing_told: bool,
    /// Whether mixer and feed-forward network read the same.
    pub(super) parallel: bool,
    /// Whether all layers have a feed-forward network, or those alone for which the file has its size.
    pub(super) feed_forward: bool,
}

/// The first family, from which most others differ in a line or two.
pub(super) const LLAMA: Family = Family {
    pairs: Some(Pairs::Neighbours),
    norm: NormKind::Rms,
    norms: [Some("attn_norm"), None, Some("ffn_norm"), None],
    sums: None,
    qk_norm: Some(false),
    activation: Activation::Silu,
    gated: true,
    routing: (Routing::Softmax, true),
    routing_told: false,
    parallel: false,
    feed_forward: true,
};

/// Llama with the rotation of GPT-NeoX: Qwen, and most newer families.
pub(super) const NEOX: Family = Family { pairs: Some(Pairs::Halves), ..LLAMA };

impl<'a> File<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.gguf.tensor(tensor).is_some()
    }

    /// A count, which may be 0.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        Ok(self.gguf.metadata().u32(&key)?.map(|n| n as usize))
    }

    /// A size that must be there.
    pub(super) fn size(&self, name: &str) -> Result<usize> {
        let key = self.key(name);
        match self.gguf.metadata().require_u32(&key)? {
            0 => Err(malformed(format!("`{key}` is 0"))),
            n => Ok(n as usize),
        }
    }

    /// A size with a default.
    pub(super) fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        if self.gguf.metadata().get(&self.key(name)).is_some() { self.size(name) } else { Ok(default) }
    }

    /// A number of each layer, stored as one for all or as a list; 0 where the key is missing.
    pub(super) fn counts(&self, name: &str, n_layer: usize) -> Result<Vec<usize>> {
        let key = self.key(name);
        let meta = self.gguf.metadata();
        if !matches!(meta.get(&key), Some(Value::Array(_))) {
            return Ok(vec![meta.u32(&key)?.unwrap_or(0) as usize; n_layer]);
        }
        let list = meta.require_u32s(&key)?;
        if list.len() < n_layer {
            return Err(malformed(format!("`{key}` has {} numbers for {n_layer} layers", list.len())));
        }
        Ok(list[..n_layer].iter().map(|n| *n as usize).collect())
    }

    /// A finite number of each layer, stored as one for all or as a list; the key stands as it is.
    pub(super) fn floats(&self, key: &str, n_layer: usize) -> Result<Vec<f32>> {
        let meta = self.gguf.metadata();
        let list = match meta.get(key) {
            Some(Value::Array(_)) => meta.require_f32s(key)?,
            _ => vec![meta.require_f32(key)?; n_layer],
        };
        match list.get(..n_layer) {
            Some(list) if list.iter().all(|x| x.is_finite()) => Ok(list.to_vec()),
            _ => Err(malformed(format!("`{key}` has no number for each of {n_layer} layers"))),
        }
    }

    /// A yes or no.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.gguf.metadata().bool(&self.key(name))
    }

    /// Fails if there is such a tensor, of a variant that is not supported.
    pub(super) fn refuse(&self, tensor: &str) -> Result<()> {
        if !self.has(tensor) {
            return Ok(());
        }
        let what =
            format!("the tensor `{tensor}` belongs to a variant of `{}` that is not supported", self.arch);
        Err(Error::new(ErrorKind::Unsupported, what).next("use another model"))
    }

    /// Whether pairs of a head are rotated by several kinds of positions, which are the same for text. Such pairs are
    /// halves, whatever the family does otherwise.
    pub(super) fn has_sections(&self) -> Result<bool> {
        let sections = self.gguf.metadata().i32s(&self.key("rope.dimension_sections"))?.unwrap_or_default();
        Ok(sections.iter().any(|n| *n != 0))
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.gguf.metadata().str(&self.key(name))
    }

    /// A finite number.
    pub(super) fn float(&self, name: &str) -> Result<Option<f32>> {
        let key = self.key(name);
        match self.gguf.metadata().f32(&key)? {
            Some(value) if !value.is_finite() => Err(malformed(format!("`{key}` is {value}"))),
            value => Ok(value),
        }
    }

    /// A positive number, if there is one that is not 0.
    pub(super) fn positive(&self, name: &str) -> Result<Option<f32>> {
        match self.float(name)? {
            Some(value) if value < 0.0 => Err(malformed(format!("`{}` is {value}", self.key(name)))),
            value => Ok(value.filter(|value| *value > 0.0)),
        }
    }

    /// The number of layers, without those that only predict several tokens ahead.
    pub(super) fn n_layer(&self) -> Result<usize> {
        let all = self.size("block_count")?;
        let n_tensors = self.gguf.tensors().len();
        if n_tensors < all {
            return Err(malformed(format!("{all} layers, but only {n_tensors} tensors")));
        }
        let ahead = self.count("nextn_predict_layers")?.unwrap_or(0);
        match all.checked_sub(ahead).filter(|n| *n > 0) {
            Some(n) => Ok(n),
            None => Err(malformed(format!("{ahead} of {all} layers predict further tokens"))),
        }
    }

    /// What is added to the mean square in normalizations of this kind.
    pub(super) fn eps(&self, kind: NormKind) -> Result<f32> {
        let name = match kind {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        match self.gguf.metadata().require_f32(&self.key(name))? {
            eps if (0.0..1.0).contains(&eps) => Ok(eps),
            eps => Err(malformed(format!("a normalization epsilon of {eps}"))),
        }
    }

    /// The whole model, as `family` and the file say, with attention in every layer.
    pub(super) fn decoder(&self, family: &Family) -> Result<Spec> {
        self.decoder_with(family, |i, heads| Ok(Mixer::Attention(self.attention(i, heads, family)?)))
    }

    /// The same with a mixer of each layer that is made of its index and its heads.
    pub(super) fn decoder_with(
        &self,
        family: &Family,
        mixer: impl Fn(usize, Heads) -> Result<Mixer>,
    ) -> Result<Spec> {
        let n_layer = self.n_layer()?;
        let n_embd = self.size("embedding_length")?;
        let n_ctx = self.size("context_length")?;
        let n_vocab = self.gguf.require("token_embd.weight")?.rows();
        if n_vocab == 0 {
            return Err(malformed("the tensor `token_embd.weight` has no rows".to_owned()));
        }
        let heads = self.heads(n_layer, n_embd)?;
        let eps = self.eps(family.norm)?;
        let norm = |tensor| Norm { tensor: Some(tensor), kind: family.norm, eps };
        let [before_mixer, mixer_out, mlp, mlp_out] = family.norms.map(|name| name.map(norm));
        let sums = family.sums.map(|sums| sums.map(norm));
        let [mixer_sum, mlp_sum] = [0, 1].map(|i| sums.map(|sums| sums[i]));
        let norms = Norms { mixer: before_mixer, mixer_out, mixer_sum, mlp, mlp_out, mlp_sum };
        let n_ff = self.counts("feed_forward_length", n_layer)?;
        let layer = |i: usize| {
            Ok(Layer {
                mixer: mixer(i, heads[i])?,
                mlp: self.mlp(i, n_ff[i], family)?,
                norms,
                parallel: family.parallel,
                residual_scale: 1.0,
                scaled: false,
            })
        };
        Ok(Spec {
            arch: self.arch.to_owned(),
            n_vocab,
            n_embd,
            n_ctx,
            embedding: Embedding {
                scale: 1.0,
                positions: false,
                kinds: false,
                norm: sums.map(|_| norm("token_embd_norm")),
            },
            ropes: match family.pairs {
                Some(pairs) => vec![self.rope(pairs, heads[0].head_dim, n_ctx)?],
                None => Vec::new(),
            },
            layer_inputs: None,
            layers: (0..n_layer).map(layer).collect::<Result<_>>()?,
            output: Output { norm: sums.is_none().then(|| norm("output_norm")), scale: 1.0, softcap: None },
            pooling: self.pooling()?,
        })
    }

    /// How the file says that a text gets an embedding. Scores of a ranking are none, and so is what llama.cpp writes
    /// (-1) for a model of which it does not know.
    fn pooling(&self) -> Result<Option<Pooling>> {
        const UNKNOWN: usize = u32::MAX as usize;
        match self.count("pooling_type")? {
            None | Some(0 | 4 | UNKNOWN) => Ok(None),
            Some(1) => Ok(Some(Pooling::Mean)),
            Some(2) => Ok(Some(Pooling::First)),
            Some(3) => Ok(Some(Pooling::Last)),
            Some(n) => {
                let what = format!("the pooling type {n} is not supported");
                Err(Error::new(ErrorKind::Unsupported, what).next("supported are: 1, 2, 3"))
            }
        }
    }

    /// Numbers and sizes of each layer's heads.
    fn heads(&self, n_layer: usize, n_embd: usize) -> Result<Vec<Heads>> {
        let n_heads = self.counts("attention.head_count", n_layer)?;
        let n_heads_kv = match self.gguf.metadata().get(&self.key("attention.head_count_kv")) {
            Some(_) => self.counts("attention.head_count_kv", n_layer)?,
            None => n_heads.clone(),
        };
        // layers without attention have none
        let most = n_heads.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return Ok(vec![Heads { n_head: 0, n_head_kv: 0, head_dim: 0, head_dim_v: 0 }; n_layer]);
        }
        let head_dim = self.size_or("attention.key_length", n_embd / most)?;
        let head_dim_v = self.size_or("attention.value_length", head_dim)?;
        let heads = |(n_head, n_head_kv): (usize, usize)| {
            let sound = n_head == 0 || n_head_kv == 0 || n_head % n_head_kv == 0;
            if !sound || n_head > MAX_COUNT || head_dim == 0 {
                return Err(malformed(format!(
                    "{n_head} query heads, {n_head_kv} key/value heads and {n_embd} values do not fit each other"
                )));
            }
            Ok(Heads { n_head, n_head_kv, head_dim, head_dim_v })
        };
        n_heads.into_iter().zip(n_heads_kv).map(heads).collect()
    }

    /// The attention of a layer.
    pub(super) fn attention(&self, layer: usize, heads: Heads, family: &Family) -> Result<Attention> {
        for (n, name) in
            [(heads.n_head, "attention.head_count"), (heads.n_head_kv, "attention.head_count_kv")]
        {
            if n == 0 {
                return Err(malformed(format!("`{}` is 0 or missing for layer {layer}", self.key(name))));
            }
        }
        let name = format!("blk.{layer}.attn_q_norm.weight");
        let qk_norm = if family.qk_norm.unwrap_or(self.has(&name)) {
            let tensor = self.gguf.require(&name)?;
            let whole = tensor.rows() == 1 && tensor.row_len() != heads.head_dim;
            let place = if whole { NormPlace::Token } else { NormPlace::Head };
            Some(QkNorm { kind: family.norm, eps: self.eps(family.norm)?, place, weights: true })
        } else {
            None
        };
        Ok(Attention {
            heads,
            scale: 1.0 / (heads.head_dim as f32).sqrt(),
            rope: family.pairs.map(|_| 0),
            window: None,
            causal: self.flag("attention.causal")?.unwrap_or(true),
            softcap: None,
            alibi: None,
            sinks: false,
            qk_norm,
            gated: false,
            clamp: None,
            temperature: None,
            source: Source::Own,
            v_norm: None,
        })
    }

    /// The state space of a layer: of the second generation if the file tells groups of heads.
    pub(super) fn state_space(&self, layer: usize) -> Result<StateSpace> {
        let (channels, width) = (self.size("ssm.inner_size")?, self.size("ssm.conv_kernel")?);
        let (d_state, rank) = (self.size("ssm.state_size")?, self.size("ssm.time_step_rank")?);
        let n_group = self.count("ssm.group_count")?.unwrap_or(0);
        let eps = self.eps(NormKind::Rms)?;
        let (n_head, n_group, kind) = if n_group == 0 {
            let normed = self.flag("ssm.dt_b_c_rms")?.unwrap_or(false);
            let eps = (normed || self.has(&format!("blk.{layer}.ssm_dt_norm.weight"))).then_some(eps);
            (channels, 1, StateSpaceKind::One { rank, eps })
        } else {
            let normed = self.has(&format!("blk.{layer}.ssm_norm.weight"));
            (rank, n_group, StateSpaceKind::Two { eps: normed.then_some(eps) })
        };
        let largest = channels.max(rank).max(d_state).max(n_group);
        let divides = |n: usize, by: usize| n.is_multiple_of(by);
        if largest > 1 << 20
            || d_state * n_group > 1 << 20
            || width > 64
            || !divides(channels, StateSpace::UNIT)
            || !divides(channels, n_head)
            || !divides(n_head, n_group)
        {
            return Err(malformed(format!(
                "a state space of {channels} channels in {n_head} heads and {n_group} groups, {d_state} values each, and a \
                 convolution over {width} tokens"
            )));
        }
        Ok(StateSpace { channels, width, d_state, n_head, n_group, kind })
    }

    /// The feed-forward network of a layer; a mixture if the layer has a router.
    fn mlp(&self, layer: usize, n_ff: usize, family: &Family) -> Result<Mlp> {
        if n_ff == 0 && !family.feed_forward {
            return Ok(Mlp::Nothing);
        }
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        if self.has(&name("ffn_gate_inp")) || self.must_have_experts(layer)? {
            return Ok(Mlp::Experts(self.experts(layer, n_ff, family)?));
        }
        if n_ff == 0 {
            return Err(malformed(format!("`{}` is 0 or missing", self.key("feed_forward_length"))));
        }
        Ok(Mlp::Dense(Dense { n_ff, activation: family.activation, gated: family.gated, divided: false }))
    }

    /// Whether a layer's network is a mixture, as the counts say.
    fn must_have_experts(&self, layer: usize) -> Result<bool> {
        let n = |name: &str| Ok::<_, Error>(self.count(name)?.unwrap_or(0));
        let step = n("interleave_moe_layer_step")?.max(1);
        let every = n("moe_every_n_layers")?;
        // what these two say of experts is about others of their kind
        let dense = matches!(self.arch, "ernie4_5" | "paddleocr");
        Ok(!dense
            && n("expert_count")? > 1
            && layer >= n("leading_dense_block_count")?
            && (layer + 1).is_multiple_of(step)
            && (every == 0 || layer % every == 1))
    }

    fn experts(&self, layer: usize, n_ff: usize, family: &Family) -> Result<Experts> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let n_expert = self.size("expert_count")?;
        let n_used = self.size("expert_used_count")?;
        if n_used > n_expert || n_expert > MAX_COUNT {
            return Err(malformed(format!("{n_used} of {n_expert} experts")));
        }
        let n_ff = match self.counts("expert_feed_forward_length", layer + 1)?[layer] {
            0 => n_ff,
            n => n,
        };
        if n_ff == 0 {
            return Err(malformed(format!("`{}` is 0 or missing", self.key("expert_feed_forward_length"))));
        }
        let dense =
            |n_ff: usize| Dense { n_ff, activation: family.activation, gated: family.gated, divided: false };
        let shared = self.gguf.tensor(&name("ffn_up_shexp"));
        let shared = shared.map(|up| (dense(up.rows()), self.has(&name("ffn_gate_inp_shexp"))));
        let (routing, normalize) = if family.routing_told { self.routing(family)? } else { family.routing };
        Ok(Experts {
            n_expert,
            n_used,
            expert: dense(n_ff),
            routing,
            routes_first: false,
            router_norm: None,
            groups: self.groups(n_expert, n_used)?,
            normalize,
            scale: self.float("expert_weights_scale")?.filter(|s| *s != 0.0).unwrap_or(1.0),
            weigh_inputs: false,
            latent: None,
            shared,
        })
    }

    /// How the file says that scores become weights.
    fn routing(&self, family: &Family) -> Result<(Routing, bool)> {
        let routing = match self.count("expert_gating_func")? {
            None | Some(0) => family.routing.0,
            Some(1) => Routing::Softmax,
            Some(2) => Routing::Sigmoid,
            Some(3) => Routing::SoftmaxOfChosen,
            Some(n) => {
                let what = format!("the expert gating function {n} is not supported");
                return Err(Error::new(ErrorKind::Unsupported, what).next("supported are: 1, 2, 3"));
            }
        };
        Ok((routing, self.flag("expert_weights_norm")?.unwrap_or(family.routing.1)))
    }

    fn groups(&self, n_expert: usize, n_used: usize) -> Result<Option<Groups>> {
        let Some(n) = self.count("expert_group_count")?.filter(|n| *n > 1) else { return Ok(None) };
        let used = self.size("expert_group_used_count")?;
        if n > 128 || !n_expert.is_multiple_of(n) || used > n || used * (n_expert / n) < n_used {
            return Err(malformed(format!("{n_used} of {n_expert} experts from {used} of {n} groups")));
        }
        Ok(Some(Groups { n, used }))
    }

    /// The rotation of heads of `head_dim` values.
    pub(super) fn rope(&self, pairs: Pairs, head_dim: usize, n_ctx: usize) -> Result<Rope> {
        let n_dims = self.count("rope.dimension_count")?.unwrap_or(head_dim);
        if n_dims > head_dim || n_dims % 2 != 0 {
            return Err(malformed(format!("{n_dims} of a head's {head_dim} values cannot be rotated")));
        }
        let base = self.gguf.metadata().f32(&self.key("rope.freq_base"))?.unwrap_or(10_000.0);
        let factor = self.rope_factor()?;
        let n_ctx_orig = self.n_ctx_orig(n_ctx)?;
        // some writers put -1 for what they do not know
        let or = |name: &str, default| {
            Ok::<_, Error>(self.float(name)?.filter(|value: &f32| *value >= 0.0).unwrap_or(default))
        };
        let attn_factor = or("rope.scaling.attn_factor", 1.0)?;
        let scale = 1.0 / factor;
        let scaling = match self.gguf.metadata().str(&self.key("rope.scaling.type"))? {
            Some("none") => Scaling::Linear { scale: 1.0, attn_factor },
            None | Some("linear" | "longrope") => Scaling::Linear { scale, attn_factor },
            Some("yarn") => Scaling::Yarn {
                scale,
                n_ctx_orig,
                ext_factor: or("rope.scaling.yarn_ext_factor", 1.0)?,
                attn_factor: or("rope.scaling.yarn_attn_factor", attn_factor)?,
                beta_fast: or("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: or("rope.scaling.yarn_beta_slow", 1.0)?,
            },
            Some(other) => {
                let what = format!("the rotation scaling `{other}` is not supported");
                let next = "supported are: none, linear, yarn, longrope";
                return Err(Error::new(ErrorKind::Unsupported, what).next(next));
            }
        };
        let factors = self.factors(n_dims / 2, n_ctx_orig)?;
        let rope = Rope { n_dims, pairs, base, scaling, factors };
        check_base(&rope)?;
        Ok(rope)
    }

    /// By how much longer the context is than that of the training.
    pub(super) fn rope_factor(&self) -> Result<f32> {
        let meta = self.gguf.metadata();
        // `scale_linear` is the name in files from before there were kinds of scaling
        let factor = match meta.f32(&self.key("rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            None => meta.f32(&self.key("rope.scale_linear"))?,
        };
        match factor.filter(|f| *f != 0.0).unwrap_or(1.0) {
            factor if factor > 0.0 && factor.is_finite() => Ok(factor),
            factor => Err(malformed(format!("a rotation scaling factor of {factor} makes no sense"))),
        }
    }

    /// Tokens that the model was trained on before its context was made longer.
    pub(super) fn n_ctx_orig(&self, n_ctx: usize) -> Result<usize> {
        Ok(self.count("rope.scaling.original_context_length")?.filter(|n| *n > 0).unwrap_or(n_ctx))
    }

    fn factors(&self, len: usize, n_ctx_orig: usize) -> Result<Option<Factors>> {
        // the names of today, and those of files in which the first layer has them
        let find = |name: &str| {
            [format!("{name}.weight"), format!("blk.0.{name}.weight")].into_iter().find(|name| self.has(name))
        };
        let read = |name: &str| self.gguf.floats(name, &[len]);
        if let Some(name) = find("rope_freqs") {
            let short = read(&name)?;
            return Ok(Some(Factors { long: short.clone(), short, n_ctx_orig }));
        }
        match (find("rope_factors_short"), find("rope_factors_long")) {
            (Some(short), Some(long)) => {
                Ok(Some(Factors { short: read(&short)?, long: read(&long)?, n_ctx_orig }))
            }
            _ => Ok(None),
        }
    }

    /// Which layers see a window alone: as the file says, by a list or a period, or else all but each `period`-th. The
    /// window is that of the file, or `default`; `None` in layers that see all.
    pub(super) fn windows(
        &self,
        n_layer: usize,
        period: usize,
        default: Option<usize>,
    ) -> Result<Vec<Option<Window>>> {
        let window = match self.count("attention.sliding_window")? {
            Some(0) | None => default,
            window => window,
        };
        let Some(window) = window else { return Ok(vec![None; n_layer]) };
        let name = "attention.sliding_window_pattern";
        let slides = match self.flags(name, n_layer)? {
            Some(list) => list,
            None => {
                let period = self.count(name)?.unwrap_or(period);
                (0..n_layer).map(|i| period == 0 || i % period < period - 1).collect()
            }
        };
        Ok(slides.into_iter().map(|slides| slides.then_some(Window::Sliding(window))).collect())
    }

    /// A yes or no of each layer, where the file has a list of them, as such or as numbers.
    pub(super) fn flags(&self, name: &str, n_layer: usize) -> Result<Option<Vec<bool>>> {
        let (key, meta) = (self.key(name), self.gguf.metadata());
        if !matches!(meta.get(&key), Some(Value::Array(_))) {
            return Ok(None);
        }
        let list = match meta.bools(&key) {
            Ok(Some(list)) => list,
            _ => self.counts(name, n_layer)?.into_iter().map(|n| n != 0).collect(),
        };
        match list.get(..n_layer) {
            Some(flags) => Ok(Some(flags.to_vec())),
            None => Err(malformed(format!("`{key}` has {} entries for {n_layer} layers", list.len()))),
        }
    }
}

impl Spec {
    /// Changes the attention of each layer, by its index.
    pub(super) fn each_attention(&mut self, change: impl Fn(usize, &mut Attention)) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            match &mut layer.mixer {
                Mixer::Attention(attention) | Mixer::Both(attention, _) => change(i, attention),
                Mixer::Latent(latent) => change(i, &mut latent.attention),
                Mixer::ShortConv(_) | Mixer::StateSpace(_) | Mixer::DeltaNet(_) | Mixer::Nothing => {}
            }
        }
    }
}

/// Whether a rope's base can be one.
pub(super) fn check_base(rope: &Rope) -> Result<()> {
    if rope.base > 1.0 && rope.base.is_finite() {
        return Ok(());
    }
    Err(malformed(format!("a rotation base of {} makes no sense", rope.base)))
}

pub(super) fn malformed(what: String) -> Error {
    Error::new(ErrorKind::Malformed, what).next("get another conversion of the model")
}
