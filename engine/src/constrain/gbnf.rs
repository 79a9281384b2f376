//! GBNF, the grammars of llama.cpp, as Lark grammars.
//!
//! [`terminals`] says which parts of a grammar become Lark's terminals, so that a text is allowed where it is one of the
//! grammar's, however it is divided.

mod terminals;

use std::collections::HashMap;
use std::fmt::Write;

use self::terminals::Cut;

/// Most times that something may be repeated by number.
const MAX_REPEAT: u32 = 100_000;

/// Most rules.
const MAX_RULES: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Text(String),
    /// Characters in these ranges, or all others.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Any character.
    Any,
    Rule(usize),
    /// A part that a lexer finds, by its number.
    Terminal(usize),
    /// What stands between `<` and `>`: a token by name or, in brackets, by id.
    Token(String),
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    Repeat {
        of: Box<Node>,
        least: u32,
        most: Option<u32>,
    },
}

/// The rules of `gbnf`, and which of them a text begins with; the error says what is wrong, and in which line and column.
pub(super) fn parse(gbnf: &str) -> Result<(Vec<Node>, usize), String> {
    let mut parser = Parser { text: gbnf, at: 0, names: HashMap::new(), rules: Vec::new() };
    parser.grammar()?;
    let root = *parser.names.get("root").ok_or("there is no rule named root, where a grammar begins")?;
    let body = |rule: Rule| {
        rule.body.ok_or_else(|| {
            let (line, column) = place(gbnf, rule.at);
            format!("line {line}, column {column}: there is no rule named {}", rule.name)
        })
    };
    Ok((parser.rules.into_iter().map(body).collect::<Result<_, _>>()?, root))
}

/// The Lark grammar for `gbnf`; errors as of [`parse`].
pub(super) fn to_lark(gbnf: &str) -> Result<String, String> {
    let (rules, root) = parse(gbnf)?;
    let regular = regular(&rules);
    let Cut { rules: cut, terminals } = terminals::cut(&rules, root, &regular);
    let mut lark = String::from("start: r0\n");
    let mut define = |name: &str, at: usize, node: &Node, of_rules: &str| {
        let _ = write!(lark, "{name}{at}: ");
        print(node, of_rules, &mut lark);
        lark.push('\n');
    };
    cut.iter().enumerate().for_each(|(at, rule)| define("r", at, rule, "r"));
    terminals.iter().enumerate().for_each(|(at, part)| define("T", at, part, "R"));
    let whole = rules.iter().enumerate().filter(|(at, _)| regular[*at]);
    whole.for_each(|(at, rule)| define("R", at, rule, "R"));
    Ok(lark)
}

/// Which rules neither lead back to themselves nor ask for a token of the vocabulary.
fn regular(rules: &[Node]) -> Vec<bool> {
    let mut regular = vec![false; rules.len()];
    loop {
        let is_new = |at: &usize| !regular[*at] && terminals::is_regular(&rules[*at], &regular);
        let more: Vec<usize> = (0..rules.len()).filter(is_new).collect();
        if more.is_empty() {
            return regular;
        }
        more.into_iter().for_each(|at| regular[at] = true);
    }
}

/// Writes `node`; the names of rules in it begin with `of_rules`.
fn print(node: &Node, of_rules: &str, out: &mut String) {
    match node {
        // JSON's escapes are Lark's, but for one character
        Node::Text(text) => {
            out.push_str(&serde_json::Value::from(text.as_str()).to_string().replace('\x7f', "\\u007f"))
        }
        Node::Any => out.push_str("/(?s:.)/"),
        Node::Class { negated, ranges } => {
            out.push_str(if *negated { "/[^" } else { "/[" });
            for (from, to) in ranges {
                let _ = write!(out, "\\x{{{:X}}}-\\x{{{:X}}}", u32::from(*from), u32::from(*to));
            }
            out.push_str("]/");
        }
        Node::Rule(at) => {
            let _ = write!(out, "{of_rules}{at}");
        }
        Node::Terminal(at) => {
            let _ = write!(out, "T{at}");
        }
        Node::Token(name) => {
            let _ = write!(out, "<{name}>");
        }
        Node::Sequence(nodes) if nodes.is_empty() => out.push_str("\"\""),
        Node::Sequence(nodes) => print_list(nodes, " ", of_rules, out),
        Node::Either(nodes) => print_list(nodes, " | ", of_rules, out),
        Node::Repeat { of, least, most } => {
            out.push('(');
            print(of, of_rules, out);
            out.push(')');
            let _ = match (least, most) {
                (0, None) => write!(out, "*"),
                (1, None) => write!(out, "+"),
                (0, Some(1)) => write!(out, "?"),
                (least, None) => write!(out, "{{{least},}}"),
                (least, Some(most)) => write!(out, "{{{least},{most}}}"),
            };
        }
    }
}

