//! Names of models: `family:size[-quant]`, as in `smollm2:135m-q4_1`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// What is before and after the colon. The second part, the tag, may be shortened or left out where a user names
/// a model; it is whole where a file is named.
///
/// Both parts begin with a letter or digit and hold no path separator: a name is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Such as `smollm2`.
    pub family: String,
    /// Such as `135m-q4_1`, `135m`, or nothing for the family's default.
    pub tag: Option<String>,
}

impl Name {
    /// A name of which both parts are known.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if a part cannot be one of a name.
    pub fn new(family: &str, tag: &str) -> Result<Self> {
        format!("{family}:{tag}").parse()
    }

    /// The name under which a file called `file` is kept: the family is what comes before the size (`7b`, `135m`,
    /// `8x22b`), so that `SmolLM2-135M-Instruct.Q4_1.gguf` becomes `smollm2:135m-instruct.q4_1`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if nothing of it can be in a name.
    pub fn from_file_name(file: &str) -> Result<Self> {
        let lower = file.to_lowercase();
        let stem = lower.strip_suffix(".gguf").unwrap_or(&lower);
        let clean: String = stem.chars().map(|c| if is_name_char(c) { c } else { '-' }).collect();
        let clean = clean.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let pieces: Vec<&str> = clean.split('-').collect();
        let size = pieces.iter().skip(1).position(|piece| is_size(piece));
        let name = match size {
            Some(at) => Self::new(&pieces[..=at].join("-"), &pieces[at + 1..].join("-")),
            None => Self::new(clean, "latest"),
        };
        name.map_err(|_| {
            let what = format!("cannot make a model name of the file name {file:?}");
            Error::new(ErrorKind::Input, what).next("rename the file")
        })
    }

    /// Whether a file's name `full` is one that `self` may stand for: the same, or longer after a `-`.
    pub fn covers(&self, full: &Name) -> bool {
        let (Some(tag), Some(full_tag)) = (&self.tag, &full.tag) else { return self.family == full.family };
        let rest = full_tag.strip_prefix(tag.as_str());
        self.family == full.family && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        let (family, tag) = match lower.split_once(':') {
            Some((family, tag)) => (family, Some(tag)),
            None => (lower.as_str(), None),
        };
        for part in [Some(family), tag].into_iter().flatten() {
            if !part.starts_with(|c: char| c.is_ascii_alphanumeric()) || !part.chars().all(is_name_char) {
                return Err(Error::new(ErrorKind::Input, format!("{text:?} is no name of a model"))
                    .next("names look like smollm2:135m, paths end with .gguf"));
            }
        }
        Ok(Self { family: family.to_owned(), tag: tag.map(str::to_owned) })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.family)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// `135m`, `0.6b`, `8x22b`.
fn is_size(piece: &str) -> bool {
    let Some(number) = piece.strip_suffix(['b', 'm']) else { return false };
    let is_number =
        |part: &str| part.parse::<f32>().is_ok() && part.starts_with(|c: char| c.is_ascii_digit());
    number.split('x').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("is a name")
    }

    #[test]
    fn names_are_read_in_any_case() {
        assert_eq!(name("SmolLM2:135M-Q4_1"), Name::new("smollm2", "135m-q4_1").expect("is a name"));
        assert_eq!(name("smollm2").tag, None);
        assert_eq!(name("qwen2.5:0.5b").to_string(), "qwen2.5:0.5b");
    }

    #[test]
    fn what_could_leave_the_store_is_no_name() {
        let bad =
            ["", ":", "a:", ":a", "..", "../x", "a/b", "a:../b", "a:b/c", "a:b:c", "a b", ".a", "-a", "a:-b"];
        for text in bad.into_iter().chain(["a\\b", "a\0", "ä:1b", "a:.b"]) {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_short_name_covers_whole_parts_only() {
        let full = name("smollm2:135m-q4_1");
        assert!(
            ["smollm2", "smollm2:135m", "smollm2:135m-q4_1"].iter().all(|short| name(short).covers(&full))
        );
        assert!(
            !["smollm", "smollm2:13", "smollm2:135m-q4", "smollm2:q4_1"]
                .iter()
                .any(|s| name(s).covers(&full))
        );
    }

    #[test]
    fn file_names_become_names() {
        let cases = [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2:135m-instruct.q4_1"),
            ("Mixtral-8x7B-v0.1-Q4_K_M.GGUF", "mixtral:8x7b-v0.1-q4_k_m"),
            ("Meta-Llama-3.2-1B-Q8_0.gguf", "meta-llama-3.2:1b-q8_0"),
            ("my model (2).gguf", "my-model--2:latest"),
            ("7b.gguf", "7b:latest"),
        ];
        for (file, expected) in cases {
            assert_eq!(Name::from_file_name(file).expect("has a name").to_string(), expected, "{file}");
        }
        assert!(Name::from_file_name("....gguf").is_err());
    }
}
