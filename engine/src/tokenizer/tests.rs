//! The whole way on vocabularies small enough to work out by hand.

use super::*;

/// A byte-level vocabulary: a few texts and merges, one control and two user-defined tokens.
fn bpe<'a>() -> Vocab<'a> {
    let tokens = [
        "h",
        "e",
        "l",
        "o",
        "Ġ",
        "w",
        "r",
        "d",
        "ll",
        "he",
        "hell",
        "hello",
        "Ġw",
        "<|im_end|>",
        "<tool>",
        "<tool>>",
    ];
    let merges = ["l l", "h e", "Ġ w", "he ll", "hell o", "o w"];
    let mut types = vec![1; tokens.len()];
    types[13..].copy_from_slice(&[3, 4, 4]);
    Vocab {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: tokens.map(str::as_bytes).to_vec(),
        types,
        merges: merges.map(str::as_bytes).to_vec(),
        bos: Some(0),
        eos: Some(7),
        ..Vocab::default()
    }
}

/// A SentencePiece vocabulary; 3 and 4 are the bytes of `é`.
fn spm<'a>() -> Vocab<'a> {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "h", "i", "hi", "▁h", "▁hi", "ih", "x"];
    Vocab {
        model: "llama",
        tokens: tokens.map(str::as_bytes).to_vec(),
        types: vec![2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 5],
        scores: vec![0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0, -3.0, -0.5, -9.0],
        ..Vocab::default()
    }
}

fn new(vocab: &Vocab<'_>) -> Tokenizer {
    Tokenizer::new(vocab).unwrap()
}

#[test]
fn bpe_merges_by_rank_inside_words() {
    let tokenizer = new(&bpe());
    let encode = |text| tokenizer.encode(text, Special::AsText);
    assert_eq!(encode("hello"), [11]);
    assert_eq!(encode("hello hell"), [11, 4, 10], "words do not merge over their border");
    assert_eq!(encode("lllo"), [8, 2, 3], "equal ranks from the left");
    assert_eq!(encode(" wow"), [12, 3, 5], "`o w` makes a text that is no token: it is spelled out");
    assert_eq!(encode("hzo"), [0, 3], "no token for the byte z");
    assert!(encode("").is_empty());
}

#[test]
fn llama_bpe_takes_words_that_are_tokens_whole() {
    let mut vocab = bpe();
    vocab.tokens[8] = b"wor"; // no merge leads here
    assert_eq!(new(&vocab).encode("wor", Special::AsText), [5, 3, 6]);
    vocab.pre = Some("llama-bpe");
    assert_eq!(new(&vocab).encode("wor", Special::AsText), [8]);
}

#[test]
fn special_tokens_only_where_asked_and_user_defined_ones_always() {
    let tokenizer = new(&bpe());
    assert_eq!(tokenizer.encode("h<|im_end|>e", Special::Parse), [0, 13, 1]);
    assert_eq!(
        tokenizer.encode("<|im_end|>e", Special::AsText),
        [1, 7, 1],
        "letters without tokens are left out"
    );
    let infill = new(&Vocab { tokens: [&bpe().tokens[..15], &[b"<fim_prefix>"]].concat(), ..bpe() });
    assert_eq!(infill.encode("<fim_prefix>", Special::AsText), [6, 1], "control, whatever the file says");
    assert_eq!(tokenizer.encode("h<tool>>e<tool>", Special::AsText), [0, 15, 1, 14]);
}

