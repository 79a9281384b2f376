//! Text to token ids and back, from the vocabulary that a GGUF file carries.
//!
//! Two families: byte-level BPE (`tokenizer.ggml.model` = `gpt2`), whose text is first cut into words by a
//! pre-tokenizer named in the file, and SentencePiece BPE (`llama`), which merges by score and falls back
//! to bytes. The ids are those of llama.cpp. What the parts do: [`Vocab`] is the plain data taken from the
//! file, `text_table` finds a token by its text, `added` cuts out special tokens, `pretokenizer` cuts words,
//! `merge` is the one merge loop of both families, and [`Decoder`] turns a stream of ids into text.
//!
//! Why not the `tokenizers` crate: a process has 250 ms to its first token, and building takes the crate
//! (0.22.2) 26 ms for SmolLM2's 49 152 tokens and 48 900 merges and 175 ms for Llama 3's 128 256 and 280 147,
//! where this module takes 4 ms and 19 ms (first build in a process, one core of a 2-core Xeon, both
//! optimized). It would also bring 40 crates that nothing else here needs.

mod added;
mod bpe;
mod decoder;
mod file;
mod merge;
mod pretokenizer;
mod spm;
mod text_table;
mod vocab;

pub use decoder::{ControlTokens, Decoder};
pub use vocab::Vocab;

use std::borrow::Cow;
use std::ops::Range;

use crate::{Error, ErrorKind, Result};
use added::{AddedTokens, Fragment, Strip};
use bpe::Bpe;
use pretokenizer::PreTokenizer;
use spm::Spm;
use text_table::TextTable;
use vocab::{CONTROL_TEXTS, END_TEXTS, TokenType};

/// How the text of control tokens is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// As the token.
    Parse,
    /// As any other text: what a user typed cannot end his turn.
    AsText,
}

/// A part of a text with one way of reading control tokens: what a chat template wrote, or what a user did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'t> {
    /// The text.
    pub text: &'t str,
    /// How control tokens in it are read.
    pub special: Special,
}

enum Model {
    Bpe(Bpe),
    Spm(Box<Spm>),
}

