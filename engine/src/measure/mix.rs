//! Mixes: which tensor gets which type in a file of a given quantization, as the usual quantizer (llama.cpp's
//! `llama-quantize`, without an importance matrix where it does not insist on one) chooses them.

use braise_kernels::quant::Type;

/// A quantization as files are named after it, such as `Q4_K_M`: most weights have one type, some a finer one.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    name: &'static str,
    file_type: u32,
    base: Type,
    other: fn(Place) -> Option<Type>,
    /// Types of the embedding table and of the output matrix, where they are not chosen as usual.
    tables: Option<(Type, Type)>,
}

/// What a matrix is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Makes queries or keys in attention.
    AttnQk,
    /// Makes values in attention.
    AttnV,
    /// The result of attention.
    AttnOutput,
    /// Into the feed-forward network.
    FfnGateUp,
    /// Back to the width of the model.
    FfnDown,
}

/// A matrix of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) part: Part,
    pub(super) layer: usize,
    pub(super) n_layers: usize,
    /// Query heads that share a key/value head.
    pub(super) group: usize,
}

impl Place {
    /// Whether the layer is one of the first, an eighth of all.
    fn is_early(&self) -> bool {
        self.layer < self.n_layers / 8
    }

    /// The layers at both ends and each third between.
    fn gets_more_bits(&self) -> bool {
        let eighth = self.n_layers / 8;
        self.layer < eighth || self.layer >= 7 * self.n_layers / 8 || (self.layer - eighth) % 3 == 2
    }
}

macro_rules! mixes {
    (@tables) => { None };
    (@tables $embedding:ident $output:ident) => { Some((Type::$embedding, Type::$output)) };
    ($($name:literal = $file_type:literal, $base:ident, $other:expr $(, $embedding:ident, $output:ident)?;)*) => {
        const MIXES: &[Mix] = &[$(Mix {
            name: $name,
            file_type: $file_type,
            base: Type::$base,
            other: $other,
            tables: mixes!(@tables $($embedding $output)?),
        }),*];
    };
}

// The numbers are those of `general.file_type`, `enum llama_ftype` in llama.cpp's `llama.h`; after them, the type of most
// matrices, the types of others, and those of the embedding table and the output matrix where they are not the usual
// ones. NVFP4 is made by converters, which leave these two as they are.
mixes! {
    "F32"    = 0,  F32,    |_| None;
    "F16"    = 1,  F16,    |_| None;
    "BF16"   = 32, BF16,   |_| None;
    "Q4_0"   = 2,  Q4_0,   |_| None;
    "Q4_1"   = 3,  Q4_1,   |_| None;
    "Q5_0"   = 8,  Q5_0,   |_| None;
    "Q5_1"   = 9,  Q5_1,   |_| None;
    "Q8_0"   = 7,  Q8_0,   |_| None;
    "Q2_K"   = 10, Q2_K,   q2_k;
    "Q3_K_S" = 11, Q3_K,   |_| None;
    "Q3_K_M" = 12, Q3_K,   q3_k_m;
    "Q3_K_L" = 13, Q3_K,   q3_k_l;
    "Q4_K_S" = 14, Q4_K,   q4_k_s;
    "Q4_K_M" = 15, Q4_K,   q6_k_where_it_counts;
    "Q5_K_S" = 16, Q5_K,   |_| None;
    "Q5_K_M" = 17, Q5_K,   q6_k_where_it_counts;
    "Q6_K"   = 18, Q6_K,   |_| None;
    "IQ4_NL" = 25, IQ4_NL, iq4;
    "IQ4_XS" = 30, IQ4_XS, iq4;
    "IQ1_S" = 24, IQ1_S, iq1, Q2_K, Q5_K;
    "IQ1_M" = 31, IQ1_M, iq1, Q2_K, Q5_K;
    "IQ2_XXS" = 19, IQ2_XXS, iq2_xs, Q2_K, Q5_K;
    "IQ2_XS" = 20, IQ2_XS, iq2_xs, Q2_K, Q5_K;
    "IQ2_S" = 28, IQ2_XS, iq2_m, IQ3_S, Q5_K;
    "IQ2_M" = 29, IQ2_S, iq2_m, IQ3_S, Q5_K;
    "IQ3_XXS" = 23, IQ3_XXS, iq3_xxs, IQ3_S, Q5_K;
    "IQ3_XS" = 22, IQ3_S, iq3_xs;
    "IQ3_S" = 26, IQ3_S, iq3_s;
    "IQ3_M" = 27, IQ3_S, iq3_m;
    "TQ1_0" = 36, TQ1_0, |_| None, Q4_K, Q6_K;
    "TQ2_0" = 37, TQ2_0, |_| None, Q4_K, Q6_K;
    "NVFP4" = 39, NVFP4, |_| None, BF16, BF16;
}

