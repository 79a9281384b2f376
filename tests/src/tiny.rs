//! Tiny llama models with random weights, of any shape that the architecture allows.

use std::fs::File;
use std::path::Path;

use braise_engine::gguf::Writer;
use braise_kernels::quant::Type;

/// What a tiny model looks like; change what matters, and take the rest from [`BASE`].
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Layers.
    pub n_layer: usize,
    /// Values that stand for a token between layers.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Values in a query or key.
    pub head_dim: usize,
    /// Values in a value.
    pub head_dim_v: usize,
    /// Values between the matrices of the feed-forward network.
    pub n_ff: usize,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Type of the matrices.
    pub ty: Type,
    /// Types of single matrices, by the last part of their names, such as `attn_v`.
    pub types: &'static [(&'static str, Type)],
    /// Whether the token embedding is the output matrix too.
    pub tied: bool,
    /// Whether every matrix of a layer has a bias.
    pub bias: bool,
    /// Whether every matrix of a layer has a scale.
    pub scale: bool,
    /// Values of a head that are rotated.
    pub rope_dims: usize,
    /// Scaling of the rotation.
    pub rope: Rope,
}

/// Scaling of the rotation.
#[derive(Debug, Clone, Copy)]
pub enum Rope {
    /// None.
    Plain,
    /// A factor for each pair (Llama 3.1).
    Factors,
    /// All positions divided by this.
    Linear(f32),
    /// YaRN: positions divided by this, from this many tokens.
    Yarn(f32, u32),
}

/// A small model with nothing special.
pub const BASE: Shape = Shape {
    n_layer: 2,
    n_embd: 128,
    n_head: 4,
    n_head_kv: 2,
    head_dim: 32,
    head_dim_v: 32,
    n_ff: 192,
    n_vocab: 160,
    ty: Type::F32,
    types: &[],
    tied: false,
    bias: false,
    scale: false,
    rope_dims: 32,
    rope: Rope::Plain,
};

/// Tokens that every tiny model was made for.
pub const N_CTX: u32 = 2048;

/// Writes the model of this shape and seed to `path`. It has no tokenizer.
///
/// Matrices are scaled so that values keep their size from layer to layer, and scores spread enough for attention to
/// prefer some tokens.
///
/// # Panics
/// If rows are no whole blocks of their type, a type cannot be written, or the file cannot be.
pub fn write(shape: &Shape, seed: u64, path: &Path) {
    let s = *shape;
    let mut model = Builder { writer: metadata(shape), shape: s, random: fastrand::Rng::with_seed(seed) };
    model.matrix("token_embd", s.n_vocab, s.n_embd);
    model.vector("output_norm.weight", s.n_embd, 1.0);
    if !s.tied {
        model.matrix("output", s.n_vocab, s.n_embd);
    }
    if let Rope::Factors = s.rope {
        let factors: Vec<f32> = (0..s.rope_dims / 2).map(|i| 1.0 + (i % 5) as f32).collect();
        model.tensor("rope_freqs.weight", &[factors.len()], Type::F32, &factors);
    }
    for layer in 0..s.n_layer {
        let name = |part: &str| format!("blk.{layer}.{part}");
        model.vector(&name("attn_norm.weight"), s.n_embd, 1.0);
        model.matrix(&name("attn_q"), s.n_head * s.head_dim, s.n_embd);
        model.matrix(&name("attn_k"), s.n_head_kv * s.head_dim, s.n_embd);
        model.matrix(&name("attn_v"), s.n_head_kv * s.head_dim_v, s.n_embd);
        model.matrix(&name("attn_output"), s.n_embd, s.n_head * s.head_dim_v);
        model.vector(&name("ffn_norm.weight"), s.n_embd, 1.0);
        model.matrix(&name("ffn_gate"), s.n_ff, s.n_embd);
        model.matrix(&name("ffn_up"), s.n_ff, s.n_embd);
        model.matrix(&name("ffn_down"), s.n_embd, s.n_ff);
    }
    let mut file = File::create(path).expect("the file can be created");
    model.writer.write_to(&mut file).expect("the model can be written");
}

