//! Text to token ids and back, from the vocabulary that a GGUF file carries.
//!
//! Six kinds, by `tokenizer.ggml.model`: BPE with merges (`gpt2` and its relatives), whose text is first cut into words
//! by a pre-tokenizer named in the file; SentencePiece BPE (`llama`), which merges by score and falls back to bytes;
//! SentencePiece unigram (`t5`); WordPiece (`bert`); and the ones of RWKV and PLaMo 2. The ids are those of llama.cpp,
//! but where plain text spells a control token of PLaMo 2 or a channel of gpt-oss: llama.cpp takes that for the token.
//! What the parts do: [`Vocab`] is the plain data taken from the file, `special` corrects what it says of special
//! tokens, `text_table` finds a token by its text and `prefix` the tokens that a text begins with, `added` cuts out
//! special tokens, `pretokenizer` cuts words as `families` says, `merge` is the one merge loop, and [`Decoder`] turns a
//! stream of ids into text.
//!
//! Why not the `tokenizers` crate: a process has 250 ms to its first token, and building takes the crate
//! (0.22.2) 26 ms for SmolLM2's 49 152 tokens and 48 900 merges and 175 ms for Llama 3's 128 256 and 280 147,
//! where this module takes 4 ms and 19 ms (first build in a process, one core of a 2-core Xeon, both
//! optimized). It would also bring 40 crates that nothing else here needs.

mod added;
mod bpe;
mod bytes;
mod charsmap;
mod decoder;
mod families;
mod file;
mod merge;
mod model;
mod plamo2;
mod prefix;
mod pretokenizer;
mod rwkv;
mod special;
mod spm;
mod text_table;
mod unicode;
mod unigram;
mod vocab;
mod wordpiece;

pub use decoder::{ControlTokens, Decoder};
pub use vocab::Vocab;

use std::borrow::Cow;
use std::ops::Range;

use crate::{Error, ErrorKind, Result};
use added::{AddedTokens, Fragment};
use bytes::hex_byte;
use model::{Defaults, Model};
use special::{SpecialTokens, Strips};
use spm::SPACE;
use text_table::TextTable;
use vocab::TokenType;

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
        let defaults = Defaults::of(vocab.model)?;
        let valid = |id: Option<u32>| id.filter(|&id| (id as usize) < n_tokens);
        let or_default = |id, default| valid(id).or(valid(default));
        let bos = or_default(vocab.bos, vocab.cls.filter(|_| vocab.model == "bert").or(defaults.bos));
        let eos = or_default(vocab.eos, defaults.eos);
        let SpecialTokens { types, ends } = SpecialTokens::new(vocab, &texts, types(vocab)?, eos);
        let strips = Strips::new(vocab, &texts);
        let all = (0..).zip(&vocab.tokens).zip(&types);
        let added = AddedTokens::new(all.map(|((id, &text), &kind)| (id, text, kind, strips.of(id))))?;
        let unknown = or_default(vocab.unknown, defaults.unknown);
        let model = Model::new(vocab, &texts, &types, unknown)?;

        let (add_bos, add_eos) = match &model {
            Model::WordPiece(_) => {
                let separator = or_default(vocab.separator, defaults.separator);
                (to_add("begin-of-text", true, bos)?, to_add("separator", true, separator)?)
            }
            Model::Rwkv(_) | Model::Plamo2(_) => (None, None),
            model => {
                let add_bos = vocab.add_bos.filter(|_| !model.always_adds_bos());
                let default = bos.filter(|_| defaults.add_bos || model.adds_bos());
                (
                    add_bos.map_or(Ok(default), |add| to_add("BOS", add, bos))?,
                    to_add("EOS", vocab.add_eos.unwrap_or(defaults.add_eos), eos)?,
                )
            }
        };
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
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => self.model.encode(&self.texts, text, start, ids),
            }
            start = matches!(fragment, Fragment::Token(_));
        }
    }

    /// The text of `ids` from its beginning: SentencePiece's space before the first word is taken away again.
    ///
    /// # Errors
    /// `Input` if an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32], control: ControlTokens) -> Result<String> {
        let mut decoder = Decoder::new(self, control, self.model.has_space_prefix());
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
        let is_hidden = control == ControlTokens::Hide && self.is_control(id);
        Ok(match kind {
            _ if is_hidden => Vec::new(),
            TokenType::Unused => Vec::new(),
            TokenType::Byte => match hex_byte(&String::from_utf8_lossy(text)) {
                Some(byte) => vec![byte],
                None => text.to_vec(),
            },
            TokenType::Normal => self.model.decode(text),
            _ => text.to_vec(),
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
