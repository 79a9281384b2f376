//! list and rm, and pulls of files on this machine.

use std::fs;

use super::{Home, MODEL, done, failed};

#[test]
fn an_empty_store_lists_nothing_and_is_not_created() {
    let home = Home::new();
    assert_eq!(done(&home.braise(&["list", "--output", "json"])), "[]\n");
    assert_eq!(done(&home.braise(&["list"])).lines().count(), 2); // the table's head
    assert!(!home.store().exists());
}

#[test]
fn rm_names_what_there_is() {
    let home = Home::new();
    assert!(failed(&home.braise(&["rm", "tiny"]), 1).contains("the store, which is empty"));
    fs::create_dir_all(home.path("store/models/mine")).expect("is created");
    fs::write(home.path("store/models/mine/7b-q4_0.gguf"), MODEL).expect("is written");
    let error = failed(&home.braise(&["rm", "yours"]), 1);
    assert!(error.contains("it has mine:7b-q4_0"), "{error}");
}

#[test]
fn rm_cannot_leave_the_store() {
    let home = Home::new();
    fs::create_dir_all(home.path("store/models")).expect("is created");
    fs::write(home.path("store/outside.gguf"), MODEL).expect("is written");
    for name in ["..:outside", "../store:outside", "a:../../outside", "/etc:passwd", "outside.gguf"] {
        let error = failed(&home.braise(&["rm", name]), 1);
        assert!(
            error.contains("no name of a model") || error.contains("not in the store"),
            "{name}: {error}"
        );
    }
    assert!(home.path("store/outside.gguf").exists());
}

#[test]
fn a_file_on_this_machine_is_linked_into_the_store() {
    let home = Home::new();
    let file = home.path("Some-Model-1B-Q4_0.gguf");
    fs::write(&file, MODEL).expect("is written");
    let path = file.to_str().expect("is UTF-8");
    assert!(done(&home.braise(&["pull", path])).starts_with("some-model:1b-q4_0 is ready"));
    assert!(done(&home.braise(&["pull", path])).starts_with("some-model:1b-q4_0 is there already"));
    let stored = home.path("store/models/some-model/1b-q4_0.gguf");
    assert_eq!(fs::read(&stored).expect("is there"), MODEL);
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&stored.metadata().expect("is there")), 2);

    done(&home.braise(&["rm", "some-model"]));
    assert_eq!(fs::read(&file).expect("the user's own file stays"), MODEL);
    assert!(home.files().is_empty());
}

#[test]
fn files_that_are_no_models_are_refused() {
    let home = Home::new();
    for (name, bytes, expected) in [
        ("page.gguf", &b"<html>"[..], "no GGUF file"),
        ("empty.gguf", b"", "no GGUF file"),
        ("big-70b-00001-of-00002.gguf", MODEL, "one part of a split model"),
    ] {
        fs::write(home.path(name), bytes).expect("is written");
        let error = failed(&home.braise(&["pull", home.path(name).to_str().expect("is UTF-8")]), 1);
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(home.files().is_empty());
}

#[test]
fn a_name_is_not_silently_given_to_another_file() {
    let home = Home::new();
    for dir in ["a", "b"] {
        fs::create_dir(home.path(dir)).expect("is created");
        fs::write(home.path(dir).join("x-1b.gguf"), MODEL).expect("is written");
    }
    let pull =
        |dir: &str| home.braise(&["pull", home.path(dir).join("x-1b.gguf").to_str().expect("is UTF-8")]);
    done(&pull("a"));
    assert!(failed(&pull("b"), 1).contains("`braise rm x:1b` makes room"));
    // the same file with new contents takes the old one's place
    fs::remove_file(home.path("a/x-1b.gguf")).expect("is removed");
    fs::write(home.path("a/x-1b.gguf"), b"GGUF new").expect("is written");
    assert!(done(&pull("a")).contains("is ready"));
    assert_eq!(fs::read(home.path("store/models/x/1b.gguf")).expect("is there"), b"GGUF new");
}
