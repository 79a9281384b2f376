//! RWKV's "world" vocabulary: always the longest token that the text begins with. Tokens are byte strings, which the
//! file has escaped as in a Python literal.

use super::prefix::PrefixIndex;

pub(super) struct Rwkv {
    tokens: PrefixIndex,
    unknown: Option<u32>,
}

impl Rwkv {
    /// From the tokens as the file has them.
    pub(super) fn new(tokens: &[&[u8]], unknown: Option<u32>) -> Self {
        let bytes: Vec<Vec<u8>> = tokens.iter().map(|text| unescape(text)).collect();
        Self { tokens: PrefixIndex::new((0..).zip(bytes.iter().map(Vec::as_slice))), unknown }
    }

    /// Appends the ids of `text` to `ids`; a byte that no token begins with is the unknown token, if there is one.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let found = self.tokens.longest(rest);
            ids.extend(found.map(|(_, id)| id).or(self.unknown));
            rest = &rest[found.map_or(1, |(len, _)| len)..];
        }
    }
}

/// The bytes that the text of a token stands for.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let Some((&escaped, after)) = rest.split_first() else { break };
        rest = after;
        bytes.push(match escaped {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => {
                let (digits, after) = rest.split_at(rest.len().min(2));
                rest = after;
                str::from_utf8(digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(b'x')
            }
            other => other,
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_of_bytes_first() {
        let tokens: [&[u8]; 6] = [b"", b"a", b"ab", br"\xc3", br"\n\\", br"\'"];
        let encode = |text, unknown| {
            let mut ids = Vec::new();
            Rwkv::new(&tokens, unknown).encode(text, &mut ids);
            ids
        };
        assert_eq!(encode("aab\n\\'", None), [1, 2, 4, 5]);
        assert_eq!(encode("é\n", Some(0)), [3, 0, 0], "0xa9 has no token, nor the line end alone");
        assert_eq!(encode("é", None), [3]);
    }

    #[test]
    fn escapes_that_are_broken_off_are_no_panic() {
        assert_eq!(unescape(br"\x4"), [4]);
        assert_eq!(unescape(br"\xzz"), b"x");
        assert_eq!(unescape(br"a\"), b"a");
        assert_eq!(unescape("\\xé".as_bytes()), b"x");
    }
}
