//! The built-in corpus: short stories from a seeded, unambiguous, probabilistic grammar.
//!
//! Every story has 150 to 290 words, and its probability is known exactly: [`Stories::story`] adds up
//! `log2(weight / sum of weights)` over its choices, and [`log2_probability`] finds the same number from the text alone,
//! by trying every derivation. So `-log2 P(text) / bytes` is the best that any model can reach on a text, up to luck.
//!
//! A story ends with "The end." and says that nowhere else, so that its end costs no probability of its own.
//! The lines and the words are in `stories.grammar`, the notation in `grammar.rs`.

mod grammar;

use crate::Split;
use crate::random::{Stream, key};
use grammar::{Grammar, Reader, Stop, Walker, Writer};
use std::sync::OnceLock;

/// The text of the grammar; its hash is part of a prepared data set's key.
pub(crate) const GRAMMAR: &str = include_str!("stories.grammar");

fn grammar() -> &'static Grammar {
    static PARSED: OnceLock<Grammar> = OnceLock::new();
    PARSED.get_or_init(|| Grammar::parse(GRAMMAR).expect("stories.grammar is part of this crate and parses"))
}

/// A story with its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// The text, 150 to 290 words, ending with "The end."
    pub text: String,
    /// log2 of the probability that the grammar gives to this text; bits, negative.
    pub log2_probability: f64,
}

/// An endless stream of stories. Story `i` is a pure function of (seed, split, i).
///
/// ```
/// use data::{Split, stories};
/// let story = stories::Stories::new(7, Split::Train).story(0);
/// assert!(story.text.ends_with(" The end."));
/// assert_eq!(stories::log2_probability(&story.text), Some(story.log2_probability));
/// ```
#[derive(Clone, Debug)]
pub struct Stories {
    key: u64,
    next: u64,
}

impl Stories {
    /// The stream of this seed and split; the two splits of a seed share no random numbers.
    pub fn new(seed: u64, split: Split) -> Self {
        // Any two different constants would do; these spell what they are for.
        let tag = match split {
            Split::Train => u64::from_le_bytes(*b"train\0\0\0"),
            Split::Valid => u64::from_le_bytes(*b"valid\0\0\0"),
        };
        Stories { key: key(&[seed, tag]), next: 0 }
    }

    /// Story number `i` of the stream.
    pub fn story(&self, i: u64) -> Story {
        let mut random = Stream::new(key(&[self.key, i]));
        let mut walker = Walker::new(grammar(), Writer::default());
        let mut log2_probability = 0.0;
        let mut open = Vec::new();
        let mut choice = grammar().start();
        loop {
            let total = walker.open(choice, &mut open);
            let mut draw = random.below(total);
            let mut chosen = open[0];
            for &(alternative, weight) in &open {
                chosen = (alternative, weight);
                if draw < weight {
                    break;
                }
                draw -= weight;
            }
            log2_probability += log2_ratio(chosen.1, total);
            walker.take(choice, chosen.0);
            match walker.run() {
                Stop::Choice(next) => choice = next,
                Stop::End => {
                    return Story { text: walker.tape.0, log2_probability };
                }
                Stop::Mismatch => unreachable!("a writing tape takes every word"),
            }
        }
    }
}

impl Iterator for Stories {
    type Item = Story;
    fn next(&mut self) -> Option<Story> {
        let story = self.story(self.next);
        self.next += 1;
        Some(story)
    }
}

/// log2 of the probability of a whole text under the grammar, `None` when the grammar cannot say it.
///
/// Adds up all derivations, so it would be right even for an ambiguous text (there is none: see [`derivations`]).
pub fn log2_probability(text: &str) -> Option<f64> {
    match derivations(text).as_slice() {
        [] => None,
        [only] => Some(*only),
        several => Some(several.iter().map(|l| l.exp2()).sum::<f64>().log2()),
    }
}

/// log2 of the probability of each derivation of `text`, found by following every choice that the text allows.
pub fn derivations(text: &str) -> Vec<f64> {
    let mut found = Vec::new();
    let mut open = Vec::new();
    let mut branches = vec![(Walker::new(grammar(), Reader::new(text)), grammar().start(), 0.0)];
    while let Some((walker, choice, log2_so_far)) = branches.pop() {
        let total = walker.open(choice, &mut open);
        for &(alternative, weight) in open.iter().filter(|(a, _)| walker.could_take(choice, *a)) {
            let log2 = log2_so_far + log2_ratio(weight, total);
            let mut walker = walker.clone();
            walker.take(choice, alternative);
            match walker.run() {
                Stop::Choice(next) => branches.push((walker, next, log2)),
                Stop::End if walker.tape.is_at_end() => found.push(log2),
                Stop::End | Stop::Mismatch => {}
            }
        }
    }
    found
}

