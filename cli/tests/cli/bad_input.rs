//! Files, prompts and flags that cannot be worked with: each gets one line that names it, says what is wrong and what
//! to do; nothing panics, hangs, takes absurd memory, or leaves half a file behind.

use std::ffi::OsStr;
use std::fs;
use std::io::pipe;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use braise_engine::gguf::{ToValue, Writer};
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;

use super::{BRAISE, Home, done, failed, texts};

/// No bad input may take longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Address space that a run may take, in KiB: 4 GiB, of which tiny models need little.
#[cfg(target_os = "linux")]
const MEMORY: &str = "ulimit -v 4194304";
#[cfg(not(target_os = "linux"))]
const MEMORY: &str = "true";

/// A user who may do nothing, for tests that are run by one who may do everything.
const NOBODY: u32 = 65_534;

/// A program that will run braise within the limits.
fn prepare(home: &Home, args: &[&str]) -> Command {
    let mut shell = home.prepare("sh");
    shell.args(["-c", &format!("{MEMORY}; exec \"$0\" \"$@\""), BRAISE]).args(args);
    shell.current_dir(home.dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

#[track_caller]
fn finish(mut command: Command) -> Output {
    let child = command.spawn().expect("starts");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{command:?} takes too long"));
    output.expect("ends")
}

/// The one line of a run that is to fail with `code`.
#[track_caller]
fn refused(home: &Home, args: &[&str], code: i32) -> String {
    let before = listing(home);
    let output = finish(prepare(home, args));
    let (_, stderr) = texts(&output);
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    let error = failed(&output, code);
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert_eq!(listing(home), before, "{args:?}: nothing is left behind");
    error
}

/// Names in the folder where braise runs.
fn listing(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.dir.path()).expect("is a folder");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("is readable").path()).collect();
    names.sort();
    names
}

/// What each kind of work with a model says of `bytes`; they must name the file and agree.
#[track_caller]
fn refused_file(bytes: &[u8], expected: &str) {
    let home = Home::new();
    fs::write(home.path("bad.gguf"), bytes).expect("is written");
    for args in [
        &["logits", "bad.gguf", "--tokens", "1", "-o", "logits.bin"][..],
        &["run", "bad.gguf", "--raw", "ab", "-n", "2"],
        &["run", "bad.gguf", "ab", "-n", "2"],
    ] {
        let error = refused(&home, args, 1);
        assert!(error.starts_with("braise: bad.gguf: ") && error.contains(expected), "{args:?}: {error}");
    }
}

/// A tensor that is to be written.
struct Tensor {
    name: String,
    dims: Vec<u64>,
    ty: Type,
    data: Vec<u8>,
}

impl Tensor {
    fn floats(name: &str, dims: &[u64]) -> Tensor {
        let n = dims.iter().product::<u64>();
        // neither all the same nor large
        let data = (0..n).flat_map(|i| ((i * 37 % 101) as f32 / 202.0 - 0.25).to_le_bytes()).collect();
        Tensor { name: name.to_owned(), dims: dims.to_vec(), ty: Type::F32, data }
    }
}

/// Values that stand for a token in the model below.
const N_EMBD: u64 = 32;

/// The texts of its tokens.
fn vocabulary() -> Vec<String> {
    let letters = ('a'..='z').map(String::from);
    letters.chain(["Ġ".to_owned(), "<|endoftext|>".to_owned()]).collect()
}

fn sound_metadata() -> Writer<'static> {
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

fn sound_tensors() -> Vec<Tensor> {
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

fn file(metadata: Writer<'static>, tensors: Vec<Tensor>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let add = |writer: Writer<'static>, t: Tensor| writer.tensor(&t.name, &t.dims, t.ty, t.data);
    tensors.into_iter().fold(metadata, add).write_to(&mut bytes).expect("is written");
    bytes
}

/// A file that works.
fn sound() -> Vec<u8> {
    file(sound_metadata(), sound_tensors())
}

/// The same, with a metadata key set.
fn set(key: &str, value: impl ToValue) -> Vec<u8> {
    file(sound_metadata().metadata(key, value), sound_tensors())
}

/// The same, with one tensor changed.
fn changed(name: &str, change: impl FnOnce(&mut Tensor)) -> Vec<u8> {
    let mut tensors = sound_tensors();
    change(tensors.iter_mut().find(|tensor| tensor.name == name).expect("is there"));
    file(sound_metadata(), tensors)
}

/// The only place of `what` in `bytes`.
#[track_caller]
fn find(bytes: &[u8], what: &[u8]) -> usize {
    let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(what)).collect();
    assert_eq!(found.len(), 1, "{what:?}");
    found[0]
}

