//! A vocabulary as the file has it, and what is known of tokens by their text where files say too little.

/// The keys `tokenizer.ggml.*` of a file, as they stand there. `None` and empty mean that the key is absent.
#[derive(Debug, Clone, Default)]
pub struct Vocab<'a> {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: &'a str,
    /// `pre`: the pre-tokenizer; byte-level BPE only.
    pub pre: Option<&'a str>,
    /// `tokens`: text of each token, by id.
    pub tokens: Vec<&'a [u8]>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; absent: all normal.
    pub types: Vec<i32>,
    /// `scores`: one a token; SentencePiece only.
    pub scores: Vec<f32>,
    /// `merges`: "left right", best first; byte-level BPE only.
    pub merges: Vec<&'a [u8]>,
    /// `bos_token_id`, which begins a text.
    pub bos: Option<u32>,
    /// `eos_token_id`, which ends a text.
    pub eos: Option<u32>,
    /// `eot_token_id`, which ends a turn.
    pub eot: Option<u32>,
    /// `eom_token_id`, which ends a message.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; SentencePiece only.
    pub add_space_prefix: Option<bool>,
}

/// What a token is, as `tokenizer.ggml.token_type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    Unknown,
    Control,
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
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// Texts of tokens that end a generation, in the vocabularies whose file names only some of them.
pub(super) const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // Between the files of a repository, in vocabularies of code models.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Texts of further control tokens, which some files call user-defined: plain text must not become one.
pub(super) const CONTROL_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
