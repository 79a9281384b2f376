//! Constrained output: what a model writes keeps to its schema, at whatever temperature, and speculation changes nothing.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use braise_engine::constrain::{Constraint, Format, Grammars};
use braise_engine::generate::{Finish, Outcome, Request, generate};
use braise_engine::model::Model;
use braise_engine::sample::SamplerOptions;
use braise_engine::session::{Session, SessionOptions};
use braise_engine::speculate::{NGram, Speculation};
use braise_engine::tokenizer::{ControlTokens, Special, Tokenizer, Vocab};
use braise_kernels::isa::Isa;
use braise_tests::llguidance;
use braise_tests::python::{llama_cpp, python, schema_suite};
use braise_tests::schemas::schema;
use braise_tests::tiny::{self, BASE};
use serde_json::{Value, json};

/// The real model, or nothing and a line that says so.
fn real_model() -> Option<Model> {
    let Some(path) = std::env::var_os("BRAISE_TEST_MODEL").filter(|path| !path.is_empty()) else {
        println!("skipped: BRAISE_TEST_MODEL is not set");
        return None;
    };
    Some(Model::open(Path::new(&path), Isa::best()).expect("the model opens"))
}

/// What a generation gives, and how it went.
fn run(
    session: &mut Session<'_>,
    tokenizer: &Tokenizer,
    request: &Request<'_>,
    drafts: Option<&mut Speculation<'_>>,
) -> (String, Outcome) {
    let mut text = String::new();
    let outcome = generate(session, tokenizer, request, drafts, &mut |part| {
        text.push_str(part);
        ControlFlow::Continue(())
    });
    (text, outcome.expect("it generates"))
}

fn hot(seed: u64) -> SamplerOptions {
    SamplerOptions { temperature: 1.5, top_k: 0, top_p: 1.0, seed: Some(seed), ..SamplerOptions::default() }
}

/// What is wrong with each of `cases`, as the Python package jsonschema says; nothing if it cannot be had.
fn validate(cases: &[Value]) -> Option<Vec<Option<String>>> {
    let python = match python("jsonschema", &["jsonschema"]) {
        Ok(python) => python,
        Err(why) => {
            println!("skipped: no Python with jsonschema: {why}");
            return None;
        }
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/chat/validate.py");
    let mut command = Command::new(python);
    let mut child =
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
    let input = serde_json::to_vec(cases).expect("is JSON");
    child.stdin.take().expect("is piped").write_all(&input).expect("is read");
    let output = child.wait_with_output().expect("Python runs");
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).expect("is a list"))
}

/// Says with the package jsonschema that all `cases` are valid.
fn all_are_valid(cases: &[Value]) {
    let Some(wrong) = validate(cases) else { return };
    assert_eq!(wrong.len(), cases.len());
    let wrong: Vec<_> = cases.iter().zip(wrong).filter_map(|(case, wrong)| Some((case, wrong?))).collect();
    assert!(wrong.is_empty(), "{} outputs are not valid: {wrong:#?}", wrong.len());
    let broken = [json!({"schema": {"type": "string"}, "output": "3"}), json!({"schema": {}, "output": "{"})];
    assert!(
        validate(&broken).expect("Python is there").iter().all(Option::is_some),
        "the comparison sees nothing"
    );
}

/// A constraint for each schema.
fn constraints(grammars: &Grammars) -> Vec<(Value, Constraint)> {
    let schemas = (0..200).map(schema);
    let constraint = |schema: &Value| grammars.constraint(&Format::JsonSchema(schema.clone()));
    let both = |schema| (constraint(&schema).unwrap_or_else(|e| panic!("{schema}: {e}")), schema);
    schemas.map(both).map(|(constraint, schema)| (schema, constraint)).collect()
}

/// A vocabulary of all bytes; token 256 ends a text.
fn bytes() -> Tokenizer {
    let texts: Vec<String> =
        (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).chain(["</s>".to_owned()]).collect();
    let vocab = Vocab {
        model: "llama",
        tokens: texts.iter().map(String::as_bytes).collect(),
        types: (0..257).map(|id| if id == 256 { 3 } else { 6 }).collect(),
        scores: vec![0.0; 257],
        bos: Some(u32::MAX),
        eos: Some(256),
        add_bos: Some(false),
        ..Vocab::default()
    };
    Tokenizer::new(&vocab).expect("a vocabulary")
}

