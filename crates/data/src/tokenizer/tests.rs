//! Tests of all forms of tokenizers; the parts have theirs beside them.

use super::*;
use crate::{Split, stories::Stories};
use proptest::prelude::*;
use std::sync::OnceLock;

fn texts() -> Vec<String> {
    Stories::new(1, Split::Train).take(400).map(|s| s.text).collect()
}

fn tokenizer() -> &'static Tokenizer {
    static TRAINED: OnceLock<Tokenizer> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let texts = texts();
        Tokenizer::train(texts.iter().map(String::as_str), 1024).expect("400 stories give 764 merges")
    })
}

fn crate_tokenizers() -> tokenizers::Tokenizer {
    let mut theirs = tokenizers::Tokenizer::from_bytes(&tokenizer().json).expect("the file loads");
    theirs.set_encode_special_tokens(true);
    theirs
}

#[test]
fn ids_agree_with_the_crate_tokenizers() {
    // Oracle: the crate `tokenizers` running our own file.
    let theirs = crate_tokenizers();
    for text in texts().iter().take(50).map(String::as_str).chain([
        "<|reserved_0|> naïve  \n\n x",
        "",
        "日本語 12345",
    ]) {
        assert_eq!(
            tokenizer().encode_ordinary(text),
            theirs.encode(text, false).expect("encodes").get_ids(),
            "{text:?}"
        );
    }
    assert_eq!(theirs.get_vocab_size(true), tokenizer().vocab_size());
    assert_eq!(theirs.token_to_id(SPECIAL_TOKENS[0]), Some(tokenizer().bos_id()));
}

#[test]
fn special_tokens_come_last_and_weigh_nothing() {
    let t = tokenizer();
    assert_eq!((t.vocab_size(), t.bos_id()), (1024, 1020));
    assert_eq!(t.byte_table(ByteCount::Raw)[1020..], [0, 0, 0, 0]);
    assert!(t.encode_ordinary("<|reserved_0|>").iter().all(|id| *id < 1020));
    // A lone continuation byte is 1 byte raw, and decoded alone it is U+FFFD, 3 bytes.
    assert_eq!((t.token_bytes(0x80), t.byte_table(ByteCount::Compat)[0x80]), (1, 3));
}

#[test]
fn a_saved_file_loads_to_the_same_tokenizer() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("tokenizer.json");
    tokenizer().save(&path).expect("saves");
    let loaded = Tokenizer::load(&path).expect("loads");
    assert!(matches!(loaded.engine, Engine::Own(_)));
    assert_eq!(loaded.hash(), tokenizer().hash());
    assert_eq!(loaded.json, tokenizer().json);
}

#[test]
fn a_file_of_another_shape_runs_on_the_crate_tokenizers() {
    // A byte-level file with a different pre-tokenizer (GPT-2's) and the usual begin token.
    let mut value: serde_json::Value = serde_json::from_str(&tokenizer().json).expect("our file is JSON");
    value["pre_tokenizer"] = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let other = Tokenizer::from_json(value.to_string()).expect("loads");
    assert!(matches!(other.engine, Engine::Foreign(_)));
    assert_ne!(other.hash(), tokenizer().hash());
    assert_eq!(other.byte_table(ByteCount::Raw), tokenizer().byte_table(ByteCount::Raw));
    let text = "Lily's dog ran <|reserved_1|> away.";
    let ids = other.encode_document(text);
    assert_eq!(ids[0], other.bos_id());
    assert!(ids[1..].iter().all(|id| *id < 1020));
    assert_eq!(other.decode(&ids), text);
    assert_eq!(other.decode_bytes(&ids), text.as_bytes());
}

#[test]
fn impossible_vocabularies_say_what_is_possible() {
    let error = Tokenizer::train(["abab"], 1000).expect_err("two merges are possible").to_string();
    assert!(error.contains("at most 262") && error.contains("2 merges"), "{error}");
    let error = Tokenizer::train(["abab"], 100).expect_err("less than the bytes").to_string();
    assert!(error.contains("at least 260"), "{error}");
    let counts = WordCounts([("abab", 1)].into_iter().collect());
    assert_eq!(Tokenizer::from_counts(&counts, 1000, false).expect("a smaller one").vocab_size(), 262);
}

