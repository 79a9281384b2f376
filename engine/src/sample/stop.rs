//! Stop strings: a generation ends where one of them begins, also when it is spread over tokens.

/// Lets text pass until a stop string comes up, and holds back what may be the beginning of one.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

/// What a [`StopMatcher`] let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text that is certainly before any stop string; may be empty.
    pub text: String,
    /// Whether a stop string has come; nothing passes after it.
    pub stopped: bool,
}

impl StopMatcher {
    /// A matcher for `stops`, of which empty ones are left out. The stop string that is complete first ends the
    /// text, however the text is cut into pieces.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Passed {
        if self.stopped {
            return Passed { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop.len())));
        if let Some((start, _)) = found.min_by_key(|&(start, len)| (start + len, start)) {
            self.stopped = true;
            self.held.truncate(start);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let rest = self.held.split_off(self.undecided());
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// Ends the text: what was held back is no stop string after all.
    pub fn finish(self) -> String {
        self.held
    }

    /// Where the held text may begin a stop string, or its end.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let begins = |&at: &usize| {
            self.stops.iter().any(|stop| stop.as_bytes().starts_with(&self.held.as_bytes()[at..]))
        };
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(begins)
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All text that passes when `text` is cut before each position whose bit in `cuts` is set.
    fn passed(stops: &[&str], text: &str, cuts: u32) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().copied());
        let (mut out, mut stopped, mut piece) = (String::new(), false, String::new());
        for (at, c) in text.chars().enumerate() {
            if cuts >> at & 1 == 1 {
                let passed = matcher.push(&std::mem::take(&mut piece));
                out.push_str(&passed.text);
                stopped = passed.stopped;
            }
            piece.push(c);
        }
        let passed = matcher.push(&piece);
        out.push_str(&passed.text);
        stopped |= passed.stopped;
        out.push_str(&matcher.finish());
        (out, stopped)
    }

    #[test]
    fn the_result_does_not_depend_on_how_the_text_is_cut() {
        for (stops, text, expected, stopped) in [
            (&["END"][..], "aEENDb", "aE", true),
            (&["END"], "aEENx", "aEENx", false),
            (&["END"], "aEN", "aEN", false),
            (&["abab", "aba"], "xababa", "x", true),
            (&["abc", "b"], "xabc", "xa", true),
            (&["\n\n", "é!"], "a\né\né!", "a\né\n", true),
            (&["🙂🙂"], "a🙂b🙂🙂c", "a🙂b", true),
            (&[""], "ab", "ab", false),
            (&[], "ab", "ab", false),
        ] {
            for cuts in 0..1 << text.chars().count() {
                assert_eq!(
                    passed(stops, text, cuts),
                    (expected.to_owned(), stopped),
                    "{stops:?} {text:?} {cuts:b}"
                );
            }
        }
    }

    #[test]
    fn holds_back_no_more_than_needed() {
        let mut matcher = StopMatcher::new(["<|end|>"]);
        assert_eq!(matcher.push("Hello <"), Passed { text: "Hello ".into(), stopped: false });
        assert_eq!(matcher.push("b> <|e"), Passed { text: "<b> ".into(), stopped: false });
        assert_eq!(matcher.push("nd|> more"), Passed { text: String::new(), stopped: true });
        assert_eq!(matcher.push("more"), Passed { text: String::new(), stopped: true });
    }
}
