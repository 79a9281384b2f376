//! Which parts of a grammar a lexer finds, and which are read character by character.
//!
//! Lark has terminals, which a lexer finds, and rules, which a parser does; terminals are what is fast. So the longest
//! parts that are regular become terminals. But a lexer takes as much text as it can and gives nothing back, where GBNF
//! means any division of a text. The two mean the same unless some terminal A ends, what follows it begins with a
//! character c, and a terminal B that is possible in the same place could have gone on with c. Where that may be so, A and
//! B are taken apart into single characters, of which there is one division only:
//!
//! ```text
//! root ::= "(" root ")" | [a-z]* "end"      [a-z]* "end" is one terminal: a regular expression finds its own division
//! root ::= word | word " " root             word and word " " are: a blank goes on with one and follows none
//! root ::= [a-z]+ root? "end"               [a-z] and "e" "n" "d" are: a word goes on with what may follow it
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Node;

/// A grammar over terminals.
pub(super) struct Cut {
    /// Of [`Node::Terminal`], [`Node::Rule`] and [`Node::Token`]; the first is where the grammar begins.
    pub(super) rules: Vec<Node>,
    /// Regular; they refer to rules of the grammar that was cut.
    pub(super) terminals: Vec<Node>,
}

/// Cuts the grammar that begins at rule `root` so that the lexer's division of a text is as good as any.
pub(super) fn cut(rules: &[Node], root: usize, regular: &[bool]) -> Cut {
    let mut split = HashSet::new();
    loop {
        let cut = Cutter::new(rules, regular, &split).cut_from(root);
        let more = ambiguous(&cut, rules);
        if more.is_empty() {
            return cut;
        }
        split.extend(more);
    }
}

/// Whether `node` is found by a regular expression, where those of `regular` are.
pub(super) fn is_regular(node: &Node, regular: &[bool]) -> bool {
    match node {
        Node::Text(_) | Node::Class { .. } | Node::Any => true,
        Node::Rule(at) => regular[*at],
        Node::Token(_) | Node::Terminal(_) => false,
        Node::Sequence(nodes) | Node::Either(nodes) => nodes.iter().all(|node| is_regular(node, regular)),
        Node::Repeat { of, .. } => is_regular(of, regular),
    }
}

/// Whether `node` is one character.
fn is_character(node: &Node) -> bool {
    match node {
        Node::Text(text) => text.chars().count() == 1,
        Node::Class { .. } | Node::Any => true,
        _ => false,
    }
}

struct Cutter<'a> {
    rules: &'a [Node],
    regular: &'a [bool],
    /// Parts that are taken apart.
    split: &'a HashSet<Node>,
    terminals: Vec<Node>,
    known: HashMap<Node, usize>,
    /// Where a rule is in the new grammar, as it is and taken apart.
    places: HashMap<(usize, bool), usize>,
    /// The same in their order there.
    wanted: Vec<(usize, bool)>,
}

impl<'a> Cutter<'a> {
    fn new(rules: &'a [Node], regular: &'a [bool], split: &'a HashSet<Node>) -> Self {
        let (terminals, known, places, wanted) = (Vec::new(), HashMap::new(), HashMap::new(), Vec::new());
        Self { rules, regular, split, terminals, known, places, wanted }
    }

    fn cut_from(mut self, root: usize) -> Cut {
        self.rule(root, false);
        let mut rules = Vec::new();
        while let Some((rule, apart)) = self.wanted.get(rules.len()).copied() {
            rules.push(self.cut(&self.rules[rule], apart));
        }
        Cut { rules, terminals: self.terminals }
    }

    fn rule(&mut self, rule: usize, apart: bool) -> Node {
        let next = self.wanted.len();
        let place = *self.places.entry((rule, apart)).or_insert(next);
        if place == next {
            self.wanted.push((rule, apart));
        }
        Node::Rule(place)
    }