fn q2_k(p: Place) -> Option<Type> {
    match p.part {
        Part::AttnV => Some(if p.group >= 4 { Type::Q4_K } else { Type::Q3_K }),
        Part::AttnOutput | Part::FfnDown => Some(Type::Q3_K),
        Part::AttnQk | Part::FfnGateUp => None,
    }
}

fn q3_k_m(p: Place) -> Option<Type> {
    let first = match p.part {
        Part::AttnV => 2,
        Part::AttnOutput => 0,
        Part::FfnDown => p.n_layers / 16,
        Part::AttnQk | Part::FfnGateUp => return None,
    };
    Some(if p.layer < first { Type::Q5_K } else { Type::Q4_K })
}

fn q3_k_l(p: Place) -> Option<Type> {
    (!matches!(p.part, Part::AttnQk | Part::FfnGateUp)).then_some(Type::Q5_K)
}

fn q4_k_s(p: Place) -> Option<Type> {
    let first = match p.part {
        Part::AttnV => 4,
        Part::FfnDown => p.n_layers / 8,
        Part::AttnQk | Part::AttnOutput | Part::FfnGateUp => 0,
    };
    (p.layer < first).then_some(Type::Q5_K)
}

fn q6_k_where_it_counts(p: Place) -> Option<Type> {
    (matches!(p.part, Part::AttnV | Part::FfnDown) && p.gets_more_bits()).then_some(Type::Q6_K)
}

fn iq4(p: Place) -> Option<Type> {
    match p.part {
        Part::AttnV => (p.group >= 4).then_some(Type::Q5_K),
        Part::FfnDown => p.is_early().then_some(Type::Q5_K),
        Part::AttnQk | Part::AttnOutput | Part::FfnGateUp => None,
    }
}

fn iq1(p: Place) -> Option<Type> {
    if p.part == Part::AttnOutput { Some(Type::IQ2_XXS) } else { iq2_xs(p) }
}

fn iq2_xs(p: Place) -> Option<Type> {
    match p.part {
        Part::AttnV => Some(if p.group >= 4 { Type::Q4_K } else { Type::Q2_K }),
        Part::FfnDown => p.is_early().then_some(Type::Q2_K),
        Part::AttnQk | Part::AttnOutput | Part::FfnGateUp => None,
    }
}

fn iq2_m(p: Place) -> Option<Type> {
    match p.part {
        Part::AttnV => Some(if p.group >= 4 { Type::Q4_K } else { Type::IQ3_S }),
        Part::AttnOutput => Some(Type::IQ3_S),
        Part::FfnDown => p.is_early().then_some(Type::IQ3_S),
        Part::AttnQk | Part::FfnGateUp => None,
    }
}

fn iq3_xxs(p: Place) -> Option<Type> {
    match p.part {
        Part::AttnQk => Some(Type::IQ2_S),
        Part::AttnV => (p.group >= 4).then_some(Type::Q4_K),
        Part::AttnOutput => Some(Type::IQ3_S),
        Part::FfnGateUp | Part::FfnDown => None,
    }
}

fn iq3_xs(p: Place) -> Option<Type> {
    let is_late = p.layer >= 7 * p.n_layers / 8;
    match p.part {
        Part::AttnQk => Some(Type::IQ3_XXS),
        Part::FfnGateUp => (!p.is_early() && !is_late).then_some(Type::IQ3_XXS),
        Part::AttnV | Part::AttnOutput | Part::FfnDown => iq3_s(p),
    }
}

fn iq3_s(p: Place) -> Option<Type> {
    (p.part == Part::AttnV && p.group >= 4).then_some(Type::Q4_K)
}