#[test]
fn random_texts_of_200_schemas_are_valid() {
    let tokenizer = bytes();
    let grammars = Grammars::new(&tokenizer).expect("are there");
    let mut cases = Vec::new();
    for (seed, (schema, mut constraint)) in (0..).zip(constraints(&grammars)) {
        let (tokens, _) = walk(&mut constraint, tokenizer.n_tokens(), 3000, seed);
        assert!(constraint.is_over(), "{schema}: no end after {} bytes", tokens.len());
        let output = tokenizer.decode(&tokens, ControlTokens::Hide).expect("are in the vocabulary");
        cases.push(json!({"schema": schema, "output": output}));
    }
    all_are_valid(&cases);
}

#[test]
fn outputs_of_a_real_model_are_valid() {
    let Some(model) = real_model() else { return };
    let tokenizer = Tokenizer::of(model.gguf()).expect("has a tokenizer");
    let grammars = Grammars::new(&tokenizer).expect("are there");
    let prompt = tokenizer.encode_prompt("A person, in JSON:\n", Special::Parse);
    let constraints = constraints(&grammars);
    let begin = Instant::now();
    // a session each on as many threads: so small a model gains more by that than by a team of threads
    let next = AtomicUsize::new(0);
    let some = || {
        let options = SessionOptions { n_ctx: Some(512), threads: Some(1), ..SessionOptions::default() };
        let mut session = Session::new(&model, &options).expect("a session");
        let (mut cases, mut tokens) = (Vec::new(), 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let Some((schema, constraint)) = constraints.get(seed) else { return (cases, tokens) };
            let greedy = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
            let sampler = if seed.is_multiple_of(2) { greedy } else { hot(seed as u64) };
            let constraint = Some(constraint);
            let control = ControlTokens::Hide;
            let request =
                Request { prompt: &prompt, sampler, max_tokens: Some(400), stop: &[], constraint, control };
            let (output, outcome) = run(&mut session, &tokenizer, &request, None);
            assert_eq!(outcome.finish, Finish::End, "seed {seed}: {schema}: {output}");
            tokens += outcome.decode_tokens + 1;
            cases.push(json!({"schema": schema, "output": output}));
        }
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(some)).collect();
        threads.into_iter().map(|thread| thread.join().expect("its outputs")).collect()
    });
    let tokens: usize = parts.iter().map(|(_, tokens)| tokens).sum();
    let cases: Vec<_> = parts.into_iter().flat_map(|(cases, _)| cases).collect();
    assert_eq!(cases.len(), constraints.len());
    println!("{} outputs of {tokens} tokens in {:?}", cases.len(), begin.elapsed());
    all_are_valid(&cases);
}

/// Random tokens that `constraint` allows, more likely its shortest; and the time of a mask.
fn walk(constraint: &mut Constraint, n_vocab: usize, steps: usize, seed: u64) -> (Vec<u32>, Vec<Duration>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut tokens, mut times) = (Vec::new(), Vec::new());
    let mut logits = vec![0.0; n_vocab];
    while tokens.len() < steps && !constraint.is_over() {
        logits.iter_mut().for_each(|logit| *logit = rng.f32());
        let begin = Instant::now();
        let masked = constraint.mask(&logits).expect("can be followed");
        times.push(begin.elapsed());
        let best = (0..).zip(masked).max_by(|a, b| a.1.total_cmp(b.1)).expect("there are tokens");
        assert!(*best.1 >= 0.0, "nothing is allowed");
        let token = best.0;
        constraint.accept(token).expect("is allowed");
        tokens.push(token);
    }
    (tokens, times)
}

/// JSON, with strings, numbers and space as in llama.cpp's grammars.
const GBNF: &str = r#"
root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;