/// The sound file with the bytes after `what` overwritten, `skip` bytes on.
fn patched(what: &str, skip: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = sound();
    let at = find(&bytes, what.as_bytes()) + what.len() + skip;
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// A home with the sound file as `good.gguf`.
fn with_model() -> Home {
    let home = Home::new();
    fs::write(home.path("good.gguf"), sound()).expect("is written");
    home
}

/// A seed with which random weights say something: what they pick may be a token that is not shown, or an end.
fn speaking_seed(home: &Home, mode: &[&str]) -> String {
    let says = |seed: &String| {
        let args = [&["run", "good.gguf", "ab", "-n", "3", "--seed", seed], mode].concat();
        !done(&finish(prepare(home, &args))).trim().is_empty()
    };
    (1..30).map(|seed: u32| seed.to_string()).find(says).expect("one of thirty answers has text")
}

#[test]
fn the_sound_file_works() {
    let home = with_model();
    for mode in [&[][..], &["--raw"]] {
        let seed = speaking_seed(&home, mode);
        let args = [&["run", "good.gguf", "ab", "-n", "3", "--seed", &seed], mode].concat();
        assert!(!done(&finish(prepare(&home, &args))).trim().is_empty());
    }
    let logits = ["logits", "good.gguf", "--tokens", "1,2,3", "-o", "logits.bin"];
    done(&finish(prepare(&home, &logits)));
    let written = fs::metadata(home.path("logits.bin")).expect("is there").len();
    assert_eq!(written, 3 * 4 * vocabulary().len() as u64);
}

#[test]
fn files_of_other_formats() {
    refused_file(b"", "the file is empty");
    refused_file(b"GGU", "ends within its first four bytes");
    refused_file(b"#!/bin/sh\necho no model\n", "not a GGUF file");
    refused_file(b"<!DOCTYPE html><html>", "a web page");
    refused_file(&[b'x'; 65_536], "not a GGUF file");
}

#[test]
fn files_cut_short_in_each_section() {
    let bytes = sound();
    let in_metadata = find(&bytes, b"tokenizer.chat_template");
    let in_index = find(&bytes, b"blk.0.ffn_up.weight");
    for (at, expected) in [
        (3, "ends within its first four bytes"),
        (20, "ends within its header"),
        (in_metadata + 5, "past the end of the file"),
        (in_index + 5, "past the end of the file"),
        (in_index + 30, "past the end of the file"),
        (bytes.len() - 7000, "past the end of the file"),
        (bytes.len() - 1, "past the end of the file"),
    ] {
        refused_file(&bytes[..at], expected);
    }
}

#[test]
fn absurd_counts() {
    for count in [u64::MAX, 1 << 40, 1 << 31] {
        refused_file(&patched("GGUF", 4, &count.to_le_bytes()), "tensors, more than fit");
        refused_file(&patched("GGUF", 12, &count.to_le_bytes()), "metadata keys, more than fit");
        // the number of strings of an array, behind its type and theirs
        refused_file(&patched("tokenizer.ggml.tokens", 8, &count.to_le_bytes()), "past the end of the file");
        // a dimension of a tensor, behind the number of dimensions
        refused_file(&patched("blk.0.attn_q.weight", 4, &count.to_le_bytes()), "blk.0.attn_q.weight");
    }
}

#[test]
fn misplaced_and_wrong_tensors() {
    // dimensions (4 + 16 bytes), type (4 bytes), offset
    refused_file(&patched("blk.0.attn_q.weight", 24, &0_u64.to_le_bytes()), "overlap");
    refused_file(&patched("blk.0.attn_q.weight", 24, &(1_u64 << 20).to_le_bytes()), "past the end");
    refused_file(&patched("blk.0.attn_q.weight", 24, &u64::MAX.to_le_bytes()), "`blk.0.attn_q.weight`");
    refused_file(&patched("blk.0.attn_q.weight", 20, &999_u32.to_le_bytes()), "unknown ggml type 999");
    for missing in sound_tensors() {
        let mut tensors = sound_tensors();
        tensors.retain(|tensor| tensor.name != missing.name);
        refused_file(&file(sound_metadata(), tensors), &format!("`{}` is missing", missing.name));
    }
    for name in ["blk.0.attn_q.weight", "blk.0.ffn_down.weight", "output_norm.weight"] {
        let wrong = |tensor: &mut Tensor| tensor.dims = vec![tensor.dims.iter().product::<u64>() / 2, 2];
        refused_file(&changed(name, wrong), &format!("`{name}` has the shape"));
    }
    let empty = |tensor: &mut Tensor| {
        tensor.dims[1] = 0;
        tensor.data.clear();
    };
    refused_file(&changed("token_embd.weight", empty), "token_embd.weight");
    let known = |tensor: &mut Tensor| {
        let (rows, n) = (tensor.dims[1] as usize, Type::I32.bytes());
        (tensor.ty, tensor.data) = (Type::I32, vec![0; rows * n * N_EMBD as usize]);
    };
    refused_file(&changed("blk.0.attn_k.weight", known), "has the type I32");
}

#[test]
fn absurd_metadata() {
    refused_file(&set("general.architecture", "lama"), "`lama` is not supported");
    refused_file(&set("general.architecture", 3_u32), "general.architecture");
    for key in [
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.attention.value_length",
    ] {
        refused_file(&set(key, 0_u32), &format!("`{key}` is 0"));
        let lists = ["feed_forward_length", "head_count", "head_count_kv"]; // may be one for each layer
        if !lists.iter().any(|list| key.ends_with(list)) {
            refused_file(&set(key, [2_u32]), &format!("`{key}` is an array"));
        }
        refused_file(&set(key, [2.5_f32]), &format!("`{key}` is an array"));
        refused_file(&set(key, "2"), &format!("`{key}` is a string"));
        refused_file(&set(key, -1_i32), &format!("`{key}` is"));
        if key != "llama.context_length" {
            refused_file(&set(key, u32::MAX), "");
            refused_file(&set(key, 1_u32 << 31), "");
            refused_file(&set(key, 3_u32), "");
        }
    }
    refused_file(&set("llama.attention.key_length", 17_u32), "17");
    refused_file(&set("llama.rope.dimension_count", 18_u32), "18 of a head's 16");
    refused_file(&set("llama.rope.dimension_count", 15_u32), "15 of a head's 16");
    refused_file(&set("llama.expert_count", 8_u32), "`llama.expert_used_count` is missing");
    let mixture = |used: u32| {
        let metadata = sound_metadata().metadata("llama.expert_count", 8_u32);
        file(metadata.metadata("llama.expert_used_count", used), sound_tensors())
    };
    refused_file(&mixture(2), "`blk.0.ffn_gate_exps.weight` is missing");
    refused_file(&mixture(9), "9 of 8 experts");
    refused_file(&mixture(0), "`llama.expert_used_count` is 0");
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        refused_file(&set("llama.attention.layer_norm_rms_epsilon", bad), "epsilon");
        refused_file(&set("llama.rope.freq_base", bad), "rotation base");
        refused_file(&set("llama.rope.scaling.factor", bad), "scaling factor");
    }
    refused_file(&set("llama.rope.freq_base", 0.0_f32), "rotation base");
    refused_file(&set("llama.rope.scaling.type", "cubic"), "`cubic` is not supported");
    for key in ["yarn_ext_factor", "yarn_attn_factor", "attn_factor", "yarn_beta_fast", "yarn_beta_slow"] {
        let key = format!("llama.rope.scaling.{key}");
        let metadata = sound_metadata().metadata("llama.rope.scaling.type", "yarn");
        let metadata = metadata.metadata("llama.rope.scaling.factor", 2.0_f32).metadata(&key, f32::NAN);
        refused_file(&file(metadata, sound_tensors()), "NaN");
    }
}

