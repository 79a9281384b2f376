//! The pre-tokenizers by the names that files give them, as data: which patterns cut a text into words, and what
//! else depends on the name.
//!
//! In patterns `\p{L}`, `\p{M}`, `\p{N}`, `\p{P}` and `\p{S}` are those of one version of Unicode (`unicode`), and the
//! look-ahead of white space is in the kind of the cut. To add a name: in a row of [`FAMILIES`], or a row of its own.

/// A cut of all the pieces that the step before has left.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    /// Before and after each match; of several patterns that match at a place the first wins.
    Around(&'static [&'static str]),
    /// The same with `\s+(?!\S)|\s+` as the last pattern: white space before a word leaves it its last character.
    AroundAndSpaces(&'static [&'static str]),
    /// The same with `\s{512}(?!\S)|\s{256}(?!\S)|...|\s{1,2}(?!\S)|\s`.
    AroundAndHalvedSpaces(&'static [&'static str]),
    /// After each group of three characters of a match, counted from its end, and after what is left over at its
    /// start. (What stands before the match stays with its first group: the next step parts them.)
    AfterThrees(&'static str),
    /// Before each group of three characters of a match, counted from its end.
    BeforeThrees(&'static str),
}

/// How the words of a text are written in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// One character for each byte, as GPT-2 has it.
    Bytes,
    /// The text itself; bytes of characters that are not in the vocabulary are tokens such as `<0xE2>`.
    Text,
    /// The same with spaces written `▁`.
    SpacedText,
}

/// One kind of pre-tokenizer.
pub(super) struct Family {
    /// Values of `tokenizer.ggml.pre`.
    pub(super) names: &'static [&'static str],
    pub(super) cuts: &'static [Cut],
    /// A word that is a token is taken whole, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// The same for words of line ends alone.
    pub(super) whole_lines: bool,
    /// Whether a prompt begins with BOS when the file does not say.
    pub(super) add_bos: bool,
    pub(super) alphabet: Alphabet,
}

/// What most families are, but for names and cuts.
const BYTES: Family = Family {
    names: &[],
    cuts: &[],
    ignore_merges: false,
    whole_lines: false,
    add_bos: false,
    alphabet: Alphabet::Bytes,
};

const CONTRACTION: &str = r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])";
const WORD: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
const DIGIT: &str = r"\p{N}";
const DIGITS: &str = r"\p{N}+";
const UP_TO_THREE_DIGITS: &str = r"\p{N}{1,3}";
const SIGNS: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*";
const SIGNS_AND_SLASHES: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*";
const LINE_ENDS: &str = r"\s*[\r\n]+";
const ONE_LINE_END: &str = r"\s*[\r\n]";
const LINES: Cut = Cut::Around(&[r"[^\n]+|\n+"]);

const GPT2: Cut = Cut::AroundAndSpaces(&[r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"]);
const LLAMA3: Cut = Cut::AroundAndSpaces(&[CONTRACTION, WORD, UP_TO_THREE_DIGITS, SIGNS, LINE_ENDS]);
const QWEN2: Cut = Cut::AroundAndSpaces(&[CONTRACTION, WORD, DIGIT, SIGNS, LINE_ENDS]);

/// Words that begin in upper case and go on in lower case, of which ASCII alone is told apart, with a contraction.
const GPT4O_WORD: &str = concat!(
    r"(?:[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*)",
    r"(?:'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL]))?"
);
const TEKKEN_WORD: &str =
    r"[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*";
const GRANITE_WORD: &str = concat!(
    r"(?:[^\r\n\p{L}\p{N}]?[\p{L}\p{M}--[a-z]]*[\p{L}\p{M}--[A-Z]]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}--[a-z]]+[\p{L}\p{M}--[A-Z]]*)",
    r"(?:'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL]))?"
);
const MARKED_WORD: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL]))?";

const CJK: &str = r"[\u{4e00}-\u{9fa5}\u{3040}-\u{30ff}]+";
const HANGUL_AND_CJK: &str = r"[[\u{800}-\u{9fa5}\u{ac00}-\u{d7ff}]--\s]+";
const DEEPSEEK_SIGN_WORD: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##;
const DEEPSEEK_WORD: &str = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+";
const DEEPSEEK3: Cut =
    Cut::AroundAndSpaces(&[DEEPSEEK_SIGN_WORD, DEEPSEEK_WORD, r" ?[\p{P}\p{S}]+[\r\n]*", LINE_ENDS]);