#[test]
fn a_mask_takes_little_time() {
    let Some(model) = real_model() else { return };
    let tokenizer = Tokenizer::of(model.gguf()).expect("has a tokenizer");
    let begin = Instant::now();
    let grammars = Grammars::new(&tokenizer).expect("are there");
    let prepared = begin.elapsed();
    let formats = [
        ("any JSON", Format::Json),
        ("a schema", Format::JsonSchema(schema(3))),
        ("strings", Format::JsonSchema(json!({"type": "array", "items": {"type": "string"}}))),
        ("a regex", Format::Regex("(?s:.*)".into())),
        ("Lark", Format::Lark("start: (WORD \" \")+\nWORD: /[a-zé]+/".into())),
        ("GBNF", Format::Gbnf(GBNF.into())),
        ("GBNF, words apart", Format::Gbnf("root ::= [a-z]+ \" \" root? \"end\"".into())),
    ];
    let mut all = Vec::new();
    for (name, format) in formats {
        let rounds: Vec<_> = (0..ROUNDS).map(|_| times(&grammars, &format, tokenizer.n_tokens())).collect();
        let (compiled, masks): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        let mut times: Vec<_> = (0..masks[0].len())
            .map(|at| masks.iter().map(|times| times[at]).min().expect("there are rounds"))
            .collect();
        times.sort();
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        let [median, p99, slowest] =
            [times.len() / 2, times.len() * 99 / 100, times.len() - 1].map(|at| times[at]);
        println!(
            "{name}: compiled in {:?}; {} masks: mean {mean:?}, median {median:?}, p99 {p99:?}, most {slowest:?}",
            compiled.iter().min().expect("there are rounds"),
            times.len()
        );
        all.extend(times);
    }
    all.sort();
    let [median, p99] = [all.len() / 2, all.len() * 99 / 100].map(|at| all[at]);
    println!("vocabulary prepared in {prepared:?}; {} masks: median {median:?}, p99 {p99:?}", all.len());
    assert!(median < TOKEN / 200, "{median:?}: more than half a percent of a token's time");
    assert!(p99 < TOKEN / 20 * SLOWER, "{p99:?}: more than 5% of a token's time");
}

/// What a token of a model with 1.2 billion weights in 4 bits takes where 30 GB/s are read, and how much slower than
/// there masks may be computed.
const TOKEN: Duration = Duration::from_millis(25);
const SLOWER: u32 = 2;

/// Of so many equal runs the least time of each mask counts: other programs take the processor now and then.
const ROUNDS: usize = 5;

/// The time to compile `format`, and those of the masks of some texts.
fn times(grammars: &Grammars, format: &Format, n_vocab: usize) -> (Duration, Vec<Duration>) {
    let begin = Instant::now();
    let constraint = grammars.constraint(format).expect("is a grammar");
    let compiled = begin.elapsed();
    (compiled, (0..10).flat_map(|seed| walk(&mut constraint.clone(), n_vocab, 60, seed).1).collect())
}

/// A vocabulary whose token 7 is the text `7,`; token 0 ends a text.
fn numbers(n_vocab: usize) -> Tokenizer {
    let texts: Vec<String> = (0..n_vocab).map(|id| format!("{id},")).collect();
    let vocab = Vocab {
        model: "llama",
        tokens: texts.iter().map(String::as_bytes).collect(),
        types: (0..n_vocab).map(|id| if id == 0 { 3 } else { 1 }).collect(),
        scores: vec![0.0; n_vocab],
        bos: Some(u32::MAX),
        eos: Some(0),
        add_bos: Some(false),
        ..Vocab::default()
    };
    Tokenizer::new(&vocab).expect("a vocabulary")
}