/// A vocabulary, ready to encode and decode.
pub struct Tokenizer {
    /// Texts of the tokens, by id.
    texts: TextTable,
    /// One a token.
    types: Vec<TokenType>,
    added: AddedTokens,
    model: Model,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: Option<u32>,
    add_eos: Option<u32>,
    ends: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tables. An id among the special ones that is outside the vocabulary counts as absent.
    ///
    /// # Errors
    /// `Unsupported` for a model or pre-tokenizer that is not known, `Malformed` for a vocabulary whose parts
    /// contradict each other.
    pub fn new(vocab: &Vocab<'_>) -> Result<Self> {
        let n_tokens = vocab.tokens.len();
        if n_tokens == 0 {
            return Err(malformed("the vocabulary has no tokens".into()));
        }
        let texts = TextTable::new(&vocab.tokens)?;
        let known = |list: &[&str]| -> Vec<u32> {
            list.iter().filter_map(|text| texts.get(text.as_bytes())).collect()
        };
        let mut ends = known(END_TEXTS);
        let mut types = types(vocab)?;
        for id in known(CONTROL_TEXTS).iter().chain(&ends) {
            types[*id as usize] = TokenType::Control;
        }
        let all = (0..)
            .zip(&vocab.tokens)
            .zip(&types)
            .map(|((id, &text), &kind)| (id, text, kind, Strip::default()));
        let added = AddedTokens::new(all)?;

        let valid = |id: Option<u32>| id.filter(|&id| (id as usize) < n_tokens);
        let (model, bos, eos, add_bos) = match vocab.model {
            "gpt2" => {
                let pre = PreTokenizer::new(vocab.pre)?;
                let add_bos = pre.add_bos;
                (Model::Bpe(Bpe::new(&vocab.merges, pre)?), vocab.bos, vocab.eos, add_bos)
            }
            "llama" => {
                one_each("scores", n_tokens, vocab.scores.len())?;
                let unknown = valid(vocab.unknown.or(Some(0)));
                let spm = Spm::new(&texts, &vocab.scores, unknown, vocab.add_space_prefix.unwrap_or(true))?;
                (Model::Spm(Box::new(spm)), vocab.bos.or(Some(1)), vocab.eos.or(Some(2)), true)
            }
            other => {
                let what = format!("the tokenizer \"{other}\" is not known");
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .next("known are gpt2 (byte-level BPE) and llama (SentencePiece)"));
            }
        };
        let (bos, eos) = (valid(bos), valid(eos));
        ends.extend([eos, valid(vocab.eot), valid(vocab.eom)].into_iter().flatten());
        ends.sort_unstable();
        ends.dedup();
        let add_bos = to_add("BOS", vocab.add_bos.unwrap_or(add_bos), bos)?;
        let add_eos = to_add("EOS", vocab.add_eos.unwrap_or(false), eos)?;
        Ok(Self { texts, types, added, model, bos, eos, add_bos, add_eos, ends })
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.types.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The tokens after which a generation is over, in order of id.
    pub fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    /// Whether a generation is over after `id`.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The token whose text in the vocabulary is `text`, such as `<|im_end|>`.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.texts.get(text.as_bytes())
    }

    /// The first token whose text is not that of the same token in `other`; tokens that only one of them has, at its
    /// end, do not count.
    pub fn first_difference(&self, other: &Tokenizer) -> Option<u32> {
        let n = self.n_tokens().min(other.n_tokens()) as u32;
        (0..n).find(|id| self.texts.text(*id) != other.texts.text(*id))
    }

    /// The ids of `text` alone. Byte-level vocabularies without a token for some byte (SmolLM2's has none for
    /// a few control characters) leave that byte out.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        self.encode_segments(&[Segment { text, special }])
    }

    /// The ids of the segments as one text: words go on over a border, and so would user-defined tokens; a control
    /// token is read only where it stands whole in segments that say so. Text keeps what is on both sides of it apart, also
    /// empty text.
    pub fn encode_segments(&self, segments: &[Segment<'_>]) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(segments, &mut ids);
        ids
    }

    /// The ids of `text` as a whole prompt: with BOS before and EOS after it where the file asks for them.
    pub fn encode_prompt(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = Vec::from_iter(self.add_bos);
        self.encode_into(&[Segment { text, special }], &mut ids);
        ids.extend(self.add_eos);
        ids
    }

    fn encode_into(&self, segments: &[Segment<'_>], ids: &mut Vec<u32>) {
        let (text, parsed) = join(segments);
        let mut start = true;
        for fragment in self.added.partition(&text, &parsed) {
            match (fragment, &self.model) {
                (Fragment::Token(id), _) => ids.push(id),
                (Fragment::Text(text), Model::Bpe(bpe)) => bpe.encode(&self.texts, text, ids),
                (Fragment::Text(text), Model::Spm(spm)) => spm.encode(&self.texts, text, start, ids),
            }
            start = matches!(fragment, Fragment::Token(_));
        }
    }

    /// The text of `ids` from its beginning: SentencePiece's space before the first word is taken away again.
    ///
    /// # Errors
    /// `Input` if an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32], control: ControlTokens) -> Result<String> {
        let prefixed = matches!(&self.model, Model::Spm(spm) if spm.add_space_prefix);
        let mut decoder = Decoder::new(self, control, prefixed);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&decoder.push(id)?);
        }
        text.push_str(&decoder.finish());
        Ok(text)
    }

    /// Decodes what follows a prompt, token by token; a leading space belongs to the text.
    pub fn decoder(&self, control: ControlTokens) -> Decoder<'_> {
        Decoder::new(self, control, false)
    }

    /// The bytes that `id` stands for: not always whole characters.
    ///
    /// # Errors
    /// `Input` if `id` is outside the vocabulary.
    pub fn token_bytes(&self, id: u32, control: ControlTokens) -> Result<Vec<u8>> {
        let (Some(&kind), Some(text)) = (self.types.get(id as usize), self.texts.text(id)) else {
            let what = format!("token {id} is outside the vocabulary");
            return Err(Error::new(ErrorKind::Input, what)
                .next(format!("ids of this model go from 0 to {}", self.n_tokens() - 1)));
        };
        let readable = String::from_utf8_lossy(text);
        Ok(match (kind, &self.model) {
            (TokenType::Unused, _) => Vec::new(),
            (TokenType::Control | TokenType::Unknown, _) if control == ControlTokens::Hide => Vec::new(),
            (TokenType::Control | TokenType::Unknown | TokenType::UserDefined, _) => text.to_vec(),
            (TokenType::Byte, _) => hex_byte(&readable).map_or_else(|| text.to_vec(), |byte| vec![byte]),
            (TokenType::Normal, Model::Bpe(_)) => bpe::decode(&readable),
            (TokenType::Normal, Model::Spm(_)) => readable.replace(spm::SPACE, " ").into_bytes(),
        })
    }

    /// Whether `id` is a control token: no part of a text.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        matches!(self.types.get(id as usize), Some(TokenType::Control | TokenType::Unknown))
    }
}

/// The text of all segments, and the ranges of it in which control tokens are read.
fn join<'t>(segments: &[Segment<'t>]) -> (Cow<'t, str>, Vec<Range<usize>>) {
    let text = match segments {
        [one] => Cow::Borrowed(one.text),
        segments => segments.iter().map(|segment| segment.text).collect(),
    };
    let mut parsed: Vec<Range<usize>> = Vec::new();
    let (mut at, mut apart) = (0, true);
    for segment in segments {
        let range = at..at + segment.text.len();
        at = range.end;
        match (segment.special, parsed.last_mut()) {
            (Special::Parse, Some(last)) if !apart => last.end = range.end,
            (Special::Parse, _) => parsed.push(range),
            (Special::AsText, _) => {}
        }
        apart = segment.special == Special::AsText;
    }
    (text, parsed)
}

fn types(vocab: &Vocab<'_>) -> Result<Vec<TokenType>> {
    let n_tokens = vocab.tokens.len();
    if vocab.types.is_empty() {
        return Ok(vec![TokenType::Normal; n_tokens]);
    }
    one_each("token_type", n_tokens, vocab.types.len())?;
    Ok(vocab.types.iter().map(|&number| TokenType::new(number)).collect())
}

/// The byte that a byte token, `<0xE2>`, stands for.
fn hex_byte(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

fn to_add(name: &str, add: bool, id: Option<u32>) -> Result<Option<u32>> {
    match id {
        None if add => Err(malformed(format!("the file asks for a {name} token, but names none"))),
        id => Ok(id.filter(|_| add)),
    }
}

fn one_each(key: &str, n_tokens: usize, n: usize) -> Result<()> {
    if n == n_tokens {
        return Ok(());
    }
    Err(malformed(format!("tokenizer.ggml.{key} has {n} entries for {n_tokens} tokens")))
}

fn malformed(what: String) -> Error {
    Error::new(ErrorKind::Malformed, what).next("get the file again, or convert the model anew")
}

#[cfg(test)]
mod tests;