#[test]
fn ids_do_not_depend_on_chunks_or_threads() {
    let texts = texts();
    let each: Vec<_> = texts.iter().map(|t| tokenizer().encode_document(t)).collect();
    for (threads, chunk) in [(1, 400), (2, 400), (3, 1), (8, 65), (16, 7)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        let ids =
            pool.install(|| texts.chunks(chunk).flat_map(|c| tokenizer().encode_documents(c)).collect());
        assert!(each == Vec::<Vec<u32>>::clone(&ids), "{threads} threads, {chunk} documents at a time");
    }
}

#[test]
fn counts_do_not_depend_on_who_counted() {
    let texts = texts();
    let mut one = WordCounts::default();
    texts.iter().for_each(|text| one.add(text));
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        assert!(pool.install(|| WordCounts::of(&texts)).0 == one.0, "{threads} threads");
    }
}

/// A tokenizer with these tokens behind the bytes, in this order.
fn with_tokens(tokens: &[&str]) -> Tokenizer {
    let tokens = (0..=255).map(|b| vec![b]).chain(tokens.iter().map(|t| t.as_bytes().to_vec()));
    let spec = Spec::own(tokens.map(Some).collect());
    Tokenizer::from_spec(spec, Rule::Ranks).expect("our own pattern is known")
}

#[test]
fn ids_are_those_of_tiktoken_and_not_of_the_learned_pairs() {
    // By hand, after tiktoken's rule. Any two neighbours that together are a token merge: where abc was learned
    // from ab and c, z|a|bc would be left.
    let t = with_tokens(&["bc", "ab", "abc"]);
    assert_eq!(t.encode_ordinary("zabc"), [122, 258]);
    // A piece that is a token is that token, though no pair leads to it.
    let t = with_tokens(&["bc", "abcd"]);
    assert_eq!(t.encode_ordinary("abcd"), [257]);
    assert_eq!(t.encode_ordinary("abcde"), [97, 256, 100, 101]);
    assert!(crate_encodes(&t, "abcd") == [257] && crate_encodes(&t, "abcde") == [97, 256, 100, 101]);
}

#[test]
fn learned_merges_keep_the_hash_that_runs_have_recorded() {
    let counts = texts().iter().fold(WordCounts::default(), |mut counts, text| {
        counts.add(text);
        counts
    });
    let learned = bpe::train(&counts.0, 764);
    let spec = || Spec::from_merges(&learned);
    assert_eq!(merges::recovered(&spec().tokens).as_ref(), Some(&learned));
    let old = Tokenizer::from_spec(spec(), Rule::Learned(learned.clone())).expect("our own pattern");
    let new = Tokenizer::from_spec(spec(), Rule::Ranks).expect("our own pattern");
    assert_eq!(old.hash(), new.hash());
    // And they do mean the same, on other text than that which was learned from.
    for story in Stories::new(2, Split::Train).take(200) {
        assert_eq!(old.encode_ordinary(&story.text), new.encode_ordinary(&story.text));
    }
}

fn crate_encodes(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut theirs = tokenizers::Tokenizer::from_bytes(&tokenizer.json).expect("the file loads");
    theirs.set_encode_special_tokens(true);
    theirs.encode(text, false).expect("encodes").get_ids().to_vec()
}

#[test]
fn a_file_with_only_the_learned_pairs_means_what_it_did() {
    // bc, then ab, then abc from ab + c: the piece `zabc` becomes z|a|bc, which has no learned pair left.
    let merges: Vec<Pair> = vec![(98, 99), (97, 98), (257, 99)];
    let old = file::write(&Spec::from_merges(&merges), &Rule::Learned(merges.clone())).to_string();
    let old = Tokenizer::from_json(old).expect("loads");
    assert!(matches!(old.engine, Engine::Own(_)));
    let new = Tokenizer::from_spec(Spec::from_merges(&merges), Rule::Ranks).expect("our own pattern");
    for (tokenizer, ids) in [(&old, vec![122, 97, 256]), (&new, vec![122, 258])] {
        assert_eq!(tokenizer.encode_ordinary("zabc"), ids);
        assert_eq!(crate_encodes(tokenizer, "zabc"), ids);
    }
    // No training learns these merges in this order, so both mean something else and have other hashes.
    // SHA-256 as then, by Python's hashlib: pattern and special tokens with a zero behind each, pairs as u32.
    assert_eq!(old.hash(), "bbec15818b04baa5aa8a89e5bb8ddda4f4404b19c82c573f776bdf19dcc37625");
    assert_ne!(old.hash(), new.hash());
}

