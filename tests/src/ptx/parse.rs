//! PTX text to declarations and statements, with the names still in them.
//!
//! The grammar is that of the PTX ISA's chapters 4 and 5, as far as compilers write it: no macros, no `#include`, no
//! textures. What an instruction means is decided later (`lower`), so that a kernel that is never launched may use what
//! the interpreter does not know.

use std::collections::HashMap;

use super::ParseError;
use super::lex::{Kind, Token, tokens};
use super::types::{Space, Type};

/// One element of an initializer.
#[derive(Clone, Debug, PartialEq)]
pub enum Initial {
    Bits(u64),
    /// The address of a variable, plus an offset; generic if the flag is set.
    Address(String, i64, bool),
}

/// A variable in some space of memory.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub align: u64,
    /// The type of an element.
    pub ty: Type,
    /// Bytes; 0 for an array without a bound.
    pub size: u64,
    pub initial: Vec<Initial>,
}

/// What an instruction works on, as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, variable, label, function or special register, and an offset (`name+4`).
    Name(String, i64),
    /// An integer, or the bits of a float.
    Number(u64),
    Vector(Vec<Operand>),
    /// `[base+offset]`.
    Address(Box<Operand>, i64),
    /// `a|b`: two results.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`.
    Not(Box<Operand>),
    /// The parenthesized names of a call.
    List(Vec<Operand>),
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub line: u32,
    /// The predicate, and whether it is negated.
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
}

#[derive(Clone, Debug)]
pub enum Statement {
    Label(String),
    /// Registers: name, type and how many (`%r<5>`), or one.
    Registers(String, Type, Option<u32>),
    Variable(Variable),
    /// A table of labels, for `brx.idx`.
    Targets(String, Vec<String>),
    Instruction(Instruction),
    Block(Vec<Statement>),
}

#[derive(Clone, Debug)]
pub struct Function {
    pub entry: bool,
    pub results: Vec<Variable>,
    pub params: Vec<Variable>,
    /// `None` for a function that is declared and not defined.
    pub body: Option<Vec<Statement>>,
    /// `.reqntid` or `.maxntid`, whichever comes last.
    pub threads: Option<Threads>,
}

/// What a kernel says about the size of its blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threads {
    Exactly([u32; 3]),
    AtMost(u32),
}

/// A module's text, read.
#[derive(Debug, Default)]
pub struct Text {
    pub variables: Vec<Variable>,
    pub functions: HashMap<String, Function>,
}

