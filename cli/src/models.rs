//! What MODEL means on the command line: a path, a name in the store, or a name in the catalogue.

use std::io::ErrorKind;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use braise_engine::catalogue::{Catalogue, Entry, Name};

use crate::catalogue;
use crate::pull::{is_address, pull_entry};
use crate::store::{Store, Stored};

/// How alike two names must be, of 1, for one to be offered in place of the other.
const LIKENESS: f64 = 0.5;

/// How many names are offered in place of an unknown one.
const OFFERED: usize = 3;

/// All models that have names.
pub struct Models {
    /// Those on this machine.
    pub store: Store,
    /// Those that can be fetched.
    pub catalogue: Catalogue,
}

/// The file that `model` means; nothing means the default model. What is only in the catalogue is fetched first.
pub fn resolve(model: Option<&str>) -> Result<PathBuf> {
    match model.map(as_path).transpose()?.flatten() {
        Some(path) => Ok(path), // needs no store
        None => Models::open()?.resolve(model),
    }
}

/// Fails as [`resolve`] does if there is no such model, and fetches nothing.
pub fn check(model: Option<&str>) -> Result<()> {
    match model.map(as_path).transpose()?.flatten() {
        Some(_) => Ok(()),
        None => Models::open()?.find(model).map(drop),
    }
}

/// Where the file of a model is.
enum Found<'a> {
    Stored(PathBuf),
    /// Still to be fetched.
    Listed(Entry<'a>),
}

/// The file that `text` names, or nothing if it is rather the name of a model.
pub fn as_path(text: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(text);
    if path.is_file() {
        return Ok(Some(path.to_owned()));
    }
    if is_address(text) {
        bail!("{text} is an address; `braise pull {text}` fetches it");
    }
    let is_path = text.contains(['/', MAIN_SEPARATOR]) || text.to_lowercase().ends_with(".gguf");
    if !is_path {
        return Ok(None);
    }
    match path.metadata() {
        Ok(meta) if meta.is_dir() => bail!("{text} is a folder; give the path of a .gguf file in it"),
        Ok(_) => bail!("{text}: not a regular file; give the path of a .gguf file, not of a pipe or device"),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            bail!("{text}: there is no such file; check the path, or give a name such as smollm2:135m")
        }
        Err(e) => bail!("{text}: cannot open the file: {e}; check the path and its permissions"),
    }
}

impl Models {
    /// The user's store, and the catalogue.
    pub fn open() -> Result<Self> {
        Ok(Self { store: Store::open()?, catalogue: catalogue::load()? })
    }

    fn resolve(&self, model: Option<&str>) -> Result<PathBuf> {
        match self.find(model)? {
            Found::Stored(path) => Ok(path),
            Found::Listed(entry) => Ok(pull_entry(self, entry)?.path),
        }
    }