/// llama2.c's `tokenizer.bin` with these tokens and scores behind the bytes.
fn tokenizer_bin(tokens: &[(&str, f32)]) -> Vec<u8> {
    let fixed =
        ["<unk>", "\n<s>\n", "\n</s>\n"].map(String::from).into_iter().chain((0..=255).map(llama::byte_name));
    let all: Vec<_> =
        fixed.map(|t| (t, 0.0)).chain(tokens.iter().map(|(t, s)| (t.to_string(), *s))).collect();
    let longest = all.iter().map(|(t, _)| t.len()).max().expect("there are tokens") as i32;
    let mut file = longest.to_le_bytes().to_vec();
    for (token, score) in all {
        file.extend(score.to_le_bytes());
        file.extend((token.len() as i32).to_le_bytes());
        file.extend(token.as_bytes());
    }
    file
}

/// Of characters and what they merge to; ids from 259 on in this order.
const SMALL_LLAMA: [(&str, f32); 9] = [
    ("ab", -3.0),
    ("bc", -1.0),
    (" a", -2.0),
    (" abc", -4.0),
    (" ", -5.0),
    ("a", -6.0),
    ("b", -7.0),
    ("c", -8.0),
    ("<s", -9.0),
];

#[test]
fn a_tokenizer_bin_merges_the_best_score_first() {
    let t = Tokenizer::from_content(tokenizer_bin(&SMALL_LLAMA)).expect("loads");
    assert!(matches!(t.engine, Engine::Llama(_)));
    assert_eq!((t.vocab_size(), t.bos_id()), (268, 1));
    // By hand: a space goes in front; bc (-1) before " a" (-2) before ab (-3); " a" and bc give " abc".
    for (text, ids) in [
        ("", vec![]),
        ("abc", vec![262]),
        ("cab", vec![263, 266, 259]),
        ("bab", vec![263, 265, 259]),
        // No token: its bytes, each 3 further.
        ("aé", vec![261, 0xC3 + 3, 0xA9 + 3]),
        // Looks like special tokens and bytes; <, s, > have no tokens of their own.
        ("<s>", vec![263, 63, 118, 65]),
    ] {
        assert_eq!(t.encode_ordinary(text), ids, "{text:?}");
        assert_eq!(crate_encodes(&t, text), ids, "{text:?}");
        assert_eq!(t.decode(&ids), text);
    }
    assert_eq!(t.encode_bytes(b"a\xFFbc").expect("any bytes"), [261, 0xFF + 3, 260]);
    assert_eq!((t.token_bytes(0xC3 + 3), t.token_bytes(262), t.token_bytes(1)), (1, 4, 0));
}

#[test]
fn every_form_is_written_as_a_file_that_means_the_same() {
    use base64::Engine as _;
    let ranks: String = (0..=255u8)
        .map(|b| vec![b])
        .chain((0..50_000u32).map(|i| if i == 0 { b"the".to_vec() } else { i.to_be_bytes()[1..].to_vec() }))
        .enumerate()
        .map(|(rank, t)| format!("{} {rank}\n", base64::engine::general_purpose::STANDARD.encode(t)))
        .collect();
    for content in [tokenizer_bin(&SMALL_LLAMA), ranks.into_bytes()] {
        let first = Tokenizer::from_content(content).expect("loads");
        let again = Tokenizer::from_content(first.json.clone().into_bytes()).expect("loads");
        assert_eq!((again.hash(), again.bos_id()), (first.hash(), first.bos_id()));
        assert_eq!(again.byte_table(ByteCount::Raw), first.byte_table(ByteCount::Raw));
        assert!(std::mem::discriminant(&again.engine) == std::mem::discriminant(&first.engine));
        let text = "the abc, 12345 <|endoftext|>\n\n  x's";
        assert_eq!(again.encode_ordinary(text), first.encode_ordinary(text));
        assert_eq!(crate_encodes(&first, text), first.encode_ordinary(text));
        assert_eq!(first.decode(&first.encode_ordinary(text)), text);
    }
}