#[test]
fn speculation_changes_nothing() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    tiny::write(&BASE, 3, file.path());
    let model = Model::open(file.path(), Isa::best()).expect("the model opens");
    let tokenizer = numbers(BASE.n_vocab);
    let grammars = Grammars::new(&tokenizer).expect("are there");
    let options = SessionOptions { n_ctx: Some(400), threads: Some(1), ..SessionOptions::default() };
    let mut session = Session::new(&model, &options).expect("a session");
    let prompt: Vec<u32> = (0..40).map(|i| 2 + i % 5).collect();
    let (mut accepted, mut whole) = (0, 0);
    for (regex, most) in
        [("(([0-9]*[02468],){4}[0-9]*[13579],)*", 150), ("([2-9],){30}", 200), ("(2,4,6,){2,40}8,", 200)]
    {
        let constraint = grammars.constraint(&Format::Regex(regex.into())).expect("is a grammar");
        let expected = regex_automata(regex);
        for sampler in [SamplerOptions { temperature: 0.0, ..SamplerOptions::default() }, hot(4), hot(5)] {
            let constraint = Some(&constraint);
            let request = Request {
                prompt: &prompt,
                sampler,
                max_tokens: Some(most),
                stop: &[],
                constraint,
                control: ControlTokens::Hide,
            };
            session.truncate(0);
            let (plain, outcome) = run(&mut session, &tokenizer, &request, None);
            let read = session.tokens().to_vec();
            for length in [1, 3, 7] {
                session.truncate(0);
                let mut drafts = Speculation::new(NGram::new()).with_length(length);
                let (text, drafted) = run(&mut session, &tokenizer, &request, Some(&mut drafts));
                assert_eq!((&text, drafted.finish), (&plain, outcome.finish), "{regex} {length}");
                assert_eq!(session.tokens(), read, "{regex} {length}");
                accepted += drafted.speculation.accepted;
            }
            if outcome.finish == Finish::End {
                whole += 1;
                assert!(expected(&plain), "{regex}: {plain}");
            }
        }
    }
    assert!(accepted > 50 && whole > 3, "little was tried: {accepted} drafts accepted, {whole} texts ended");
}

/// Whether a text is one of those that `regex` of this test stands for, without any library.
fn regex_automata(regex: &str) -> impl Fn(&str) -> bool {
    let kind = regex.len();
    move |text: &str| {
        let numbers: Vec<u32> = text.split_terminator(',').map(|n| n.parse().expect("is a number")).collect();
        match kind {
            12 => numbers.len() == 30 && numbers.iter().all(|n| (2..=9).contains(n)),
            16 => {
                let (last, rest) = numbers.split_last().expect("is not empty");
                *last == 8 && (2..=40).contains(&(rest.len() / 3)) && rest.chunks(3).all(|c| c == [2, 4, 6])
            }
            _ => {
                numbers.len().is_multiple_of(5)
                    && (1..).zip(&numbers).all(|(at, n)| (n % 2 == 1) == (at % 5 == 0))
            }
        }
    }
}

#[test]
fn grammars_of_llama_cpp_are_understood() {
    let folder: PathBuf = match llama_cpp("BRAISE_TEST_GRAMMARS", "grammars") {
        Ok(folder) => folder,
        Err(why) => return println!("skipped: no grammars: {why}"),
    };
    let tokenizer = numbers(300);
    let grammars = Grammars::new(&tokenizer).expect("are there");
    let mut n = 0;
    for entry in std::fs::read_dir(folder).expect("is a folder") {
        let path = entry.expect("is there").path();
        if path.extension().is_some_and(|extension| extension == "gbnf") {
            let grammar = Format::Gbnf(std::fs::read_to_string(&path).expect("is text"));
            if let Err(error) = grammars.constraint(&grammar) {
                // this vocabulary of numbers may have no token to begin with, which is no fault of the grammar
                assert!(error.to_string().contains("NoExtensionBias"), "{}: {error}", path.display());
            }
            n += 1;
        }
    }
    assert!(n >= 5, "only {n} grammars");
}

/// What a file of the JSON-Schema-Test-Suite comes to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Suite {
    /// Schemas that become a constraint, and those that are refused.
    schemas: usize,
    refused: usize,
    /// Texts that are valid, or not, and taken for what they are.
    right: usize,
    /// Valid texts that are not allowed: of all ways to write a value, a constraint allows some.
    strict: usize,
    /// Texts that are allowed and not valid.
    lax: usize,
}

/// Whether `text` is a whole text of the constraint, over the vocabulary of [`bytes`].
fn allows(constraint: &Constraint, text: &str) -> bool {
    let mut constraint = constraint.clone();
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    if constraint.allowed(&tokens) < tokens.len() {
        return false;
    }
    tokens.iter().all(|token| constraint.accept(*token).is_ok())
        && constraint.mask(&[0.0; 257]).is_ok_and(|masked| masked[256] == 0.0)
}