#[test]
fn segments_are_one_text_in_which_users_write_no_control_tokens() {
    let tokenizer = new(&bpe());
    let parse = |text| Segment { text, special: Special::Parse };
    let user = |text| Segment { text, special: Special::AsText };
    let encode = |segments: &[Segment<'_>]| tokenizer.encode_segments(segments);
    assert_eq!(encode(&[parse("hel"), user("lo")]), [11], "words go on");
    assert_eq!(
        encode(&[parse("h<|im_end|>"), user("h<|im_end|>"), parse("<|im_end|>")]),
        [0, 13, 0, 1, 7, 13]
    );
    assert_eq!(encode(&[parse("<|im_"), user("end|>")]), [1, 7], "nor half of one");
    assert_eq!(encode(&[user("<|im_"), parse("end|>")]), [1, 7]);
    assert_eq!(encode(&[parse("<|im_"), parse("end|>")]), [13]);
    assert_eq!(encode(&[parse("<|im_"), user(""), parse("end|>")]), [1, 7], "nothing keeps halves apart");
    assert_eq!(encode(&[user("<to"), parse("ol>")]), [14], "user-defined ones are text");
    assert!(encode(&[]).is_empty());

    let with_bos = new(&Vocab { add_bos: Some(true), ..bpe() });
    let bos = tokenizer.encode_chat_segments(&[user("e")]);
    assert_eq!((bos, with_bos.encode_chat_segments(&[user("e")])), (vec![1], vec![0, 1]));
    assert_eq!(with_bos.encode_chat_segments(&[parse("he")]), [0, 9]);
    for tokenizer in [&tokenizer, &with_bos] {
        assert_eq!(tokenizer.encode_chat_segments(&[parse("hhhe")]), [0, 9], "one BOS is enough");
    }
}

#[test]
fn bos_and_eos_as_the_file_says() {
    let mut vocab = bpe();
    assert_eq!(new(&vocab).encode_prompt("e", Special::Parse), [1], "by default none");
    (vocab.add_bos, vocab.add_eos) = (Some(true), Some(true));
    assert_eq!(new(&vocab).encode_prompt("e", Special::Parse), [0, 1, 7]);
    assert_eq!(new(&vocab).encode("e", Special::Parse), [1], "a part of a prompt has none");
    vocab.bos = Some(999);
    assert_eq!(Tokenizer::new(&vocab).err().unwrap().kind(), ErrorKind::Malformed);

    assert_eq!(new(&spm()).encode_prompt("hi", Special::Parse), [1, 10], "SentencePiece's default: BOS 1");
}

#[test]
fn end_tokens_are_those_the_file_names_and_those_known_by_text() {
    let tokenizer = new(&Vocab { eot: Some(4), eom: Some(999), ..bpe() });
    assert_eq!(tokenizer.end_tokens(), [4, 7, 13]);
    assert!(tokenizer.is_end(13) && !tokenizer.is_end(0));
    assert_eq!(tokenizer.token("<tool>"), Some(14));
    assert_eq!(tokenizer.token("<none>"), None);
}

#[test]
fn spm_merges_by_score_and_spells_the_rest_in_bytes() {
    let tokenizer = new(&spm());
    let encode = |text| tokenizer.encode(text, Special::AsText);
    assert_eq!(encode("hi"), [10], "with its space before");
    assert_eq!(encode("hih"), [9, 11], "`ih` has the best score");
    assert_eq!(encode("é"), [5, 3, 4]);
    assert_eq!(encode("z"), [5, 0], "a byte without a token is unknown");
    assert_eq!(
        tokenizer.encode("hi</s>hi", Special::Parse),
        [10, 2, 10],
        "a space after a special token too"
    );
    let plain = new(&Vocab { add_space_prefix: Some(false), ..spm() });
    assert_eq!(plain.encode("hi hi", Special::AsText), [8, 10]);
}

#[test]
fn spm_takes_its_own_leading_space_away() {
    let tokenizer = new(&spm());
    let decode = |ids: &[u32]| tokenizer.decode(ids, ControlTokens::Hide).unwrap();
    assert_eq!(decode(&[1, 10, 10]), "hi hi");
    assert_eq!(decode(&[5, 10]), " hi", "one space, not all");
    assert_eq!(decode(&[8, 12, 3, 4, 2]), "hié", "unused tokens are nothing");
    assert_eq!(tokenizer.decode(&[1, 10, 2], ControlTokens::Show).unwrap(), "<s>hi</s>");
    assert_eq!(
        tokenizer.decoder(ControlTokens::Hide).push(10).unwrap(),
        " hi",
        "what follows a prompt keeps it"
    );
}

/// A byte-level vocabulary in which token b is the byte b.
fn with_bytes<R>(run: impl FnOnce(&Tokenizer) -> R) -> R {
    let texts: Vec<String> = bpe::BYTE_CHARS.iter().map(char::to_string).collect();
    let merges = ["a a", "aa aa", "Ã ©"];
    run(&new(&Vocab {
        model: "gpt2",
        pre: Some("qwen2"),
        tokens: texts.iter().map(String::as_bytes).chain(["aa", "aaaa", "Ã©"].map(str::as_bytes)).collect(),
        merges: merges.map(str::as_bytes).to_vec(),
        ..Vocab::default()
    }))
}

#[test]
fn decoding_undoes_encoding() {
    with_bytes(|tokenizer| {
        for text in ["", "aaaaa é\u{301}🙂\0\n\r\n  \u{2028}", "\u{10ffff}\u{fffd}", "ééa a'S 12 345"] {
            let ids = tokenizer.encode(text, Special::Parse);
            assert_eq!(tokenizer.decode(&ids, ControlTokens::Show).unwrap(), text);
        }
    });
}

#[test]
fn a_stream_never_splits_a_character_and_ends_like_the_whole() {
    with_bytes(|tokenizer| {
        let push = |decoder: &mut Decoder<'_>, bytes: &[u8]| -> Vec<String> {
            bytes.iter().map(|&byte| decoder.push(byte.into()).unwrap()).collect()
        };
        let mut decoder = tokenizer.decoder(ControlTokens::Hide);
        assert_eq!(push(&mut decoder, "é🙂".as_bytes()), ["", "é", "", "", "", "🙂"]);
        assert_eq!(
            push(&mut decoder, b"\xf0\x9fa\xff"),
            ["", "", "\u{fffd}a", "\u{fffd}"],
            "as soon as it is certain"
        );
        assert_eq!(push(&mut decoder, b"\xe2\x82"), ["", ""]);
        assert_eq!(decoder.finish(), "\u{fffd}");

        // Every sequence of these bytes: parts of good and of bad characters.
        let bytes = [b'a', 0xc3, 0xa9, 0xe2, 0x82, 0xf0, 0xff];
        for n in 0..7usize.pow(5) {
            let sequence: Vec<u8> = (0..5).map(|i| bytes[n / 7usize.pow(i) % 7]).collect();
            let mut decoder = tokenizer.decoder(ControlTokens::Hide);
            let text = push(&mut decoder, &sequence).concat() + &decoder.finish();
            assert_eq!(text, String::from_utf8_lossy(&sequence), "{sequence:x?}");
        }
    });
}