#[test]
fn bad_files_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("t.json");
    let good = tokenizer_bin(&SMALL_LLAMA);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    for (content, says) in [
        (b"{\"model\": 3}".to_vec(), "crate tokenizers cannot read it"),
        (Vec::new(), "it is empty; give a tokenizer.json"),
        (b"\x80\x04\x95".to_vec(), "Python pickle"),
        (vec![0xFF; 9], "of no known form; give a tokenizer.json"),
        (b"AA== 0\nAQ== 0\n".to_vec(), "line 2: rank 0"),
        (
            b"some text".to_vec(),
            "not a tokenizer.json (expected value at line 1 column 1) and of no other known form",
        ),
        (good[..good.len() - 1].to_vec(), "within token 267"),
        (good[..7].to_vec(), "within the score of token 0 (bytes 4 to 8); download or write the file again"),
        (good[..4 + 8 + 5].to_vec(), "it has 1 tokens, fewer than the 259"),
        (with(4, &f32::NAN.to_le_bytes()), "the score of token 0 is not a number"),
        (with(8, &(-1i32).to_le_bytes()), "token 0 has -1 bytes, but the longest should have 6"),
        (with(12, b"<unk)"), "token 0 is \"<unk)\", expected \"<unk>\""),
        (tokenizer_bin(&[("a", 0.0), ("a", 0.0)]), "tokens 259 and 260 are both \"a\""),
        (tokenizer_bin(&[("", 0.0)]), "token 259 is empty"),
    ] {
        std::fs::write(&path, content).expect("writes");
        let error = Tokenizer::load(&path).expect_err(says).to_string();
        assert!(error.contains("t.json") && error.contains(says), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn decoding_gives_the_text_back(text in any::<String>()) {
        let ids = tokenizer().encode_ordinary(&text);
        prop_assert_eq!(tokenizer().decode(&ids), text.as_str());
        prop_assert_eq!(ids.iter().map(|id| tokenizer().token_bytes(*id) as usize).sum::<usize>(), text.len());
    }

    #[test]
    fn a_tokenizer_bin_gives_text_and_bytes_back_and_the_ids_of_the_crate_tokenizers(
        text in "[abc <s>é日\u{301}\n]{0,30}", bytes in any::<Vec<u8>>()
    ) {
        static SMALL: OnceLock<(Tokenizer, tokenizers::Tokenizer)> = OnceLock::new();
        let (ours, theirs) = SMALL.get_or_init(|| {
            let ours = Tokenizer::from_content(tokenizer_bin(&SMALL_LLAMA)).expect("loads");
            let mut theirs = tokenizers::Tokenizer::from_bytes(&ours.json).expect("the file loads");
            theirs.set_encode_special_tokens(true);
            (ours, theirs)
        });
        let ids = ours.encode_ordinary(&text);
        let encoding = theirs.encode(&*text, false).expect("encodes");
        prop_assert_eq!(&ids[..], encoding.get_ids());
        prop_assert_eq!(ours.decode(&ids), text);
        // The space goes in front of anything but nothing.
        let expected = if bytes.is_empty() { Vec::new() } else { [b" ", &bytes[..]].concat() };
        prop_assert_eq!(ours.decode_bytes(&ours.encode_bytes(&bytes).expect("any bytes")), expected);
    }

    #[test]
    fn decoding_gives_any_bytes_back(
        parts in proptest::collection::vec(prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)], 0..4)
    ) {
        let bytes = parts.concat();
        let ids = tokenizer().encode_bytes(&bytes).expect("our own tokenizer takes any bytes");
        prop_assert_eq!(tokenizer().decode_bytes(&ids), &bytes[..]);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            prop_assert_eq!(ids, tokenizer().encode_ordinary(text));
        }
    }

    #[test]
    fn the_file_gives_the_same_ids_in_the_crate_tokenizers(
        // Few letters, so that tokens overlap with themselves and have many splits.
        words in proptest::collection::hash_map("[ab]{1,9}", 1..6u64, 1..12), text in "[ab]{0,40}"
    ) {
        let counts = WordCounts(words.into_iter().collect());
        let ours = Tokenizer::from_counts(&counts, 300, false).expect("a smaller vocabulary will do");
        prop_assert_eq!(ours.encode_ordinary(&text), crate_encodes(&ours, &text));
        // What the hash relies on: of a vocabulary that was learned, the learned pairs give the same ids.
        let learned = merges::recovered(&Spec::from_merges(&bpe::train(&counts.0, 40)).tokens);
        let learned = learned.expect("each token is made from two");
        prop_assert_eq!(&learned, &bpe::train(&counts.0, 40));
        let old = Tokenizer::from_spec(Spec::from_merges(&learned), Rule::Learned(learned.clone()));
        prop_assert_eq!(old.expect("our own pattern").encode_ordinary(&text), ours.encode_ordinary(&text));
    }
}
