//! GBNF means what it means to llama.cpp: a text is allowed where some division of it is the grammar's.

use std::collections::{BTreeSet, HashMap};

use super::{END, accepts, allowed, grammars};
use crate::constrain::gbnf::{Node, parse};
use crate::constrain::{Constraint, Format};

#[track_caller]
fn check(gbnf: &str, whole: &[&str], wrong: &[&str]) {
    let format = Format::Gbnf(gbnf.into());
    for text in whole {
        assert_eq!(accepts(&format, text), (true, true), "{gbnf}: {text}");
    }
    for text in wrong {
        assert!(!accepts(&format, text).0, "{gbnf}: {text}");
    }
}

/// What llama.cpp's own tests of grammars (tests/test-grammar-integration.cpp) ask of them, in other examples.
#[test]
fn sums_calls_and_lists() {
    check(
        "root ::= sum\nsum ::= product (\"+\" product)*\nproduct ::= digits\ndigits ::= [0-9]+",
        &["7", "10+20+3", "99+1"],
        &["", "+", "1+", "1++2", "1a", "*2"],
    );
    check(
        "root ::= e\ne ::= t ws ((\"+\"|\"-\") ws t)*\nt ::= f ws ((\"*\"|\"/\") ws f)*\n\
         f ::= number | name | \"(\" e \")\" | call\nnumber ::= [0-9]+\nname ::= [a-zA-Z_][a-zA-Z0-9_]*\n\
         call ::= name ws \"(\" (e (\",\" ws e)*)? \")\"\nws ::= [ \\t\\n\\r]?",
        &["7", "y", "a1*b2", "(p-q)/(r+2)", "go()", "go(1, x + 2)", "f(g(1),h(a,b)) * 3", "3 * (4 + k)"],
        &["", "-", "3y", "f(,)", "f(1 2)", "(a", "a)", "4 +", "f(g(x)", "a ** b"],
    );
}

#[test]
fn any_character_is_one_whatever_its_bytes() {
    check(
        "root ::= .. \"mid\" ..",
        &["mimidid", "aémid🔵!"],
        &["amidbb", "aamidb", "aaamidbb", "🔵🟠mid🔵🟠✅"],
    );
}

#[test]
fn repetitions() {
    check("root ::= \"a\"*", &["", "a", "aaaaaaa"], &["b", "aab", "ba"]);
    check("root ::= \"a\"+", &["a", "aaaaaaa"], &["", "b", "aab"]);
    check("root ::= \"a\"?", &["", "a"], &["aa", "b"]);
    check("root ::= [xy]{3}", &["xyx", "yyy"], &["", "xy", "xyxy"]);
    check("root ::= [xy]{3,}", &["xyx", "yyyyyy"], &["", "xy"]);
    check("root ::= [xy]{0,3}", &["", "y", "xyx"], &["xyxy"]);
    check(
        "root ::= (\"#\" [0-9]{2} \";\"?){2,3}",
        &["#12;#34", "#12#34#56;"],
        &["", "#12", "#1;#2", "#12#34#56#78"],
    );
    check("root ::= ( [x]* )*", &["", "x", "xxx"], &["y", "xy"]);
    check(
        "root ::= c+ v* c? (v c)*\nv ::= [aeiou]\nc ::= [bcdfg]",
        &["bad", "bb", "dabeg", "deaeb", "geee"],
        &["ebb", "bade", "baadd"],
    );
}

#[test]
fn a_text_is_allowed_however_it_is_divided() {
    check("root ::= [a-z]* \"end\"", &["end", "endend", "amend", "eend"], &["en", "ende", "END"]);
    check(
        "root ::= \"(\" root \")\" | [a-z]* \"end\"",
        &["end", "(endend)", "((eeend))"],
        &["(end", "(en)", "ende"],
    );
    check(
        "root ::= [ab]+ root \"ab\" | \".\"",
        &["ab.ab", "aabb.abab", "b.ab"],
        &["ab.", "a.ba", "ab.ababab"],
    );
    check("root ::= word | word \"e\" root\nword ::= [a-f]+", &["a", "e", "aea", "eee"], &["", "g"]);
    check("root ::= \"a\" | \"ab\" root | \"b\" root", &["a", "aba", "abba", "ba"], &["ab", "aa", "aab"]);
    check("root ::= s root? s\ns ::= \" \"?", &["", " ", "     "], &["x"]);
}