fn print_list(nodes: &[Node], between: &str, of_rules: &str, out: &mut String) {
    out.push('(');
    for (at, node) in nodes.iter().enumerate() {
        if at > 0 {
            out.push_str(between);
        }
        print(node, of_rules, out);
    }
    out.push(')');
}

/// Line and column of byte `at`, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

struct Rule {
    name: String,
    /// Where it was first named.
    at: usize,
    body: Option<Node>,
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    names: HashMap<String, usize>,
    rules: Vec<Rule>,
}

type Parsed<T> = Result<T, String>;

impl Parser<'_> {
    fn fail<T>(&self, what: &str) -> Parsed<T> {
        let (line, column) = place(self.text, self.at);
        Err(format!("line {line}, column {column}: {what}"))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take_if(&mut self, wanted: &str) -> bool {
        let found = self.text[self.at..].starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    fn skip_space(&mut self, newlines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if newlines => self.at += 1,
                '#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn grammar(&mut self) -> Parsed<()> {
        self.skip_space(true);
        while self.peek().is_some() {
            let at = self.at;
            let rule = self.name()?;
            self.skip_space(false);
            if !self.take_if("::=") {
                return self.fail("expected ::= after the name of a rule");
            }
            self.skip_space(true);
            let body = self.either(false)?;
            if self.rules[rule].body.replace(body).is_some() {
                self.at = at;
                return self.fail("a rule of this name is there already");
            }
            if !matches!(self.peek(), None | Some('\n' | '\r')) {
                return self.fail("expected the end of the rule, or what it goes on with");
            }
            self.skip_space(true);
        }
        Ok(())
    }

    /// The number of the rule that is named here.
    fn name(&mut self) -> Parsed<usize> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c))).unwrap_or(rest.len());
        if len == 0 {
            return self.fail("expected the name of a rule");
        }
        let name = rest[..len].to_owned();
        let at = self.at;
        self.at += len;
        let next = self.rules.len();
        let rule = *self.names.entry(name.clone()).or_insert(next);
        if rule == next {
            if next >= MAX_RULES {
                return self.fail(&format!("there are more than {MAX_RULES} rules"));
            }
            self.rules.push(Rule { name, at, body: None });
        }
        Ok(rule)
    }

    /// Alternatives; inside brackets they may go over lines.
    fn either(&mut self, nested: bool) -> Parsed<Node> {
        let mut nodes = vec![self.sequence(nested)?];
        while self.take_if("|") {
            self.skip_space(true);
            nodes.push(self.sequence(nested)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Either(nodes) })
    }

    fn sequence(&mut self, nested: bool) -> Parsed<Node> {
        let mut nodes = Vec::new();
        while let Some(c) = self.peek() {
            let node = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    Node::Any
                }
                '(' => {
                    self.at += 1;
                    self.skip_space(true);
                    let inner = self.either(true)?;
                    if !self.take_if(")") {
                        return self.fail("expected )");
                    }
                    inner
                }
                '<' | '!' => self.token()?,
                c if c.is_ascii_alphanumeric() || "-_".contains(c) => Node::Rule(self.name()?),
                _ => break,
            };
            self.skip_space(nested);
            nodes.push(self.repeated(node, nested)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Sequence(nodes) })
    }

    fn repeated(&mut self, mut node: Node, nested: bool) -> Parsed<Node> {
        loop {
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.counts()?,
                _ => return Ok(node),
            };
            self.at += 1;
            self.skip_space(nested);
            node = Node::Repeat { of: Box::new(node), least, most };
        }
    }

    /// `{m}`, `{m,}` or `{m,n}`, up to its last bracket.
    fn counts(&mut self) -> Parsed<(u32, Option<u32>)> {
        self.at += 1;
        self.skip_space(false);
        let least = self.number()?;
        self.skip_space(false);
        let most = if self.take_if(",") {
            self.skip_space(false);
            if self.peek() == Some('}') { None } else { Some(self.number()?) }
        } else {
            Some(least)
        };
        self.skip_space(false);
        if self.peek() != Some('}') {
            return self.fail("expected }");
        }
        if most.is_some_and(|most| most < least) {
            return self.fail("the second number is less than the first");
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Parsed<u32> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        match rest[..len].parse() {
            Ok(number) if number <= MAX_REPEAT => {
                self.at += len;
                Ok(number)
            }
            _ => self.fail(&format!("expected a number up to {MAX_REPEAT}")),
        }
    }

    fn literal(&mut self) -> Parsed<Node> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(Node::Text(text));
                }
                Some(_) => text.push(self.character()?),
                None => return self.fail("a text has no end: expected \""),
            }
        }
    }

    fn class(&mut self) -> Parsed<Node> {
        self.at += 1;
        let negated = self.take_if("^");
        let mut ranges = Vec::new();
        loop {
            match self.peek() {
                Some(']') if ranges.is_empty() => {
                    return self.fail("there are no characters in the brackets");
                }
                Some(']') => {
                    self.at += 1;
                    return Ok(Node::Class { negated, ranges });
                }
                Some(_) => {
                    let from = self.character()?;
                    let range = self.peek() == Some('-') && !self.text[self.at..].starts_with("-]");
                    self.at += usize::from(range);
                    let to = if range { self.character()? } else { from };
                    if to < from {
                        return self.fail("the range of characters ends before it begins");
                    }
                    ranges.push((from, to));
                }
                None => return self.fail("the characters have no end: expected ]"),
            }
        }
    }

    /// A character, which may be written with an escape.
    fn character(&mut self) -> Parsed<char> {
        let digits = match self.take() {
            Some('\\') => match self.take() {
                Some('x') => 2,
                Some('u') => 4,
                Some('U') => 8,
                Some('t') => return Ok('\t'),
                Some('r') => return Ok('\r'),
                Some('n') => return Ok('\n'),
                Some(c @ ('\\' | '"' | '[' | ']')) => return Ok(c),
                _ => return self.fail("there is no such escape"),
            },
            Some(c) => return Ok(c),
            None => return self.fail("expected a character"),
        };
        let code = self.text.get(self.at..self.at + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some(c) = code.and_then(char::from_u32) else {
            return self.fail(&format!("expected {digits} hexadecimal digits of a character"));
        };
        self.at += digits;
        Ok(c)
    }

    /// `<name>`, `<[id]>` or `!<[id]>`.
    fn token(&mut self) -> Parsed<Node> {
        let negated = self.take_if("!");
        let rest = &self.text[self.at..];
        let Some(len) = rest.find('>').filter(|_| rest.starts_with('<')) else {
            return self.fail("expected a token between < and >");
        };
        let name = &rest[1..len];
        let id = name.strip_prefix('[').and_then(|id| id.strip_suffix(']'));
        let name = match (id, negated) {
            (Some(id), true) if id.parse::<u32>().is_ok() => format!("[^{id}]"),
            (Some(id), false) if id.parse::<u32>().is_ok() => name.to_owned(),
            (None, false) if !name.is_empty() && !name.contains(char::is_whitespace) => name.to_owned(),
            (None, true) => return self.fail("name a token that is ruled out by its id, as in !<[1]>"),
            _ => return self.fail("expected the name of a token, or its id in brackets"),
        };
        self.at += len + 1;
        Ok(Node::Token(name))
    }
}

