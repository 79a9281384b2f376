//! Architectures: one file a family turns GGUF metadata into a [`Spec`]. This is their registry.

mod afmoe;
mod apertus;
mod arcee;
mod baichuan;
mod bailingmoe;
mod bert;
mod beside;
mod bloom;
mod cohere2;
mod command_r;
mod dbrx;
mod deci;
mod deepseek;
mod deepseek2;
mod dots1;
mod eurobert;
mod exaone4;
mod exaone_moe;
mod falcon;
mod falcon_h1;
mod file;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma4;
mod gemma_embedding;
mod glm4;
mod glm4moe;
mod gpt2;
mod gpt_oss;
mod gptneox;
mod granite;
mod granitehybrid;
mod grok;
mod hunyuan;
mod jais;
mod jamba;
mod kimi_linear;
mod lfm2;
mod llama;
mod llama4;
mod maincoder;
mod mamba;
mod mellum;
mod minicpm;
mod minicpm3;
mod minimax_m2;
mod mistral3;
mod modern_bert;
mod mpt;
mod nemotron;
mod nemotron_h;
mod nomic_bert;
mod nomic_bert_moe;
mod olmo;
mod olmo2;
mod olmoe;
mod phi2;
mod phi3;
mod plamo;
mod plamo3;
mod plm;
mod qwen;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen3next;
mod refact;
mod seed_oss;
mod smallthinker;
mod smollm3;
mod stablelm;
mod starcoder2;

use crate::block::Spec;
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::Gguf;

pub(crate) use beside::{has_bias, has_scale};

use file::File;

type ToSpec = fn(&File<'_>) -> Result<Spec>;

/// The families, by the name in `general.architecture`.
const FAMILIES: &[(&str, ToSpec)] = &[
    ("llama", llama::spec),
    ("llama4", llama4::spec),
    ("mistral3", mistral3::spec),
    ("gemma", gemma::spec),
    ("gemma2", gemma2::spec),
    ("gemma3", gemma3::spec),
    ("gemma4", gemma4::spec),
    ("phi3", phi3::spec),
    ("gpt-oss", gpt_oss::spec),
    ("qwen2", qwen2::spec),
    ("qwen3", qwen3::spec),
    ("qwen2moe", qwen2moe::spec),
    ("qwen3moe", qwen3::spec),
    ("qwen2vl", qwen2::spec),
    ("qwen3vl", qwen3::spec),
    ("qwen3vlmoe", qwen3::spec),
    ("deepseek", deepseek::spec),
    ("deepseek2", deepseek2::spec),
    ("mistral4", deepseek2::spec),
    ("glm4", glm4::spec),
    ("glm4moe", glm4moe::spec),
    ("granite", granite::spec),
    ("granitemoe", granite::spec),
    ("minicpm", minicpm::spec),
    ("smollm3", smollm3::spec),
    ("olmo", olmo::spec),
    ("olmo2", olmo2::spec),
    ("olmoe", olmoe::spec),
    ("exaone", qwen2::spec),
    ("exaone4", exaone4::spec),
    ("exaone-moe", exaone_moe::spec),
    ("command-r", command_r::spec),
    ("cohere2", cohere2::spec),
    ("phi2", phi2::spec),
    ("starcoder", gpt2::spec),
    ("starcoder2", starcoder2::spec),
    ("stablelm", stablelm::spec),
    ("gpt2", gpt2::spec),
    ("gptneox", gptneox::spec),
    ("falcon", falcon::spec),
    ("mpt", mpt::spec),
    ("nemotron", nemotron::spec),
    ("arcee", arcee::spec),
    ("seed_oss", seed_oss::spec),
    ("hunyuan-dense", hunyuan::spec),
    ("hunyuan-moe", hunyuan::spec),
    ("dots1", dots1::spec),
    ("bailingmoe2", dots1::spec),
    ("minimax-m2", minimax_m2::spec),
    ("dbrx", dbrx::spec),
    ("smallthinker", smallthinker::spec),
    ("internlm2", llama::spec),
    ("lfm2", lfm2::spec),
    ("lfm2moe", lfm2::spec),
    ("ernie4_5", llama::spec),
    ("ernie4_5-moe", llama::spec),
    ("xverse", llama::spec),
    ("orion", stablelm::spec),
    ("nanbeige", llama::spec),
    ("phimoe", qwen2::spec),
    ("grok", grok::spec),
    ("qwen", qwen::spec),
    ("afmoe", afmoe::spec),
    ("apertus", apertus::spec),
    ("baichuan", baichuan::spec),
    ("bailingmoe", bailingmoe::spec),
    ("bloom", bloom::spec),
    ("chatglm", llama::spec),
    ("codeshell", starcoder2::spec),
    ("deci", deci::spec),
    ("hunyuan_vl", hunyuan::spec),
    ("jais", jais::spec),
    ("jais2", nemotron::spec),
    ("maincoder", maincoder::spec),
    ("mellum", mellum::spec),
    ("minicpm3", minicpm3::spec),
    ("openelm", qwen3::spec),
    ("paddleocr", qwen2::spec),
    ("pangu-embedded", qwen2::spec),
    ("plamo", plamo::spec),
    ("plamo3", plamo3::spec),
    ("plm", plm::spec),
    ("refact", refact::spec),
    ("mamba", mamba::spec),
    ("mamba2", mamba::spec),
    ("granitehybrid", granitehybrid::spec),
    ("falcon-h1", falcon_h1::spec),
    ("qwen3next", qwen3next::spec),
    ("qwen35", qwen35::spec),
    ("qwen35moe", qwen35::spec),
    ("nemotron_h", nemotron_h::spec),
    ("nemotron_h_moe", nemotron_h::spec),
    ("jamba", jamba::spec),
    ("kimi-linear", kimi_linear::spec),
    ("bert", bert::spec),
    ("nomic-bert", nomic_bert::spec),
    ("nomic-bert-moe", nomic_bert_moe::spec),
    ("gemma-embedding", gemma_embedding::spec),
    ("jina-bert-v3", nomic_bert_moe::spec),
    ("modern-bert", modern_bert::spec),
    ("eurobert", eurobert::spec),
    ("neo-bert", eurobert::spec),
    ("llama-embed", eurobert::spec),
];

/// The names of all families.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

/// Reads what kind of model a file holds.
///
/// # Errors
/// The architecture is not named or not known, or its metadata is missing or makes no sense.
pub fn spec(gguf: &Gguf) -> Result<Spec> {
    let name = gguf.metadata().require_str("general.architecture")?;
    let Some((_, to_spec)) = FAMILIES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<_> = families().collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the architecture `{name}` is not supported"),
        )
        .file(gguf.path())
        .next(format!("supported are: {}", known.join(", "))));
    };
    to_spec(&File { gguf, arch: name }).map_err(|e| e.file(gguf.path()))
}
