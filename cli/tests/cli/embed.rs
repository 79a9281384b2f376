//! `braise embed`: its lines of JSON, and models and texts that it refuses.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use braise_engine::gguf::Writer;
use serde_json::Value;

use super::tiny::{N_EMBD, Tensor, file};
use super::{BRAISE, Home, done, failed};

/// A tiny encoder of the words `a` and `b`, written to `model.gguf`; with the pooling of this number, if any.
fn write_model(home: &Home, pooling: Option<u32>) {
    let words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "\u{2581}a", "\u{2581}b"];
    let mut writer = Writer::new()
        .metadata("general.architecture", "bert")
        .metadata("bert.block_count", 1_u32)
        .metadata("bert.context_length", 8_u32)
        .metadata("bert.embedding_length", N_EMBD as u32)
        .metadata("bert.feed_forward_length", 64_u32)
        .metadata("bert.attention.head_count", 2_u32)
        .metadata("bert.attention.layer_norm_epsilon", 1e-5_f32)
        .metadata("tokenizer.ggml.model", "bert")
        .metadata("tokenizer.ggml.tokens", words)
        .metadata("tokenizer.ggml.token_type", [2_i32, 3, 3, 3, 1, 1])
        .metadata("tokenizer.ggml.unknown_token_id", 0_u32)
        .metadata("tokenizer.ggml.bos_token_id", 1_u32)
        .metadata("tokenizer.ggml.seperator_token_id", 2_u32);
    if let Some(pooling) = pooling {
        writer = writer.metadata("bert.pooling_type", pooling);
    }
    let tensors = [
        ("token_embd.weight", &[N_EMBD, words.len() as u64][..]),
        ("position_embd.weight", &[N_EMBD, 8]),
        ("token_types.weight", &[N_EMBD, 2]),
        ("token_embd_norm.weight", &[N_EMBD]),
        ("blk.0.attn_q.weight", &[N_EMBD, N_EMBD]),
        ("blk.0.attn_k.weight", &[N_EMBD, N_EMBD]),
        ("blk.0.attn_v.weight", &[N_EMBD, N_EMBD]),
        ("blk.0.attn_output.weight", &[N_EMBD, N_EMBD]),
        ("blk.0.attn_output_norm.weight", &[N_EMBD]),
        ("blk.0.ffn_up.weight", &[N_EMBD, 64]),
        ("blk.0.ffn_down.weight", &[64, N_EMBD]),
        ("blk.0.layer_output_norm.weight", &[N_EMBD]),
    ];
    let tensors = tensors.map(|(name, dims)| Tensor::floats(name, dims)).into();
    fs::write(home.path("model.gguf"), file(writer, tensors)).expect("is written");
}

fn model(home: &Home) -> String {
    home.path("model.gguf").to_str().expect("is text").to_owned()
}

/// Text, number of tokens and embedding of each line.
fn lines(stdout: &str) -> Vec<(String, u64, Vec<f64>)> {
    let line = |line| {
        let json: Value = serde_json::from_str(line).expect("is JSON");
        let numbers = json["embedding"].as_array().expect("is a list");
        let embedding = numbers.iter().map(|n| n.as_f64().expect("is a number")).collect();
        (json["text"].as_str().expect("is text").to_owned(), json["tokens"].as_u64().expect("is"), embedding)
    };
    stdout.lines().map(line).collect()
}

#[test]
fn a_line_for_each_text_and_vectors_of_length_1() {
    let home = Home::new();
    write_model(&home, Some(1));
    let both = lines(&done(&home.braise(&["embed", &model(&home), "a b", "b"])));
    assert_eq!(
        both.iter().map(|(text, n, _)| (text.as_str(), *n)).collect::<Vec<_>>(),
        [("a b", 4), ("b", 3)]
    );
    for (_, _, embedding) in &both {
        assert_eq!(embedding.len() as u64, N_EMBD);
        assert!((embedding.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    assert_ne!(both[0].2, both[1].2);
    // by itself, and from standard input, it is the same
    assert_eq!(lines(&done(&home.braise(&["embed", &model(&home), "b"]))), both[1..]);
    let mut child = home
        .prepare(BRAISE)
        .args(["embed", &model(&home), "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    child.stdin.take().expect("is piped").write_all(b"a b\nb\n").expect("is read");
    assert_eq!(lines(&done(&child.wait_with_output().expect("ends"))), both);
    // the file's pooling is the default, others differ
    let with = |kind| lines(&done(&home.braise(&["embed", &model(&home), "b", "--pooling", kind])));
    assert_eq!(with("mean"), both[1..]);
    assert_ne!(with("cls"), both[1..]);
    assert_ne!(with("last"), with("cls"));
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let home = Home::new();
    for pooling in [None, Some(0), Some(u32::MAX)] {
        write_model(&home, pooling);
        let error = failed(&home.braise(&["embed", &model(&home), "a"]), 1);
        assert!(error.contains("--pooling") && error.contains("model.gguf"), "{error}");
    }
    write_model(&home, Some(1));
    let error = failed(&home.braise(&["embed", &model(&home), "a a a a a a a"]), 1);
    assert!(error.contains("9 tokens do not fit the context: it holds 8"), "{error}");
    let error = failed(&home.braise(&["embed", &model(&home), "a", "a a a a a a a"]), 1);
    assert!(error.contains("text 2 of 2: 9 tokens do not fit"), "{error}");
    assert!(error.ends_with("; shorten it: the model was made for texts of 8 tokens"), "{error}");
    let error = failed(&home.braise(&["run", &model(&home), "--raw", "a"]), 1);
    let instead = format!("`braise embed {} TEXT`", model(&home));
    assert!(error.contains("is an encoder") && error.contains(&instead), "{error}");
}