/// Far from what engines fall back to, and large enough to be seen when it is left out.
const EPSILON: f32 = 0.01;
const ROPE_BASE: f32 = 3000.0;

fn metadata(s: &Shape) -> Writer<'static> {
    let n = |n: usize| u32::try_from(n).expect("a tiny number");
    let writer = Writer::new()
        .metadata("general.architecture", "llama")
        .metadata("llama.block_count", n(s.n_layer))
        .metadata("llama.context_length", N_CTX)
        .metadata("llama.embedding_length", n(s.n_embd))
        .metadata("llama.feed_forward_length", n(s.n_ff))
        .metadata("llama.attention.head_count", n(s.n_head))
        .metadata("llama.attention.head_count_kv", n(s.n_head_kv))
        .metadata("llama.attention.key_length", n(s.head_dim))
        .metadata("llama.attention.value_length", n(s.head_dim_v))
        .metadata("llama.attention.layer_norm_rms_epsilon", EPSILON)
        .metadata("llama.rope.dimension_count", n(s.rope_dims))
        .metadata("llama.rope.freq_base", ROPE_BASE);
    match s.rope {
        Rope::Plain | Rope::Factors => writer,
        Rope::Linear(factor) => {
            writer.metadata("llama.rope.scaling.type", "linear").metadata("llama.rope.scaling.factor", factor)
        }
        Rope::Yarn(factor, trained) => writer
            .metadata("llama.rope.scaling.type", "yarn")
            .metadata("llama.rope.scaling.factor", factor)
            .metadata("llama.rope.scaling.original_context_length", trained),
    }
}

struct Builder {
    writer: Writer<'static>,
    shape: Shape,
    random: fastrand::Rng,
}

impl Builder {
    /// A matrix with what belongs to it, (rows, cols).
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) {
        let part = name.rsplit('.').next().unwrap_or(name);
        let ty = self.shape.types.iter().find(|(of, _)| *of == part).map_or(self.shape.ty, |(_, ty)| *ty);
        // an embedding of size 1; queries and keys a little longer than values, for scores that differ
        let size = match part {
            "token_embd" => 1.0,
            "attn_q" | "attn_k" => 1.5 / (cols as f32).sqrt(),
            _ => 1.0 / (cols as f32).sqrt(),
        };
        let weights = normals(&mut self.random, rows * cols, 0.0, size);
        self.tensor(&format!("{name}.weight"), &[cols, rows], ty, &weights);
        if !name.starts_with("blk.") {
            return;
        }
        if self.shape.bias {
            self.vector(&format!("{name}.bias"), rows, 0.0);
        }
        if self.shape.scale {
            self.vector(&format!("{name}.scale"), 1, 1.0);
        }
    }

    /// A vector around `mean`, in floats.
    fn vector(&mut self, name: &str, len: usize, mean: f32) {
        let values = normals(&mut self.random, len, mean, 0.2);
        self.tensor(name, &[len], Type::F32, &values);
    }

    fn tensor(&mut self, name: &str, dims: &[usize], ty: Type, values: &[f32]) {
        let quantize = ty.scalar().and_then(|scalar| scalar.quantize).expect("a type that can be written");
        let row = ty.row_bytes(dims[0]).expect("rows are whole blocks");
        let mut bytes = vec![0; row * dims[1..].iter().product::<usize>()];
        quantize(values, &mut bytes);
        let dims: Vec<u64> = dims.iter().map(|dim| *dim as u64).collect();
        self.writer = std::mem::take(&mut self.writer).tensor(name, &dims, ty, bytes);
    }
}

/// `n` numbers of a normal distribution (Box and Muller 1958).
fn normals(random: &mut fastrand::Rng, n: usize, mean: f32, deviation: f32) -> Vec<f32> {
    let normal = |_| {
        let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
        mean + deviation * (radius * (std::f64::consts::TAU * random.f64()).cos()) as f32
    };
    (0..n).map(normal).collect()
}
