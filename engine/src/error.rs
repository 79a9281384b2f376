//! The one error type of this crate: what was wrong, in which file, and what to do next.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing went wrong; callers decide by it, users read the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to open, map, read or write a file.
    Io,
    /// The file is not a GGUF file that can be read (other format, version or byte order).
    NotGguf,
    /// The file says it is GGUF, but its contents contradict themselves or the format.
    Malformed,
    /// The file is sound, but asks for something that braise does not have (architecture, type, tokenizer).
    Unsupported,
    /// A chat template could not be parsed or refused the conversation.
    Template,
    /// More tokens than the context can hold.
    ContextFull,
    /// More tokens, or sequences, than the cache that all sequences share has room for now.
    CacheFull,
    /// An argument that cannot be used (a token id outside the vocabulary, no tokens, a bad option value).
    Input,
    /// There is not enough memory.
    Memory,
    /// The model computed something that is not a number.
    Numeric,
    /// A GPU is missing, has too little memory, or was lost.
    Device,
    /// Somebody asked for an end.
    Cancelled,
}

/// An error with its context. `Display` gives one line: `FILE: what went wrong; next step`.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    file: Option<PathBuf>,
    next: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `what` says what was wrong, without a final stop.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), file: None, next: None, source: None }
    }

    /// An operating system error on `file`.
    pub fn io(file: &Path, doing: &str, e: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, format!("cannot {doing}: {e}")).file(file);
        error.source = Some(Box::new(e));
        error
    }

    /// Names the file, unless one is named already.
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.file.get_or_insert_with(|| file.to_path_buf());
        self
    }

    /// Says what the user can do next.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    /// Names its cause, which `what` quotes.
    #[must_use]
    pub(crate) fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        f.write_str(&self.what)?;
        if let Some(next) = &self.next {
            write!(f, "; {next}")?;
        }
        Ok(())
    }
}
