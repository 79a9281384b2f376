//! Where results go: standard output, tables, and files that appear whole or not at all.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use tempfile::{Builder, NamedTempFile};

use crate::failure::OutputClosed;

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Markdown, to be read
    Md,
    /// JSON, for scripts
    Json,
}

/// Standard output. A reader that goes away is told apart from a failure by [`OutputClosed`].
pub struct Stdout(io::Stdout);

/// Opens standard output.
pub fn stdout() -> Stdout {
    Stdout(io::stdout())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(explain)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(explain)
    }
}

fn explain(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(e.kind(), OutputClosed),
        kind => {
            io::Error::new(kind, format!("cannot write to standard output: {e}; see where it is sent to"))
        }
    }
}

/// Writes `text` to standard output.
pub fn print(text: &str) -> Result<()> {
    let mut out = stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes `text` to standard error, as a line. Nobody can be told that this failed.
pub fn notice(text: impl Display) {
    let text = text.to_string();
    let _ = writeln!(io::stderr(), "{}", text.strip_suffix('\n').unwrap_or(&text));
}

/// Writes `value` to standard output as JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A Markdown table; the columns whose numbers are in `right` are aligned to the right.
pub fn markdown(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header.to_vec()).add_rows(rows);
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// A file for results. A regular file appears under its name only when it is whole; a device or pipe is written to
/// as it stands, since nothing may take its place.
pub struct OutFile {
    path: PathBuf,
    sink: Sink,
}

enum Sink {
    Whole(NamedTempFile),
    Stream(File),
}

impl OutFile {
    /// Opens `path` for writing; an existing regular file stays as it is until [`OutFile::commit`].
    pub fn create(path: &Path) -> Result<Self> {
        let cannot_create = |e| refused(path, "create the file", &e);
        let is_stream = path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir());
        let sink = if path.is_dir() {
            return Err(anyhow!("{} is a folder; name a file in it", path.display()));
        } else if is_stream {
            Sink::Stream(File::options().write(true).open(path).map_err(cannot_create)?)
        } else {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut builder = Builder::new();
            builder.prefix(".braise-");
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the user's umask
            Sink::Whole(builder.tempfile_in(folder).map_err(cannot_create)?)
        };
        Ok(Self { path: path.to_owned(), sink })
    }

    /// Puts the finished file under its name.
    pub fn commit(self) -> Result<()> {
        match self.sink {
            Sink::Whole(file) => {
                file.persist(&self.path)
                    .map_err(|e| refused(&self.path, "put the file in place", &e.error))?;
            }
            Sink::Stream(_) => {}
        }
        Ok(())
    }
}

/// An error on a file for results, with what to do about it.
fn refused(path: &Path, doing: &str, e: &io::Error) -> io::Error {
    use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let next = match e.kind() {
        PermissionDenied | ReadOnlyFilesystem => "check its permissions",
        StorageFull | QuotaExceeded | FileTooLarge => "free some space",
        _ => "check the path",
    };
    io::Error::new(e.kind(), format!("{}: cannot {doing}: {e}; {next}, or name another file", path.display()))
}

impl Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.sink {
            Sink::Whole(file) => file.write(bytes),
            Sink::Stream(file) => file.write(bytes),
        };
        written.map_err(|e| refused(&self.path, "write", &e))
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Whole(file) => file.flush(),
            Sink::Stream(file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("out.bin");
        let mut file = OutFile::create(&path).expect("is created");
        file.write_all(b"half").expect("is written");
        drop(file);
        assert_eq!(dir.path().read_dir().expect("is readable").count(), 0);

        std::fs::write(&path, b"old").expect("is written");
        let mut file = OutFile::create(&path).expect("is created");
        file.write_all(b"new").expect("is written");
        assert_eq!(std::fs::read(&path).expect("is readable"), b"old");
        file.commit().expect("is put in place");
        assert_eq!(std::fs::read(&path).expect("is readable"), b"new");
    }

    #[test]
    fn a_folder_cannot_be_a_result() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(OutFile::create(dir.path()).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_device_is_an_error_that_names_it() {
        let mut file = OutFile::create(Path::new("/dev/full")).expect("opens");
        let error = file.write_all(b"x").expect_err("is full");
        assert!(error.to_string().contains("/dev/full: cannot write"), "{error}");
    }

    #[test]
    fn markdown_aligns_numbers() {
        let text =
            markdown(&["a", "n"], &[1], [vec!["x".into(), "1".into()], vec!["yy".into(), "22".into()]]);
        assert_eq!(text, "| a  |  n |\n|----|----|\n| x  |  1 |\n| yy | 22 |\n");
    }
}
