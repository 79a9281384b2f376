//! The kinds of tokenizers behind one interface.

use std::borrow::Cow;

use super::bpe::Bpe;
use super::bytes::ByteTokens;
use super::plamo2::Plamo2;
use super::pretokenizer::PreTokenizer;
use super::rwkv::{self, Rwkv};
use super::spm::{SPACE, Spm};
use super::text_table::TextTable;
use super::unicode::{Replacer, lower};
use super::unigram::{Cleaning, Unigram};
use super::vocab::{TokenType, Vocab};
use super::wordpiece::{Normalizer, WordPiece};
use super::{malformed, one_each};
use crate::{Error, ErrorKind, Result};

/// What a file need not say, by `tokenizer.ggml.model`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) separator: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
}

impl Defaults {
    /// Fails with `Unsupported` for a model that is not known.
    pub(super) fn of(model: &str) -> Result<Self> {
        let none = Self::default();
        Ok(match model {
            "gpt2" | "gemma4" | "whitespace" | "rwkv" => none,
            "llama" => Self { bos: Some(1), eos: Some(2), unknown: Some(0), add_bos: true, ..none },
            "t5" => Self { eos: Some(1), unknown: Some(2), add_eos: true, ..none },
            "bert" => Self { bos: Some(101), separator: Some(102), unknown: Some(100), ..none },
            "plamo2" => Self { bos: Some(1), eos: Some(2), unknown: Some(0), ..none },
            "none" | "no_vocab" => {
                return Err(Error::new(ErrorKind::Unsupported, "the file has no vocabulary")
                    .next("use `braise logits` with token ids, or a file with a vocabulary"));
            }
            other => {
                let what = format!("the tokenizer \"{other}\" is not known");
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .next("known are gpt2, gemma4, whitespace, llama, t5, bert, rwkv and plamo2"));
            }
        })
    }
}

/// A kind of tokenizer, with its tables.
pub(super) enum Model {
    Bpe(Box<Bpe>),
    /// BPE of the characters that are not white space.
    Whitespace {
        bpe: Box<Bpe>,
        lowercase: Option<Replacer>,
    },
    Spm(Box<Spm>),
    Unigram(Box<Unigram>),
    WordPiece(Box<WordPiece>),
    Rwkv(Box<Rwkv>),
    Plamo2(Box<Plamo2>),
}

impl Model {
    /// The model of a vocabulary whose special tokens are `types` and `unknown`.
    pub(super) fn new(
        vocab: &Vocab<'_>,
        texts: &TextTable,
        types: &[TokenType],
        unknown: Option<u32>,
    ) -> Result<Self> {
        let scores = || one_each("scores", vocab.tokens.len(), vocab.scores.len()).map(|()| &vocab.scores);
        let unknown_token = || unknown.ok_or_else(|| malformed("the vocabulary has no unknown token".into()));
        let bpe = |pre| Ok(Box::new(Bpe::new(texts, &vocab.merges, PreTokenizer::new(pre)?)?));
        Ok(match vocab.model {
            "gpt2" => Self::Bpe(bpe(vocab.pre)?),
            "gemma4" => Self::Bpe(bpe(Some("gemma4"))?),
            "whitespace" => {
                // With the pre-tokenizer of this name a file must say so, else text is lower case.
                let lowercase = vocab.lowercase.unwrap_or(vocab.pre != Some("whitespace"));
                Self::Whitespace {
                    bpe: bpe(vocab.pre)?,
                    lowercase: lowercase.then(Replacer::new).transpose()?,
                }
            }
            "llama" => {
                let prefix = vocab.add_space_prefix.unwrap_or(true);
                Self::Spm(Box::new(Spm::new(texts, scores()?, unknown, prefix)?))
            }
            "t5" => {
                let cleaning = Cleaning {
                    charsmap: &vocab.charsmap,
                    add_space_prefix: vocab.add_space_prefix.unwrap_or(false),
                    remove_extra_whitespaces: vocab.remove_extra_whitespaces.unwrap_or(false),
                };
                let unigram = Unigram::new(&vocab.tokens, types, scores()?, unknown_token()?, cleaning)?;
                Self::Unigram(Box::new(unigram))
            }
            "bert" => {
                let lowercase = vocab.lowercase.unwrap_or(true);
                let strip_accents = vocab.strip_accents.unwrap_or(lowercase);
                let tokens = (0..).zip(vocab.tokens.iter().copied());
                let normalizer = Normalizer { lowercase, strip_accents };
                Self::WordPiece(Box::new(WordPiece::new(tokens, normalizer, unknown_token()?)?))
            }
            "rwkv" => Self::Rwkv(Box::new(Rwkv::new(&vocab.tokens, unknown))),
            _ => {
                Self::Plamo2(Box::new(Plamo2::new(&vocab.tokens, types, scores()?, ByteTokens::new(texts))?))
            }
        })
    }

    /// Appends the ids of `text`, which has no added tokens, to `ids`; `start` says that it stands at the beginning or
    /// after an added token.
    pub(super) fn encode(&self, texts: &TextTable, text: &str, start: bool, ids: &mut Vec<u32>) {
        match self {
            Self::Bpe(bpe) => bpe.encode(texts, text, ids),
            Self::Whitespace { bpe, lowercase } => {
                let text = match lowercase {
                    Some(replacer) => Cow::Owned(replacer.replace(text, lower)),
                    None => Cow::Borrowed(text),
                };
                text.split_whitespace().for_each(|word| bpe.encode(texts, word, ids));
            }
            Self::Spm(spm) => spm.encode(texts, text, start, ids),
            Self::Unigram(unigram) => unigram.encode(text, ids),
            Self::WordPiece(wordpiece) => wordpiece.encode(text, ids),
            Self::Rwkv(rwkv) => rwkv.encode(text, ids),
            Self::Plamo2(plamo2) => plamo2.encode(text, ids),
        }
    }

    /// The bytes that the text of a normal token stands for.
    pub(super) fn decode(&self, text: &[u8]) -> Vec<u8> {
        let readable = String::from_utf8_lossy(text);
        match self {
            Self::Bpe(bpe) | Self::Whitespace { bpe, .. } => bpe.decode(&readable),
            Self::Spm(_) | Self::Unigram(_) | Self::WordPiece(_) => readable.replace(SPACE, " ").into_bytes(),
            Self::Rwkv(_) => rwkv::unescape(text),
            Self::Plamo2(_) => text.to_vec(),
        }
    }

    /// Whether a text begins with a space that encoding has put before it.
    pub(super) fn has_space_prefix(&self) -> bool {
        match self {
            Self::Spm(spm) => spm.add_space_prefix,
            Self::Unigram(unigram) => unigram.has_space_prefix(),
            Self::WordPiece(_) => true,
            Self::Bpe(_) | Self::Whitespace { .. } | Self::Rwkv(_) | Self::Plamo2(_) => false,
        }
    }

    /// Whether the pre-tokenizer's name says that a prompt begins with BOS.
    pub(super) fn adds_bos(&self) -> bool {
        matches!(self, Self::Bpe(bpe) | Self::Whitespace { bpe, .. } if bpe.family().add_bos)
    }

    /// Whether it says so against the file, which is known to be wrong.
    pub(super) fn always_adds_bos(&self) -> bool {
        matches!(self, Self::Bpe(bpe) if bpe.family().whole_lines)
    }
}