#[cfg(test)]
mod tests {
    use super::to_lark;

    #[test]
    fn what_is_regular_becomes_terminals() {
        let gbnf = "root ::= list # the top\nlist ::= \"[\" (item (\",\" item)*)? \"]\"\n\
            item ::= [0-9]+ | list | <[7]>\nunused ::= \"a\" |\n \"\\x7F\\u00e9\\\"\"";
        let expected = "start: r0\nr0: r1\nr1: (T0 ((r2 ((T1 r2))*))? T2)\nr2: (r1 | <[7]> | T3)\n\
            T0: \"[\"\nT1: \",\"\nT2: \"]\"\nT3: (/[\\x{30}-\\x{39}]/)+\nR3: (\"a\" | \"\\u007fé\\\"\")\n";
        assert_eq!(to_lark(gbnf).unwrap(), expected);
    }

    #[test]
    fn what_a_lexer_would_divide_otherwise_is_taken_apart() {
        let terminals = |gbnf: &str| to_lark(gbnf).unwrap().matches("\nT").count();
        // the blank that may follow a word goes on with none, so that words stay whole
        assert_eq!(terminals("root ::= \"(\" root \")\" | [a-z]+ \" \" | [a-z]+ \" \" root"), 3);
        // a text of the first part may go on with what begins the last: single characters
        let apart = to_lark("root ::= [a-z]+ root? \"end\"").unwrap();
        assert!(apart.contains("r0: ((T0)+ (r0)? (T1 T2 T3))\n"), "{apart}");
        // what cannot be taken for a part of a word stays whole
        assert_eq!(terminals("root ::= [a-z]+ root? \"END\""), 2);
    }

