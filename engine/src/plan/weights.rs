//! Bytes of weights, by where they are used.

use crate::gguf::Gguf;
use crate::parts::Part;

/// Bytes of a model's weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights {
    /// Tables of which a token takes a row: of tokens, positions, and what layers get besides.
    pub tables: u64,
    /// The matrix of logits, where no table serves as that.
    pub output: u64,
    /// Of each layer.
    pub layers: Vec<LayerWeights>,
    /// What else is in the file: norms, layers that are not used, metadata, the vocabulary.
    pub rest: u64,
    /// Copies in memory of what the file has in another order.
    pub copies: u64,
}

/// Bytes of a layer's weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerWeights {
    /// Of the experts of a mixture, of which a token takes some.
    pub experts: u64,
    /// All others.
    pub others: u64,
}

impl LayerWeights {
    /// Of both.
    pub fn bytes(&self) -> u64 {
        self.experts.saturating_add(self.others)
    }
}

/// Tables that are not multiplied.
const TABLES: [&str; 4] =
    ["token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight"];

impl Weights {
    /// Of a file of a model with `n_layer` layers, by the names of its tensors.
    pub(super) fn of(file: &Gguf, n_layer: usize) -> Weights {
        let mut weights = Weights { layers: vec![LayerWeights::default(); n_layer], ..Weights::default() };
        for tensor in file.tensors() {
            let bytes = tensor.n_bytes() as u64;
            let to = match layer_of(&tensor.name).map(|layer| weights.layers.get_mut(layer)) {
                Some(Some(layer)) if is_of_experts(&tensor.name) => &mut layer.experts,
                Some(Some(layer)) => &mut layer.others,
                None if tensor.name == "output.weight" => &mut weights.output,
                None if TABLES.contains(&tensor.name.as_str()) => &mut weights.tables,
                Some(None) | None => continue,
            };
            *to = to.saturating_add(bytes);
        }
        weights.rest = file.bytes().saturating_sub(weights.bytes());
        weights
    }

    pub(super) fn with_vocabulary(self, bytes: u64) -> Weights {
        Weights { rest: self.rest.saturating_add(bytes), ..self }
    }

    pub(super) fn with_copies(self, copies: u64) -> Weights {
        Weights { copies, ..self }
    }

    /// The same where some parts of the model are read alone. What is no expert of a layer is where its mixer is.
    pub(super) fn only(self, has: impl Fn(Part) -> bool) -> Weights {
        let some = |part: Part, bytes: u64| if has(part) { bytes } else { 0 };
        let layer = |(i, layer): (usize, &LayerWeights)| LayerWeights {
            experts: some(Part::Mlp(i), layer.experts),
            others: some(Part::Mixer(i), layer.others),
        };
        Weights {
            tables: some(Part::Input, self.tables),
            output: some(Part::Output, self.output),
            layers: self.layers.iter().enumerate().map(layer).collect(),
            ..self
        }
    }

    /// Of all.
    pub fn bytes(&self) -> u64 {
        let layers = self.layers.iter().map(LayerWeights::bytes);
        layers.chain([self.tables, self.output, self.rest, self.copies]).fold(0, u64::saturating_add)
    }
}

/// The layer that a tensor belongs to, if it does to any.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// Whether a tensor holds something of each expert of a mixture.
fn is_of_experts(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(part, _)| part.ends_with("_exps"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_layers_and_experts() {
        assert_eq!(layer_of("blk.12.attn_q.weight"), Some(12));
        assert_eq!(["output.weight", "blk.x.attn_q.weight", "blk.7"].map(layer_of), [None; 3]);
        assert!(
            ["blk.3.ffn_up_exps.weight", "blk.3.ffn_gate_up_exps.scale"].iter().all(|n| is_of_experts(n))
        );
        let others = ["blk.3.ffn_up_shexp.weight", "blk.3.ffn_gate_inp.weight", "blk.3.exp_probs_b"];
        assert!(!others.iter().any(|name| is_of_experts(name)));
    }
}