/// Letters of scripts that have two cases.
const DEEPSEEK_LETTERS: &str = r"(?x: \s? [
    A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}
    \u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}
    \u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}
    \u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}
    \u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}
    \u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}
    \u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}
    \u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}
    \u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}
    \u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}
    \u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}
    \u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}
    \u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}
    \u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}
    \u{118a0}-\u{118df}\u{1e900}-\u{1e943}
]+ )";

/// Chinese characters.
const HAN: &str = concat!(
    r"[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}",
    r"\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]+"
);
const WORD_BUT_HAN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{L}--[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}",
    r"\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]]+(?:'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL]))?"
);

/// Scripts without spaces between words.
const AFMOE_SCRIPTS: &str = concat!(
    r"[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{8c48}-\u{faff}\u{3040}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}",
    r"\u{e40}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{1100}-\u{11ff}]+"
);

const BLOOM: Cut = Cut::Around(&[r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+"]);

pub(super) const FAMILIES: &[Family] = &[
    Family {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        cuts: &[GPT2],
        ..BYTES
    },
    Family {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        cuts: &[Cut::Around(&[DIGIT]), GPT2],
        ..BYTES
    },
    Family {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        cuts: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..BYTES
    },
    Family { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], cuts: &[LLAMA3], ..BYTES },
    Family { names: &["glm4", "glm5"], cuts: &[LLAMA3], ignore_merges: true, ..BYTES },
    Family {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        cuts: &[QWEN2],
        ..BYTES
    },
    Family { names: &["laguna"], cuts: &[LINES, QWEN2], ..BYTES },
    Family { names: &["ufakzeka"], cuts: &[Cut::AroundAndSpaces(&[WORD, DIGIT, SIGNS, LINE_ENDS])], ..BYTES },
    Family {
        names: &["qwen35"],
        cuts: &[Cut::AroundAndSpaces(&[
            CONTRACTION,
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
            DIGIT,
            r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            LINE_ENDS,
        ])],
        ..BYTES
    },
    Family {
        names: &["minicpm5"],
        cuts: &[
            Cut::Around(&[UP_TO_THREE_DIGITS]),
            Cut::AroundAndSpaces(&[CONTRACTION, WORD, DIGITS, SIGNS, LINE_ENDS]),
        ],
        ignore_merges: true,
        ..BYTES
    },
    Family {
        names: &["jais-2"],
        cuts: &[Cut::AroundAndHalvedSpaces(&[CONTRACTION, WORD, UP_TO_THREE_DIGITS, SIGNS, LINE_ENDS])],
        ..BYTES
    },
    Family {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        cuts: &[Cut::AroundAndSpaces(&[CONTRACTION, WORD, DIGIT, SIGNS, ONE_LINE_END])],
        ..BYTES
    },
    Family {
        names: &["seed-coder"],
        cuts: &[Cut::AroundAndSpaces(&[CONTRACTION, WORD, DIGIT, r" ?[^\s\p{L}\p{N}]+", LINE_ENDS])],
        ..BYTES
    },
    Family {
        names: &["exaone-moe"],
        cuts: &[Cut::AroundAndSpaces(&[
            CONTRACTION,
            r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
            DIGIT,
            r" ?[^\s\p{L}\p{N}]+[\r\n/]?",
            ONE_LINE_END,
        ])],
        ..BYTES
    },
    Family {
        names: &["tekken"],
        cuts: &[Cut::AroundAndSpaces(&[TEKKEN_WORD, DIGIT, SIGNS_AND_SLASHES, LINE_ENDS])],
        ignore_merges: true,
        add_bos: true,
        ..BYTES
    },
    Family {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        cuts: &[Cut::AroundAndSpaces(&[GPT4O_WORD, UP_TO_THREE_DIGITS, SIGNS_AND_SLASHES, LINE_ENDS])],
        ..BYTES
    },
    Family {
        names: &["granite-embed-multi-97m"],
        cuts: &[Cut::AroundAndSpaces(&[GRANITE_WORD, UP_TO_THREE_DIGITS, SIGNS_AND_SLASHES, LINE_ENDS])],
        ignore_merges: true,
        ..BYTES
    },
    Family {
        names: &["tiny_aya", "cohere2moe"],
        cuts: &[
            Cut::AfterThrees(DIGITS),
            Cut::AroundAndSpaces(&[MARKED_WORD, UP_TO_THREE_DIGITS, SIGNS_AND_SLASHES, LINE_ENDS]),
        ],
        ..BYTES
    },
    Family {
        names: &["youtu"],
        cuts: &[
            Cut::Around(&[
                r"[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+",
                concat!(
                    r"[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}",
                    r"\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+"
                ),
                r"[\u{3105}-\u{312f}]+",
                CJK,
            ]),
            Cut::AroundAndSpaces(&[MARKED_WORD, DIGIT, SIGNS_AND_SLASHES, LINE_ENDS]),
        ],
        ignore_merges: true,
        ..BYTES
    },
    Family {
        names: &["deepseek-llm"],
        cuts: &[
            Cut::Around(&[r"[\r\n]"]),
            Cut::Around(&[DEEPSEEK_LETTERS]),
            Cut::Around(&[
                r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3001}\u{3002}]+",
            ]),
            Cut::Around(&[r"\s+$"]),
            Cut::Around(&[HANGUL_AND_CJK]),
            Cut::Around(&[DIGITS]),
        ],
        ..BYTES
    },
    Family {
        names: &["deepseek-coder"],
        cuts: &[
            Cut::Around(&[r"[\r\n]"]),
            Cut::Around(&[r"\s?\p{L}+"]),
            Cut::Around(&[r"\s?\p{P}+"]),
            Cut::Around(&[HANGUL_AND_CJK]),
            Cut::Around(&[DIGIT]),
        ],
        ..BYTES
    },
    Family {
        names: &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        cuts: &[Cut::Around(&[UP_TO_THREE_DIGITS]), Cut::Around(&[CJK]), DEEPSEEK3],
        ..BYTES
    },
    Family {
        names: &["spark2_5"],
        cuts: &[
            Cut::Around(&[UP_TO_THREE_DIGITS]),
            Cut::Around(&[CJK]),
            Cut::AroundAndSpaces(&[DEEPSEEK_SIGN_WORD, DEEPSEEK_WORD, r" ?[\p{P}\p{S}]+|[\r\n]"]),
            Cut::Around(&[DIGIT]),
        ],
        ..BYTES
    },
    Family {
        names: &["afmoe"],
        cuts: &[Cut::AfterThrees(DIGITS), Cut::Around(&[AFMOE_SCRIPTS]), DEEPSEEK3],
        ..BYTES
    },
    Family {
        names: &["kimi-k2"],
        cuts: &[Cut::AroundAndSpaces(&[HAN, WORD_BUT_HAN, UP_TO_THREE_DIGITS, SIGNS, LINE_ENDS])],
        ..BYTES
    },
    Family { names: &["superbpe"], cuts: &[Cut::Around(&[DIGITS]), Cut::BeforeThrees("[0-9]+")], ..BYTES },
    Family { names: &["poro-chat", "bloom", "gpt3-finnish"], cuts: &[BLOOM], ..BYTES },
    Family { names: &["viking"], cuts: &[BLOOM, Cut::Around(&[DIGIT])], ..BYTES },
    Family {
        names: &["falcon"],
        cuts: &[Cut::Around(&[r"[\p{P}\$\+<=>\^~\|`]+"]), GPT2, Cut::Around(&["[0-9][0-9][0-9]"])],
        ..BYTES
    },
    Family {
        names: &["chameleon"],
        cuts: &[
            Cut::Around(&["<sentinel:[0-9]+>"]),
            Cut::Around(&["IMGIMG[A-I]{1,4}Z"]),
            Cut::Around(&[r"[\t\n]|    |  "]),
            Cut::Around(&[DIGIT]),
            Cut::Around(&[r"[\p{P}!-/:-@\[-`{-~]"]),
            GPT2,
        ],
        add_bos: true,
        ..BYTES
    },
    Family {
        names: &["gemma4", "granite-embed-multi-311m"],
        cuts: &[LINES],
        whole_lines: true,
        add_bos: true,
        alphabet: Alphabet::SpacedText,
        ..BYTES
    },
    Family { names: &["sarvam-moe"], cuts: &[LINES], alphabet: Alphabet::SpacedText, ..BYTES },
    Family { names: &["whitespace"], cuts: &[Cut::Around(&[r"\S+"])], alphabet: Alphabet::Text, ..BYTES },
    // What files from before `tokenizer.ggml.pre` existed are read with.
    Family {
        names: &["default"],
        cuts: &[
            Cut::Around(&[r"[\p{P}\$\+<=>\^~\|]+"]),
            GPT2,
            Cut::Around(&[DIGITS]),
            Cut::Around(&["[0-9][0-9][0-9]"]),
        ],
        ..BYTES
    },
];
