use std::ops::Range;

use super::*;
use crate::gguf::{ToValue, Writer};
use crate::measure::synthetic;
use crate::memory::Memory;
use crate::session::{Session, SessionOptions};
use braise_kernels::cuda::Properties;
use braise_kernels::ops::KvType;
use braise_kernels::quant::Type;

/// A model of real size, of which there is nothing but the header: of each kind of tensor its name and shape, and in which
/// layers it is.
struct Header {
    arch: &'static str,
    writer: Writer<'static>,
}

static ZEROS: [u8; 256] = [0; 256];

impl Header {
    fn new(arch: &'static str, n_layer: u32, n_embd: u64, n_vocab: u64, eps: &str) -> Header {
        let writer = Writer::new().metadata("general.architecture", arch);
        Header { arch, writer }
            .key("block_count", n_layer)
            .key("context_length", 131_072_u32)
            .key("embedding_length", n_embd as u32)
            .key(eps, 1e-6_f32)
            .tensor("token_embd.weight", &[n_embd, n_vocab], Type::Q6_K)
            .tensor("output_norm.weight", &[n_embd], Type::F32)
    }

    fn key(self, key: &str, value: impl ToValue) -> Header {
        let key = format!("{}.{key}", self.arch);
        Header { writer: self.writer.metadata(&key, value), ..self }
    }

    /// Width of the networks, query heads, key/value heads, and the size of each, all of which is rotated.
    fn sizes(self, n_ff: u32, n_head: impl ToValue, n_head_kv: impl ToValue, dim: u32) -> Header {
        self.key("feed_forward_length", n_ff)
            .key("attention.head_count", n_head)
            .key("attention.head_count_kv", n_head_kv)
            .key("attention.key_length", dim)
            .key("attention.value_length", dim)
            .key("rope.dimension_count", dim)
    }

    fn tensor(self, name: &str, dims: &[u64], ty: Type) -> Header {
        let pattern = &ZEROS[..ty.bytes()];
        Header { writer: self.writer.repeating_tensor(name, dims, ty, pattern), ..self }
    }

    fn layers(self, layers: Range<usize>, tensors: &[(&str, &[u64], Type)]) -> Header {
        layers.fold(self, |header, i| {
            tensors.iter().fold(header, |header, (name, dims, ty)| {
                header.tensor(&format!("blk.{i}.{name}.weight"), dims, *ty)
            })
        })
    }

    fn outline(&self) -> Outline {
        let file = Gguf::outline("test", &self.writer).expect("a header");
        Outline::of_header(&file, kernels()).expect("a model")
    }
}

fn kernels() -> Kernels {
    Kernels::new(Isa::best()).expect("is supported")
}

fn gpu() -> Properties {
    Properties {
        name: "A GPU".to_owned(),
        compute: (8, 0),
        multiprocessors: 108,
        shared_bytes: 163 << 10,
        warpgroups: false,
    }
}

const REQUEST: Request = Request {
    n_ctx: 8192,
    n_seq: 1,
    tokens: None,
    chunk: Some(512),
    kv: KvTypes { k: KvType::F16, v: KvType::F16 },
    threads: 2,
};

const MIB: u64 = 1 << 20;

/// Gemma 3 12B: every sixth of 48 layers sees all, the others 1024 positions.
fn gemma3() -> Header {
    Header::new("gemma3", 48, 3840, 262_208, "attention.layer_norm_rms_epsilon")
        .sizes(15_360, 16_u32, 8_u32, 256)
        .key("attention.sliding_window", 1024_u32)
        .layers(0..48, &[("attn_q_norm", &[256], Type::F32), ("attn_k_norm", &[256], Type::F32)])
}

#[test]
fn layers_with_windows_keep_what_they_see_and_some_spare() {
    let outline = gemma3().outline();
    let plan = outline.plan(&REQUEST).expect("is a number");
    // 8 heads of 256 keys and 256 values of two bytes; the window, 512 spare, 512 of a chunk, in pages of 256 and one more
    let (full, window) = (8192 * 8192, 9 * 256 * 8192);
    let of = |i: usize| plan.cache[i].positions;
    assert_eq!([0, 4, 5, 6, 47].map(of), [window, window, full, window, full]);
    assert_eq!((plan.keys_and_values(), plan.states()), ((8 * 64 + 40 * 18) * MIB, 0));
    // twice the context is twice the full layers alone
    let twice = outline.plan(&Request { n_ctx: 16_384, ..REQUEST }).expect("is a number");
    assert_eq!(twice.keys_and_values() - plan.keys_and_values(), 8 * 64 * MIB);
    // on a GPU the same, and two tables of pages of 64
    let device = outline.on_device(&REQUEST, &gpu()).expect("is a number");
    assert_eq!(device.cache, plan.keys_and_values() + 2 * 4 * 8192 / 64);
    // a context that is no longer than what is kept anyway
    let short = outline.plan(&Request { n_ctx: 2000, ..REQUEST }).expect("is a number");
    assert_eq!(short.keys_and_values(), 48 * 2048 * 8192);
}

