//! The tokenizer and the chat template that a GGUF file carries.

use super::vocab::TokenType;
use super::{Segment, Special, Tokenizer, Vocab};
use crate::chat::{ChatTemplate, built_in};
use crate::gguf::{Gguf, Metadata};
use crate::{Error, ErrorKind, Result};

impl Tokenizer {
    /// The tokenizer of a file.
    ///
    /// # Errors
    /// The file has no vocabulary, or as [`Tokenizer::new`].
    pub fn of(gguf: &Gguf) -> Result<Tokenizer> {
        let meta = gguf.metadata();
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        if meta.get(&key("model")).is_none() {
            return Err(Error::new(ErrorKind::Unsupported, "the file has no tokenizer")
                .file(gguf.path())
                .next("use `braise logits` with token ids, or a file with a vocabulary"));
        }
        let id = |name| meta.u32(&key(name));
        // Some files have the old names.
        let id_or = |name, old| Ok::<_, Error>(id(name)?.or(id(old)?));
        let vocab = Vocab {
            model: meta.require_str(&key("model"))?,
            pre: meta.str(&key("pre"))?.filter(|pre| !pre.is_empty()),
            name: meta.str("general.name")?.unwrap_or_default(),
            arch: meta.str("general.architecture")?.unwrap_or_default(),
            tokens: meta.byte_strs(&key("tokens"))?.unwrap_or_default(),
            types: meta.i32s(&key("token_type"))?.unwrap_or_default(),
            scores: scores(meta, &key("scores"))?,
            merges: meta.byte_strs(&key("merges"))?.unwrap_or_default(),
            bos: id("bos_token_id")?,
            cls: id("cls_token_id")?,
            eos: id("eos_token_id")?,
            separator: id("seperator_token_id")?,
            eot: id("eot_token_id")?,
            eom: id("eom_token_id")?,
            unknown: id("unknown_token_id")?,
            fim_prefix: id_or("fim_pre_token_id", "prefix_token_id")?,
            fim_suffix: id_or("fim_suf_token_id", "suffix_token_id")?,
            fim_middle: id_or("fim_mid_token_id", "middle_token_id")?,
            fim_pad: id("fim_pad_token_id")?,
            fim_repository: id("fim_rep_token_id")?,
            fim_separator: id("fim_sep_token_id")?,
            add_bos: meta.bool(&key("add_bos_token"))?,
            add_eos: meta.bool(&key("add_eos_token"))?,
            add_space_prefix: meta.bool(&key("add_space_prefix"))?,
            remove_extra_whitespaces: meta.bool(&key("remove_extra_whitespaces"))?,
            charsmap: bytes(meta, &key("precompiled_charsmap"))?,
            lowercase: meta.bool(&key("normalizer.lowercase"))?,
            strip_accents: meta.bool(&key("normalizer.strip_accents"))?,
        };
        let needs_merges =
            matches!(vocab.model, "gpt2" | "gemma4" | "whitespace") && vocab.pre != Some("kimi-k2");
        if needs_merges && meta.get(&key("merges")).is_none() {
            let what = "the vocabulary has no merges (`tokenizer.ggml.merges` is missing)";
            return Err(super::malformed(what.into()).file(gguf.path()));
        }
        Tokenizer::new(&vocab).map_err(|e| e.file(gguf.path()))
    }

    /// The chat template of the file that this tokenizer is of; if it has none, that of the format that the vocabulary
    /// was made for, where it tells.
    ///
    /// # Errors
    /// It is not a template.
    pub fn chat_template(&self, gguf: &Gguf) -> Result<Option<ChatTemplate>> {
        let own = gguf.metadata().str("tokenizer.chat_template")?;
        let built_in = built_in(|token| self.token(token).is_some()).filter(|_| own.is_none());
        let Some(source) = own.or(built_in.map(|format| format.source)) else { return Ok(None) };
        let text = |id: Option<u32>| match id {
            Some(id) => String::from_utf8_lossy(self.texts.text(id).unwrap_or_default()).into_owned(),
            None => String::new(),
        };
        let control = (0..).zip(&self.types).filter(|(_, ty)| **ty == TokenType::Control);
        let control = control.filter_map(|(id, _)| str::from_utf8(self.texts.text(id)?).ok());
        let template =
            ChatTemplate::new(source, &text(self.bos), &text(self.eos)).map(|template| match built_in {
                Some(format) => template.built_in_as(format.name),
                None => template,
            });
        template.and_then(|t| t.with_control_tokens(control)).map(Some).map_err(|e| e.file(gguf.path()))
    }

    /// The ids of a prompt that a chat template wrote: with BOS, where the file asks for it and the template has not
    /// written it, and with no second one.
    pub fn encode_chat(&self, text: &str) -> Vec<u32> {
        self.encode_chat_segments(&[Segment { text, special: Special::Parse }])
    }

    /// Like [`encode_chat`](Self::encode_chat), for a prompt whose parts are known: what users and tools wrote in it
    /// is [`Special::AsText`].
    pub fn encode_chat_segments(&self, segments: &[Segment<'_>]) -> Vec<u32> {
        let mut ids = self.encode_segments(segments);
        if let Some(bos) = self.add_bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        let doubled = ids.windows(2).take_while(|two| self.bos == Some(two[0]) && two[0] == two[1]).count();
        ids.drain(..doubled);
        ids
    }
}

/// Scores, which some files have as integers.
fn scores(meta: &Metadata, key: &str) -> Result<Vec<f32>> {
    match meta.i32s(key) {
        Ok(scores) => Ok(scores.unwrap_or_default().into_iter().map(|score| score as f32).collect()),
        Err(_) => Ok(meta.f32s(key)?.unwrap_or_default()),
    }
}

/// An array of bytes, which some files have as signed ones.
fn bytes(meta: &Metadata, key: &str) -> Result<Vec<u8>> {
    let bytes = meta.i32s(key)?.unwrap_or_default();
    Ok(bytes.into_iter().map(|byte| byte as u8).collect())
}