/// Where the texts of `node` that begin at `at` end, as far as `known` says where those of the rules do.
fn ends(
    node: &Node,
    text: &[char],
    at: usize,
    known: &HashMap<(usize, usize), BTreeSet<usize>>,
) -> BTreeSet<usize> {
    let one = |fits: bool| if fits { [at + 1].into() } else { BTreeSet::new() };
    let after = |node: &Node, starts: &BTreeSet<usize>| -> BTreeSet<usize> {
        starts.iter().flat_map(|at| ends(node, text, *at, known)).collect()
    };
    match node {
        Node::Text(part) => {
            let part: Vec<char> = part.chars().collect();
            if text[at..].starts_with(&part) { [at + part.len()].into() } else { BTreeSet::new() }
        }
        Node::Any => one(at < text.len()),
        Node::Class { negated, ranges } => one(text
            .get(at)
            .is_some_and(|c| ranges.iter().any(|(from, to)| (from..=to).contains(&c)) != *negated)),
        Node::Rule(rule) => known.get(&(*rule, at)).cloned().unwrap_or_default(),
        Node::Sequence(nodes) => nodes.iter().fold([at].into(), |starts, node| after(node, &starts)),
        Node::Either(nodes) => nodes.iter().flat_map(|node| ends(node, text, at, known)).collect(),
        Node::Repeat { of, least, most } => {
            let (mut starts, mut found) = ([at].into(), BTreeSet::new());
            for n in 0..=most.unwrap_or(least + text.len() as u32 + 1) {
                if n >= *least {
                    found.extend(&starts);
                }
                starts = after(of, &starts);
            }
            found
        }
        Node::Token(_) | Node::Terminal(_) => panic!("are not written here"),
    }
}

/// Whether `text` is one of the grammar's, found out without any parser.
fn is_text_of(rules: &[Node], root: usize, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut known: HashMap<(usize, usize), BTreeSet<usize>> = HashMap::new();
    loop {
        let mut grown = false;
        for (rule, node) in rules.iter().enumerate() {
            for at in 0..=text.len() {
                let found = ends(node, &text, at, &known);
                grown |= known.insert((rule, at), found.clone()).unwrap_or_default() != found;
            }
        }
        if !grown {
            return known[&(root, 0)].contains(&text.len());
        }
    }
}

fn random_node(rng: &mut fastrand::Rng, depth: usize) -> String {
    let part = |rng: &mut fastrand::Rng| random_node(rng, depth - 1);
    match rng.u32(0..if depth == 0 { 6 } else { 12 }) {
        0 => "\"a\"".into(),
        1 => "\"b\"".into(),
        2 => "\"ab\"".into(),
        3 => "[ab]".into(),
        4 => "[^b]".into(),
        5 => rng.choice(["root", "x", "y"]).expect("is not empty").to_owned(),
        6 | 7 => format!("({} {})", part(rng), part(rng)),
        8 | 9 => format!("({} | {})", part(rng), part(rng)),
        10 => format!("({}){}", part(rng), rng.choice(["*", "+", "?"]).expect("is not empty")),
        _ => format!("({}){{1,2}}", part(rng)),
    }
}

#[test]
fn random_grammars_allow_their_texts_and_no_others() {
    const LONGEST: usize = 5;
    let (grammars, mut tried, mut whole) = (grammars(), 0, 0);
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let gbnf =
            ["root", "x", "y"].map(|name| format!("{name} ::= {}\n", random_node(&mut rng, 3))).concat();
        let (rules, root) = parse(&gbnf).expect("is a grammar");
        let mut waiting = vec![(String::new(), grammars.constraint(&Format::Gbnf(gbnf.clone())).ok())];
        while let Some((text, constraint)) = waiting.pop() {
            // a grammar that ends in what never ends has places where nothing can follow
            let can_go_on = |constraint: &mut Constraint| constraint.mask(&[0.0; 300]).is_ok();
            let next = constraint.and_then(|mut constraint: Constraint| {
                can_go_on(&mut constraint).then(|| (allowed(&mut constraint), constraint))
            });
            let ends = next.as_ref().is_some_and(|(next, _)| next.contains(&END));
            assert_eq!(ends, is_text_of(&rules, root, &text), "{gbnf}{text:?}");
            (tried, whole) = (tried + 1, whole + u32::from(ends));
            if text.len() == LONGEST {
                continue;
            }
            for c in "abc".chars() {
                let follows = next.as_ref().filter(|(next, _)| next.contains(&u32::from(c)));
                let constraint = follows.map(|(_, constraint)| {
                    let mut constraint = constraint.clone();
                    constraint.accept(c.into()).expect("is allowed");
                    constraint
                });
                waiting.push((format!("{text}{c}"), constraint));
            }
        }
    }
    assert!(whole > 500 && tried > 10 * whole, "{tried} texts, of which {whole} are whole");
}