    /// `node` over terminals; `apart`: over single characters.
    fn cut(&mut self, node: &Node, apart: bool) -> Node {
        if is_character(node) || !apart && is_regular(node, self.regular) {
            return self.terminal(node.clone());
        }
        let regular = self.regular;
        // whether a node and its neighbour may be one terminal
        let together = |node: &Node| !apart && is_regular(node, regular);
        match node {
            Node::Text(text) => {
                Node::Sequence(text.chars().map(|c| self.terminal(Node::Text(c.into()))).collect())
            }
            Node::Rule(at) => self.rule(*at, apart),
            Node::Sequence(nodes) => {
                let mut parts = Vec::new();
                for run in nodes.chunk_by(|a, b| together(a) && together(b)) {
                    parts.push(match run {
                        [node] => self.cut(node, apart),
                        run => self.terminal(Node::Sequence(run.to_vec())),
                    });
                }
                Node::Sequence(parts)
            }
            Node::Either(nodes) => {
                let (joined, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| together(node));
                let mut parts: Vec<_> = others.into_iter().map(|node| self.cut(node, apart)).collect();
                match joined[..] {
                    [] => {}
                    [node] => parts.push(self.cut(node, apart)),
                    _ => parts.push(self.terminal(Node::Either(joined.into_iter().cloned().collect()))),
                }
                Node::Either(parts)
            }
            Node::Repeat { of, least, most } => {
                Node::Repeat { of: Box::new(self.cut(of, apart)), least: *least, most: *most }
            }
            Node::Class { .. } | Node::Any | Node::Token(_) | Node::Terminal(_) => node.clone(),
        }
    }

    fn terminal(&mut self, node: Node) -> Node {
        if matches!(&node, Node::Text(text) if text.is_empty()) || node == Node::Sequence(Vec::new()) {
            return Node::Sequence(Vec::new());
        }
        if self.split.contains(&node) {
            return self.cut(&node, true);
        }
        let next = self.terminals.len();
        let at = *self.known.entry(node.clone()).or_insert(next);
        if at == next {
            self.terminals.push(node);
        }
        Node::Terminal(at)
    }
}

/// The terminals that a lexer might divide otherwise than the grammar means.
fn ambiguous(cut: &Cut, rules: &[Node]) -> HashSet<Node> {
    let shapes: Vec<_> = cut.terminals.iter().map(|node| Shape::of(node, rules)).collect();
    let follow = Follow::of(cut, &shapes);
    let mut found = HashSet::new();
    let mut seen = HashSet::new();
    let mut steps = MAX_STEPS;
    for together in follow.sets() {
        let together: Vec<_> = together.iter().copied().filter(|at| *at != ANY_TOKEN).collect();
        for &a in &together {
            for &b in &together {
                if !seen.insert((a, b))
                    || found.contains(&cut.terminals[a]) && found.contains(&cut.terminals[b])
                {
                    continue;
                }
                if !follow.is_safe(a, b, &mut steps) {
                    let both = [&cut.terminals[a], &cut.terminals[b]].into_iter().cloned();
                    found.extend(both.filter(|node| !is_character(node)));
                }
            }
        }
    }
    found
}

/// Most positions of a terminal, and most steps of all comparisons; what takes more counts as ambiguous.
const MAX_POSITIONS: usize = 10_000;
const MAX_STEPS: usize = 10_000_000;
/// Deepest nesting of rules in a terminal.
const MAX_DEPTH: usize = 500;

/// Characters, as ranges without overlap.
type Class = Vec<(u32, u32)>;

fn overlap(a: &Class, b: &Class) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
}

fn class(ranges: &[(char, char)], negated: bool) -> Class {
    let mut ranges: Class = ranges.iter().map(|(from, to)| (u32::from(*from), u32::from(*to))).collect();
    if !negated {
        return ranges;
    }
    ranges.sort_unstable();
    let (mut rest, mut next) = (Class::new(), 0);
    for (from, to) in ranges {
        if next < from {
            rest.push((next, from - 1));
        }
        next = next.max(to + 1);
    }
    rest.push((next, u32::from(char::MAX)));
    rest.retain(|(from, to)| from <= to);
    rest
}

/// A terminal as its positions and which may follow which (Glushkov's automaton). Numbers of repetitions are left out: a
/// shape has all texts of its terminal, and may have more.
#[derive(Default)]
struct Shape {
    /// The characters of a position.
    classes: Vec<Class>,
    next: Vec<BTreeSet<usize>>,
    first: BTreeSet<usize>,
    last: BTreeSet<usize>,
    nullable: bool,
    /// It has too many positions to be looked at.
    unknown: bool,
}