/// DeepSeek V3: 61 layers, whose cache has one key of 512 + 64 values and one value of 512.
#[test]
fn latent_attention_keeps_one_short_vector() {
    let header = Header::new("deepseek2", 61, 7168, 129_280, "attention.layer_norm_rms_epsilon")
        .key("feed_forward_length", 18_432_u32)
        .key("leading_dense_block_count", 61_u32)
        .key("attention.head_count", 128_u32)
        .key("attention.head_count_kv", 1_u32)
        .key("attention.key_length", 576_u32)
        .key("attention.value_length", 512_u32)
        .key("attention.key_length_mla", 192_u32)
        .key("attention.value_length_mla", 128_u32)
        .key("attention.kv_lora_rank", 512_u32)
        .key("attention.q_lora_rank", 1536_u32)
        .key("rope.dimension_count", 64_u32)
        .layers(0..61, &[("attn_q_a", &[7168, 1536], Type::Q4_K)]);
    let outline = header.outline();
    let bytes = |kv| outline.plan(&Request { kv, ..REQUEST }).expect("is a number").keys_and_values();
    assert_eq!(bytes(REQUEST.kv), 61 * 8192 * (576 + 512) * 2);
    let q8_0 = KvTypes { k: KvType::Q8_0, v: KvType::Q8_0 };
    assert_eq!(bytes(q8_0), 61 * 8192 * (576 + 36 + 512 + 32));
    // a GPU fills rows up to 16 bytes
    let device = |kv| {
        let request = Request { kv, ..REQUEST };
        outline.on_device(&request, &gpu()).expect("is a number").cache
    };
    let table = 4 * 8192 / 64;
    assert_eq!(device(REQUEST.kv), bytes(REQUEST.kv) + table);
    assert_eq!(device(q8_0), 61 * 8192 * (624 + 544) + table);
}

/// Granite 4 H Micro: 4 of 40 layers attend, the others are state spaces of 64 heads.
#[test]
fn recurrent_layers_have_states_whatever_the_context() {
    let attends = |i: usize| i % 10 == 5;
    let counts = |n: u32| (0..40).map(|i| if attends(i) { n } else { 0 }).collect::<Vec<_>>();
    let header = Header::new("granitehybrid", 40, 2048, 100_352, "attention.layer_norm_rms_epsilon")
        .sizes(8192, counts(32), counts(8), 64)
        .key("ssm.conv_kernel", 4_u32)
        .key("ssm.inner_size", 4096_u32)
        .key("ssm.state_size", 128_u32)
        .key("ssm.group_count", 1_u32)
        .key("ssm.time_step_rank", 64_u32)
        .layers(0..40, &[("ffn_norm", &[2048], Type::F32)]);
    let outline = header.outline();
    let plan = outline.plan(&REQUEST).expect("is a number");
    // three inputs of the convolution, whose channels are x, B and C; and the states; in floats
    let states = 4 * (3 * (4096 + 2 * 128) + 4096 * 128);
    for (i, layer) in plan.cache.iter().enumerate() {
        let expected = if attends(i) { (8192 * 8 * 64 * 2 * 2, 0) } else { (0, states) };
        assert_eq!((layer.positions, layer.states), expected, "layer {i}");
    }
    let four = outline.plan(&Request { n_seq: 4, n_ctx: 2048, ..REQUEST }).expect("is a number");
    assert_eq!(four.keys_and_values(), plan.keys_and_values());
    assert_eq!(four.states(), 4 * 36 * states as u64);
}

