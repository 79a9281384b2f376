//! What of a model there are no GPU kernels for, so that it is found when the model is opened.

use braise_kernels::cuda::Properties;
use braise_kernels::cuda::ops::{self, TopK};
use braise_kernels::quant::Type;

use super::TENSOR_CORES;
use super::attention::has_flash;
use crate::block::{Attention, DeltaNet, Latent, Mixer, Mlp, NormPlace, Spec, StateSpace, StateSpaceKind};
use crate::model::Model;
use crate::parts::Part;

/// Most experts of a mixture, most values of a head, and most tokens that a convolution covers.
const MAX_EXPERTS: usize = 2048;
const MAX_HEAD_DIM: usize = 1024;
const MAX_WIDTH: usize = 32;

/// What of a model there are no kernels for, if there is such.
pub fn unsupported(model: &Model) -> Option<String> {
    Part::all(model.layers.len()).find_map(|part| unsupported_part(model, part))
}

/// The same of a part of a model.
pub fn unsupported_part(model: &Model, part: Part) -> Option<String> {
    if let Some(what) = unread(model.stored_types(part), ops::reads) {
        return Some(what);
    }
    let layers = &model.spec().layers;
    match part {
        Part::Mixer(i) => of_mixer(&layers[i].mixer),
        Part::Mlp(i) => of_mlp(&layers[i].mlp),
        Part::Input | Part::Output => None,
    }
}

/// The first of these types of weights that no kernel `reads`.
fn unread(types: impl IntoIterator<Item = Type>, reads: impl Fn(Type) -> bool) -> Option<String> {
    types.into_iter().find(|ty| !reads(*ty)).map(|ty| format!("weights in {ty}"))
}

/// What of a model is slow on a device of these properties, for want of kernels for many tokens; nothing, mostly.
pub fn slow(spec: &Spec, properties: &Properties) -> Option<String> {
    if properties.compute < TENSOR_CORES {
        let ((major, minor), (least, of_least)) = (properties.compute, TENSOR_CORES);
        return Some(format!(
            "prompts are read by kernels for few tokens: those for many need compute capability {least}.{of_least}, and \
             this GPU has {major}.{minor}"
        ));
    }
    if properties.compute == Properties::WARPGROUPS && !properties.warpgroups {
        return Some(
            "prompts are multiplied by the kernels of older GPUs: those for this one did not give the same numbers, or \
             could not be loaded; `braise doctor` says more"
                .to_owned(),
        );
    }
    let mut attentions = spec.layers.iter().filter_map(|layer| layer.mixer.attention());
    let heads = &attentions.find(|a| !has_flash(a, properties))?.heads;
    Some(format!(
        "attention of prompts runs on kernels for few tokens: there are none for many with heads of {} and {} values",
        heads.head_dim, heads.head_dim_v
    ))
}

fn of_mixer(mixer: &Mixer) -> Option<String> {
    let what = match mixer {
        Mixer::Attention(a) => return of_attention(a),
        Mixer::Both(a, s) => return of_attention(a).or_else(|| of_state_space(s)),
        Mixer::StateSpace(s) => return of_state_space(s),
        Mixer::DeltaNet(d) => return of_delta_net(d),
        Mixer::Latent(latent) => return of_latent(latent),
        Mixer::ShortConv(conv) if conv.width > MAX_WIDTH => format!("convolutions of {} tokens", conv.width),
        Mixer::ShortConv(_) | Mixer::Nothing => return None,
    };
    Some(what)
}

fn of_latent(latent: &Latent) -> Option<String> {
    let (rank, rope) = (latent.attention.heads.head_dim_v, latent.rope_dim());
    let fits = rank.is_multiple_of(8) && rope.is_multiple_of(8) && rank + rope <= MAX_HEAD_DIM;
    (!fits).then(|| format!("compressed keys of {rank} and {rope} values"))
}

fn of_delta_net(d: &DeltaNet) -> Option<String> {
    if d.width > MAX_WIDTH {
        Some(format!("convolutions of {} tokens", d.width))
    } else if !d.head_dim.is_multiple_of(32) || d.head_dim > ops::DeltaNet::MOST as usize {
        Some(format!("delta nets with heads of {} values", d.head_dim))
    } else {
        None
    }
}