fn suite_of(grammars: &Grammars, groups: &[Value]) -> Suite {
    let mut suite = Suite::default();
    for group in groups {
        let Ok(constraint) = grammars.constraint(&Format::JsonSchema(group["schema"].clone())) else {
            suite.refused += 1;
            continue;
        };
        suite.schemas += 1;
        for test in group["tests"].as_array().expect("is a list") {
            match (test["valid"] == true, allows(&constraint, &test["data"].to_string())) {
                (true, false) => suite.strict += 1,
                (false, true) => suite.lax += 1,
                _ => suite.right += 1,
            }
        }
    }
    suite
}

/// What is not supported, by file of the suite: schemas refused, valid texts not allowed, texts allowed and not valid.
/// Not allowed are other orders of an object's fields than the schema's, integers written as `1.0`, and what a `format`
/// rules out, which the suite takes for a remark.
const NOT_SUPPORTED: &[(&str, [usize; 3])] = &[
    ("additionalProperties", [2, 0, 0]),
    ("allOf", [2, 2, 0]),
    ("anyOf", [1, 0, 0]),
    ("boolean_schema", [1, 0, 0]),
    ("const", [0, 5, 0]),
    ("contains", [7, 0, 0]),
    ("defs", [1, 0, 0]),
    ("dependentRequired", [4, 0, 0]),
    ("dependentSchemas", [4, 0, 0]),
    ("dynamicRef", [20, 0, 0]),
    ("enum", [0, 4, 0]),
    ("format", [9, 10, 0]),
    ("if-then-else", [10, 0, 0]),
    ("maxContains", [4, 0, 0]),
    ("maxItems", [1, 0, 0]),
    ("maxLength", [1, 0, 0]),
    ("maxProperties", [1, 0, 0]),
    ("minContains", [8, 0, 0]),
    ("minItems", [1, 0, 0]),
    ("minLength", [1, 0, 0]),
    ("minProperties", [1, 0, 0]),
    ("multipleOf", [1, 0, 0]),
    ("not", [9, 0, 0]),
    ("oneOf", [9, 0, 0]),
    ("patternProperties", [3, 0, 0]),
    ("propertyNames", [3, 0, 0]),
    ("ref", [6, 0, 0]),
    ("refRemote", [15, 0, 0]),
    ("type", [0, 1, 0]),
    ("unevaluatedItems", [27, 0, 0]),
    ("unevaluatedProperties", [40, 0, 0]),
    ("uniqueItems", [6, 0, 0]),
    ("vocabulary", [2, 0, 0]),
];

#[test]
fn the_json_schema_test_suite() {
    let folder = match schema_suite("BRAISE_TEST_SCHEMAS", "draft2020-12") {
        Ok(folder) => folder,
        Err(why) => return println!("skipped: no test suite of JSON schemas: {why}"),
    };
    let grammars = Grammars::new(&bytes()).expect("are there");
    let mut suites = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("is a folder") {
        let path = entry.expect("is there").path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) {
            let text = std::fs::read(&path).expect("is readable");
            let groups: Vec<Value> = serde_json::from_slice(&text).expect("is JSON");
            suites.insert(name.to_owned(), suite_of(&grammars, &groups));
        }
    }
    let mut worse = Vec::new();
    for (name, suite) in &suites {
        let Suite { schemas, refused, right, strict, lax } = *suite;
        println!(
            "{name}: {schemas} schemas, {refused} refused; {right} texts right, {strict} too strict, {lax} too lax"
        );
        let expected = NOT_SUPPORTED.iter().find(|(of, _)| of == name).map_or([0; 3], |(_, counts)| *counts);
        if [refused, strict, lax].iter().zip(expected).any(|(n, most)| *n > most) {
            worse.push(format!("(\"{name}\", [{refused}, {strict}, {lax}]),"));
        }
    }
    let sum = |count: fn(&Suite) -> usize| suites.values().map(count).sum::<usize>();
    println!(
        "in all {} schemas, {} refused; {} texts right, {} too strict, {} too lax",
        sum(|s| s.schemas),
        sum(|s| s.refused),
        sum(|s| s.right),
        sum(|s| s.strict),
        sum(|s| s.lax)
    );
    assert!(sum(|suite| suite.right) > 500, "little was tried");
    assert!(worse.is_empty(), "worse than known:\n{}", worse.join("\n"));
}

