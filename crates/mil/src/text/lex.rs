//! Words, numbers, strings and punctuation, each with its place.

use crate::{Error, Result};

/// A piece of text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'t> {
    /// A letter or `_`, then letters, digits and `_`.
    Word(&'t str),
    /// Spelled as it stands, its sign included.
    Number(&'t str),
    /// Without the quotes, escapes resolved.
    Text(String),
    /// Everything else, a character at a time; `->` is one.
    Sign(&'t str),
    /// Behind the last.
    End,
}

impl Token<'_> {
    /// As an error names it.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(word) => format!("`{word}`"),
            Token::Number(number) => format!("`{number}`"),
            Token::Text(text) => format!("\"{}\"", text.escape_debug()),
            Token::Sign(sign) => format!("`{}`", sign.escape_debug()),
            Token::End => "the end".to_owned(),
        }
    }
}

/// A text and the name that errors give it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'t> {
    pub(super) file: &'t str,
    pub(super) text: &'t str,
}

impl Source<'_> {
    /// An error at the byte `at`.
    pub(super) fn error(&self, at: usize, problem: impl Into<String>) -> Error {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Error::Text {
            file: self.file.to_owned(),
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            problem: problem.into(),
        }
    }
}

/// Cuts `source` into tokens, each with the byte where it begins; the last is [`Token::End`].
pub(super) fn tokens<'t>(source: &Source<'t>) -> Result<Vec<(Token<'t>, usize)>> {
    let text = source.text;
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = bytes.get(at).copied() {
        let next = bytes.get(at + 1).copied();
        match first {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'/' if next == Some(b'/') => {
                at = text[at..].find('\n').map_or(text.len(), |length| at + length);
            }
            b'/' if next == Some(b'*') => {
                let length = text[at + 2..]
                    .find("*/")
                    .ok_or_else(|| source.error(at, "a comment that does not end"))?;
                at += length + 4;
            }
            b'"' => {
                let (string, end) = string(source, at)?;
                tokens.push((Token::Text(string), at));
                at = end;
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let end = span(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'_');
                tokens.push((Token::Word(&text[at..end]), at));
                at = end;
            }
            b'-' if next == Some(b'>') => {
                tokens.push((Token::Sign(&text[at..at + 2]), at));
                at += 2;
            }
            b'0'..=b'9' | b'.' | b'-' | b'+' => {
                let end = number_end(bytes, at);
                tokens.push((Token::Number(&text[at..end]), at));
                at = end;
            }
            _ => {
                let length = text[at..].chars().next().map_or(1, char::len_utf8);
                tokens.push((Token::Sign(&text[at..at + length]), at));
                at += length;
            }
        }
    }
    tokens.push((Token::End, text.len()));
    Ok(tokens)
}

fn span(bytes: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|b| !belongs(*b)).map_or(bytes.len(), |length| from + length)
}

/// A sign, then letters, digits and points, where a sign may follow an exponent's letter.
fn number_end(bytes: &[u8], from: usize) -> usize {
    let body = from + usize::from(matches!(bytes[from], b'-' | b'+'));
    let hex = matches!(bytes.get(body..body + 2), Some(b"0x" | b"0X"));
    let mut at = body;
    while let Some(byte) = bytes.get(at).copied() {
        let letter = if hex { b'p' } else { b'e' };
        let exponent_sign =
            matches!(byte, b'-' | b'+') && at > body && bytes[at - 1].eq_ignore_ascii_case(&letter);
        if !(byte.is_ascii_alphanumeric() || byte == b'.' || exponent_sign) {
            break;
        }
        at += 1;
    }
    at.max(from + 1)
}

/// The string whose opening quote stands at `open`, and where it ends.
fn string(source: &Source<'_>, open: usize) -> Result<(String, usize)> {
    let mut string = String::new();
    let mut rest = source.text[open + 1..].char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '"' => return Ok((string, open + 1 + at + 1)),
            '\\' => match rest.next() {
                Some((_, 'n')) => string.push('\n'),
                Some((_, 't')) => string.push('\t'),
                Some((_, c @ ('"' | '\\'))) => string.push(c),
                Some((_, c)) => {
                    return Err(source
                        .error(open + 1 + at, format!("the escape `\\{}` is unknown", c.escape_debug())));
                }
                None => break,
            },
            c => string.push(c),
        }
    }
    Err(source.error(open, "a string that does not end"))
}