#[test]
fn any_context_length_in_the_file_is_only_a_number() {
    for length in [1, u32::MAX] {
        let home = Home::new();
        fs::write(home.path("m.gguf"), set("llama.context_length", length)).expect("is written");
        done(&finish(prepare(&home, &["run", "m.gguf", "--raw", "a", "-n", "1"])));
        done(&finish(prepare(&home, &["logits", "m.gguf", "--tokens", "1,2", "-o", "logits.bin"])));
    }
}

#[test]
fn weights_that_are_no_numbers() {
    for bad in [f32::NAN, f32::INFINITY] {
        for name in ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_down.weight"] {
            let change = |tensor: &mut Tensor| tensor.data[..4].copy_from_slice(&bad.to_le_bytes());
            refused_file(&changed(name, change), "not finite numbers");
        }
    }
    // a block of Q4_0 begins with its scale, a half-precision number
    for name in ["blk.0.attn_v.weight", "blk.0.ffn_gate.weight", "token_embd.weight"] {
        let change = |tensor: &mut Tensor| {
            let blocks = tensor.data.len() / 4 / Type::Q4_0.block();
            (tensor.ty, tensor.data) = (Type::Q4_0, vec![0x11; blocks * Type::Q4_0.bytes()]);
            for block in tensor.data.chunks_mut(Type::Q4_0.bytes()) {
                block[..2].copy_from_slice(&[0, 0x7e]); // NaN
            }
        };
        refused_file(&changed(name, change), "not finite numbers");
    }
}

