//! Tiny models of all families, made from recipes: `tests/data/families/NAME.txt` lists a model's metadata and the shapes
//! of its tensors. What the numbers are follows from the tensors' names alone, to the bit and on every machine, so that
//! logits that llama.cpp computed once for such a model (`NAME.logits`, by `reference.py` beside them) stay valid.

use std::fs::File;
use std::path::{Path, PathBuf};

use braise_engine::gguf::Writer;
use braise_kernels::quant::Type;

/// Tokens whose logits are compared: of more than a chunk of 64, and past the recipes' sliding windows.
const KEPT: [usize; 4] = [0, 40, 64, 95];

/// The recipe whose window is that of real models, and the tokens that are compared there.
const LONG: (&str, [usize; 4]) = ("llama4-long", [0, 8191, 8192, 8299]);

/// Tokens of the comparison whose logits `reference.py` keeps; the last of them is the last there is.
pub fn kept(name: &str) -> [usize; 4] {
    if name == LONG.0 { LONG.1 } else { KEPT }
}

/// Where the recipes are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/families")
}

/// The names of all recipes, sorted.
///
/// # Panics
/// If the folder cannot be read.
pub fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("the recipes");
    let name = |file: std::io::Result<std::fs::DirEntry>| {
        Some(file.ok()?.file_name().to_str()?.strip_suffix(".txt")?.to_owned())
    };
    let mut names: Vec<_> = files.filter_map(name).collect();
    names.sort();
    names
}

/// The token ids of most comparisons.
pub fn tokens(n_vocab: usize) -> Vec<u32> {
    tokens_of("", n_vocab)
}

/// Those of the comparison with the recipe `name`.
pub fn tokens_of(name: &str, n_vocab: usize) -> Vec<u32> {
    let [.., last] = kept(name);
    (0..=last).map(|i| ((i * i * 31 + i * 7 + 3) % n_vocab) as u32).collect()
}

/// Writes the model of the recipe `name` to `path`.
///
/// # Panics
/// If there is no such recipe, a line of it makes no sense, or the file cannot be written.
pub fn write(name: &str, path: &Path) {
    write_with(name, Type::F32, &[], path);
}

/// The same, with weights of other types rounded as theirs are, but stored as F32: what other engines compute with
/// exactly.
///
/// # Panics
/// As [`write()`].
pub fn write_floats(name: &str, path: &Path) {
    write_as(name, Kinds::Floats, &[], path);
}

/// The same with experts of type `ty`, and with other numbers for some keys and other sizes of some tensors, by the ends of their
/// names.
///
/// # Panics
/// As [`write()`]; and if rows are no whole blocks.
pub fn write_with(name: &str, ty: Type, changes: &[(&str, &str)], path: &Path) {
    write_as(name, Kinds::Experts(ty), changes, path);
}

/// The same with all matrices of type `ty` whose rows are whole blocks of it.
///
/// # Panics
/// As [`write()`].
pub fn write_quantized(name: &str, ty: Type, path: &Path) {
    write_as(name, Kinds::Matrices(ty), &[], path);
}

/// Which tensors are of another type than the recipe says.
#[derive(Clone, Copy)]
enum Kinds {
    /// All are floats, of the values that the recipe's types leave.
    Floats,
    /// Those of experts.
    Experts(Type),
    /// Those of matrices.
    Matrices(Type),
}

