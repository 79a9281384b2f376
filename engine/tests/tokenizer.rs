//! Token ids against llama.cpp's, on real vocabularies.
//!
//! `BRAISE_TEST_MODEL` names a GGUF file of SmolLM2-135M-Instruct, `BRAISE_LLAMA_CPP` the root of a llama.cpp
//! source tree, whose `models/` holds vocabularies with texts and ids. To add a vocabulary: a file made by
//! `testdata/tokenizer/make.py`, or a name in `llama_cpp_vocabularies_give_their_ids`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use braise_engine::tokenizer::{ControlTokens, Special, Tokenizer, Vocab};

/// The metadata of a GGUF file, read in the simplest way; panics on anything unexpected.
#[derive(Default)]
struct Metadata {
    scalars: HashMap<String, u64>,
    /// Texts and arrays of texts.
    texts: HashMap<String, Vec<Vec<u8>>>,
    /// Arrays of 4-byte numbers, as their bits.
    numbers: HashMap<String, Vec<u32>>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let (bytes, rest) = self.0.split_at(n);
        self.0 = rest;
        bytes.to_vec()
    }

    /// A little-endian unsigned number of `n` bytes.
    fn number(&mut self, n: usize) -> u64 {
        let mut bytes = self.bytes(n);
        bytes.resize(8, 0);
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn text(&mut self) -> Vec<u8> {
        let n = self.number(8) as usize;
        self.bytes(n)
    }

    /// A scalar of GGUF's type `kind`, as its bits.
    fn scalar(&mut self, kind: u64) -> u64 {
        self.number([1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize])
    }
}

impl Metadata {
    fn read(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut reader = Reader(&file);
        assert_eq!(reader.bytes(4), b"GGUF", "{}", path.display());
        let (_version, _n_tensors, n_keys) = (reader.number(4), reader.number(8), reader.number(8));
        let mut metadata = Self::default();
        for _ in 0..n_keys {
            let key = String::from_utf8(reader.text()).unwrap();
            match reader.number(4) {
                8 => drop(metadata.texts.insert(key, vec![reader.text()])),
                9 => match (reader.number(4), reader.number(8)) {
                    (8, n) => drop(metadata.texts.insert(key, (0..n).map(|_| reader.text()).collect())),
                    (kind, n) => {
                        let numbers = (0..n).map(|_| reader.scalar(kind) as u32).collect();
                        metadata.numbers.insert(key, numbers);
                    }
                },
                kind => drop(metadata.scalars.insert(key, reader.scalar(kind))),
            }
        }
        metadata
    }

    fn tokenizer(&self) -> Tokenizer {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let texts = |name: &str| -> Vec<&[u8]> {
            self.texts
                .get(&key(name))
                .map_or_else(Vec::new, |texts| texts.iter().map(Vec::as_slice).collect())
        };
        let text = |name: &str| texts(name).first().map(|text| str::from_utf8(text).unwrap());
        let numbers = |name: &str| self.numbers.get(&key(name)).cloned().unwrap_or_default();
        let id = |name: &str| self.scalars.get(&key(name)).map(|&id| id as u32);
        let flag = |name: &str| self.scalars.get(&key(name)).map(|&flag| flag != 0);
        let vocab = Vocab {
            model: text("model").unwrap(),
            pre: text("pre"),
            tokens: texts("tokens"),
            types: numbers("token_type").into_iter().map(|number| number as i32).collect(),
            scores: numbers("scores").into_iter().map(f32::from_bits).collect(),
            merges: texts("merges"),
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            eot: id("eot_token_id"),
            eom: id("eom_token_id"),
            unknown: id("unknown_token_id"),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            add_space_prefix: flag("add_space_prefix"),
        };
        Tokenizer::new(&vocab).unwrap()
    }
}

/// The path in the environment variable `name`, or a printed reason to skip `test`.
fn path_from(name: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os(name).map(PathBuf::from);
    if path.is_none() {
        println!("skipped: {test} ({name} is not set)");
    }
    path
}

#[test]
fn smollm2_gives_the_ids_of_llama_cpp() {
    let Some(model) = path_from("BRAISE_TEST_MODEL", "ids on SmolLM2's vocabulary") else { return };
    let tokenizer = Metadata::read(&model).tokenizer();
    assert_eq!(tokenizer.n_tokens(), 49_152);
    let cases = include_str!("../testdata/tokenizer/smollm2.jsonl");
    for line in cases.lines() {
        let (text, plain, special): (String, Vec<u32>, Vec<u32>) = serde_json::from_str(line).unwrap();
        assert_eq!(tokenizer.encode(&text, Special::AsText), plain, "{text:?}");
        assert_eq!(tokenizer.encode(&text, Special::Parse), special, "{text:?} with special tokens");
        // The one text among these with a byte that this vocabulary has no token for.
        if !text.contains('\x04') {
            for ids in [plain, special] {
                assert_eq!(tokenizer.decode(&ids, ControlTokens::Show).unwrap(), text);
            }
        }
    }
    assert!(cases.lines().count() > 300);
    assert_eq!(tokenizer.end_tokens(), [0, 2, 4], "<|endoftext|>, <|im_end|>, <reponame>");
    assert_eq!(tokenizer.encode_prompt("Hello", Special::Parse), [19_556], "the file asks for no BOS");
}

#[test]
fn llama_cpp_vocabularies_give_their_ids() {
    let Some(root) = path_from("BRAISE_LLAMA_CPP", "ids on llama.cpp's test vocabularies") else { return };
    for name in ["gpt-2", "llama-bpe", "llama-spm", "qwen2"] {
        let vocab = root.join("models").join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = Metadata::read(&vocab).tokenizer();
        let texts = std::fs::read_to_string(vocab.with_extension("gguf.inp")).unwrap();
        let ids = std::fs::read_to_string(vocab.with_extension("gguf.out")).unwrap();
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<&str> = ids.lines().collect();
        assert!(
            ids.len() > 40 && texts.len() >= ids.len(),
            "{name}: {} texts, {} ids",
            texts.len(),
            ids.len()
        );
        for (text, ids) in texts.iter().zip(ids) {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, Special::AsText), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, ControlTokens::Show).unwrap(), *text, "{name}");
        }
    }
}