#[test]
fn files_without_what_run_needs() {
    let home = Home::new();
    let mut bytes = sound();
    let at = find(&bytes, b"tokenizer.ggml.model");
    bytes[at] = b'T';
    fs::write(home.path("mute.gguf"), &bytes).expect("is written");
    for args in [&["run", "mute.gguf", "ab"][..], &["tokenize", "mute.gguf", "ab"]] {
        let error = refused(&home, args, 1);
        assert!(error.contains("mute.gguf: the file has no tokenizer"), "{error}");
    }
    done(&finish(prepare(&home, &["logits", "mute.gguf", "--tokens", "1", "-o", "logits.bin"])));

    let mut bytes = sound();
    let at = find(&bytes, b"tokenizer.chat_template");
    bytes[at] = b'T';
    fs::write(home.path("raw.gguf"), &bytes).expect("is written");
    let error = refused(&home, &["run", "raw.gguf", "ab"], 1);
    assert!(error.contains("raw.gguf: the file has no chat template") && error.contains("--raw"), "{error}");
    fs::write(home.path("raw.gguf"), set("tokenizer.chat_template", "{% for %}\n{{")).expect("is written");
    assert!(refused(&home, &["run", "raw.gguf", "ab"], 1).contains("raw.gguf: "));
}

#[test]
fn prompts_and_tokens_that_cannot_be_read() {
    let home = with_model();
    assert!(refused(&home, &["run", "good.gguf", ""], 2).contains("the prompt is empty"));
    // no token of the vocabulary stands for any of it
    assert!(refused(&home, &["run", "good.gguf", "--raw", "123"], 1).contains("no tokens"));
    let long = "a".repeat(65);
    for raw in [&["--raw"][..], &[]] {
        let error = refused(&home, &[&["run", "good.gguf", &long], raw].concat(), 1);
        assert!(error.contains("65 tokens do not fit the context"), "{error}");
    }
    for (tokens, code, expected) in [
        ("28", 1, "good.gguf: the token 28 is not in the vocabulary"),
        ("1,2,4294967295", 1, "good.gguf: the token 4294967295 is not in the vocabulary"),
        ("4294967296", 2, "--tokens"),
        ("-1", 2, "-1"),
        ("", 2, "--tokens"),
        ("1,,2", 2, "--tokens"),
    ] {
        let tokens = format!("--tokens={tokens}");
        let error = refused(&home, &["logits", "good.gguf", &tokens, "-o", "logits.bin"], code);
        assert!(error.contains(expected), "{tokens}: {error}");
    }
}

#[test]
fn models_that_cannot_draft() {
    let home = with_model();
    let mut tokens = vocabulary();
    tokens.swap(2, 3);
    fs::write(home.path("other.gguf"), set("tokenizer.ggml.tokens", tokens)).expect("is written");
    let run = ["run", "good.gguf", "--raw", "ab", "-n", "9", "--seed", "1"];
    let answer = |flags: &[&str]| done(&finish(prepare(&home, &[&run[..], flags].concat())));
    assert_eq!(answer(&["--draft", "good.gguf"]), answer(&["--speculate", "off"]));
    for (draft, expected) in [
        ("other.gguf", "other.gguf: the model cannot draft: its token 2 is not that of the large model"),
        ("none.gguf", "none.gguf: there is no such file"),
    ] {
        let error = refused(&home, &[&run[..], &["--draft", draft]].concat(), 1);
        assert!(error.starts_with(&format!("braise: {expected}")), "{error}");
    }
}

