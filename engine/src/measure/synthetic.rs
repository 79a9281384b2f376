//! Models with random weights: their speed is that of real ones of the same shape, because it does not depend on the
//! values.

use std::collections::HashMap;

use braise_kernels::quant::Type;

use super::Mix;
use super::mix::{Part, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{Gguf, Writer};

/// The dimensions of a model of the `llama` family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Values that stand for a token between layers.
    pub dim: usize,
    /// Values inside the feed-forward network.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Values in a query, key or value.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Whether the embedding table is the output matrix too.
    pub tied: bool,
    /// Tokens that it was made for.
    pub context: usize,
}

impl Shape {
    /// For tests.
    #[cfg(test)]
    pub(super) const TINY: Shape = Shape {
        layers: 2,
        dim: 256,
        ffn: 512,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        vocab: 320,
        tied: true,
        context: 128,
    };

    /// The matrices: name, rows, columns and type.
    fn matrices(&self, mix: Mix) -> Vec<(String, usize, usize, Type)> {
        let Shape { layers, dim, ffn, heads, kv_heads, head_dim, vocab, tied, .. } = *self;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let table = if tied { mix.output_type(dim) } else { mix.embedding_type(dim) };
        let mut all = vec![("token_embd.weight".to_owned(), vocab, dim, table)];
        if !tied {
            all.push(("output.weight".to_owned(), vocab, dim, mix.output_type(dim)));
        }
        for layer in 0..layers {
            let of_layer = [
                ("attn_q", q, dim, Part::Other),
                ("attn_k", kv, dim, Part::Other),
                ("attn_v", kv, dim, Part::AttnV),
                ("attn_output", dim, q, Part::AttnOutput),
                ("ffn_gate", ffn, dim, Part::Other),
                ("ffn_up", ffn, dim, Part::Other),
                ("ffn_down", dim, ffn, Part::FfnDown),
            ];
            for (name, rows, cols, part) in of_layer {
                let place = Place { part, layer, n_layers: layers, group: heads / kv_heads };
                all.push((format!("blk.{layer}.{name}.weight"), rows, cols, mix.layer_type(place, cols)));
            }
        }
        all
    }

    /// Bytes of all matrices in this mix: nearly the size of the file.
    ///
    /// # Errors
    /// As [`synthetic`].
    pub fn bytes(&self, mix: Mix) -> Result<u64> {
        self.check()?;
        let bytes = |(_, rows, cols, ty): (String, usize, usize, Type)| {
            rows.checked_mul(ty.row_bytes(cols)?).map(|n| n as u64)
        };
        let mut sizes = self.matrices(mix).into_iter().map(bytes);
        sizes.try_fold(0_u64, |sum, n| sum.checked_add(n?)).ok_or_else(|| absurd(self))
    }

    /// Refuses what no model has, so that sizes can be computed with.
    fn check(&self) -> Result<()> {
        let Shape { layers, dim, ffn, heads, kv_heads, head_dim, vocab, context, .. } = *self;
        let all = [layers, dim, ffn, heads, kv_heads, head_dim, vocab, context];
        let sound =
            all.iter().all(|n| (1..1 << 28).contains(n)) && layers < 1 << 16 && heads.max(head_dim) < 1 << 16;
        if sound && heads.is_multiple_of(kv_heads) && head_dim.is_multiple_of(2) {
            Ok(())
        } else {
            Err(absurd(self))
        }
    }
}

fn absurd(shape: &Shape) -> Error {
    Error::new(ErrorKind::Input, format!("no model has such a shape: {shape:?}"))
        .next("correct it; heads must be a multiple of kv_heads, and head_dim even")
}

/// Weights that are made of each type; a matrix repeats them.
const PATTERN: usize = 1 << 16;

/// Standard deviation of the weights: about that of real models.
const DEVIATION: f32 = 0.02;

