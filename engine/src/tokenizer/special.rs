//! What is known of tokens by their text, where files say too little or wrong: which end a generation, which are
//! control tokens, and which take the white space beside them.

use super::added::Strip;
use super::text_table::TextTable;
use super::vocab::{TokenType, Vocab};

/// Texts of tokens that end a generation, in the vocabularies whose file names only some of them.
const END_TEXTS: &[&str] = &[
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
];

/// Texts by which tokens of code models are known, where the file does not name them. Some files call them
/// user-defined: plain text must not become one.
const FIM_PREFIX_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUFFIX_TEXTS: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MIDDLE_TEXTS: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
/// Between the files of a repository: these end a generation as well.
const FIM_PAD_TEXTS: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPOSITORY_TEXTS: &[&str] =
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEPARATOR_TEXTS: &[&str] = &["<|file_sep|>"];

/// Texts of control tokens that structure an answer, so that whoever reads it must see them.
const MARKER_TEXTS: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// What became of the tokens.
pub(super) struct SpecialTokens {
    /// One a token.
    pub(super) types: Vec<TokenType>,
    /// The tokens after which a generation is over, in order of id.
    pub(super) ends: Vec<u32>,
}

impl SpecialTokens {
    /// From a vocabulary's own `types` and its special tokens; `eos` is the one it has in the end.
    pub(super) fn new(
        vocab: &Vocab<'_>,
        texts: &TextTable,
        mut types: Vec<TokenType>,
        eos: Option<u32>,
    ) -> Self {
        let known = |list: &[&str]| -> Vec<u32> {
            list.iter().filter_map(|text| texts.get(text.as_bytes())).collect()
        };
        let valid = |id: Option<u32>| id.filter(|&id| (id as usize) < types.len());
        let mut ends = known(END_TEXTS);
        let mut control = ends.clone();
        let fim = [
            (vocab.fim_prefix, FIM_PREFIX_TEXTS, false),
            (vocab.fim_suffix, FIM_SUFFIX_TEXTS, false),
            (vocab.fim_middle, FIM_MIDDLE_TEXTS, false),
            (vocab.fim_pad, FIM_PAD_TEXTS, true),
            (vocab.fim_repository, FIM_REPOSITORY_TEXTS, true),
            (vocab.fim_separator, FIM_SEPARATOR_TEXTS, true),
        ];
        for (named, by_text, is_end) in fim {
            let ids = match valid(named) {
                Some(id) => vec![id],
                None => known(by_text),
            };
            control.extend(ids.iter().filter(|_| valid(named).is_none()));
            ends.extend(ids.iter().filter(|_| is_end));
        }
        ends.extend([eos, valid(vocab.eot), valid(vocab.eom)].into_iter().flatten());
        control.iter().for_each(|&id| types[id as usize] = TokenType::Control);
        known(MARKER_TEXTS).iter().for_each(|&id| types[id as usize] = TokenType::Marker);

        let mut special = Self { types, ends };
        let ends_with = |special: &Self, text| known(&[text]).iter().any(|id| special.ends.contains(id));
        let called = ends_with(&special, "<|call|>") || ends_with(&special, "<|calls|>");
        if called && (ends_with(&special, "<|return|>") || ends_with(&special, "<|flush|>")) {
            // An answer of several messages: this one ends a message.
            special.no_end(&known(&["<|end|>"]), TokenType::Marker);
        }
        if ends_with(&special, "<|tool_response>") || ends_with(&special, "<|plamo:eos|>") {
            // A tag of HTML.
            special.no_end(&known(&["</s>"]), TokenType::Normal);
        }
        special.ends.sort_unstable();
        special.ends.dedup();
        special
    }

    fn no_end(&mut self, ids: &[u32], kind: TokenType) {
        self.ends.retain(|end| !ids.contains(end));
        ids.iter().for_each(|&id| self.types[id as usize] = kind);
    }
}

/// Which white space beside each token is part of it. Files do not say; it follows from the model's name.
pub(super) struct Strips {
    /// The one token that takes the white space before it.
    left: Option<u32>,
    /// Whether all but `not_right` take the white space after them.
    right: bool,
    not_right: Vec<u32>,
}

impl Strips {
    pub(super) fn new(vocab: &Vocab<'_>, texts: &TextTable) -> Self {
        let known = |text: &str| texts.get(text.as_bytes());
        let (name, pre, arch) = (vocab.name.to_lowercase(), vocab.pre.unwrap_or_default(), vocab.arch);
        let mut strips = Self { left: None, right: false, not_right: Vec::new() };
        let has_any = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if has_any(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
            || has_any(arch, &["nomic-bert-moe", "jina-bert-v3"])
        {
            strips.left = known("<mask>");
        } else if has_any(&name, &["phi-3", "phi3"]) {
            strips.right = true;
            strips.not_right = ["<unk>", "<s>", "<|endoftext|>"].into_iter().filter_map(known).collect();
        } else if has_any(&name, &["modern-bert"]) {
            strips.left = known("[MASK]");
        }
        strips
    }

    pub(super) fn of(&self, id: u32) -> Strip {
        Strip { left: self.left == Some(id), right: self.right && !self.not_right.contains(&id) }
    }
}