/// Qwen3 30B-A3B: 48 layers of 128 experts.
fn qwen3moe() -> Header {
    Header::new("qwen3moe", 48, 2048, 151_936, "attention.layer_norm_rms_epsilon")
        .sizes(6144, 32_u32, 4_u32, 128)
        .key("expert_count", 128_u32)
        .key("expert_used_count", 8_u32)
        .key("expert_feed_forward_length", 768_u32)
        .tensor("output.weight", &[2048, 151_936], Type::Q6_K)
        .layers(
            0..48,
            &[
                ("attn_q", &[2048, 4096], Type::Q4_K),
                ("attn_q_norm", &[128], Type::F32),
                ("attn_k_norm", &[128], Type::F32),
                ("attn_k", &[2048, 512], Type::Q4_K),
                ("attn_v", &[2048, 512], Type::Q4_K),
                ("attn_output", &[4096, 2048], Type::Q4_K),
                ("ffn_gate_inp", &[2048, 128], Type::F32),
                ("ffn_gate_exps", &[2048, 768, 128], Type::Q4_K),
                ("ffn_up_exps", &[2048, 768, 128], Type::Q4_K),
                ("ffn_down_exps", &[768, 2048, 128], Type::Q4_K),
            ],
        )
}

#[test]
fn experts_are_counted_apart() {
    let outline = qwen3moe().outline();
    let weights = outline.weights();
    let q4_k = |n: u64| n / 256 * 144;
    let experts = q4_k(3 * 128 * 768 * 2048);
    let others = q4_k(2 * 2048 * 4096 + 2 * 2048 * 512) + 4 * (2048 * 128 + 2 * 128);
    assert_eq!(weights.layers, vec![LayerWeights { experts, others }; 48]);
    let table = 151_936 * 2048 / 256 * 210;
    assert_eq!((weights.tables, weights.output, weights.copies), (table, table, 0));
    assert!(weights.rest < 1 << 20, "{weights:?}");
    let all = 48 * (experts + others) + 2 * table + weights.rest;
    assert_eq!((weights.bytes(), outline.plan(&REQUEST).expect("is a number").weights), (all, all));

    let on_device = |outline: Outline| outline.on_device(&REQUEST, &gpu()).expect("is a number");
    let table = 4 * 8192 / 64;
    let whole = on_device(outline.clone());
    assert_eq!((whole.weights, whole.cache), (all - weights.rest, 48 * 8192 * 2048 + table));
    assert!(whole.is_lean() && whole.total() > whole.weights + whole.cache);
    let mixers = 10..14;
    let some = on_device(outline.only(|part| matches!(part, Part::Mixer(i) if mixers.contains(&i))));
    assert_eq!((some.weights, some.cache), (4 * others, 4 * 8192 * 2048 + table));
}

fn llama_8b() -> Outline {
    Outline::of_shape(&Shape::LLAMA_8B, Mix::by_name("Q4_K_M").expect("is known"), Isa::best())
        .expect("is a shape")
}

#[test]
fn a_shape_alone_says_how_large_its_file_is() {
    let outline = llama_8b();
    // Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf
    let error = outline.weights().bytes() as f64 / 4_920_739_232.0 - 1.0;
    assert!(error.abs() < 1e-3, "{error}");
    let plan = outline.plan(&REQUEST).expect("is a number");
    assert_eq!(plan.keys_and_values(), 8192 * 128 * 1024);
    let device = outline.on_device(&REQUEST, &gpu()).expect("is a number");
    assert!(device.is_lean(), "{device:?}");
}

#[test]
fn a_shape_and_its_model_have_the_same_plan() {
    for (mix, tied) in [("Q8_0", true), ("Q4_K_M", false), ("F16", true)] {
        let shape = Shape { tied, ..Shape::TINY };
        let mix = Mix::by_name(mix).expect("is known");
        let model = Model::new(synthetic("test", &shape, mix).expect("is made"), Isa::best());
        let model = model.expect("is a model");
        let of_shape = Outline::of_shape(&shape, mix, Isa::best()).expect("is a shape");
        for (n_ctx, chunk) in [(1, 1), (100, 64), (256, 64), (5000, 512)] {
            let request = Request { n_ctx, chunk: Some(chunk), ..REQUEST };
            let plan = Outline::of(&model).plan(&request).expect("is a number");
            let shaped = of_shape.plan(&request).expect("is a number");
            assert_eq!(Plan { weights: plan.weights + 60 * 320, ..plan.clone() }, shaped);
            // and it is what a session takes
            let options = SessionOptions {
                n_ctx: Some(n_ctx),
                chunk: Some(chunk),
                threads: Some(2),
                ..Default::default()
            };
            let session = Session::new(&model, &options).expect("starts");
            assert_eq!(session.plan(), Some(&plan));
            // of pages that are longer than the context, what it fills in blocks of 16 positions
            let (written, of_page) = (n_ctx.next_multiple_of(16).min(256), 256);
            assert_eq!(session.cache_bytes() * written as u64, plan.keys_and_values() * of_page);
        }
    }
}

