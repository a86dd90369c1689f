//! tiktoken's rank files: a line for each token with its bytes in base64 and its rank. The file says neither how text is
//! split nor which special tokens there are; both follow from the number of ranks.

use super::file::Spec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;

/// An encoding that OpenAI has published, from `openai_public.py` of tiktoken 0.14. A few things in its patterns mean
/// something else to Oniguruma, the engine of `tokenizers` in Python, and are written in another way here: `$`, which is
/// the end of a line there, and `{1,3}+`, which repeats.
struct Published {
    ranks: usize,
    /// An id among the ranks that a special token has.
    hole: Option<u32>,
    pattern: &'static str,
    specials: &'static [(u32, &'static str)],
}

const GPT2_PATTERN: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const PUBLISHED: [Published; 4] = [
    // r50k_base and gpt2.
    Published { ranks: 50_256, hole: None, pattern: GPT2_PATTERN, specials: &[(50_256, "<|endoftext|>")] },
    // p50k_base.
    Published {
        ranks: 50_280,
        hole: Some(50_256),
        pattern: GPT2_PATTERN,
        specials: &[(50_256, "<|endoftext|>")],
    },
    // cl100k_base.
    Published {
        ranks: 100_256,
        hole: None,
        pattern: r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s++\z|\s*[\r\n]|\s+(?!\S)|\s",
        specials: &[
            (100_257, "<|endoftext|>"),
            (100_258, "<|fim_prefix|>"),
            (100_259, "<|fim_middle|>"),
            (100_260, "<|fim_suffix|>"),
            (100_276, "<|endofprompt|>"),
        ],
    },
    // o200k_base.
    Published {
        ranks: 199_998,
        hole: None,
        pattern: r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        specials: &[(199_999, "<|endoftext|>"), (200_018, "<|endofprompt|>")],
    },
];

/// Whether a file is meant as one of ranks: its first line is base64, a blank, and a number.
pub(super) fn is_rank_file(text: &str) -> bool {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.split_once(' ').is_some_and(|(token, rank)| {
        token.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
            && rank.trim_end().bytes().all(|b| b.is_ascii_digit())
            && !rank.is_empty()
    })
}

/// The tokenizer of a rank file. A number of ranks that is none of OpenAI's means autoresearch's pattern, and our four
/// special tokens behind the ranks.
pub(super) fn read(text: &str) -> Result<Spec, String> {
    const REMEDY: &str = "download or write the file again";
    let mut tokens: Vec<Option<Vec<u8>>> = Vec::new();
    let mut lines: HashMap<Vec<u8>, usize> = HashMap::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let wrong = |why: String| format!("line {number}: {why}; {REMEDY}");
        let (token, rank) = (line.trim().split_once(' '))
            .ok_or_else(|| wrong(format!("{line:?} is not a token in base64, a blank, and its rank")))?;
        let bytes = STANDARD.decode(token).map_err(|e| wrong(format!("{token:?} is not base64 ({e})")))?;
        let rank: usize = (rank.parse().ok().filter(|rank| *rank < MOST_RANKS))
            .ok_or_else(|| wrong(format!("{rank:?} is not a rank, a number below {MOST_RANKS}")))?;
        if tokens.len() <= rank {
            tokens.resize(rank + 1, None);
        }
        if tokens[rank].is_some() {
            return Err(wrong(format!("rank {rank} has been given to another token before")));
        }
        if let Some(before) = lines.insert(bytes.clone(), number) {
            return Err(wrong(format!("the token {token:?} stands in line {before} already")));
        }
        tokens[rank] = Some(bytes);
    }
    if let Some(byte) = (0..=255u8).find(|byte| !lines.contains_key(&[*byte][..])) {
        return Err(format!(
            "the byte 0x{byte:02x} has no rank, so some text could not be encoded; {REMEDY}"
        ));
    }
    let published = PUBLISHED.iter().find(|p| p.ranks == lines.len());
    let hole = published.and_then(|p| p.hole);
    let missing = (0..).zip(&tokens).find(|(rank, token)| token.is_none() && Some(*rank) != hole);
    if let Some((rank, _)) = missing {
        let highest = tokens.len() - 1;
        return Err(format!("no line has rank {rank}, though there are ranks up to {highest}; {REMEDY}"));
    }
    Ok(match published {
        Some(p) => Spec {
            tokens,
            pattern: p.pattern.into(),
            specials: p.specials.iter().map(|(id, name)| (*id, name.to_string())).collect(),
        },
        None => Spec::own(tokens),
    })
}

/// Ranks from here on are taken for nonsense; the largest vocabularies have a few hundred thousand.
const MOST_RANKS: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{PATTERN, SPECIAL_TOKENS};

    /// A rank file of the bytes and of `more` tokens of three bytes.
    fn rank_file(more: usize, rank: impl Fn(usize) -> usize) -> String {
        let bytes = (0..=255u8).map(|b| vec![b]);
        let others = (0..more).map(|i| vec![(i >> 16) as u8, (i >> 8) as u8, i as u8]);
        let line = |(i, token): (usize, Vec<u8>)| format!("{} {}\n", STANDARD.encode(token), rank(i));
        bytes.chain(others).enumerate().map(line).collect()
    }

    #[test]
    fn the_number_of_ranks_says_which_encoding_it_is() {
        // Sizes and ids as tiktoken's openai_public.py has them: `explicit_n_vocab`, special_tokens.
        let size = |spec: &Spec| spec.specials.last().map(|(id, _)| *id);
        let r50k = read(&rank_file(50_000, |i| i)).expect("r50k");
        assert_eq!((r50k.tokens.len(), size(&r50k)), (50_256, Some(50_256)));
        assert!(r50k.pattern.contains(r" ?\p{N}+"));
        let p50k = read(&rank_file(50_024, |i| i + usize::from(i >= 50_256))).expect("p50k");
        assert_eq!((p50k.tokens.len(), size(&p50k)), (50_281, Some(50_256)));
        let cl100k = read(&rank_file(100_000, |i| i)).expect("cl100k");
        assert_eq!((cl100k.specials.len(), size(&cl100k)), (5, Some(100_276)));
        let o200k = read(&rank_file(199_742, |i| i)).expect("o200k");
        assert_eq!((o200k.specials.len(), size(&o200k)), (2, Some(200_018)));
        let own = read(&rank_file(100, |i| i)).expect("our own");
        assert_eq!((own.pattern.as_str(), own.specials[0].0, size(&own)), (PATTERN, 356, Some(359)));
        assert_eq!(own.specials[0].1, SPECIAL_TOKENS[0]);
    }

    #[test]
    fn broken_files_say_where() {
        let good = rank_file(3, |i| i);
        assert!(is_rank_file(&good));
        for (broken, place) in [
            (good.replacen("AA== 0\n", "A*== 0\n", 1), "line 1: \"A*==\" is not base64"),
            (good.replacen("AQ== 1\n", "AQ==1\n", 1), "line 2: \"AQ==1\" is not a token in base64"),
            (good.replacen("Ag== 2\n", "Ag== two\n", 1), "line 3: \"two\" is not a rank"),
            (good.replacen("Aw== 3\n", "Aw== 2\n", 1), "line 4: rank 2 has been given"),
            (good.clone() + "AA== 259\n", "line 260: the token \"AA==\" stands in line 1"),
            (good.replacen("AAAA 256\n", "", 1), "no line has rank 256, though there are ranks up to 258"),
            (good.replacen("/w== 255\n", "", 1), "the byte 0xff has no rank"),
        ] {
            let error = read(&broken).expect_err(place);
            assert!(error.contains(place) && error.contains("download or write"), "{error}");
        }
    }
}
