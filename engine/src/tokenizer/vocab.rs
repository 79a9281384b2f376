//! A vocabulary as the file has it.

/// The keys `tokenizer.ggml.*` of a file, as they stand there. `None` and empty mean that the key is absent.
#[derive(Debug, Clone, Default)]
pub struct Vocab<'a> {
    /// `model`: `gpt2`, `gemma4`, `whitespace` (BPE with merges), `llama` (SentencePiece BPE), `t5` (SentencePiece
    /// unigram), `bert` (WordPiece), `rwkv`, `plamo2`.
    pub model: &'a str,
    /// `pre`: the pre-tokenizer; BPE with merges only.
    pub pre: Option<&'a str>,
    /// `general.name`: some models' special tokens are known by it.
    pub name: &'a str,
    /// `general.architecture`: the same.
    pub arch: &'a str,
    /// `tokens`: text of each token, by id.
    pub tokens: Vec<&'a [u8]>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; absent: all normal.
    pub types: Vec<i32>,
    /// `scores`: one a token; not for BPE with merges, WordPiece and RWKV.
    pub scores: Vec<f32>,
    /// `merges`: "left right", best first; BPE with merges only.
    pub merges: Vec<&'a [u8]>,
    /// `bos_token_id`, which begins a text.
    pub bos: Option<u32>,
    /// `cls_token_id`, which begins a text for WordPiece where `bos_token_id` is absent.
    pub cls: Option<u32>,
    /// `eos_token_id`, which ends a text.
    pub eos: Option<u32>,
    /// `seperator_token_id` (spelled so), which ends a text for WordPiece.
    pub separator: Option<u32>,
    /// `eot_token_id`, which ends a turn.
    pub eot: Option<u32>,
    /// `eom_token_id`, which ends a message.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `fim_pre_token_id`, before the code that stands before the cursor.
    pub fim_prefix: Option<u32>,
    /// `fim_suf_token_id`, before the code that stands after the cursor.
    pub fim_suffix: Option<u32>,
    /// `fim_mid_token_id`, before the code that is to be written.
    pub fim_middle: Option<u32>,
    /// `fim_pad_token_id`.
    pub fim_pad: Option<u32>,
    /// `fim_rep_token_id`, before the name of a repository.
    pub fim_repository: Option<u32>,
    /// `fim_sep_token_id`, before the name of a file.
    pub fim_separator: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; SentencePiece only.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`; unigram only.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`; unigram only.
    pub charsmap: Vec<u8>,
    /// `normalizer.lowercase`; WordPiece and `whitespace` only.
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents`; WordPiece only. Absent: as `lowercase`.
    pub strip_accents: Option<bool>,
}

/// What a token is, as `tokenizer.ggml.token_type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    Unknown,
    Control,
    /// A control token that stands in decoded text always.
    Marker,
    UserDefined,
    Byte,
    /// Unused, or a number that nothing is known of: never written out.
    Unused,
}

impl TokenType {
    pub(super) fn new(number: i32) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }

    /// Whether tokens of this type are cut out of a text before it is tokenized.
    pub(super) fn is_added(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::Marker | Self::UserDefined)
    }
}
