//! Constrained output: a grammar says which texts are allowed, and only tokens that keep to it are picked.
//!
//! llguidance walks the vocabulary's trie beside its parser's state and finds the tokens that a text may go on with;
//! all others' logits become minus infinity before the sampler sees them. A token that ends the text is allowed where
//! the grammar is at an end, and once nothing else can follow, the text is over.
//!
//! [`Grammars`] knows one vocabulary, [`Format`] is a grammar as a user writes it, and [`Constraint`] follows one text.

mod gbnf;

use std::sync::Arc;
use std::thread;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory, panic_utils};
use serde_json::{Value, json};

use crate::tokenizer::{ControlTokens, Tokenizer};
use crate::{Error, ErrorKind, Result};

/// White space between the parts of JSON: a blank, or a new line with its indentation. Without a limit, a small model may
/// write nothing else for ever.
const JSON_SPACE: &str = r" |\n[ \t]{0,32}";

/// Longest grammar, in bytes.
const MAX_GRAMMAR: usize = 4 << 20;

/// Deepest nesting of brackets in a grammar, and the stack of the thread that reads it: a few KiB for each.
const MAX_DEPTH: usize = 1000;
const STACK: usize = 64 << 20;

/// Longest token that is picked, in bytes; the trie has room for little more.
const MAX_TOKEN: usize = 1000;

/// What a text has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// A JSON object.
    Json,
    /// JSON that is valid for this schema.
    JsonSchema(Value),
    /// A text that this regular expression, in the syntax of Rust's `regex`, matches as a whole.
    Regex(String),
    /// A text of this grammar, in llguidance's variant of Lark's syntax.
    Lark(String),
    /// A text of this grammar, in llama.cpp's GBNF.
    Gbnf(String),
}

impl Format {
    /// The JSON schema that `text` holds.
    ///
    /// # Errors
    /// `Input` if it is no JSON, with the place.
    pub fn json_schema(text: &str) -> Result<Self> {
        let schema = serde_json::from_str(text).map_err(|e| refused("the JSON schema", &e.to_string()))?;
        Ok(Self::JsonSchema(schema))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Json | Self::JsonSchema(_) => "the JSON schema",
            Self::Regex(_) => "the regular expression",
            Self::Lark(_) => "the Lark grammar",
            Self::Gbnf(_) => "the GBNF grammar",
        }
    }

    fn grammar(&self) -> Result<TopLevelGrammar> {
        let name = self.name();
        match self {
            Self::Json => {
                Ok(TopLevelGrammar::from_json_schema(with_bounded_space(json!({"type": "object"}))))
            }
            Self::JsonSchema(schema) => {
                Ok(TopLevelGrammar::from_json_schema(with_bounded_space(schema.clone())))
            }
            Self::Regex(regex) => {
                check_size(name, regex)?;
                Ok(TopLevelGrammar::from_regex(regex))
            }
            Self::Lark(grammar) => {
                check_size(name, grammar)?;
                Ok(TopLevelGrammar::from_lark(grammar.clone()))
            }
            Self::Gbnf(grammar) => {
                check_size(name, grammar)?;
                let lark = gbnf::to_lark(grammar).map_err(|why| refused(name, &why))?;
                Ok(TopLevelGrammar::from_lark(lark))
            }
        }
    }
}

fn with_bounded_space(mut schema: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": JSON_SPACE}));
    }
    schema
}

fn check_size(name: &str, grammar: &str) -> Result<()> {
    if grammar.len() > MAX_GRAMMAR {
        return Err(refused(name, &format!("it is longer than {} MiB", MAX_GRAMMAR >> 20)));
    }
    let (mut depth, mut escaped) = (0usize, false);
    for (at, byte) in grammar.bytes().enumerate() {
        escaped = byte == b'\\' && !escaped;
        match byte {
            _ if at > 0 && grammar.as_bytes()[at - 1] == b'\\' && !escaped => {}
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(refused(
                name,
                &format!("brackets are nested more than {MAX_DEPTH} deep at byte {at}"),
            ));
        }
    }
    Ok(())
}

fn refused(what: &str, why: &str) -> Error {
    // a panic inside llguidance comes with its stack, other errors may come with what the parser has seen
    let why = why.split("\n<").next().unwrap_or(why).trim();
    Error::new(ErrorKind::Input, format!("{what} cannot be used: {why}"))
}

