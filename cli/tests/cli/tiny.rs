//! Models of one layer, small enough to be written for each test.

use braise_engine::gguf::Writer;
use braise_kernels::quant::Type;

/// A tensor that is to be written.
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub ty: Type,
    pub data: Vec<u8>,
}

impl Tensor {
    /// Some floats, neither all the same nor large.
    pub fn floats(name: &str, dims: &[u64]) -> Tensor {
        let n = dims.iter().product::<u64>();
        let data = (0..n).flat_map(|i| ((i * 37 % 101) as f32 / 202.0 - 0.25).to_le_bytes()).collect();
        Tensor { name: name.to_owned(), dims: dims.to_vec(), ty: Type::F32, data }
    }
}

/// Values that stand for a token in these models.
pub const N_EMBD: u64 = 32;

/// The texts of its tokens.
pub fn vocabulary() -> Vec<String> {
    let letters = ('a'..='z').map(String::from);
    letters.chain(["Ġ".to_owned(), "<|endoftext|>".to_owned()]).collect()
}

/// Metadata of a llama of one layer.
pub fn sound_metadata() -> Writer<'static> {
    Writer::new()
        .metadata("general.architecture", "llama")
        .metadata("llama.block_count", 1_u32)
        .metadata("llama.context_length", 64_u32)
        .metadata("llama.embedding_length", N_EMBD as u32)
        .metadata("llama.feed_forward_length", 64_u32)
        .metadata("llama.attention.head_count", 2_u32)
        .metadata("llama.attention.head_count_kv", 1_u32)
        .metadata("llama.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .metadata("llama.rope.freq_base", 10_000.0_f32)
        .metadata("tokenizer.ggml.model", "gpt2")
        .metadata("tokenizer.ggml.pre", "gpt-2")
        .metadata("tokenizer.ggml.tokens", vocabulary())
        .metadata("tokenizer.ggml.merges", ["a b"])
        .metadata("tokenizer.chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
}

/// Its tensors.
pub fn sound_tensors() -> Vec<Tensor> {
    let n_vocab = vocabulary().len() as u64;
    [
        ("token_embd.weight", &[N_EMBD, n_vocab][..]),
        ("output_norm.weight", &[N_EMBD]),
        ("blk.0.attn_norm.weight", &[N_EMBD]),
        ("blk.0.attn_q.weight", &[N_EMBD, 32]),
        ("blk.0.attn_k.weight", &[N_EMBD, 16]),
        ("blk.0.attn_v.weight", &[N_EMBD, 16]),
        ("blk.0.attn_output.weight", &[32, N_EMBD]),
        ("blk.0.ffn_norm.weight", &[N_EMBD]),
        ("blk.0.ffn_gate.weight", &[N_EMBD, 64]),
        ("blk.0.ffn_up.weight", &[N_EMBD, 64]),
        ("blk.0.ffn_down.weight", &[64, N_EMBD]),
    ]
    .map(|(name, dims)| Tensor::floats(name, dims))
    .into()
}

/// A model file.
pub fn file(metadata: Writer<'static>, tensors: Vec<Tensor>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let add = |writer: Writer<'static>, t: Tensor| writer.tensor(&t.name, &t.dims, t.ty, t.data);
    tensors.into_iter().fold(metadata, add).write_to(&mut bytes).expect("is written");
    bytes
}

/// A llama that works.
pub fn sound() -> Vec<u8> {
    file(sound_metadata(), sound_tensors())
}