    fn find(&self, model: Option<&str>) -> Result<Found<'_>> {
        let name = match model {
            Some(text) => text.parse()?,
            None => self.catalogue.default_name()?,
        };
        if let Some(stored) = self.stored(&name)? {
            return Ok(Found::Stored(stored.path));
        }
        match self.catalogue.find(&name)? {
            Some(entry) => Ok(Found::Listed(entry)),
            None => Err(self.unknown(&name)?),
        }
    }

    /// The model in the store that `name` means: the only one that it covers, or among several the catalogue's default.
    pub fn stored(&self, name: &Name) -> Result<Option<Stored>> {
        let default = self.catalogue.find(name)?.map(|entry| entry.name()).transpose()?;
        let mut found = self.store.find(name)?;
        if let Some(at) = found.iter().position(|stored| Some(&stored.name) == default.as_ref()) {
            return Ok(Some(found.swap_remove(at)));
        }
        if found.len() > 1 {
            let names: Vec<_> = found.iter().map(|stored| stored.name.to_string()).collect();
            bail!("{name} may mean {}; give the whole name", names.join(" or "));
        }
        match (found.pop(), default) {
            // `family:latest` is spelled otherwise in the store
            (None, Some(default)) => Ok(self.store.find(&default)?.pop()),
            (found, _) => Ok(found),
        }
    }

    /// The error for a name that is neither in the store nor in the catalogue, with names that are much like it.
    pub fn unknown(&self, name: &Name) -> Result<Error> {
        if let Some(model) = self.catalogue.model(name)?
            && model.is_shape_only()
        {
            let known = format!("{}:{}", model.family, model.size);
            return Ok(anyhow!(
                "braise cannot fetch {name} yet: the catalogue has only the shape of {known}; give the path of a \
                 .gguf file of it, or bench its shape with `braise bench --synthetic {known}:Q4_K_M`"
            ));
        }
        let mut known: Vec<String> =
            self.store.list()?.iter().map(|stored| stored.name.to_string()).collect();
        for entry in self.catalogue.entries() {
            known.push(format!("{}:{}", entry.model.family, entry.model.size));
        }
        let text = name.to_string();
        let likeness = |other: &str| {
            let family = other.split(':').next().unwrap_or(other);
            let whole = strsim::normalized_damerau_levenshtein(&text, other);
            whole.max(strsim::normalized_damerau_levenshtein(&name.family, family))
        };
        known.sort();
        known.dedup();
        known.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
        let near: Vec<_> =
            known.into_iter().filter(|other| likeness(other) >= LIKENESS).take(OFFERED).collect();
        let next = match near.is_empty() {
            true => String::from("give a path to a .gguf file, or pull one by its https address"),
            false => format!("did you mean {}?", near.join(" or ")),
        };
        Ok(anyhow!("no model is called {text}; {next}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOGUE: &str = include_str!("../../models.toml");

    fn models(dir: &Path, stored: &[&str]) -> Models {
        for name in stored {
            let (family, tag) = name.split_once(':').expect("is a whole name");
            std::fs::create_dir_all(dir.join("models").join(family)).expect("is created");
            std::fs::write(dir.join(format!("models/{family}/{tag}.gguf")), "GGUF").expect("is written");
        }
        Models { store: Store::at(dir), catalogue: Catalogue::parse(CATALOGUE).expect("is sound") }
    }

    fn resolved(stored: &[&str], model: Option<&str>) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = models(dir.path(), stored).resolve(model).map_err(|e| e.to_string())?;
        Ok(path.strip_prefix(dir.path()).expect("is in the store").display().to_string())
    }

    #[test]
    fn short_names_mean_the_default_or_the_only_one() {
        let default = Ok(String::from("models/smollm2/135m-q4_1.gguf"));
        let both = ["smollm2:135m-q4_1", "smollm2:135m-q8_0"];
        for name in [None, Some("smollm2"), Some("SmolLM2:135m"), Some("smollm2:latest")] {
            assert_eq!(resolved(&both, name), default, "{name:?}");
        }
        assert_eq!(resolved(&both[1..], Some("smollm2:135m")), Ok("models/smollm2/135m-q8_0.gguf".into()));
        assert_eq!(resolved(&["a:1b-q8_0", "b:1b"], Some("a")), Ok("models/a/1b-q8_0.gguf".into()));
    }

    #[test]
    fn an_ambiguous_name_lists_what_it_may_mean() {
        let error = resolved(&["a:1b-q8_0", "a:1b-q4_0"], Some("a:1b")).expect_err("is ambiguous");
        assert_eq!(error, "a:1b may mean a:1b-q4_0 or a:1b-q8_0; give the whole name");
    }

    #[test]
    fn an_unknown_name_offers_near_ones() {
        let error = resolved(&["mine:7b-q4_0"], Some("smolm2:135m")).expect_err("is unknown");
        assert_eq!(error, "no model is called smolm2:135m; did you mean smollm2:135m?");
        let error = resolved(&["mine:7b-q4_0"], Some("mime")).expect_err("is unknown");
        assert_eq!(error, "no model is called mime; did you mean mine:7b-q4_0?");
        let error = resolved(&[], Some("zzz")).expect_err("is unknown");
        assert!(error.contains("pull one by its https address"), "{error}");
    }

    #[test]
    fn paths_are_told_from_names() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("x.gguf");
        std::fs::write(&file, "GGUF").expect("is written");
        let text = |path: &Path| path.to_str().expect("is UTF-8").to_owned();
        assert_eq!(as_path(&text(&file)).expect("is a file"), Some(file));
        assert_eq!(as_path("smollm2:135m").expect("is a name"), None);
        for (wrong, why) in
            [("no/such", "no such file"), ("../x.gguf", "no such file"), ("https://a/x.gguf", "braise pull")]
        {
            let error = as_path(wrong).expect_err(wrong).to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(as_path(&(text(dir.path()))).expect_err("is a folder").to_string().contains("is a folder"));
    }
}
