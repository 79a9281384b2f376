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
    /// For checks.
    pub(crate) const TINY: Shape = Shape {
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

    /// Llama 3.1 8B, for tests.
    #[cfg(test)]
    pub(crate) const LLAMA_8B: Shape = Shape {
        layers: 32,
        dim: 4096,
        ffn: 14_336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        tied: false,
        context: 131_072,
    };

    /// The matrices outside of layers.
    fn tables(&self, mix: Mix) -> Vec<Matrix> {
        let Shape { dim, vocab, tied, .. } = *self;
        let table = |name, ty| Matrix { name, rows: vocab, cols: dim, ty };
        if tied {
            return vec![table("token_embd", mix.output_type(dim))];
        }
        vec![table("token_embd", mix.embedding_type(dim)), table("output", mix.output_type(dim))]
    }

    /// The matrices of a layer.
    fn layer(&self, mix: Mix, layer: usize) -> [Matrix; 7] {
        let Shape { layers, dim, ffn, heads, kv_heads, head_dim, .. } = *self;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        [
            ("attn_q", q, dim, Part::AttnQk),
            ("attn_k", kv, dim, Part::AttnQk),
            ("attn_v", kv, dim, Part::AttnV),
            ("attn_output", dim, q, Part::AttnOutput),
            ("ffn_gate", ffn, dim, Part::FfnGateUp),
            ("ffn_up", ffn, dim, Part::FfnGateUp),
            ("ffn_down", dim, ffn, Part::FfnDown),
        ]
        .map(|(name, rows, cols, part)| {
            let place = Place { part, layer, n_layers: layers, group: heads / kv_heads };
            Matrix { name, rows, cols, ty: mix.layer_type(place, cols) }
        })
    }

    /// The matrices of all layers that are `wanted`, and those outside of layers, with their names.
    fn matrices(&self, mix: Mix, wanted: impl Fn(&usize) -> bool) -> Vec<(String, Matrix)> {
        let in_layers = (0..self.layers).filter(wanted).flat_map(|layer| {
            self.layer(mix, layer).map(|matrix| (format!("blk.{layer}.{}.weight", matrix.name), matrix))
        });
        let tables = self.tables(mix).into_iter();
        tables.map(|matrix| (format!("{}.weight", matrix.name), matrix)).chain(in_layers).collect()
    }

    /// For each layer the one whose weights it gets, where about `distinct` layers have weights of their own. Both have
    /// the same types; each kind of layer keeps its share of the distinct ones, and at least one.
    fn sources(&self, mix: Mix, distinct: usize) -> Vec<usize> {
        let mut kinds: HashMap<[Type; 7], Vec<usize>> = HashMap::new();
        for layer in 0..self.layers {
            kinds.entry(self.layer(mix, layer).map(|matrix| matrix.ty)).or_default().push(layer);
        }
        let mut sources = vec![0; self.layers];
        for kind in kinds.values() {
            let kept = (kind.len() * distinct / self.layers).clamp(1, kind.len());
            for (i, layer) in kind.iter().enumerate() {
                sources[*layer] = kind[i % kept];
            }
        }
        sources
    }

    /// Bytes of all matrices in this mix: nearly the size of the file.
    ///
    /// # Errors
    /// As [`synthetic`].
    pub fn bytes(&self, mix: Mix) -> Result<u64> {
        self.bytes_of(mix, self.layers)
    }

    /// Bytes of the matrices where about `distinct` layers have weights of their own.
    fn bytes_of(&self, mix: Mix, distinct: usize) -> Result<u64> {
        self.check()?;
        let sources = self.sources(mix, distinct);
        let own = (0..self.layers).filter(|layer| sources[*layer] == *layer);
        let mut matrices = own.flat_map(|layer| self.layer(mix, layer)).chain(self.tables(mix));
        let bytes = |m: Matrix| m.rows.checked_mul(m.ty.row_bytes(m.cols)?).map(|n| n as u64);
        matrices.try_fold(0_u64, |sum, m| sum.checked_add(bytes(m)?)).ok_or_else(|| absurd(self))
    }

    /// How many layers can have weights of their own, that all matrices take at most `most` bytes: what to give to
    /// [`synthetic_repeating`]. `None` if there is too little memory for any.
    ///
    /// # Errors
    /// As [`synthetic`].
    pub fn distinct_layers(&self, mix: Mix, most: u64) -> Result<Option<usize>> {
        self.check()?;
        let fits = |distinct: &usize| self.bytes_of(mix, *distinct).is_ok_and(|bytes| bytes <= most);
        let most_layers = (1..=self.layers).collect::<Vec<_>>().partition_point(fits);
        if most_layers == 0 {
            return Ok(None);
        }
        let sources = self.sources(mix, most_layers);
        Ok(Some((0..self.layers).filter(|layer| sources[*layer] == *layer).count()))
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

/// A matrix: the part of its name that says what it is for, and what it holds.
struct Matrix {
    name: &'static str,
    rows: usize,
    cols: usize,
    ty: Type,
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
    synthetic_repeating(name, shape, mix, shape.layers)
}

/// As [`synthetic`], for models that are larger than the memory: about `distinct` layers have weights of their own, the
/// others repeat these, whole layers of the same types. What is read and computed for a token is the same; the rate is
/// that of the whole model as long as the distinct weights are more than the caches hold.
///
/// # Errors
/// As [`synthetic`].
pub fn synthetic_repeating(name: &str, shape: &Shape, mix: Mix, distinct: usize) -> Result<Gguf> {
    shape.check()?;
    let sources = shape.sources(mix, distinct);
    let is_own = |layer: &usize| sources[*layer] == *layer;
    let matrices = shape.matrices(mix, is_own);
    let weights = random_weights();
    let mut patterns: HashMap<Type, Vec<u8>> = HashMap::new();
    for (_, Matrix { ty, .. }) in &matrices {
        patterns.entry(*ty).or_insert_with(|| quantized(*ty, &weights));
    }
    let writer = writer(name, shape, mix, &matrices, &patterns);
    let mut gguf = Gguf::in_memory(name, &writer)?;
    for layer in (0..shape.layers).filter(|layer| !is_own(layer)) {
        for Matrix { name, .. } in shape.layer(mix, layer) {
            gguf.alias(
                format!("blk.{layer}.{name}.weight"),
                &format!("blk.{}.{name}.weight", sources[layer]),
            )?;
        }
    }
    Ok(gguf)
}

/// What is known of such a model before it is made, see [`Gguf::outline`].
///
/// # Errors
/// [`ErrorKind::Input`] if no model has such a shape.
pub(crate) fn outline(name: &str, shape: &Shape, mix: Mix) -> Result<Gguf> {
    shape.check()?;
    let matrices = shape.matrices(mix, |_| true);
    let zeros = |ty: Type| (ty, vec![0; ty.bytes()]);
    let patterns = matrices.iter().map(|(_, matrix)| zeros(matrix.ty)).collect();
    Gguf::outline(name, &writer(name, shape, mix, &matrices, &patterns))
}

/// A file with these matrices, the weights of each type being a pattern over and over.
fn writer<'a>(
    name: &str,
    shape: &Shape,
    mix: Mix,
    matrices: &[(String, Matrix)],
    patterns: &'a HashMap<Type, Vec<u8>>,
) -> Writer<'a> {
    const ONES: [u8; 4] = 1_f32.to_le_bytes();
    let mut writer: Writer<'a> = metadata(name, shape, mix);
    for (name, Matrix { rows, cols, ty, .. }) in matrices {
        writer = writer.repeating_tensor(name, &[*cols as u64, *rows as u64], *ty, &patterns[ty]);
    }
    let norms = (0..shape.layers)
        .flat_map(|i| [format!("blk.{i}.attn_norm.weight"), format!("blk.{i}.ffn_norm.weight")]);
    for norm in norms.chain(["output_norm.weight".to_owned()]) {
        writer = writer.repeating_tensor(&norm, &[shape.dim as u64], Type::F32, &ONES);
    }
    writer
}