#[test]
fn what_fits_is_the_longest_that_does() {
    let outline = llama_8b();
    let request = Request { n_ctx: 131_072, ..REQUEST };
    for bytes in [1_000_000_000, 5_000_000_000, 17_000_000_000] {
        let longest = outline.longest_context(&request, bytes);
        let session = |n_ctx| outline.plan(&Request { n_ctx, ..request }).expect("is a number").session();
        assert!(session(longest) <= bytes && session(longest + 1) > bytes, "{bytes}: {longest}");
    }
    assert_eq!(outline.longest_context(&request, 18_000_000_000), 131_072);
    assert_eq!(outline.longest_context(&request, 1000), 0);
    assert_eq!(outline.longest_context(&Request { n_ctx: usize::MAX, ..request }, 1000), 0);
}

const GB: u64 = 1_000_000_000;

fn refused(request: &Request, available: u64) -> String {
    let memory = Memory { total: 16 * GB, available };
    let error = llama_8b().admit(request, Some(memory)).expect_err("is too large");
    assert_eq!(error.kind(), ErrorKind::Memory);
    error.to_string()
}

#[test]
fn a_refusal_has_numbers_and_says_what_would_fit() {
    let outline = llama_8b();
    let request = Request { n_ctx: 131_072, ..REQUEST };
    let q8_0 = Request { kv: KvTypes { k: KvType::Q8_0, v: KvType::Q8_0 }, ..request };
    let longest = |request: &Request, bytes| outline.longest_context(request, bytes);

    let error = refused(&request, 5 * GB);
    let begin = "there is not enough memory for a context of 131072 tokens: the session takes 17.";
    assert!(error.starts_with(begin), "{error}");
    assert!(
        error.contains("(17.18 GB of them keys and values in f16), and 5.00 GB of 16.00 GB are free; "),
        "{error}"
    );
    let (same, small) = (longest(&request, 5 * GB), longest(&q8_0, 5 * GB));
    assert!(same > 30_000 && small > 60_000, "{same} {small}");
    assert!(
        error.ends_with(&format!("choose at most {same} tokens, or {small} with a cache in q8_0")),
        "{error}"
    );

    let error = refused(&request, 12 * GB);
    assert!(error.ends_with("tokens, or a cache in q8_0, with which it fits"), "{error}");
    let error = refused(&q8_0, 5 * GB);
    assert!(
        error.ends_with(&format!("; choose at most {small} tokens")) && error.contains(" in q8_0)"),
        "{error}"
    );
    let error = refused(&request, 1_000_000);
    assert!(error.ends_with("; end other programs, or choose a smaller model"), "{error}");
    let error = refused(&Request { n_ctx: usize::MAX, ..request }, 5 * GB);
    assert!(error.contains("the session takes more than an address can name, and 5.00 GB"), "{error}");

    assert!(outline.admit(&request, Some(Memory { total: 32 * GB, available: 18 * GB })).is_ok());
    assert!(outline.admit(&request, None).is_ok(), "a system that does not tell");
}

#[test]
fn weights_that_do_not_fit_are_streamed_and_the_rest_must_fit() {
    let plan = llama_8b().plan(&REQUEST).expect("is a number");
    let (weights, session) = (4 * GB, plan.session());
    assert_eq!(plan.fit(weights, session + weights), Fit::Whole);
    assert_eq!(plan.fit(weights, session + weights - 1), Fit::Streams { missing: 1 });
    assert_eq!(plan.fit(weights, session), Fit::Streams { missing: weights });
    assert_eq!(plan.fit(weights, session - 1), Fit::Not);
    assert_eq!(plan.fit(0, session), Fit::Whole, "weights that are in memory already");

    let memory = |available| Memory { total: 16 * GB, available };
    assert_eq!(warning(&plan, weights, memory(session + weights)), None);
    let text = warning(&plan, weights, memory(session + GB)).expect("does not fit");
    assert!(text.starts_with("the weights take 4.00 GB, but beside the session's 1."), "{text}");
    assert!(text.contains("only 1.00 GB of memory are free for them: up to 3.00 GB are read"), "{text}");
}
