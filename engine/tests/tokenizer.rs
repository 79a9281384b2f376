//! Token ids against llama.cpp's, on real vocabularies.
//!
//! `BRAISE_TEST_MODEL` names a GGUF file of SmolLM2-135M-Instruct, `BRAISE_LLAMA_CPP` the root of a llama.cpp
//! source tree, whose `models/` holds vocabularies with texts and ids, and `BRAISE_TOKEN_FACTS` a folder of vocabularies
//! with ids of random texts, made by `testdata/tokenizer/make.py`. To add a vocabulary: a file of either folder.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use braise_engine::gguf::Gguf;
use braise_engine::tokenizer::{ControlTokens, Special, Tokenizer};

fn tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::of(&Gguf::open(path).unwrap()).unwrap()
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
    let tokenizer = tokenizer(&model);
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

/// The files of `dir` whose names end in `.EXTENSION`, in order.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|other| other == extension));
    files.sort();
    files
}

#[test]
fn llama_cpp_vocabularies_give_their_ids() {
    let Some(root) = path_from("BRAISE_LLAMA_CPP", "ids on llama.cpp's test vocabularies") else { return };
    let outputs = files(&root.join("models"), "out");
    for output in &outputs {
        let name = output.display();
        let vocab = output.with_extension("");
        let tokenizer = tokenizer(&vocab);
        let texts = std::fs::read_to_string(vocab.with_extension("gguf.inp")).unwrap();
        let ids = std::fs::read_to_string(output).unwrap();
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<&str> = ids.lines().collect();
        assert!(
            ids.len() > 40 && texts.len() >= ids.len(),
            "{name}: {} texts, {} ids",
            texts.len(),
            ids.len()
        );
        let is_wordpiece = output.to_string_lossy().contains("bert");
        for (text, ids) in texts.iter().zip(ids) {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, Special::AsText), ids, "{name}: {text:?}");
            if !is_wordpiece {
                assert_eq!(tokenizer.decode(&ids, ControlTokens::Show).unwrap(), *text, "{name}");
            }
        }
    }
    assert!(outputs.len() >= 15, "{} vocabularies", outputs.len());
}

/// The first line of a file of facts.
#[derive(serde::Deserialize)]
struct Head {
    ends: Vec<u32>,
    /// The ids of [`PROMPT`] with what the file adds.
    prompt: Vec<u32>,
}

const PROMPT: &str = "Hello, wörld";

#[test]
fn random_texts_give_the_ids_of_llama_cpp() {
    let Some(dir) = path_from("BRAISE_TOKEN_FACTS", "ids of random texts") else { return };
    let facts = files(&dir, "jsonl");
    assert!(!facts.is_empty(), "no .jsonl in {}", dir.display());
    let mut failures = Vec::new();
    for path in facts {
        let tokenizer = tokenizer(&path.with_extension("gguf"));
        let mut lines = BufReader::new(File::open(&path).unwrap()).lines().map(Result::unwrap);
        let head: Head = serde_json::from_str(&lines.next().unwrap()).unwrap();
        let mut differences = Vec::new();
        if tokenizer.end_tokens() != head.ends {
            differences.push(format!("ends {:?}, not {:?}", tokenizer.end_tokens(), head.ends));
        }
        if tokenizer.encode_prompt(PROMPT, Special::Parse) != head.prompt {
            differences.push(format!("prompt, not {:?}", head.prompt));
        }
        let mut n_lines = 0;
        for line in lines {
            n_lines += 1;
            let (text, plain, special): (String, Vec<u32>, Vec<u32>) = serde_json::from_str(&line).unwrap();
            for (how, wanted) in [(Special::AsText, plain), (Special::Parse, special)] {
                let ids = tokenizer.encode(&text, how);
                if ids != wanted {
                    differences.push(format!("{text:?} {how:?}: {ids:?}, not {wanted:?}"));
                }
            }
        }
        println!("{}: {n_lines} texts, {} differences", path.display(), differences.len());
        failures.extend(differences.into_iter().take(5).map(|line| format!("{}: {line}", path.display())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
