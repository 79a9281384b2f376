mod gbnf;

use super::*;
use crate::tokenizer::Vocab;

/// A vocabulary of all bytes, a few words, and two tokens that end a text.
fn tokenizer() -> Tokenizer {
    let bytes: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let words = ["</s>", "<|im_end|>", "{\"", "\":", "true", "name", "▁a", "ab", "abc", "<tool>"];
    let tokens: Vec<&[u8]> = bytes.iter().map(String::as_bytes).chain(words.map(str::as_bytes)).collect();
    let mut types = vec![6; 256];
    types.extend([3, 3, 1, 1, 1, 1, 1, 1, 1, 3]);
    let scores = vec![0.0; tokens.len()];
    let (bos, eos) = (Some(256), Some(256));
    Tokenizer::new(&Vocab { model: "llama", tokens, types, scores, bos, eos, ..Vocab::default() }).unwrap()
}

const END: u32 = 256;
const END_OF_TURN: u32 = 257;

fn grammars() -> Grammars {
    Grammars::new(&tokenizer()).unwrap()
}

fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let logits = vec![1.0; tokenizer().n_tokens() + 3]; // models may have more logits than tokens
    let masked = constraint.mask(&logits).unwrap();
    assert_eq!(masked.len(), logits.len());
    (0..).zip(masked).filter(|(_, logit)| **logit == 1.0).map(|(id, _)| id).collect()
}

/// Whether `text`, byte by byte, is a whole text of `format`, and whether it can be the beginning of one.
fn accepts(format: &Format, text: &str) -> (bool, bool) {
    let mut constraint = grammars().constraint(format).unwrap();
    for byte in text.bytes() {
        if !allowed(&mut constraint).contains(&byte.into()) {
            return (false, false);
        }
        constraint.accept(byte.into()).unwrap();
    }
    (allowed(&mut constraint).contains(&END), true)
}

fn regex(regex: &str) -> Format {
    Format::Regex(regex.to_owned())
}

#[test]
fn only_what_keeps_to_the_grammar_is_allowed() {
    let mut constraint = grammars().constraint(&regex("ab?c|x")).unwrap();
    assert_eq!(allowed(&mut constraint), [97, 120, 263, 264]);
    assert_eq!(constraint.allowed(&[263, 99]), 2);
    assert_eq!(constraint.allowed(&[97, 97]), 1);
    constraint.accept(263).unwrap(); // ab
    assert_eq!(allowed(&mut constraint), [99]);
    assert!(!constraint.is_over());
    constraint.accept(99).unwrap();
    assert!(constraint.is_over(), "nothing can follow");
    assert_eq!(allowed(&mut constraint), [END, END_OF_TURN]);
    assert_eq!(constraint.allowed(&[99]), 0);
}

#[test]
fn an_end_is_allowed_where_the_grammar_can_end() {
    let mut constraint = grammars().constraint(&regex("a+")).unwrap();
    assert_eq!(allowed(&mut constraint), [97]);
    constraint.accept(97).unwrap();
    assert_eq!(allowed(&mut constraint), [97, END, END_OF_TURN]);
    constraint.accept(END_OF_TURN).unwrap();
    assert!(constraint.is_over());
}

#[test]
fn a_token_that_may_not_follow_is_an_error() {
    let mut constraint = grammars().constraint(&regex("a+")).unwrap();
    assert_eq!(constraint.accept(98).unwrap_err().kind(), ErrorKind::Input);
}

#[test]
fn json_is_an_object_with_little_space() {
    for (text, whole) in [("{}", true), ("{\"a\": [1, null, {\"b\": \"é\"}]}", true), ("{\"a\": ", false)] {
        assert_eq!(accepts(&Format::Json, text), (whole, true), "{text}");
    }
    for text in ["[", "\"", "{\"a\": tru ", "{} {", "{'"] {
        assert_eq!(accepts(&Format::Json, text), (false, false), "{text}");
    }
    assert_eq!(accepts(&Format::Json, &format!("{{\n{}\"a\": 1\n}}", " ".repeat(32))), (true, true));
    for space in ["  ", "\n\n"] {
        assert_eq!(accepts(&Format::Json, &format!("{{{space}")), (false, false));
    }
}

