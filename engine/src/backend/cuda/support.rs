//! What of a model there are no GPU kernels for, so that it is found when the model is opened.

use braise_kernels::cuda::ops::{self, DeltaNet, TopK};
use braise_kernels::ops::Window;
use braise_kernels::quant::Type;

use super::TENSOR_CORES;
use super::attention::has_flash;
use crate::block::{
    Activation, Attention, Dense, Experts, Mixer, Mlp, NormPlace, Spec, StateSpace, StateSpaceKind,
};
use crate::model::{MixerWeights, Model};
use crate::parts::Part;

/// Most experts of a mixture, most values of a head, and most tokens that a convolution covers.
const MAX_EXPERTS: usize = 2048;
const MAX_HEAD_DIM: usize = 1024;
const MAX_WIDTH: usize = 32;

/// What of a model there are no kernels for on a device of this compute capability, if there is such.
pub fn unsupported(model: &Model, compute: (u32, u32)) -> Option<String> {
    Part::all(model.layers.len()).find_map(|part| unsupported_part(model, part, compute))
}

/// The same of a part of a model.
pub fn unsupported_part(model: &Model, part: Part, compute: (u32, u32)) -> Option<String> {
    if let Some(what) = unread(model.stored_types(part), ops::reads) {
        return Some(what);
    }
    match part {
        Part::Input if model.layer_inputs.is_some() => Some("what layers get of each token besides".into()),
        Part::Mixer(i) => of_mixer(&model.spec().layers[i].mixer, compute).or_else(|| {
            let own_gates = match &model.layers[i].mixer {
                MixerWeights::Attention(a) | MixerWeights::Both(a, _) => a.gate.is_some(),
                _ => false,
            };
            own_gates.then(|| "gates of attention with a matrix of their own".into())
        }),
        Part::Mlp(i) => of_mlp(&model.spec().layers[i].mlp),
        Part::Input | Part::Output => None,
    }
}

/// The first of these types of weights that no kernel `reads`.
fn unread(types: impl IntoIterator<Item = Type>, reads: impl Fn(Type) -> bool) -> Option<String> {
    types.into_iter().find(|ty| !reads(*ty)).map(|ty| format!("weights in {ty}"))
}

/// What of a model is slow on a device of this compute capability, for want of kernels for many tokens; nothing, mostly.
pub fn slow(spec: &Spec, compute: (u32, u32)) -> Option<String> {
    if compute < TENSOR_CORES {
        let ((major, minor), (least, of_least)) = (compute, TENSOR_CORES);
        return Some(format!(
            "prompts are read by kernels for few tokens: those for many need compute capability {least}.{of_least}, and \
             this GPU has {major}.{minor}"
        ));
    }
    let mut attentions = spec.layers.iter().filter_map(|layer| layer.mixer.attention());
    let heads = &attentions.find(|a| !has_flash(a, compute))?.heads;
    Some(format!(
        "attention of prompts runs on kernels for few tokens: there are none for many with heads of {} and {} values",
        heads.head_dim, heads.head_dim_v
    ))
}

fn of_mixer(mixer: &Mixer, compute: (u32, u32)) -> Option<String> {
    let what = match mixer {
        Mixer::Attention(a) => return of_attention(a, compute),
        Mixer::Both(a, s) => return of_attention(a, compute).or_else(|| of_state_space(s)),
        Mixer::StateSpace(s) => return of_state_space(s),
        Mixer::DeltaNet(d) if d.width > MAX_WIDTH => format!("convolutions of {} tokens", d.width),
        Mixer::DeltaNet(d) if !DeltaNet::DIMS.iter().any(|dim| *dim as usize == d.head_dim) => {
            format!("delta nets with heads of {} values", d.head_dim)
        }
        Mixer::ShortConv(conv) if conv.width > MAX_WIDTH => format!("convolutions of {} tokens", conv.width),
        Mixer::ShortConv(_) | Mixer::DeltaNet(_) | Mixer::Nothing => return None,
        Mixer::Latent(_) => "latent attention".to_owned(),
    };
    Some(what)
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

fn of_attention(a: &Attention, compute: (u32, u32)) -> Option<String> {
    let heads = &a.heads;
    let dims = [heads.head_dim, heads.head_dim_v];
    let by_token = a.qk_norm.is_some_and(|norm| norm.place == NormPlace::Token);
    if let Some(dim) = dims.into_iter().find(|dim| dim % 8 != 0 || *dim > MAX_HEAD_DIM) {
        Some(format!("heads of {dim} values"))
    } else if matches!(a.window, Some(Window::Chunk(_))) {
        Some("attention within chunks".into())
    } else if a.temperature.is_some_and(|t| t.offset != 0) {
        Some("queries whose steps of growth begin earlier".into())
    } else if by_token && (a.gated || a.clamp.is_some()) {
        Some("queries that are normalized together, and gated or clamped".into())
    } else if a.gated && (a.clamp.is_some() || dims[0] != dims[1]) {
        Some("gates of clamped queries, or of another size than values".into())
    } else if !a.causal && a.window.is_some() && !has_flash(a, compute) {
        Some(format!("windows that see both ways, and heads of {} values", dims[0]))
    } else {
        None
    }
}

fn of_mlp(mlp: &Mlp) -> Option<String> {
    match mlp {
        Mlp::Experts(experts) => of_experts(experts),
        Mlp::Both(both) => of_dense(&both.dense).or_else(|| of_experts(&both.experts)),
        Mlp::Dense(dense) => of_dense(dense),
        Mlp::Nothing => None,
    }
}

fn of_dense(dense: &Dense) -> Option<String> {
    if dense.divided {
        return Some("networks with divisors".into());
    }
    matches!(dense.activation, Activation::Xielu(_)).then(|| "the activation xIELU".into())
}

fn of_experts(experts: &Experts) -> Option<String> {
    if experts.weigh_inputs {
        Some("experts whose inputs are weighed".into())
    } else if experts.latent.is_some() {
        Some("experts that read less than the layer".into())
    } else if experts.n_expert > MAX_EXPERTS {
        Some(format!("{} experts", experts.n_expert))
    } else {
        of_dense(&experts.expert)
    }
}

/// How many of the best logits a device can find, at most.
pub(crate) const MAX_BEST: usize = TopK::MOST as usize;

#[cfg(test)]
mod tests {
    use super::*;

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
