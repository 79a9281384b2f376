//! Which scales and biases beside a matrix count. Files may have more of them than their family uses: llama.cpp, whose files
//! they are, reads scales wherever there are any, but multiplies with those of some matrices alone.

use braise_kernels::quant::Type;

/// Families with scales in feed-forward networks, whatever the format of the weights is.
const SCALED: &[&str] = &[
    "cohere2",
    "gemma4",
    "llama",
    "mellum",
    "mistral3",
    "nanbeige",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen3",
    "qwen35",
    "qwen35moe",
    "qwen3moe",
    "qwen3next",
];

/// Scales of other matrices that do not count: the family, and the matrix.
const UNSCALED: &[(&str, &str)] = &[
    ("afmoe", "attn_gate"),
    ("openelm", "attn_qkv"),
    ("plamo3", "attn_qkv"),
    ("qwen3next", "attn_gate"),
    ("qwen3next", "attn_qkv"),
    ("qwen3next", "ssm_out"),
];

/// Biases that do not count: the family, and the matrix.
const UNBIASED: &[(&str, &str)] = &[
    ("ernie4_5", "attn_output"),
    ("ernie4_5-moe", "attn_output"),
    ("falcon-h1", "attn_output"),
    ("qwen2vl", "output"),
    ("refact", "attn_output"),
    ("refact", "ffn_down"),
    ("refact", "ffn_gate"),
    ("refact", "ffn_up"),
];

/// Whether the scale of matrix `name` (`blk.0.ffn_up`) counts in a file of family `arch`: that of weights in NVFP4 always
/// does, as it belongs to the format.
pub(crate) fn has_scale(arch: &str, name: &str, ty: Type) -> bool {
    let part = part(name);
    let scaled =
        if part.starts_with("ffn_") { SCALED.contains(&arch) } else { !UNSCALED.contains(&(arch, part)) };
    scaled || ty == Type::NVFP4
}

/// The same of its bias.
pub(crate) fn has_bias(arch: &str, name: &str) -> bool {
    !UNBIASED.contains(&(arch, part(name)))
}

/// The name without that of the layer.
fn part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
