//! Programs that ask in each round of a loop whether anybody still waits for them.
//!
//! minijinja ends a program when its steps are used up, but a step may take long: it joins or searches texts of any length.
//! Loops and macros are all that makes steps many, so a question at the beginning of each of them ends a program within
//! the time of what stands between two of them.

use minijinja::{Environment, Error, ErrorKind};

use super::limits;

/// The question, as a program asks it: something that writes nothing. The end of the tag that it stands behind follows.
const QUESTION: &str = "{% if braise_is_waited_for() %}{% endif ";

/// Makes the question known to programs.
pub(super) fn set_up(environment: &mut Environment<'_>) {
    environment.add_function("braise_is_waited_for", || match limits::is_given_up() {
        true => Err(Error::new(ErrorKind::InvalidOperation, "nobody waits any more")),
        false => Ok(false),
    });
}

/// The program `source` with the question behind the beginning of each loop and macro. What it writes is the same, and
/// so are the numbers of its lines.
pub(super) fn with_pulses(source: &str) -> String {
    let (mut program, mut rest) = (String::new(), source);
    while let Some((before, tag)) = next_tag(rest) {
        let (end, name) = match tag.as_bytes()[1] {
            b'#' => (tag.find("#}").map(|at| at + 2), ""),
            b'{' => (end_of(tag, "}}"), ""),
            _ => (end_of(tag, "%}"), tag[2..].trim_start_matches(['-', '+']).trim_start()),
        };
        // what has no end is told by the parser
        let Some(end) = end else { break };
        program.push_str(before);
        program.push_str(&tag[..end]);
        rest = &tag[end..];
        let is = |word: &str| name.strip_prefix(word).is_some_and(|rest| !rest.starts_with(is_of_word));
        if is("for") || is("macro") {
            let sign = tag[..end - 2].chars().next_back().filter(|c| "-+".contains(*c));
            program.push_str(QUESTION);
            program.extend(sign);
            program.push_str("%}");
        } else if is("raw") {
            let end = ends_of_raw(rest).unwrap_or(rest.len());
            program.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    program + rest
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What stands before the next tag, expression or comment, and the text from there on.
fn next_tag(text: &str) -> Option<(&str, &str)> {
    let at = text.as_bytes().windows(2).position(|pair| pair[0] == b'{' && b"%{#".contains(&pair[1]))?;
    Some(text.split_at(at))
}

/// Where a tag or an expression ends, behind `close`; not in one of its texts, nor inside brackets.
fn end_of(tag: &str, close: &str) -> Option<usize> {
    let bytes = tag.as_bytes();
    let (mut quote, mut depth, mut at) = (None, 0_usize, 2);
    while at < bytes.len() {
        match (bytes[at], quote) {
            (b'\\', Some(_)) => at += 1,
            (byte, Some(open)) if byte == open => quote = None,
            (_, Some(_)) => {}
            (byte @ (b'"' | b'\''), None) => quote = Some(byte),
            (b'%', None) if close == "%}" && bytes.get(at + 1) == Some(&b'}') => return Some(at + 2),
            (b'}', None) if depth == 0 && close == "}}" && bytes.get(at + 1) == Some(&b'}') => {
                return Some(at + 2);
            }
            (b'{' | b'[' | b'(', None) => depth += 1,
            (b'}' | b']' | b')', None) => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the tag begins that ends a part which is no program.
fn ends_of_raw(text: &str) -> Option<usize> {
    text.match_indices("{%")
        .map(|(at, _)| at)
        .find(|at| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_and_macros_ask_and_nothing_else_does() {
        let asked = |end: &str| format!("{QUESTION}{end}");
        for (source, end) in [
            ("{% for x in y %}", "%}"),
            ("a {%- for x in {'%}': 1} -%}", "-%}"),
            ("{%+ macro f(x) +%}", "+%}"),
            ("{{ {'a': {}} }}{# {% for #}{%for x in y%}", "%}"),
            ("{% raw %}{% for x in y %}{% endraw %}{% for x in \"\\\"%}\" %}", "%}"),
        ] {
            assert_eq!(with_pulses(&format!("{source} z")), format!("{source}{} z", asked(end)));
        }
        for source in [
            "",
            "{",
            "{{ '{% for x in y %}' }}",
            "{% forx in y %}",
            "{% for x",
            "{% raw %}{% for %}",
            "{# {{",
        ] {
            assert_eq!(with_pulses(source), source);
        }
    }
}
