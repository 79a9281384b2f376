//! Logits of tiny models, and how far they are from others.

use std::ops::ControlFlow;

use braise_engine::block::Mlp;
use braise_engine::model::Model;
use braise_engine::session::{Logits, Session};
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use tempfile::NamedTempFile;

use crate::families::{write, write_with};

/// Mean squared error, normalized by the mean square of `exact`.
///
/// # Panics
/// If they are not equally many.
pub fn nmse(exact: &[f32], got: &[f32]) -> f64 {
    assert_eq!(exact.len(), got.len());
    let error: f64 = exact.iter().zip(got).map(|(e, g)| (f64::from(*e) - f64::from(*g)).powi(2)).sum();
    error / exact.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>()
}

/// Reads tokens; the logits that are asked for.
///
/// # Panics
/// If the tokens cannot be read.
pub fn eval(session: &mut Session<'_>, tokens: &[u32], which: Logits) -> Vec<f32> {
    let mut all = Vec::new();
    let mut sink = |_, logits: &[f32]| {
        all.extend(logits);
        ControlFlow::Continue(())
    };
    session.eval(tokens, which, &mut sink).expect("the tokens are read");
    all
}

/// The model of a recipe, with all experts of all groups if asked for: else the roundings of many tokens choose others.
///
/// # Panics
/// If there is no such recipe, or it is of no model.
pub fn recipe(name: &str, all_experts: bool) -> Model {
    let file = NamedTempFile::new().expect("a temporary file");
    write(name, file.path());
    let model = Model::open(file.path(), Isa::Portable).expect("a model");
    let n_expert = model.spec().layers.iter().find_map(|layer| match &layer.mlp {
        Mlp::Experts(experts) => Some(experts.n_expert),
        Mlp::Both(both) => Some(both.experts.n_expert),
        Mlp::Dense(_) | Mlp::Nothing => None,
    });
    let Some(n) = n_expert.filter(|_| all_experts).map(|n| n.to_string()) else { return model };
    let all = [("expert_used_count", n.as_str()), ("expert_group_used_count", "4")];
    write_with(name, Type::F32, &all, file.path());
    Model::open(file.path(), Isa::Portable).expect("a model")
}
