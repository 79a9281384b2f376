//! An opcode as its name and modifiers, each of which must be understood by somebody.

use super::number::Round;
use super::types::Type;

/// `mad.lo.s32`: the name `mad`, and the modifiers that nobody took yet.
#[derive(Clone, Debug)]
pub struct Opcode<'a> {
    pub name: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        Self { name: parts.next().unwrap_or(""), rest: parts.collect() }
    }

    /// Whether `modifier` is there, which stays.
    pub fn has(&self, modifier: &str) -> bool {
        self.rest.contains(&modifier)
    }

    /// Whether `modifier` was there, once.
    pub fn take(&mut self, modifier: &str) -> bool {
        match self.rest.iter().position(|&part| part == modifier) {
            Some(place) => {
                self.rest.remove(place);
                true
            }
            None => false,
        }
    }

    /// The first modifier that `of` knows.
    pub fn take_some<T>(&mut self, of: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (place, found) = self.rest.iter().enumerate().find_map(|(i, part)| Some((i, of(part)?)))?;
        self.rest.remove(place);
        Some(found)
    }

    /// The next type, from the left.
    pub fn ty(&mut self) -> Result<Type, String> {
        self.take_some(Type::named).ok_or_else(|| "a type is missing".into())
    }

    /// The direction of rounding to a float, if one is given.
    pub fn round(&mut self) -> Option<Round> {
        self.take_some(|part| match part {
            "rn" => Some(Round::Nearest),
            "rna" => Some(Round::Away),
            "rz" => Some(Round::Zero),
            "rm" => Some(Round::Down),
            "rp" => Some(Round::Up),
            _ => None,
        })
    }

    /// Whether the first modifier that nobody took is `modifier`.
    pub fn next_is(&self, modifier: &str) -> bool {
        self.rest.first() == Some(&modifier)
    }

    /// Drops all modifiers that `of` accepts.
    pub fn ignore(&mut self, mut of: impl FnMut(&str) -> bool) {
        self.rest.retain(|part| !of(part));
    }

    /// That nothing is left over.
    pub fn finish(&self) -> Result<(), String> {
        match self.rest.first() {
            Some(part) => Err(format!("`.{part}` is not known here")),
            None => Ok(()),
        }
    }
}