#[test]
fn a_megabyte_of_one_letter_takes_no_quadratic_time() {
    let text = "a".repeat(1 << 20);
    with_bytes(|tokenizer| assert_eq!(tokenizer.encode(&text, Special::Parse), vec![257; 1 << 18]));
    let texts = ["<unk>", "▁", "a", "aa", "aaaa"].map(str::as_bytes);
    let vocab = Vocab {
        model: "llama",
        tokens: texts.to_vec(),
        scores: vec![0.0, -1.0, -2.0, -3.0, -4.0],
        add_bos: Some(false),
        ..Vocab::default()
    };
    let ids = new(&vocab).encode(&text, Special::AsText);
    assert_eq!((ids[0], ids[1], ids.len()), (1, 4, 1 + (1 << 18)));
}

#[test]
fn a_contradictory_vocabulary_is_refused() {
    let kind = |vocab: Vocab<'_>| Tokenizer::new(&vocab).err().map(|error| error.kind());
    assert_eq!(kind(Vocab { tokens: Vec::new(), types: Vec::new(), ..bpe() }), Some(ErrorKind::Malformed));
    assert_eq!(kind(Vocab { types: vec![1; 3], ..bpe() }), Some(ErrorKind::Malformed));
    assert_eq!(kind(Vocab { scores: Vec::new(), ..spm() }), Some(ErrorKind::Malformed));
    assert_eq!(kind(Vocab { add_eos: Some(true), eos: None, ..bpe() }), Some(ErrorKind::Malformed));
    assert_eq!(kind(Vocab { model: "bert", ..bpe() }), Some(ErrorKind::Unsupported));
    assert_eq!(kind(Vocab { pre: Some("unheard-of"), ..bpe() }), Some(ErrorKind::Unsupported));
    // Odd, but not a contradiction: texts twice, not UTF-8, a merge that is none.
    assert_eq!(
        kind(Vocab {
            tokens: vec![b"a", b"a", b"\xff", b""],
            types: Vec::new(),
            merges: vec![b"ab"],
            ..bpe()
        }),
        None
    );
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error() {
    let error = new(&bpe()).decode(&[16], ControlTokens::Show).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("token 16"), "{error}");
}