fn iq3_m(p: Place) -> Option<Type> {
    match p.part {
        Part::AttnV | Part::AttnOutput => Some(Type::Q4_K),
        Part::FfnDown => p.is_early().then_some(Type::Q4_K),
        Part::AttnQk | Part::FfnGateUp => None,
    }
}

impl Mix {
    /// The mix of this name, in any case.
    pub fn by_name(name: &str) -> Option<Mix> {
        MIXES.iter().find(|mix| mix.name.eq_ignore_ascii_case(name)).copied()
    }

    /// The mix that a file says it has in its metadata, by the number under `general.file_type`.
    pub fn by_file_type(file_type: u32) -> Option<Mix> {
        MIXES.iter().find(|mix| mix.file_type == file_type).copied()
    }

    /// The names of all mixes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        MIXES.iter().map(|mix| mix.name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Its number under `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.file_type
    }

    /// The type of a layer's matrix, whose rows have `cols` weights.
    pub(super) fn layer_type(self, place: Place, cols: usize) -> Type {
        fitting((self.other)(place).unwrap_or(self.base), cols)
    }

    /// The type of the output matrix, or of the embedding table that serves as one.
    pub(super) fn output_type(self, cols: usize) -> Type {
        match self.base {
            Type::F32 | Type::F16 | Type::BF16 => self.base,
            base if base == Type::Q8_0 || !cols.is_multiple_of(base.block()) => fitting(Type::Q8_0, cols),
            _ => fitting(self.tables.map_or(Type::Q6_K, |(_, output)| output), cols),
        }
    }

    /// The type of an embedding table that is nothing else.
    pub(super) fn embedding_type(self, cols: usize) -> Type {
        fitting(self.tables.map_or(self.base, |(embedding, _)| embedding), cols)
    }
}

