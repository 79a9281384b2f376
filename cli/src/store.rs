//! The local store: `BRAISE_HOME`, else `braise` in the platform's data folder.
//!
//! ```text
//! models/<family>/<tag>.gguf   a model; any GGUF file that is put there by hand is one too
//! models/<family>/<tag>.json   where it came from, and its checksum
//! tmp/                         what a pull is working on; only the holder of `lock` may touch it
//! partial/                     what came of the last download that broke off; this also
//! lock                         held by the one pull that runs
//! history                      the lines typed in chats
//! ```
//!
//! A model appears under its name by one rename, after its bytes are checked and on the disk. A pull that is killed
//! leaves its pieces in `tmp/`, and the next one clears them away.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Error, Result, anyhow, bail};
use braise_engine::catalogue::Name;
use serde::{Deserialize, Serialize};

/// What is known about a file in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The address, package or path that it came from.
    pub source: String,
    /// Its checksum, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// A model in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its whole name.
    pub name: Name,
    /// Where its file is.
    pub path: PathBuf,
    /// Size of the file.
    pub bytes: u64,
    /// When it was put there.
    pub modified: SystemTime,
    /// Nothing if the file was put there by hand.
    pub manifest: Option<Manifest>,
}

/// A folder of models. Nothing is created before the first pull.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The user's store.
    pub fn open() -> Result<Self> {
        let home = std::env::var_os("BRAISE_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        match home.or_else(|| dirs::data_dir().map(|data| data.join("braise"))) {
            Some(root) => Ok(Self::at(root)),
            None => bail!("no folder is known to keep models in; set BRAISE_HOME to one"),
        }
    }

    /// The store in `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its folder, which need not be there.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks whether a model could be put here; leaves nothing behind. Gives the folder that was written to: where there
    /// is no store yet, the one that it would be made in.
    pub fn check_writable(&self) -> Result<PathBuf> {
        let named = |folder: &&Path| !folder.as_os_str().is_empty();
        let folder =
            self.root.ancestors().filter(named).find(|folder| folder.exists()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(".braise-").tempfile_in(folder);
        file.map_err(|e| refused(folder, "create a file", e))?;
        Ok(folder.to_owned())
    }

    /// Where the lines typed in chats are kept.
    pub fn history(&self) -> PathBuf {
        self.root.join("history")
    }

    /// All models, by name.
    pub fn list(&self) -> Result<Vec<Stored>> {
        let mut models = Vec::new();
        for family in entries(&self.root.join("models"))? {
            if !family.is_dir() {
                continue;
            }
            for path in entries(&family)? {
                models.extend(stored(&path)?);
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// The models that `name` may stand for: the one that has just this name, else all whose names are longer.
    pub fn find(&self, name: &Name) -> Result<Vec<Stored>> {
        let mut found: Vec<Stored> = self.list()?.into_iter().filter(|m| name.covers(&m.name)).collect();
        if let Some(exact) = found.iter().position(|model| model.name == *name) {
            found = vec![found.swap_remove(exact)];
        }
        Ok(found)
    }

    /// Removes a model and what is known about it.
    pub fn remove(&self, model: &Stored) -> Result<()> {
        let manifest = manifest_path(&model.path);
        fs::remove_file(&model.path).map_err(|e| refused(&model.path, "remove", e))?;
        if let Err(e) = fs::remove_file(&manifest)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(refused(&manifest, "remove", e));
        }
        // the family's folder goes with its last model; while it holds others, this is refused
        let _ = model.path.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Begins to put a model into the store: waits until no other pull runs, and clears what a killed one left.
    ///
    /// `waiting` is called once if there is another to wait for.
    pub fn begin(&self, waiting: impl FnOnce()) -> Result<Workplace> {
        fs::create_dir_all(&self.root).map_err(|e| refused(&self.root, "create", e))?;
        let lock_path = self.root.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|e| refused(&lock_path, "open", e))?;
        let locked = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock()
            }
            Err(TryLockError::Error(e)) => Err(e),
            Ok(()) => Ok(()),
        };
        match locked {
            // some network file systems have no locks; there, two pulls at once are the user's to avoid
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
            locked => locked.map_err(|e| refused(&lock_path, "lock", e))?,
        }
        let dir = self.root.join("tmp");
        clear(&dir)?;
        fs::create_dir_all(&dir).map_err(|e| refused(&dir, "create", e))?;
        Ok(Workplace { store: self.clone(), dir, _lock: lock })
    }
}