/// The ends of a part of a shape.
#[derive(Default)]
struct Ends {
    first: BTreeSet<usize>,
    last: BTreeSet<usize>,
    nullable: bool,
}

impl Shape {
    fn of(node: &Node, rules: &[Node]) -> Shape {
        let mut shape = Shape::default();
        match shape.add(node, rules, 0) {
            Some(Ends { first, last, nullable }) => Shape { first, last, nullable, ..shape },
            None => Shape { unknown: true, nullable: true, ..Shape::default() },
        }
    }

    fn add(&mut self, node: &Node, rules: &[Node], depth: usize) -> Option<Ends> {
        if depth > MAX_DEPTH {
            return None;
        }
        match node {
            Node::Text(text) => {
                let parts = text
                    .chars()
                    .map(|c| self.character(class(&[(c, c)], false)))
                    .collect::<Option<Vec<_>>>()?;
                self.in_sequence(parts)
            }
            Node::Class { negated, ranges } => self.character(class(ranges, *negated)),
            Node::Any => self.character(class(&[], true)),
            Node::Rule(at) => self.add(&rules[*at], rules, depth + 1),
            Node::Sequence(nodes) => {
                let parts =
                    nodes.iter().map(|node| self.add(node, rules, depth + 1)).collect::<Option<Vec<_>>>()?;
                self.in_sequence(parts)
            }
            Node::Either(nodes) => {
                let mut all = Ends::default();
                for node in nodes {
                    let part = self.add(node, rules, depth + 1)?;
                    all.first.extend(part.first);
                    all.last.extend(part.last);
                    all.nullable |= part.nullable;
                }
                Some(all)
            }
            Node::Repeat { of, least, most } => {
                let mut part = self.add(of, rules, depth + 1)?;
                if *most != Some(1) {
                    self.link(&part.last, &part.first)?;
                }
                part.nullable |= *least == 0;
                Some(part)
            }
            Node::Token(_) | Node::Terminal(_) => None,
        }
    }

    fn character(&mut self, class: Class) -> Option<Ends> {
        let at = self.classes.len();
        if at >= MAX_POSITIONS {
            return None;
        }
        self.classes.push(class);
        self.next.push(BTreeSet::new());
        Some(Ends { first: [at].into(), last: [at].into(), nullable: false })
    }

    fn in_sequence(&mut self, parts: Vec<Ends>) -> Option<Ends> {
        let mut all = Ends { nullable: true, ..Ends::default() };
        for part in parts {
            self.link(&all.last, &part.first)?;
            if all.nullable {
                all.first.extend(&part.first);
            }
            if !part.nullable {
                all.last.clear();
            }
            all.last.extend(part.last);
            all.nullable &= part.nullable;
        }
        Some(all)
    }

    fn link(&mut self, last: &BTreeSet<usize>, first: &BTreeSet<usize>) -> Option<()> {
        if last.len().saturating_mul(first.len()) > MAX_POSITIONS * 10 {
            return None;
        }
        last.iter().for_each(|at| self.next[*at].extend(first));
        Some(())
    }

    /// Whether some text of this shape, with one of `then` behind it, begins a text of `other`.
    fn may_go_on_as(&self, other: &Shape, then: &Class, steps: &mut usize) -> bool {
        let meet = |a: &BTreeSet<usize>, b: &BTreeSet<usize>| -> Vec<(usize, usize)> {
            let pairs = a.iter().flat_map(|a| b.iter().map(|b| (*a, *b)));
            pairs.filter(|(a, b)| overlap(&self.classes[*a], &other.classes[*b])).collect()
        };
        let mut waiting = meet(&self.first, &other.first);
        let mut seen: HashSet<_> = waiting.iter().copied().collect();
        while let Some((a, b)) = waiting.pop() {
            if self.last.contains(&a) && other.next[b].iter().any(|b| overlap(&other.classes[*b], then)) {
                return true;
            }
            let cost = 1 + self.next[a].len() * other.next[b].len();
            *steps = steps.saturating_sub(cost);
            if *steps == 0 {
                return true;
            }
            waiting.extend(meet(&self.next[a], &other.next[b]).into_iter().filter(|pair| seen.insert(*pair)));
        }
        false
    }
}