/// `ty`, or what takes its place where rows are no whole blocks of it.
fn fitting(ty: Type, cols: usize) -> Type {
    let fits = |ty: Type| cols.is_multiple_of(ty.block());
    let smaller = match ty {
        _ if fits(ty) => return ty,
        Type::Q2_K | Type::Q3_K | Type::TQ1_0 | Type::TQ2_0 => Type::Q4_0,
        Type::Q4_K => Type::Q5_0,
        Type::Q5_K => Type::Q5_1,
        Type::Q6_K => Type::Q8_0,
        Type::IQ1_S | Type::IQ1_M | Type::IQ2_XXS | Type::IQ2_XS | Type::IQ2_S => Type::IQ4_NL,
        Type::IQ3_XXS | Type::IQ3_S | Type::IQ4_XS => Type::IQ4_NL,
        _ => Type::F16,
    };
    if fits(smaller) { smaller } else { Type::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer_types(mix: &str, part: Part, n_layers: usize, group: usize) -> Vec<Type> {
        let mix = Mix::by_name(mix).expect("is known");
        (0..n_layers).map(|layer| mix.layer_type(Place { part, layer, n_layers, group }, 2048)).collect()
    }

    #[test]
    fn names_and_numbers_are_unique_and_names_are_read_in_any_case() {
        for (i, mix) in MIXES.iter().enumerate() {
            assert!(MIXES[..i].iter().all(|m| m.name != mix.name && m.file_type != mix.file_type));
            assert_eq!(Mix::by_name(&mix.name.to_lowercase()).map(Mix::name), Some(mix.name));
            assert_eq!(Mix::by_file_type(mix.file_type).map(Mix::name), Some(mix.name));
            assert!(mix.base.scalar().is_some_and(|scalar| scalar.quantize.is_some()), "{}", mix.name);
        }
        assert!(Mix::by_name("Q4_K").is_none() && Mix::by_file_type(4).is_none());
    }

    /// The layers of the published Q4_K_M files of Llama 3.2 1B (16 layers) whose `ffn_down` and `attn_v` are Q6_K.
    #[test]
    fn q4_k_m_of_sixteen_layers() {
        let fine = [0, 1, 4, 7, 10, 13, 14, 15];
        for part in [Part::AttnV, Part::FfnDown] {
            for (layer, ty) in layer_types("Q4_K_M", part, 16, 4).into_iter().enumerate() {
                assert_eq!(ty, if fine.contains(&layer) { Type::Q6_K } else { Type::Q4_K }, "layer {layer}");
            }
        }
        for part in [Part::AttnOutput, Part::AttnQk, Part::FfnGateUp] {
            assert_eq!(layer_types("Q4_K_M", part, 16, 4), [Type::Q4_K; 16]);
        }
    }

    #[test]
    fn other_mixes() {
        use Type::{Q3_K, Q4_K, Q5_K};
        assert_eq!(layer_types("Q3_K_M", Part::AttnV, 4, 4), [Q5_K, Q5_K, Q4_K, Q4_K]);
        assert_eq!(layer_types("Q3_K_M", Part::FfnDown, 16, 4)[..2], [Q5_K, Q4_K]);
        assert_eq!(layer_types("Q3_K_M", Part::FfnGateUp, 1, 4), [Q3_K]);
        assert_eq!(layer_types("Q2_K", Part::AttnV, 1, 4), [Q4_K]);
        assert_eq!(layer_types("Q2_K", Part::AttnV, 1, 3), [Q3_K]);
        assert_eq!(layer_types("Q4_K_S", Part::AttnV, 5, 4), [Q5_K, Q5_K, Q5_K, Q5_K, Q4_K]);
        assert_eq!(layer_types("IQ4_XS", Part::FfnDown, 8, 4)[..2], [Q5_K, Type::IQ4_XS]);
        use Type::{IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, Q2_K};
        assert_eq!(layer_types("IQ1_S", Part::AttnOutput, 1, 4), [IQ2_XXS]);
        assert_eq!(layer_types("IQ1_S", Part::FfnDown, 8, 4)[..2], [Q2_K, IQ1_S]);
        assert_eq!(layer_types("IQ2_S", Part::FfnDown, 8, 4)[..2], [IQ3_S, IQ2_XS]);
        assert_eq!(layer_types("IQ2_M", Part::AttnV, 1, 3), [IQ3_S]);
        assert_eq!(layer_types("IQ3_XXS", Part::AttnQk, 1, 4), [IQ2_S]);
        assert_eq!(layer_types("IQ3_XXS", Part::AttnV, 1, 3), [IQ3_XXS]);
        let ends = layer_types("IQ3_XS", Part::FfnGateUp, 8, 4);
        assert_eq!((ends[0], ends[7], &ends[1..7]), (IQ3_S, IQ3_S, &[IQ3_XXS; 6][..]));
        assert_eq!(layer_types("IQ3_M", Part::FfnDown, 8, 4)[..2], [Q4_K, IQ3_S]);
    }

    #[test]
    fn the_output_is_finer_and_odd_widths_fall_back() {
        use Type::{IQ3_S, Q4_K};
        let output = |mix, cols| Mix::by_name(mix).expect("is known").output_type(cols);
        assert_eq!(output("Q4_K_M", 2048), Type::Q6_K);
        assert_eq!(output("Q4_0", 2048), Type::Q6_K);
        assert_eq!(output("Q8_0", 2048), Type::Q8_0);
        assert_eq!(output("F16", 2048), Type::F16);
        assert_eq!(output("IQ2_XS", 2048), Type::Q5_K);
        assert_eq!(output("IQ3_S", 2048), Type::Q6_K);
        let embedding = |mix, cols| Mix::by_name(mix).expect("is known").embedding_type(cols);
        assert_eq!(["IQ2_M", "TQ1_0", "IQ3_S"].map(|mix| embedding(mix, 2048)), [IQ3_S, Q4_K, IQ3_S]);
        assert_eq!(output("Q4_K_M", 576), Type::Q8_0); // SmolLM2 135M
        assert_eq!(output("Q4_0", 576), Type::Q8_0);
        assert_eq!(output("Q4_K_M", 100), Type::F16);
        assert_eq!(fitting(Type::Q4_K, 576), Type::Q5_0);
        assert_eq!(fitting(Type::Q3_K, 576), Type::Q4_0);
        assert_eq!(fitting(Type::IQ2_XS, 576), Type::IQ4_NL);
        assert_eq!(fitting(Type::Q4_0, 100), Type::F16);
    }
}