#[test]
fn a_schema_is_kept() {
    let schema = r##"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}, "s": {"$ref": "#/$defs/s"}},
        "required": ["n"], "additionalProperties": false, "$defs": {"s": {"enum": ["x", "y"]}}}"##;
    let format = Format::json_schema(schema).unwrap();
    for (text, expected) in [
        (r#"{"n": 12, "s": "y"}"#, (true, true)),
        (r#"{"n":3}"#, (true, true)),
        (r#"{"n": 2}"#, (false, false)),
        (r#"{"n": 4, "s": "z"#, (false, false)),
        (r#"{"m"#, (false, false)),
    ] {
        assert_eq!(accepts(&format, text), expected, "{text}");
    }
}

#[test]
fn lark_and_gbnf() {
    let lark = Format::Lark("start: \"<\" item+ \">\"\nitem: WORD \";\"\nWORD: /[a-z]+/".into());
    assert_eq!(accepts(&lark, "<ab;c;>"), (true, true));
    assert_eq!(accepts(&lark, "<ab;;"), (false, false));
    let gbnf = Format::Gbnf("root ::= \"[\" (root (\",\" root)*)? \"]\" ws | \"1\"\nws ::= [ \\n]*".into());
    for (text, expected) in
        [("[1,[],[[1] ]]", (true, true)), ("[1,", (false, true)), ("[1,]", (false, false))]
    {
        assert_eq!(accepts(&gbnf, text), expected, "{text}");
    }
    let token = grammars().constraint(&Format::Gbnf("root ::= <tool> \"x\"".into()));
    assert_eq!(allowed(&mut token.unwrap()), [265]);
    let empty = Format::Gbnf("root ::= \"\" | \"a\"".into());
    assert_eq!(accepts(&empty, ""), (true, true));
}

#[test]
fn what_cannot_be_used_is_told_with_place_and_cause() {
    let grammars = grammars();
    let deep = "(".repeat(2000);
    for (format, expected) in [
        (regex("a(b"), "unclosed group"),
        (regex("(?=a)"), "look-around"),
        (regex(&deep), "nested"),
        (Format::Lark("start: \"a\" |\nx".into()), "2(2)"),
        (Format::Lark("start: other".into()), "other"),
        (Format::Lark("strt: \"a\"".into()), "start"),
        (Format::Gbnf("root ::= other".into()), "line 1, column 10: there is no rule named other"),
        (Format::JsonSchema(json!({"type": "nothing"})), "nothing"),
        (Format::JsonSchema(json!({"$ref": "#/$defs/x"})), "/$defs/x"),
        (Format::JsonSchema(json!(false)), "nsatisfiable"),
        (Format::JsonSchema(json!({"type": "string", "minLength": 3, "maxLength": 2})), "minLength"),
    ] {
        let error = grammars.constraint(&format).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(text.contains(expected) && !text.contains("backtrace"), "{format:.40?}: {text}");
    }
    let text = Format::json_schema("{\"type\": }").unwrap_err().to_string();
    assert!(text.contains("line 1 column 10"), "{text}");
}

#[test]
fn deep_nesting_takes_no_stack_that_is_not_there() {
    let grammars = grammars();
    let nested = |n: usize| format!("{}\"a\"{}", "(".repeat(n), ")".repeat(n));
    for format in [
        Format::Lark(format!("start: {}", nested(990))),
        Format::Gbnf(format!("root ::= {}", nested(990))),
        regex(&format!("{}a{}", "(".repeat(200), ")".repeat(200))),
    ] {
        if let Err(error) = grammars.constraint(&format) {
            assert_eq!(error.kind(), ErrorKind::Input);
        }
    }
}