fn metadata(name: &str, shape: &Shape, mix: Mix) -> Writer<'static> {
    let number = |n: usize| n as u32; // all below 2^28
    Writer::new()
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
        .metadata("llama.rope.dimension_count", number(shape.head_dim))
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
    fn layers_are_repeated_where_memory_is_short() {
        let shape = Shape { layers: 16, ..Shape::TINY };
        let mix = Mix::by_name("Q4_K_M").expect("is known"); // two kinds of layers
        let full = shape.bytes(mix).expect("is sound");
        assert_eq!(shape.distinct_layers(mix, full).expect("is sound"), Some(16));
        assert_eq!(shape.distinct_layers(mix, 1000).expect("is sound"), None);
        let distinct = shape.distinct_layers(mix, full / 2).expect("is sound").expect("some fit");
        assert!((4..9).contains(&distinct), "{distinct}");

        let whole = synthetic("whole", &shape, mix).expect("is made");
        let short = synthetic_repeating("short", &shape, mix, distinct).expect("is made");
        assert!(short.bytes() <= full / 2 + 32_768, "{} of {full} bytes", short.bytes());
        let mut own: Vec<_> = Vec::new();
        for tensor in whole.tensors() {
            let same = short.tensor(&tensor.name).expect("is there too");
            assert_eq!((same.ty, &same.dims), (tensor.ty, &tensor.dims), "{}", tensor.name);
            if tensor.name.ends_with("attn_q.weight") {
                own.push(short.data(same).as_ptr());
            }
        }
        own.sort_unstable();
        own.dedup();
        assert_eq!((own.len(), short.tensors().len()), (distinct, whole.tensors().len()));

        let model = Model::new(short, Isa::best()).expect("is a model");
        let mut session = Session::new(&model, &SessionOptions::default()).expect("starts");
        let sink = &mut |_, _: &[f32]| ControlFlow::Continue(());
        session.eval(&[1, 2, 3], Logits::Last, sink).expect("gives numbers");
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
