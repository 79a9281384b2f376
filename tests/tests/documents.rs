//! What the documents say of the tree must be there.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The texts between backquotes that look like paths of this tree; a part in angle brackets stands for a name.
fn paths(text: &str) -> Vec<&str> {
    let is_path = |t: &&str| {
        let first = t.split('/').next().unwrap_or_default();
        t.contains('/') && !t.contains(['<', ' ']) && root().join(first).is_dir()
    };
    text.split('`').skip(1).step_by(2).filter(is_path).collect()
}

#[test]
fn paths_in_the_architecture_document_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the document is there");
    let paths = paths(&text);
    assert!(paths.len() > 30, "only {} paths found", paths.len());
    let missing: Vec<_> = paths.into_iter().filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:?}");
}

#[test]
fn links_of_the_readme_lead_somewhere() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("the document is there");
    let targets: Vec<&str> = text.split("](").skip(1).filter_map(|t| t.split(')').next()).collect();
    let local: Vec<_> = targets.into_iter().filter(|t| !t.starts_with("https://")).collect();
    assert!(!local.is_empty());
    for target in local {
        assert!(root().join(target).exists(), "README.md links to {target}");
    }
}