impl Text {
    pub fn read(text: &str) -> Result<Self, ParseError> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let mut module = Self::default();
        while parser.at < parser.tokens.len() {
            parser.declaration(&mut module)?;
        }
        Ok(module)
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.line(), what: what.into() })
    }

    fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    /// Takes the sign if it comes next.
    fn sign(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(Kind::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: char) -> Result<(), ParseError> {
        match self.sign(sign) {
            true => Ok(()),
            false => self.error(format!("`{sign}` expected, found {:?}", self.peek())),
        }
    }

    fn word(&mut self) -> Result<&'a str, ParseError> {
        match self.peek() {
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            other => self.error(format!("a name expected, found {other:?}")),
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Kind::Word(word));
        self.at += usize::from(found);
        found
    }

    /// Past everything on the line of the token before.
    fn skip_line(&mut self) {
        let line = self.tokens[self.at - 1].line;
        while self.tokens.get(self.at).is_some_and(|token| token.line == line) {
            self.at += 1;
        }
    }

    fn skip_past(&mut self, sign: char) {
        while self.at < self.tokens.len() && !self.sign(sign) {
            self.at += 1;
        }
    }

    fn declaration(&mut self, module: &mut Text) -> Result<(), ParseError> {
        let word = self.word()?;
        match word {
            ".version" | ".target" | ".address_size" | ".file" | ".loc" => self.skip_line(),
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".pragma" | ".alias" => self.skip_past(';'),
            ".section" => self.skip_past('}'),
            ".entry" | ".func" => {
                let (name, function) = self.function(word == ".entry")?;
                let declared = module.functions.get(&name).is_some_and(|known| known.body.is_some());
                if !declared {
                    module.functions.insert(name, function);
                }
            }
            _ => match Space::named(word.trim_start_matches('.')) {
                Some(space @ (Space::Global | Space::Const | Space::Shared)) => {
                    module.variables.extend(self.variables(space)?);
                    self.expect(';')?;
                }
                _ => return self.error(format!("`{word}` begins no declaration that is known here")),
            },
        }
        Ok(())
    }

    fn function(&mut self, entry: bool) -> Result<(String, Function), ParseError> {
        let results = if self.sign('(') { self.params()? } else { Vec::new() };
        let name = self.word()?.to_owned();
        let params = if self.sign('(') { self.params()? } else { Vec::new() };
        let mut threads = None;
        loop {
            match self.peek() {
                Some(Kind::Word(".reqntid")) => threads = Some(Threads::Exactly(self.extent()?)),
                Some(Kind::Word(".maxntid")) => {
                    threads =
                        Some(Threads::AtMost(self.extent()?.iter().copied().fold(1, u32::saturating_mul)));
                }
                Some(Kind::Word(".pragma")) => self.skip_past(';'),
                Some(Kind::Sign('{' | ';')) => break,
                Some(_) => self.at += 1,
                None => return self.error("the text ends inside a function"),
            }
        }
        let body = if self.sign(';') { None } else { Some(self.block()?) };
        Ok((name, Function { entry, results, params, body, threads }))
    }

    /// `.reqntid x, y, z`
    fn extent(&mut self) -> Result<[u32; 3], ParseError> {
        self.at += 1;
        let mut extent = [1; 3];
        for (place, size) in extent.iter_mut().enumerate() {
            if place > 0 && !self.sign(',') {
                break;
            }
            *size = self.number()? as u32;
        }
        Ok(extent)
    }

    fn params(&mut self) -> Result<Vec<Variable>, ParseError> {
        let mut params = Vec::new();
        while !self.sign(')') {
            let space = self.word()?;
            if space != ".param" {
                return self.error(format!("parameters in `{space}` are not known here"));
            }
            let (align, ty) = self.typed()?;
            params.push(self.variable(Space::Param, align, ty)?);
            self.sign(',');
        }
        Ok(params)
    }

    /// `.align 4 .v4 .b32`: the alignment and the type of an element. Attributes of pointers are passed over.
    fn typed(&mut self) -> Result<(u64, Type), ParseError> {
        let (mut align, mut vector, mut found) = (0, 1, None);
        while let Some(Kind::Word(word)) = self.peek()
            && word.starts_with('.')
        {
            self.at += 1;
            match word {
                ".align" => align = self.number()?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".generic" | ".attribute" => {
                    if self.sign('(') {
                        self.skip_past(')');
                    }
                }
                _ => match Type::named(&word[1..]) {
                    Some(ty) => found = Some(ty),
                    None => return self.error(format!("`{word}` is no type that is known here")),
                },
            }
        }
        let Some(ty) = found else { return self.error("a type expected") };
        if vector > 1 {
            return self.error("variables of vectors are not known here");
        }
        Ok((align.max(ty.bytes()), ty))
    }

    fn variables(&mut self, space: Space) -> Result<Vec<Variable>, ParseError> {
        let (align, ty) = self.typed()?;
        let mut found = vec![self.variable(space, align, ty)?];
        while self.sign(',') {
            found.push(self.variable(space, align, ty)?);
        }
        Ok(found)
    }

    fn variable(&mut self, space: Space, align: u64, ty: Type) -> Result<Variable, ParseError> {
        let name = self.word()?.to_owned();
        let mut count = Some(1_u64);
        while self.sign('[') {
            let bound = if self.sign(']') { 0 } else { self.number()? };
            count = count.and_then(|n| n.checked_mul(bound));
            if self.peek() == Some(Kind::Sign(']')) {
                self.at += 1;
            }
        }
        let size = count.and_then(|n| n.checked_mul(ty.bytes())).filter(|&n| n < 1 << 32);
        let Some(size) = size else { return self.error(format!("`{name}` is too large")) };
        let mut initial = Vec::new();
        if self.sign('=') {
            self.initial(&mut initial)?;
            if initial.len() as u64 * ty.bytes() > size {
                return self.error(format!("`{name}` has too many initial values"));
            }
        }
        Ok(Variable { name, space, align, ty, size, initial })
    }

    fn initial(&mut self, found: &mut Vec<Initial>) -> Result<(), ParseError> {
        if self.sign('{') {
            while !self.sign('}') {
                self.initial(found)?;
                self.sign(',');
            }
            return Ok(());
        }
        if self.take_word("generic") {
            self.expect('(')?;
            let Operand::Name(name, offset) = self.operand()? else {
                return self.error("a variable expected");
            };
            self.expect(')')?;
            found.push(Initial::Address(name, offset, true));
            return Ok(());
        }
        found.push(match self.operand()? {
            Operand::Number(bits) => Initial::Bits(bits),
            Operand::Name(name, offset) => Initial::Address(name, offset, false),
            _ => return self.error("an initial value expected"),
        });
        Ok(())
    }

    fn block(&mut self) -> Result<Vec<Statement>, ParseError> {
        self.expect('{')?;
        let mut statements = Vec::new();
        while !self.sign('}') {
            self.statement(&mut statements)?;
        }
        Ok(statements)
    }

    fn statement(&mut self, statements: &mut Vec<Statement>) -> Result<(), ParseError> {
        if self.peek() == Some(Kind::Sign('{')) {
            statements.push(Statement::Block(self.block()?));
            return Ok(());
        }
        if self.sign(';') {
            return Ok(());
        }
        let line = self.line();
        let guard = match self.sign('@') {
            true => {
                let negated = self.sign('!');
                Some((self.word()?.to_owned(), negated))
            }
            false => None,
        };
        let word = self.word()?;
        if guard.is_none() && self.sign(':') {
            if self.take_word(".branchtargets") {
                let mut labels = vec![self.word()?.to_owned()];
                while self.sign(',') {
                    labels.push(self.word()?.to_owned());
                }
                self.expect(';')?;
                statements.push(Statement::Targets(word.to_owned(), labels));
            } else {
                statements.push(Statement::Label(word.to_owned()));
            }
            return Ok(());
        }
        match word {
            ".reg" => self.registers(statements)?,
            ".loc" | ".file" => self.skip_line(),
            ".pragma" => self.skip_past(';'),
            _ if word.starts_with('.') => match Space::named(&word[1..]) {
                Some(space) => {
                    statements.extend(self.variables(space)?.into_iter().map(Statement::Variable));
                    self.expect(';')?;
                }
                None => return self.error(format!("`{word}` begins no statement that is known here")),
            },
            _ => {
                let mut operands = Vec::new();
                while !self.sign(';') {
                    operands.push(self.operand()?);
                    if !self.sign(',') && self.peek() != Some(Kind::Sign(';')) {
                        return self.error(format!("`,` or `;` expected, found {:?}", self.peek()));
                    }
                }
                let opcode = word.to_owned();
                statements.push(Statement::Instruction(Instruction { line, guard, opcode, operands }));
            }
        }
        Ok(())
    }

    fn registers(&mut self, statements: &mut Vec<Statement>) -> Result<(), ParseError> {
        let (_, ty) = self.typed()?;
        loop {
            let name = self.word()?.to_owned();
            let mut count = None;
            if self.sign('<') {
                count = Some(self.number()?.min(1 << 20) as u32);
                self.expect('>')?;
            }
            statements.push(Statement::Registers(name, ty, count));
            if !self.sign(',') {
                return self.expect(';');
            }
        }
    }

    fn number(&mut self) -> Result<u64, ParseError> {
        match self.operand()? {
            Operand::Number(bits) => Ok(bits),
            other => self.error(format!("a number expected, found {other:?}")),
        }
    }

    /// A signed integer after `+` or `-`; 0 where neither follows.
    fn offset(&mut self) -> Result<i64, ParseError> {
        match self.peek() {
            Some(Kind::Sign('+')) => {
                self.at += 1;
                Ok(self.number()? as i64)
            }
            Some(Kind::Sign('-')) => Ok(self.number()? as i64),
            _ => Ok(0),
        }
    }

    fn operand(&mut self) -> Result<Operand, ParseError> {
        let first = self.single()?;
        if self.sign('|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.single()?)));
        }
        Ok(first)
    }

    fn list(&mut self, end: char) -> Result<Vec<Operand>, ParseError> {
        let mut found = Vec::new();
        while !self.sign(end) {
            found.push(self.operand()?);
            self.sign(',');
        }
        Ok(found)
    }

    fn single(&mut self) -> Result<Operand, ParseError> {
        if self.sign('[') {
            let base = self.single_without_offset()?;
            let offset = self.offset()?;
            self.expect(']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        let operand = self.single_without_offset()?;
        match operand {
            Operand::Name(name, _) => {
                let offset = self.offset()?;
                Ok(Operand::Name(name, offset))
            }
            other => Ok(other),
        }
    }

    fn single_without_offset(&mut self) -> Result<Operand, ParseError> {
        match self.peek() {
            Some(Kind::Sign('{')) => {
                self.at += 1;
                Ok(Operand::Vector(self.list('}')?))
            }
            Some(Kind::Sign('(')) => {
                self.at += 1;
                Ok(Operand::List(self.list(')')?))
            }
            Some(Kind::Sign('!')) => {
                self.at += 1;
                Ok(Operand::Not(Box::new(self.single()?)))
            }
            Some(Kind::Sign('-')) => {
                self.at += 1;
                let word = self.word()?;
                match literal(word) {
                    Some(bits) if !word.starts_with("0f") && !word.starts_with("0d") => {
                        Ok(Operand::Number(bits.wrapping_neg()))
                    }
                    _ => self.error(format!("`-{word}` is no integer")),
                }
            }
            _ => {
                let word = self.word()?;
                if !word.starts_with(|c: char| c.is_ascii_digit()) {
                    return Ok(Operand::Name(word.to_owned(), 0));
                }
                match literal(word) {
                    Some(bits) => Ok(Operand::Number(bits)),
                    None => self.error(format!("`{word}` is no number")),
                }
            }
        }
    }
}

/// The bits of a literal: decimal, octal, hexadecimal, binary, `0f` and eight or `0d` and sixteen hexadecimal digits.
/// Decimal fractions are refused: their bits would depend on the instruction, and compilers do not write them.
fn literal(word: &str) -> Option<u64> {
    let lower = word.to_ascii_lowercase();
    let float = |prefix: &str, length: usize| lower.strip_prefix(prefix).filter(|hex| hex.len() == length);
    if let Some(hex) = float("0f", 8).or(float("0d", 16)) {
        return u64::from_str_radix(hex, 16).ok();
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    u64::from_str_radix(digits, radix).ok()
}