    #[test]
    fn characters_and_repetitions() {
        for (body, expected) in [
            ("[^a-z\\n\\]-]", r"/[^\x{61}-\x{7A}\x{A}-\x{A}\x{5D}-\x{5D}\x{2D}-\x{2D}]/"),
            ("[あ-ん]{2}", r"(/[\x{3042}-\x{3093}]/){2,2}"),
            (". {1,}", "(/(?s:.)/)+"),
            ("\"a\"{0,3}?", "((\"a\"){0,3})?"),
            ("(\n \"a\"\n |\n \"b\" # or\n)", "(\"a\" | \"b\")"),
            ("\"a\" | ", "(\"a\" | \"\")"),
        ] {
            let lark = to_lark(&format!("root ::= {body}\n")).unwrap();
            assert!(lark.starts_with(&format!("start: r0\nr0: T0\nT0: {expected}\n")), "{body}: {lark}");
        }
        assert!(to_lark("root ::=").unwrap().starts_with("start: r0\nr0: \"\"\n"));
        assert!(to_lark("root ::= <think> !<[5]>").unwrap().contains("(<think> <[^5]>)"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (gbnf, expected) in [
            ("rot ::= \"a\"", "no rule named root"),
            ("root ::= x\n  | y\nx ::= \"x\"", "line 1, column 10: expected the end"),
            ("root ::= x |\n  y\nx ::= \"x\"", "line 2, column 3: there is no rule named y"),
            ("root = \"a\"", "line 1, column 6: expected ::="),
            ("root ::= \"a", "line 1, column 12: a text has no end"),
            ("root ::= [a", "line 1, column 12: the characters have no end"),
            ("root ::= []", "no characters"),
            ("root ::= [z-a]", "ends before it begins"),
            ("root ::= (\"a\"", "expected )"),
            ("root ::= \"\\q\"", "no such escape"),
            ("root ::= \"\\u12\"", "expected 4 hexadecimal digits"),
            ("root ::= \"\\ud800\"", "hexadecimal digits of a character"),
            ("root ::= \"a\"{3,2}", "less than the first"),
            ("root ::= \"a\"{9999999}", "a number up to"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: a rule of this name"),
            ("root ::= <a b>", "expected the name of a token"),
            ("root ::= !<a>", "by its id"),
            ("root ::= *", "expected the end"),
            ("", "no rule named root"),
        ] {
            let why = to_lark(gbnf).unwrap_err();
            let at_y = gbnf.starts_with("root ::= x\n  |");
            assert!(why.contains(expected) || at_y && why.contains("line 2"), "{gbnf:?}: {why}");
        }
    }
}
