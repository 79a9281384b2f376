//! Python for tests that compare braise with packages of Python, and the source package that carries data of llama.cpp.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of this workspace's build, where what tests fetch is kept.
fn target() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(here, PathBuf::from)
}

fn done(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A Python that has `packages`: `python3` if it has them, else one of a virtual environment named `name`, into which
/// they are installed.
///
/// # Errors
/// Why there is none.
pub fn python(name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let imports = format!("import {}", packages.join(", "));
    if done(Command::new("python3").args(["-c", &imports])).is_ok() {
        return Ok("python3".into());
    }
    environment(name, &imports, packages)
}

/// A Python with the CUDA compiler library of the version that writes the kernels' PTX.
///
/// # Errors
/// Why there is none.
pub fn nvrtc() -> Result<PathBuf, String> {
    environment("nvrtc-12.0.140", "import nvidia.cuda_nvrtc", &["nvidia-cuda-nvrtc-cu12==12.0.140"])
}

/// The Python of the virtual environment `name`, in which `packages` are installed unless `imports` works there.
fn environment(name: &str, imports: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = target().join("test-python").join(name);
    let python = folder.join("bin/python");
    if done(Command::new(&python).args(["-c", imports])).is_err() {
        done(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        done(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    }
    Ok(python)
}

/// The folder `path` inside llama.cpp's sources, which the source package `llama-cpp-python` carries; nothing of it is
/// compiled. The environment variable `variable` names another folder to use instead.
///
/// # Errors
/// Why it cannot be had.
pub fn llama_cpp(variable: &str, path: &str) -> Result<PathBuf, String> {
    let path = Path::new("vendor/llama.cpp").join(path);
    inside_sources(variable, "llama-cpp-python", "llama-cpp-python", &path)
}

/// The folder of one draft in the JSON-Schema-Test-Suite, which the source package `jsonschema` carries. The environment
/// variable `variable` names another folder to use instead.
///
/// # Errors
/// Why it cannot be had.
pub fn schema_suite(variable: &str, draft: &str) -> Result<PathBuf, String> {
    let path = Path::new("json/tests").join(draft);
    inside_sources(variable, "jsonschema==4.23.0", "jsonschema-source", &path)
}

/// The folder `path` inside the sources of `package`, which are kept in the folder `name`.
fn inside_sources(variable: &str, package: &str, name: &str, path: &Path) -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os(variable).filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let sources = target().join("test-python").join(name);
    let found = |sources: &Path| {
        let unpacked = std::fs::read_dir(sources).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        unpacked.map(|folder| folder.join(path)).find(|folder| folder.is_dir())
    };
    if let Some(folder) = found(&sources) {
        return Ok(folder);
    }
    let download = sources.join("download");
    let plain_name = package.split('=').next().unwrap_or(package);
    let mut pip = Command::new(python("pip", &["pip"])?);
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", plain_name, "--dest"]);
    done(pip.arg(&download).arg(package))?;
    let archive = std::fs::read_dir(&download)
        .map_err(|e| e.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.extension() == Some(OsStr::new("gz")))
        .ok_or("pip fetched no source package")?;
    done(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&sources))?;
    found(&sources).ok_or_else(|| format!("the source package has no folder {}", path.display()))
}