/// The right to put models into the store, and a folder to prepare them in, on the store's own file system.
#[derive(Debug)]
pub struct Workplace {
    store: Store,
    dir: PathBuf,
    _lock: File,
}

impl Workplace {
    /// The folder; it is removed at the end.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A folder that stays, on the same file system, for the one download that may be gone on with.
    pub fn partial(&self) -> PathBuf {
        self.store.root.join("partial")
    }

    /// Puts `file`, which is in [`Workplace::dir`], under its name, and returns where it is now.
    pub fn commit(&self, file: &Path, name: &Name, manifest: &Manifest) -> Result<PathBuf> {
        let Some(tag) = &name.tag else { bail!("{name} does not name a file; name it as family:size") };
        let family = self.store.root.join("models").join(&name.family);
        fs::create_dir_all(&family).map_err(|e| refused(&family, "create", e))?;
        let path = family.join(format!("{tag}.gguf"));
        sync(file)?;
        // the manifest first: without its file it means nothing, and a wrong one is found out by the checksum
        let draft = self.dir.join("manifest.json");
        fs::write(&draft, serde_json::to_vec_pretty(manifest)?).map_err(|e| refused(&draft, "write", e))?;
        sync(&draft)?;
        let manifest_path = manifest_path(&path);
        fs::rename(&draft, &manifest_path).map_err(|e| refused(&manifest_path, "write", e))?;
        fs::rename(file, &path).map_err(|e| refused(&path, "write", e))?;
        #[cfg(unix)] // a rename is on the disk when its folder is
        sync(&family)?;
        Ok(path)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // what cannot be removed now is removed by the next pull
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An error on a file of the store, with what to do about it.
pub fn refused(path: &Path, doing: &str, e: io::Error) -> Error {
    use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let next = match e.kind() {
        PermissionDenied | ReadOnlyFilesystem => {
            "check its permissions, or set BRAISE_HOME to a folder that you may write to"
        }
        StorageFull | QuotaExceeded | FileTooLarge => {
            "free some space, or set BRAISE_HOME to a folder on another disk"
        }
        _ => "check the folder, or set BRAISE_HOME to another",
    };
    anyhow!("{}: cannot {doing}: {e}; {next}", path.display())
}

fn manifest_path(model: &Path) -> PathBuf {
    model.with_extension("json") // takes the place of `gguf`
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| refused(path, "write", e))
}

fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(refused(dir, "clear", e)),
        _ => Ok(()),
    }
}

/// What is in a folder; nothing if there is no such folder.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let found = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    found.map_err(|e| refused(dir, "read", e))
}