#[test]
fn templates_that_would_take_the_machine() {
    let home = with_model();
    // what fills the memory takes its time on a slow machine
    let endless = ["it takes more than 5s", "it takes more than 512 MiB of memory"];
    for (template, expected) in [
        ("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", ["fuel", "5s"]),
        (
            "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{% set a = s | replace('x', 'y') %}{% endfor %}",
            endless,
        ),
        (
            "{% set ns = namespace(s='xxxxxxxx') %}\
             {% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            endless,
        ),
        ("{% macro f(s) %}{{ f(s + s) }}{% endmacro %}{{ f('x' * 1000) }}", endless),
    ] {
        fs::write(home.path("bomb.gguf"), set("tokenizer.chat_template", template)).expect("is written");
        let error = refused(&home, &["run", "bomb.gguf", "ab", "-n", "1"], 1);
        assert!(error.contains("bomb.gguf") && error.contains("chat template"), "{template}: {error}");
        assert!(expected.iter().any(|expected| error.contains(expected)), "{template}: {error}");
    }
}

#[test]
fn absurd_sizes() {
    let home = with_model();
    let run = ["run", "good.gguf", "--raw", "a"];
    let logits = ["logits", "good.gguf", "--tokens", "1", "-o", "logits.bin"];
    for (flag, value, code) in [
        ("--ctx", "0", 2),
        ("--ctx", "-1", 2),
        ("--ctx", "1000000000", 1),
        ("--ctx", "1000000000000000000", 1),
        ("--ctx", "18446744073709551615", 1),
        ("--ctx", "18446744073709551616", 2),
        ("--threads", "0", 2),
        ("--threads", "1000000000", 1),
        ("--threads", "1000000000000000000", 1),
        ("-n", "0", 2),
    ] {
        let error = refused(&home, &[&run[..], &[flag, value]].concat(), code);
        assert!(error.contains(value), "{flag} {value}: {error}");
        if flag == "--ctx" && code == 1 {
            assert!(error.contains("not enough memory") && error.contains(" in all; choose"), "{error}");
        }
        if flag == "--threads" {
            let error = refused(&home, &[&logits[..], &[flag, value]].concat(), code);
            assert!(error.contains(value), "{flag} {value}: {error}");
        }
    }
    assert!(refused(&home, &[&logits[..], &["--chunk", "0"]].concat(), 2).contains("--chunk"));
    done(&finish(prepare(&home, &[&logits[..], &["--chunk", "1000000000000000000"]].concat())));
}

#[test]
fn gpus_that_are_not_there() {
    let home = with_model();
    for args in [
        &["run", "good.gguf", "--raw", "a", "-n", "1"][..],
        &["logits", "good.gguf", "--tokens", "1", "-o", "logits.bin"],
    ] {
        let error = refused(&home, &[args, &["--device", "cuda:9999"]].concat(), 1);
        let expected = ["no NVIDIA driver was found", "there is no GPU 9999"];
        assert!(expected.iter().any(|expected| error.contains(expected)), "{error}");
        assert!(error.contains("good.gguf") && error.contains("on the CPU"), "{error}");
        assert!(refused(&home, &[args, &["--device", "gpu"]].concat(), 2).contains("--device"));
    }
    done(&finish(prepare(
        &home,
        &["logits", "good.gguf", "--tokens", "1", "-o", "logits.bin", "--device=cpu"],
    )));
}

#[test]
fn instruction_sets_that_cannot_be_had() {
    let home = with_model();
    let lacking = Isa::ALL.into_iter().filter(|isa| !isa.is_supported()).map(Isa::name);
    let names: Vec<_> = ["avx3", "AVX2 ", "none"].into_iter().chain(lacking).collect();
    for args in [
        &["run", "good.gguf", "--raw", "a", "-n", "1"][..],
        &["logits", "good.gguf", "--tokens", "1", "-o", "logits.bin"],
    ] {
        for &name in &names {
            assert!(refused(&home, &[args, &["--isa", name]].concat(), 2).contains(name));
            let mut command = prepare(&home, args);
            command.env("BRAISE_ISA", name);
            let error = failed(&finish(command), 2);
            assert!(error.contains(name) && error.contains("BRAISE_ISA"), "{error}");
        }
    }
    let mut command = prepare(&home, &["run", "good.gguf", "--raw", "a"]);
    command.env("BRAISE_ISA", OsStr::from_bytes(b"avx2\xff"));
    assert!(failed(&finish(command), 2).contains("BRAISE_ISA"));
}