fn write_as(name: &str, kinds: Kinds, changes: &[(&str, &str)], path: &Path) {
    let recipe = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("a recipe");
    let mut writer = Writer::new().metadata("tokenizer.ggml.model", "no_vocab");
    for line in recipe.lines() {
        writer = if let Some((key, value)) = line.split_once(" = ") {
            let (kind, value) = value.split_once(' ').expect("a type and a value");
            let change = changes.iter().find(|(end, _)| key.ends_with(end));
            metadata(writer, key, kind, change.map_or(value, |(_, value)| value))
        } else {
            let (name, dims) = line.split_once(": ").expect("a key or a tensor");
            let change = changes.iter().find(|(end, _)| name.ends_with(end));
            let dims = change.map_or(dims, |(_, dims)| dims);
            // sizes, and behind them perhaps a type
            let (sizes, named): (Vec<&str>, Vec<&str>) =
                dims.split(' ').partition(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
            let dims: Vec<u64> = sizes.iter().map(|n| n.parse().expect("a size")).collect();
            // what is no matrix may have rows as well
            let is_matrix = dims.len() > 1
                && name.ends_with("weight")
                && !name.contains("norm")
                && !name.contains("conv");
            let ty = match (&named[..], kinds) {
                ([ty], _) => *Type::ALL.iter().find(|known| known.name() == *ty).expect("a type"),
                (_, Kinds::Experts(ty)) if name.ends_with("_exps.weight") => ty,
                (_, Kinds::Matrices(ty)) if is_matrix && dims[0].is_multiple_of(ty.block() as u64) => ty,
                _ => Type::F32,
            };
            let scalar = ty.scalar().expect("a type to compute with");
            let mut numbers = numbers(name, &dims);
            let row = ty.row_bytes(dims[0] as usize).expect("whole blocks");
            let mut bytes = vec![0; row * dims[1..].iter().product::<u64>() as usize];
            scalar.quantize.expect("a type that can be written")(&numbers, &mut bytes);
            if matches!(kinds, Kinds::Floats) {
                (scalar.dequantize)(&bytes, &mut numbers);
                let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
                writer.tensor(name, &dims, Type::F32, bytes)
            } else {
                writer.tensor(name, &dims, ty, bytes)
            }
        };
    }
    writer
        .write_to(&mut File::create(path).expect("the file can be created"))
        .expect("the model can be written");
}

fn metadata(writer: Writer<'static>, key: &str, ty: &str, value: &str) -> Writer<'static> {
    fn all<T: std::str::FromStr>(list: &str) -> Vec<T> {
        let number = |n: &str| n.parse().unwrap_or_else(|_| panic!("`{n}` is no number"));
        list.split(',').map(number).collect()
    }
    match ty {
        "u32" => writer.metadata(key, all::<u32>(value)[0]),
        "i32" => writer.metadata(key, all::<i32>(value)[0]),
        "f32" => writer.metadata(key, all::<f32>(value)[0]),
        "bool" => writer.metadata(key, value == "true"),
        "str" => writer.metadata(key, value),
        "u32s" => writer.metadata(key, all::<u32>(value)),
        "i32s" => writer.metadata(key, all::<i32>(value)),
        "f32s" => writer.metadata(key, all::<f32>(value)),
        "bools" => writer.metadata(key, all::<u8>(value).into_iter().map(|n| n != 0).collect::<Vec<bool>>()),
        other => panic!("`{other}` is no type"),
    }
}

/// A tensor's numbers: matrices keep the size of what goes through them; queries and keys are longer, so that attention
/// prefers some tokens, and routers more so.
fn numbers(name: &str, dims: &[u64]) -> Vec<f32> {
    let n = dims.iter().product::<u64>() as usize;
    let (part, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let part = part.rsplit('.').next().unwrap_or(part);
    let of_row = 1.0 / (dims[0] as f32).sqrt();
    let (mean, spread) = match (part, kind) {
        ("rope_freqs" | "rope_factors_long" | "rope_factors_short", _) => (2.0, 0.5),
        ("attn_sinks", _) => (1.0, 0.5),
        ("exp_probs_b", _) => (0.0, 0.3),
        (part, "weight") if part.contains("norm") => (1.0, 0.2),
        (_, "ffn_norm") => (1.0, 0.2),
        (_, "bias") => (0.0, 0.2),
        (_, "ssm_a") => (-0.5, 0.2),
        (_, "ssm_d") => (1.0, 0.3),
        ("ssm_dt", _) => (0.0, 0.5),
        // small, so that logits of a tied matrix are not those of the token that was read
        ("token_embd", _) => (0.0, 0.1),
        ("position_embd", _) => (0.0, 0.5),
        ("attn_q" | "attn_k" | "attn_qkv" | "attn_q_b" | "attn_k_b" | "attn_kv_a_mqa", _) => {
            (0.0, 1.6 * of_row)
        }
        ("layer_output_scale", _) => (1.0, 0.2),
        // of a router that divides what it reads by the root of its length
        ("ffn_gate_inp", "scale") => (1.0 / of_row, 0.2 / of_row),
        ("ffn_gate_inp", _) => (0.0, 2.0 * of_row),
        // divisors
        ("act", "scales") => (1.0, 0.2),
        _ => (0.0, 1.1 * of_row),
    };
    // FNV-1a (Fowler, Noll and Vo) of the name, then SplitMix64 (Steele et al. 2014)
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 24 bits, from -1 to 1
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    const SQRT_3: f32 = 1.732_050_8;
    (0..n).map(|_| mean + uniform() * (spread * SQRT_3)).collect()
}