fn log2_ratio(weight: u64, total: u64) -> f64 {
    (weight as f64 / total as f64).log2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_story_has_one_derivation_with_the_probability_it_was_told_with() {
        // Oracle: the recogniser, which sees only the text. The two add the same terms in the same order: equal bits.
        for story in Stories::new(1, Split::Train).take(1500) {
            let found = derivations(&story.text);
            assert_eq!(found, [story.log2_probability], "{}", story.text);
        }
    }

    #[test]
    fn other_texts_have_no_derivation() {
        let story = Stories::new(1, Split::Train).story(3).text;
        assert_eq!(log2_probability(""), None);
        assert_eq!(log2_probability(&story[..story.len() - 1]), None);
        assert_eq!(log2_probability(&format!("{story} ")), None);
        assert_eq!(log2_probability(&format!("{story}{story}")), None);
        // The hero changes her name at the end: every word is in the language, the story is not.
        let hero =
            ["Lily", "Tom"].into_iter().find(|n| !story.contains(n)).expect("one of two names is free");
        let name = first_name(&story);
        let at = story.rfind(name).expect("the hero is named");
        let changed = format!("{}{hero}{}", &story[..at], &story[at + name.len()..]);
        assert_eq!(log2_probability(&changed), None, "{changed}");
    }

    fn first_name(story: &str) -> &str {
        let rest =
            story.split(" named ").nth(1).or(story.split(" called ").nth(1)).expect("a story names its hero");
        rest.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default()
    }

    #[test]
    fn stories_are_whole_readable_and_of_the_promised_length() {
        let mut words = HashSet::new();
        for story in Stories::new(2, Split::Train).take(4000) {
            let count = story.text.split_whitespace().count();
            assert!((130..=310).contains(&count), "{count} words: {}", story.text);
            assert!(
                story.text.ends_with(" The end.") && story.text.matches("The end.").count() == 1,
                "{}",
                story.text
            );
            for wrong in ["  ", " .", " ,", "{", "<", "~", " a a ", " \n", "\n "] {
                assert!(!story.text.contains(wrong), "{wrong:?} in {}", story.text);
            }
            words.extend(story.text.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase));
        }
        assert!(words.len() > 1000, "{} different words", words.len());
    }

    #[test]
    fn the_mean_information_converges() {
        // The mean of -log2 P over two disjoint halves of a sample estimates the same entropy. A story of about 1170
        // bytes strays by 27 bits (standard deviation around the mean rate), so 2000 stories pin the rate to
        // 27 / 1170 / sqrt(2000) = 0.0005 bits per byte, and the difference of two to 0.0007; five of those are allowed.
        let rate = |stories: &[Story]| {
            let bits: f64 = stories.iter().map(|s| -s.log2_probability).sum();
            let bytes: usize = stories.iter().map(|s| s.text.len()).sum();
            bits / bytes as f64
        };
        let stories: Vec<Story> = Stories::new(3, Split::Train).take(4000).collect();
        let (first, second) = (rate(&stories[..2000]), rate(&stories[2000..]));
        println!("entropy {first:.4} and {second:.4} bits per byte");
        assert!((first - second).abs() < 0.0037, "{first} {second}");
        assert!((0.2..0.4).contains(&first), "{first}");
    }

    #[test]
    fn seeds_and_splits_give_different_stories() {
        let texts = |seed, split| Stories::new(seed, split).take(300).map(|s| s.text).collect::<HashSet<_>>();
        let train = texts(1, Split::Train);
        assert_eq!(train.len(), 300);
        assert_eq!(train, texts(1, Split::Train));
        assert!(train.is_disjoint(&texts(1, Split::Valid)));
        assert!(train.is_disjoint(&texts(2, Split::Train)));
    }

    #[test]
    fn grammar_mistakes_are_named() {
        let error = |source| Grammar::parse(source).err().expect("the grammar has a mistake");
        assert_eq!(error("[a]\n<b>"), "line 2: there is no rule b");
        assert_eq!(error("[a]\n[b]\nx"), "rule a has no alternative");
        assert_eq!(error("[a]\nx {y"), "line 2: } is missing");
        assert_eq!(error("[a]\nx\n[a]\ny"), "rule a is declared twice");
    }
}
