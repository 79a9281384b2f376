//! Prompts, flags and templates that cannot be worked with.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use braise_kernels::cuda::Gpu;
use braise_kernels::isa::Isa;

use super::{done, failed, finish, prepare, refused, set, vocabulary, with_model};

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
            assert!(error.contains("not enough memory") && error.contains(" are free; choose"), "{error}");
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
        let layers = |flags: &[&str], code| refused(&home, &[args, flags].concat(), code);
        assert!(layers(&["--gpu-layers", "many"], 2).contains("--gpu-layers"));
        let error = layers(&["--device", "cpu", "--gpu-layers", "all"], 2);
        assert!(error.contains("--gpu-layers all") && error.contains("--device cpu"), "{error}");
        if let Err(why) = Gpu::count() {
            let error = layers(&["--gpu-layers", "2"], 1);
            assert!(error.contains(&format!("--gpu-layers 2: {why}")), "{error}");
        }
    }
    done(&finish(prepare(
        &home,
        &["logits", "good.gguf", "--tokens", "1", "-o", "logits.bin", "--device=cpu"],
    )));
    done(&finish(prepare(
        &home,
        &["logits", "good.gguf", "--tokens", "1", "-o", "logits.bin", "--gpu-layers=0"],
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