/// The model at `path`, or nothing if there is no file that can be one.
fn stored(path: &Path) -> Result<Option<Stored>> {
    let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let part = |name: Option<&std::ffi::OsStr>| name.and_then(|n| n.to_str()).map(str::to_owned);
    let (Some(tag), Some(family)) = (part(path.file_stem()), part(path.parent().and_then(Path::file_name)))
    else {
        return Ok(None);
    };
    let Ok(name) = Name::new(&family, &tag) else { return Ok(None) };
    if !is_gguf || !path.is_file() {
        return Ok(None);
    }
    let meta = path.metadata().map_err(|e| refused(path, "read", e))?;
    let manifest = manifest_path(path);
    let noted = manifest.metadata().and_then(|meta| meta.modified());
    let manifest = fs::read(&manifest).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let modified = noted.or_else(|_| meta.modified()).map_err(|e| refused(path, "read", e))?;
    Ok(Some(Stored { name, path: path.to_owned(), bytes: meta.len(), modified, manifest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest { source: "test".into(), sha256: "0".repeat(64), bytes: 4 }
    }

    fn put(store: &Store, name: &str, text: &str) -> PathBuf {
        let work = store.begin(|| {}).expect("begins");
        let file = work.dir().join("x");
        fs::write(&file, text).expect("is written");
        work.commit(&file, &name.parse().expect("is a name"), &manifest()).expect("is put there")
    }

    fn names(models: &[Stored]) -> Vec<String> {
        models.iter().map(|m| m.name.to_string()).collect()
    }

    #[test]
    fn what_is_put_in_is_listed_found_and_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::at(dir.path().join("new"));
        assert!(store.list().expect("an absent store is empty").is_empty());
        // a dot in the tag is no extension
        let path = put(&store, "b:1b-v0.1-q4_1", "GGUF");
        put(&store, "a:1b-q8_0", "GGUF");
        put(&store, "a:1b-q4_0", "GGUF");
        assert_eq!(path, dir.path().join("new/models/b/1b-v0.1-q4_1.gguf"));
        assert!(path.with_file_name("1b-v0.1-q4_1.json").is_file());
        assert!(!dir.path().join("new/tmp").exists());

        let all = store.list().expect("is listed");
        assert_eq!(names(&all), ["a:1b-q4_0", "a:1b-q8_0", "b:1b-v0.1-q4_1"]);
        assert_eq!(all[0].manifest, Some(manifest()));
        let find = |name: &str| names(&store.find(&name.parse().expect("is a name")).expect("is found"));
        assert_eq!(find("a:1b"), ["a:1b-q4_0", "a:1b-q8_0"]);
        assert_eq!(find("A:1B-Q8_0"), ["a:1b-q8_0"]);
        assert!(find("c").is_empty());

        store.remove(&all[2]).expect("is removed");
        assert!(!dir.path().join("new/models/b").exists(), "the empty folder goes too");
        store.remove(&all[0]).expect("is removed");
        assert_eq!(names(&store.list().expect("is listed")), ["a:1b-q8_0"]);
    }

    #[test]
    fn files_put_there_by_hand_count_and_others_do_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let family = dir.path().join("models/Mine");
        fs::create_dir_all(&family).expect("is created");
        for file in ["7B-Q4_0.gguf", "notes.txt", ".hidden.gguf", "q4.json", "bad name.gguf"] {
            fs::write(family.join(file), "GGUF").expect("is written");
        }
        let all = Store::at(dir.path()).list().expect("is listed");
        assert_eq!(names(&all), ["mine:7b-q4_0"]);
        assert_eq!((all[0].bytes, &all[0].manifest), (4, &None));
    }

    #[test]
    fn a_second_pull_waits_and_clears_what_a_killed_one_left() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::at(dir.path());
        fs::create_dir_all(dir.path().join("tmp/old")).expect("is created");
        let first = store.begin(|| panic!("nobody else is here")).expect("begins");
        assert!(!dir.path().join("tmp/old").exists());

        let other = store.clone();
        let (told, waits) = std::sync::mpsc::channel();
        let second = std::thread::spawn(move || other.begin(|| told.send(()).expect("is heard")).map(drop));
        waits.recv().expect("the second waits for the first");
        assert!(!second.is_finished());
        drop(first);
        second.join().expect("no panic").expect("begins after the first");
    }

    #[test]
    fn a_store_that_cannot_be_made_is_an_error_with_a_next_step() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("is written");
        let error = Store::at(file.join("store")).begin(|| {}).expect_err("its parent is a file").to_string();
        assert!(error.contains("BRAISE_HOME") && error.contains("cannot create"), "{error}");
    }
}