/// Makes constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Prepares the vocabulary of `tokenizer`. For 50 000 tokens that takes some tens of milliseconds.
    ///
    /// # Errors
    /// `Unsupported` if no constraint is possible with this vocabulary.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let unsupported = |why: String| {
            Error::new(
                ErrorKind::Unsupported,
                format!("output cannot be constrained with this vocabulary: {why}"),
            )
        };
        let ids = 0..tokenizer.n_tokens() as u32;
        let words: Vec<Vec<u8>> = ids.map(|id| word(tokenizer, id)).collect::<Result<_>>()?;
        let ends = tokenizer.end_tokens();
        let end = ends.first().or(tokenizer.eos().as_ref()).copied();
        let end = end.ok_or_else(|| unsupported("it has no token that ends a text".into()))?;
        let build = || {
            let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
            let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(ends) };
            let environment: TokEnv = Arc::new(Vocabulary { trie });
            let slices = SlicedBiasComputer::general_slices();
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
        };
        let mut factory = panic_utils::catch_unwind(std::panic::AssertUnwindSafe(build))
            .map_err(|e| unsupported(e.to_string().split('\n').next().unwrap_or_default().into()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Self { factory })
    }

    /// The constraint that `format` is, at the beginning of a text.
    ///
    /// # Errors
    /// `Input` if `format` contradicts itself or its syntax, with the place where that is known, or asks for something
    /// that is not supported.
    pub fn constraint(&self, format: &Format) -> Result<Constraint> {
        let read = || {
            let grammar = format.grammar()?;
            panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| self.factory.create_parser(grammar)))
                .map_err(|e| refused(format.name(), &format!("{e:#}")))
        };
        let parser = thread::scope(|scope| {
            let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, read);
            let thread =
                thread.map_err(|e| refused(format.name(), &format!("no thread can be started: {e}")))?;
            thread.join().unwrap_or_else(|_| Err(refused(format.name(), "llguidance failed")))
        })?;
        let mut matcher = Matcher::new(Ok(parser));
        // what no text can fulfil is told before a prompt is read
        matcher.compute_mask_or_eos().map_err(|e| refused(format.name(), &e.to_string()))?;
        Ok(Constraint { matcher, masked: Vec::new() })
    }
}

/// The bytes that a token adds to a text; control tokens add none, and are known to grammars by name.
fn word(tokenizer: &Tokenizer, id: u32) -> Result<Vec<u8>> {
    if tokenizer.is_control(id) {
        let name = tokenizer.token_bytes(id, ControlTokens::Show)?;
        return Ok([&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_slice()].concat());
    }
    let bytes = tokenizer.token_bytes(id, ControlTokens::Hide)?;
    Ok(if bytes.len() > MAX_TOKEN { Vec::new() } else { bytes })
}

/// The vocabulary as llguidance sees it. Texts are not tokenized for it: where a grammar leaves one text, the model
/// still picks the tokens for it.
struct Vocabulary {
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<u32> {
        self.trie.greedy_tokenize(text)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// Follows one text, and says what may come next. A clone follows another text from the same place; what has been found
/// out about the grammar is common to both.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    /// The logits of what is allowed; kept to spare an allocation a token.
    masked: Vec<f32>,
}

impl Constraint {
    /// `logits` with minus infinity for tokens that may not follow.
    ///
    /// # Errors
    /// `Input` if the grammar is too hard to follow: it has used up its share of time or memory.
    pub fn mask(&mut self, logits: &[f32]) -> Result<&[f32]> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| too_hard(&e))?;
        self.masked.clear();
        self.masked.resize(logits.len(), f32::NEG_INFINITY);
        allow(&mask, logits, &mut self.masked);
        Ok(&self.masked)
    }

    /// Takes note that `token` follows.
    ///
    /// # Errors
    /// `Input` if it may not, or as [`Constraint::mask`].
    pub fn accept(&mut self, token: u32) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|e| too_hard(&e))
    }

    /// How many of `tokens`, one after the other, may follow.
    pub fn allowed(&mut self, tokens: &[u32]) -> usize {
        if self.is_over() { 0 } else { self.matcher.validate_tokens(tokens).unwrap_or(0) }
    }

    /// Whether nothing can follow any more.
    pub fn is_over(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

/// Copies the logits whose bits are set.
fn allow(mask: &SimpleVob, logits: &[f32], masked: &mut [f32]) {
    for (at, &word) in mask.as_slice().iter().enumerate() {
        let from = at * 32;
        let (Some(logits), Some(masked)) = (logits.get(from..), masked.get_mut(from..)) else { return };
        if word == u32::MAX {
            let n = logits.len().min(32);
            masked[..n].copy_from_slice(&logits[..n]);
            continue;
        }
        let mut bits = word;
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if let (Some(from), Some(to)) = (logits.get(bit), masked.get_mut(bit)) {
                *to = *from;
            }
        }
    }
}

fn too_hard(why: &dyn std::fmt::Display) -> Error {
    let why = why.to_string();
    let why = why.split('\n').next().unwrap_or_default();
    Error::new(ErrorKind::Input, format!("the grammar cannot be followed any further: {why}"))
        .next("make the grammar simpler")
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("over", &self.is_over()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