#[test]
fn what_is_no_regular_file() {
    let home = with_model();
    fs::create_dir(home.path("folder.gguf")).expect("is created");
    let fifo = home.path("fifo.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("starts").success());
    for command in
        [&["run"][..], &["tokenize"], &["info"], &["pull"], &["logits", "--tokens", "1", "-o", "o"]]
    {
        let text: &[&str] = if ["run", "tokenize"].contains(&command[0]) { &["ab"] } else { &[] };
        let error = refused(&home, &[command, &["folder.gguf"], text].concat(), 1);
        assert!(error.contains("folder.gguf is a folder"), "{command:?}: {error}");
        let error = refused(&home, &[command, &["fifo.gguf"], text].concat(), 1);
        assert!(error.contains("fifo.gguf: not a regular file"), "{command:?}: {error}");
        let error = refused(&home, &[command, &["good.gguf/x.gguf"], text].concat(), 1);
        assert!(error.contains("good.gguf/x.gguf: "), "{command:?}: {error}");
    }
}

#[test]
fn files_that_may_not_be_read_or_written() {
    let home = with_model();
    let mode = |name: &str, mode| {
        fs::set_permissions(home.path(name), PermissionsExt::from_mode(mode)).expect("is mine");
    };
    fs::create_dir(home.path("closed")).expect("is created");
    fs::copy(home.path("good.gguf"), home.path("closed/good.gguf")).expect("is copied");
    fs::copy(home.path("good.gguf"), home.path("secret.gguf")).expect("is copied");
    mode("", 0o755);
    mode("good.gguf", 0o644);
    mode("secret.gguf", 0o000);
    mode("closed", 0o000);
    let root = home.dir.path().metadata().expect("is there").uid() == 0;
    let logits = |model: &str, to: &str| {
        let mut command = prepare(&home, &["logits", model, "--tokens", "1", "-o", to]);
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        finish(command)
    };
    for (model, to, expected) in [
        ("secret.gguf", "/tmp/never", "secret.gguf: cannot open the file: Permission denied"),
        ("closed/good.gguf", "/tmp/never", "closed/good.gguf: cannot open the file: Permission denied"),
        ("good.gguf", "closed/logits.bin", "closed/logits.bin: cannot create the file: Permission denied"),
        ("good.gguf", "no/such/folder/logits.bin", "logits.bin: cannot create the file: No such file"),
        ("good.gguf", "secret.gguf/logits.bin", "logits.bin: cannot create the file: Not a directory"),
    ] {
        let output = logits(model, to);
        let (_, stderr) = texts(&output);
        if root && stderr.contains("sh: ") {
            println!("skipped: the program cannot be run by another user: {stderr}");
            return;
        }
        let error = failed(&output, 1);
        assert!(error.contains(expected), "{model} {to}: {error}");
    }
    mode("closed", 0o755);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let home = with_model();
    let error = refused(&home, &["logits", "good.gguf", "--tokens", "1", "-o", "/dev/full"], 1);
    assert!(error.contains("/dev/full: cannot write: No space left"), "{error}");
    // a limit on the size of files stands in for the disk's
    let limited = "trap '' XFSZ; ulimit -f 1 && exec \"$0\" \"$@\"";
    let tokens = format!("--tokens={}", ["1"; 60].join(","));
    let mut command = home.prepare("sh");
    command.args(["-c", limited, BRAISE, "logits", "good.gguf", &tokens, "-o", "logits.bin"]);
    command.current_dir(home.dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before = listing(&home);
    let error = failed(&finish(command), 1);
    assert!(error.contains("logits.bin: cannot write: File too large"), "{error}");
    assert_eq!(listing(&home), before);

    let full = || fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let seed = speaking_seed(&home, &["--raw"]);
    let run = ["run", "good.gguf", "ab", "-n", "3", "--seed", &seed, "--raw"];
    for args in [&run[..], &["tokenize", "good.gguf", "ab"]] {
        let mut command = prepare(&home, args);
        command.stdout(full());
        let error = failed(&finish(command), 1);
        assert!(error.contains("cannot write to standard output"), "{error}");
    }
}

#[test]
fn pipes_that_are_closed_early() {
    let home = with_model();
    for args in [
        &["run", "good.gguf", "--raw", "ab"][..],
        &["run", "good.gguf", "ab"],
        &["tokenize", "good.gguf", "ab"],
        &["tokenize", "good.gguf", "ab", "--ids"],
        &["info", "good.gguf"],
    ] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let mut command = prepare(&home, args);
        command.stdout(writer);
        let output = finish(command);
        let (_, stderr) = texts(&output);
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    // nobody hears the error: its code must do
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let mut command = prepare(&home, &["run", "none.gguf", "ab"]);
    command.stderr(writer);
    assert_eq!(finish(command).status.code(), Some(1));
}