/// Stands for a token of any text in a set of terminals.
const ANY_TOKEN: usize = usize::MAX;

/// Which terminals may come after which.
struct Follow<'a> {
    cut: &'a Cut,
    shapes: &'a [Shape],
    /// Of each rule: whether it may be empty, what it may begin with, and what may come after it.
    nullable: Vec<bool>,
    first: Vec<BTreeSet<usize>>,
    after_rule: Vec<BTreeSet<usize>>,
    /// What may come after each terminal.
    after: Vec<BTreeSet<usize>>,
}

impl<'a> Follow<'a> {
    fn of(cut: &'a Cut, shapes: &'a [Shape]) -> Self {
        let sets = |n: usize| vec![BTreeSet::new(); n];
        let n = cut.rules.len();
        let (first, after_rule, after) = (sets(n), sets(n), sets(cut.terminals.len()));
        let mut follow = Follow { cut, shapes, nullable: vec![false; n], first, after_rule, after };
        while follow.grow() {}
        follow
    }

    /// Adds what follows from what is known; whether that is something.
    fn grow(&mut self) -> bool {
        let cut = self.cut;
        let before = self.size();
        for (at, rule) in cut.rules.iter().enumerate() {
            self.nullable[at] = self.nullable[at] || self.is_nullable(rule);
            let first = self.begin(rule, &BTreeSet::new());
            self.first[at].extend(first);
            let after = self.after_rule[at].clone();
            self.begin(rule, &after);
        }
        self.size() > before
    }

    fn size(&self) -> usize {
        let sets = self.first.iter().chain(&self.after_rule).chain(&self.after);
        sets.map(BTreeSet::len).sum::<usize>() + self.nullable.iter().filter(|nullable| **nullable).count()
    }

    fn is_nullable(&self, node: &Node) -> bool {
        match node {
            Node::Terminal(at) => self.shapes[*at].nullable,
            Node::Rule(at) => self.nullable[*at],
            Node::Sequence(nodes) => nodes.iter().all(|node| self.is_nullable(node)),
            Node::Either(nodes) => nodes.iter().any(|node| self.is_nullable(node)),
            Node::Repeat { of, least, .. } => *least == 0 || self.is_nullable(of),
            _ => false,
        }
    }

    /// What `node` with `after` behind it may begin with. Notes what comes after what in it.
    fn begin(&mut self, node: &Node, after: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut first = match node {
            Node::Terminal(at) => {
                self.after[*at].extend(after);
                [*at].into()
            }
            Node::Rule(at) => {
                self.after_rule[*at].extend(after);
                self.first[*at].clone()
            }
            Node::Sequence(nodes) => {
                return nodes.iter().rev().fold(after.clone(), |after, node| self.begin(node, &after));
            }
            Node::Either(nodes) => {
                let mut first = BTreeSet::new();
                nodes.iter().for_each(|node| first.extend(self.begin(node, after)));
                first
            }
            Node::Repeat { of, most: Some(1), .. } => self.begin(of, after),
            Node::Repeat { of, .. } => {
                let mut again = self.begin(of, after);
                again.extend(after);
                self.begin(of, &again)
            }
            Node::Token(name) if name.starts_with("[^") => [ANY_TOKEN].into(),
            _ => BTreeSet::new(),
        };
        if self.is_nullable(node) {
            first.extend(after);
        }
        first
    }

    /// Terminals that may be possible in one place.
    fn sets(&self) -> impl Iterator<Item = &BTreeSet<usize>> {
        self.first.first().into_iter().chain(&self.after)
    }

    /// Whether `a`, where it ends and the grammar goes on, cannot be taken for the beginning of `b`.
    fn is_safe(&self, a: usize, b: usize, steps: &mut usize) -> bool {
        let (shapes, mut then) = (self.shapes, Class::new());
        for &next in &self.after[a] {
            match shapes.get(next) {
                Some(shape) if !shape.unknown => {
                    shape.first.iter().for_each(|at| then.extend(&shape.classes[*at]));
                }
                _ => then = class(&[], true),
            }
        }
        let unknown = shapes[a].unknown || shapes[b].unknown;
        then.is_empty() || !unknown && !shapes[a].may_go_on_as(&shapes[b], &then, steps)
    }
}