/// How a constraint takes the texts of llguidance's own tests.
#[derive(Debug, Default)]
struct Own {
    /// Checks of each kind.
    checks: BTreeMap<String, usize>,
    texts: usize,
    /// Checks whose grammar has to be refused, and is not; or the other way round.
    grammars: Vec<String>,
    /// Texts that are not taken for what they are.
    wrong: Vec<String>,
    /// Grammars over tokens that the vocabulary of [`bytes`] lacks, or that count tokens.
    skipped: usize,
}

impl Own {
    fn try_grammar(&mut self, format: &Format, grammars: &Grammars, good: bool) -> Option<Constraint> {
        let what = match format {
            Format::JsonSchema(schema) => schema.to_string(),
            Format::Lark(lark) => lark.clone(),
            other => format!("{other:?}"),
        };
        match (grammars.constraint(format), good) {
            (Ok(_), true) if what.contains("max_tokens") => self.skipped += 1,
            (Ok(constraint), true) => return Some(constraint),
            (Err(error), true) if error.to_string().contains("Token range end") => self.skipped += 1,
            (Err(error), true) => self.grammars.push(format!("{what}: {error}")),
            (Ok(_), false) => self.grammars.push(format!("not refused: {what}")),
            (Err(_), false) => {}
        }
        None
    }

    fn try_text(&mut self, constraint: &Constraint, text: &str, valid: bool) {
        const NOT_AN_END: &str = "FINAL_REJECT:";
        self.texts += 1;
        let (text, begins) = match text.strip_prefix(NOT_AN_END) {
            Some(text) => (text, true),
            None => (text, valid),
        };
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let begun = constraint.clone().allowed(&tokens) == tokens.len();
        if allows(constraint, text) != valid || begins && !begun {
            self.wrong.push(format!("{text:?} (valid: {valid})"));
        }
    }
}

#[test]
fn the_tests_of_llguidance() {
    let folder = match llguidance::folder() {
        Ok(folder) => folder,
        Err(why) => return println!("skipped: {why}"),
    };
    const FUNCTIONS: [&str; 7] = [
        "lark_str_test_many",
        "lark_str_test",
        "lark_err_test",
        "lark_ok",
        "json_test_many",
        "json_schema_check",
        "json_err_test",
    ];
    let grammars = Grammars::new(&bytes()).expect("are there");
    let (mut own, mut others) = (Own::default(), 0);
    for entry in std::fs::read_dir(folder).expect("is a folder") {
        let path = entry.expect("is there").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let checks = llguidance::checks(&std::fs::read_to_string(&path).expect("is text"), &FUNCTIONS);
        others += checks.others;
        for check in checks.read {
            *own.checks.entry(check.name.clone()).or_default() += 1;
            let lark = check.arguments[0].as_str().map(|lark| Format::Lark(lark.to_owned()));
            let format = lark.unwrap_or_else(|| Format::JsonSchema(check.arguments[0].clone()));
            let texts = |at: usize| check.arguments[at].as_array().expect("a list").iter();
            let good = !check.name.ends_with("_err_test");
            let Some(constraint) = own.try_grammar(&format, &grammars, good) else { continue };
            let text = |value: &Value| match (&format, value) {
                (Format::Lark(_), Value::String(text)) => text.clone(),
                (_, value) => value.to_string(),
            };
            match check.name.as_str() {
                "lark_str_test_many" | "json_test_many" => {
                    texts(1).for_each(|valid| own.try_text(&constraint, &text(valid), true));
                    texts(2).for_each(|wrong| own.try_text(&constraint, &text(wrong), false));
                }
                "lark_str_test" => {
                    own.try_text(&constraint, &text(&check.arguments[2]), check.arguments[1] == true)
                }
                "json_schema_check" => {
                    own.try_text(&constraint, &text(&check.arguments[1]), check.arguments[2] == true)
                }
                _ => {}
            }
        }
    }
    let Own { checks, texts, grammars, wrong, skipped } = own;
    println!("{checks:?}: {texts} texts; {skipped} grammars skipped; {others} checks in other words");
    assert!(texts > 900 && checks.len() == FUNCTIONS.len(), "little was tried");
    assert!(grammars.is_empty() && wrong.is_empty(), "grammars: {grammars:#?}\ntexts: {wrong:#?}");
}
