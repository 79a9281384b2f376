//! Files that are no models, or broken ones.

use std::fs;

use braise_kernels::quant::Type;

use super::{
    Home, N_EMBD, Tensor, changed, done, file, find, finish, patched, prepare, refused, refused_file, set,
    sound, sound_metadata, sound_tensors,
};

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