fn of_state_space(s: &StateSpace) -> Option<String> {
    let part = s.channels / s.n_group;
    if s.width > MAX_WIDTH {
        Some(format!("convolutions of {} tokens", s.width))
    } else if s.d_state > ops::StateSpace::MOST as usize {
        Some(format!("states of {} values", s.d_state))
    } else if matches!(s.kind, StateSpaceKind::Two { eps: Some(_) }) && !part.is_multiple_of(32) {
        Some(format!("norms of {part} channels of a state space"))
    } else {
        None
    }
}

fn of_attention(a: &Attention) -> Option<String> {
    let heads = &a.heads;
    let dims = [heads.head_dim, heads.head_dim_v];
    let by_token = a.qk_norm.is_some_and(|norm| norm.place == NormPlace::Token);
    if let Some(dim) = dims.into_iter().find(|dim| dim % 8 != 0 || *dim > MAX_HEAD_DIM) {
        Some(format!("heads of {dim} values"))
    } else if by_token && (a.gated || a.clamp.is_some()) {
        Some("queries that are normalized together, and gated or clamped".into())
    } else if a.gated && (a.clamp.is_some() || dims[0] != dims[1]) {
        Some("gates of clamped queries, or of another size than values".into())
    } else {
        None
    }
}

fn of_mlp(mlp: &Mlp) -> Option<String> {
    let experts = match mlp {
        Mlp::Experts(experts) => experts,
        Mlp::Both(both) => &both.experts,
        Mlp::Dense(_) | Mlp::Nothing => return None,
    };
    (experts.n_expert > MAX_EXPERTS).then(|| format!("{} experts", experts.n_expert))
}

/// How many of the best logits a device can find, at most.
pub(crate) const MAX_BEST: usize = TopK::MOST as usize;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{DeltaNetKind, Heads, ShortConv};

    fn attention(head_dim: usize, head_dim_v: usize) -> Attention {
        Attention::plain(Heads { n_head: 4, n_head_kv: 1, head_dim, head_dim_v })
    }

    fn latent(rank: usize, rope: usize) -> Mixer {
        let attention = attention(rank + rope, rank);
        Mixer::Latent(Latent { attention, q_rank: None, nope_dim: 24, v_dim: 20, eps: 1e-5 })
    }

    fn delta_net(head_dim: usize) -> Mixer {
        let kind = DeltaNetKind::Strided;
        Mixer::DeltaNet(DeltaNet { n_head: 2, n_head_k: 1, head_dim, width: 4, eps: 1e-5, kind })
    }

    #[test]
    fn sizes_that_there_are_no_kernels_for_are_named() {
        for (mixer, what) in [
            (Mixer::Attention(attention(64, 40)), None),
            (Mixer::Attention(attention(64, 36)), Some("heads of 36 values")),
            (latent(512, 64), None),
            (latent(500, 64), Some("compressed keys of 500 and 64 values")),
            (latent(1024, 64), Some("compressed keys of 1024 and 64 values")),
            (delta_net(96), None),
            (delta_net(48), Some("delta nets with heads of 48 values")),
            (delta_net(288), Some("delta nets with heads of 288 values")),
            (Mixer::ShortConv(ShortConv { channels: 64, width: 33 }), Some("convolutions of 33 tokens")),
        ] {
            assert_eq!(of_mixer(&mixer).as_deref(), what);
        }
    }

    #[test]
    fn a_type_that_no_kernel_reads_is_named() {
        let types = [Type::F32, Type::Q4_K, Type::Q6_K, Type::Q5_K];
        let reads = |ty| ![Type::Q6_K, Type::Q5_K].contains(&ty);
        assert_eq!(unread(types, reads), Some("weights in Q6_K".to_owned()));
        assert_eq!(unread(types, ops::reads), None);
    }

    #[test]
    fn gpus_read_all_that_the_cpu_does() {
        for ty in Type::ALL {
            assert_eq!(ops::reads(*ty), ty.scalar().is_some(), "{ty}");
        }
    }
}