/// A model of this shape with random weights, in anonymous memory: it takes no file, and no second copy. It has no
/// tokenizer.
///
/// # Errors
/// [`ErrorKind::Input`] if no model has such a shape, and [`ErrorKind::Io`] if there is not enough memory.
pub fn synthetic(name: &str, shape: &Shape, mix: Mix) -> Result<Gguf> {
    shape.check()?;
    let matrices = shape.matrices(mix);
    let weights = random_weights();
    let mut patterns: HashMap<Type, Vec<u8>> = HashMap::new();
    for (_, _, _, ty) in &matrices {
        patterns.entry(*ty).or_insert_with(|| quantized(*ty, &weights));
    }
    let number = |n: usize| n as u32; // all below 2^28
    let mut writer = Writer::new()
        .metadata("general.architecture", "llama")
        .metadata("general.name", name)
        .metadata("general.file_type", mix.file_type())
        .metadata("llama.block_count", number(shape.layers))
        .metadata("llama.context_length", number(shape.context))
        .metadata("llama.embedding_length", number(shape.dim))
        .metadata("llama.feed_forward_length", number(shape.ffn))
        .metadata("llama.attention.head_count", number(shape.heads))
        .metadata("llama.attention.head_count_kv", number(shape.kv_heads))
        .metadata("llama.attention.key_length", number(shape.head_dim))
        .metadata("llama.attention.value_length", number(shape.head_dim))
        .metadata("llama.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .metadata("llama.rope.dimension_count", number(shape.head_dim));
    for (name, rows, cols, ty) in &matrices {
        let dims = [*cols as u64, *rows as u64];
        writer = writer.repeating_tensor(name, &dims, *ty, &patterns[ty]);
    }
    let ones = 1_f32.to_le_bytes();
    let norms = (0..shape.layers)
        .flat_map(|i| [format!("blk.{i}.attn_norm.weight"), format!("blk.{i}.ffn_norm.weight")]);
    for norm in norms.chain(["output_norm.weight".to_owned()]) {
        writer = writer.repeating_tensor(&norm, &[shape.dim as u64], Type::F32, &ones);
    }
    Gguf::in_memory(name, &writer)
}

/// The same at each call, so that measurements can be repeated.
fn random_weights() -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(1);
    // the sum of twelve numbers in 0..1 has variance 1, and is nearly normal
    (0..PATTERN).map(|_| ((0..12).map(|_| random.f32()).sum::<f32>() - 6.0) * DEVIATION).collect()
}

fn quantized(ty: Type, weights: &[f32]) -> Vec<u8> {
    let quantize = ty.scalar().and_then(|scalar| scalar.quantize).expect("mixes have types that can be made");
    let mut bytes = vec![0; weights.len() / ty.block() * ty.bytes()];
    quantize(weights, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::session::{Logits, Session, SessionOptions};
    use braise_kernels::isa::Isa;
    use std::ops::ControlFlow;

    #[test]
    fn every_mix_runs_and_gives_numbers() {
        for name in Mix::names() {
            for tied in [true, false] {
                let mix = Mix::by_name(name).expect("is known");
                let shape = Shape { tied, ..Shape::TINY };
                let gguf = synthetic("test", &shape, mix).expect("is made");
                let bytes = gguf.tensors().iter().filter(|t| t.rows() > 1).map(|t| t.n_bytes() as u64);
                assert_eq!(shape.bytes(mix).expect("is sound"), bytes.sum::<u64>(), "{name}");
                let model = Model::new(gguf, Isa::best()).expect("is a model");
                let options = SessionOptions { threads: Some(1), ..SessionOptions::default() };
                let mut session = Session::new(&model, &options).expect("starts");
                let mut spread = 0.0;
                let sink = &mut |_, logits: &[f32]| {
                    spread = logits.iter().fold(0.0_f32, |max, l| max.max((l - logits[0]).abs()));
                    ControlFlow::Continue(())
                };
                session.eval(&[1, 2, 3], Logits::Last, sink).expect("gives numbers");
                assert!(spread > 0.01 && spread < 1e4, "{name}: {spread}");
            }
        }
    }

    #[test]
    fn the_size_is_that_of_the_published_file() {
        let shape = Shape {
            layers: 16,
            dim: 2048,
            ffn: 8192,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            vocab: 128_256,
            tied: true,
            context: 131_072,
        };
        // Llama-3.2-1B-Instruct-Q4_K_M.gguf has 807 694 464 bytes, of which 7.8 MB are metadata and norms
        let bytes = shape.bytes(Mix::by_name("Q4_K_M").expect("is known")).expect("is sound");
        assert!((799_000_000..807_694_464).contains(&bytes), "{bytes}");
    }

    #[test]
    fn absurd_shapes_are_refused() {
        let absurd = [
            Shape { layers: 0, ..Shape::TINY },
            Shape { kv_heads: 3, ..Shape::TINY },
            Shape { kv_heads: 0, ..Shape::TINY },
            Shape { head_dim: 63, ..Shape::TINY },
            Shape { vocab: usize::MAX, ..Shape::TINY },
            Shape {
                dim: (1 << 28) - 32,
                ffn: (1 << 28) - 32,
                layers: 65_535,
                vocab: (1 << 28) - 1,
                ..Shape::TINY
            },
        ];
        let mix = Mix::by_name("Q4_0").expect("is known");
        for shape in &absurd[..5] {
            assert_eq!(shape.bytes(mix).expect_err("is absurd").kind(), ErrorKind::Input, "{shape:?}");
            assert_eq!(synthetic("x", shape, mix).expect_err("is absurd").kind(), ErrorKind::Input);
        }
        assert!(absurd[5].bytes(mix).is_ok_and(|bytes| bytes > 1 << 50) || absurd[5].bytes(mix).is_err());
    }
}
