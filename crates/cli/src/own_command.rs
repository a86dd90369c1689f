//! Commands that we tell people to type next: they must work when pasted, also where `anneal` was
//! started as `target/release/anneal` (by cargo) and where a path has spaces.

use std::path::Path;

/// The command line that runs this program with `words` and then `path`, quoted for a POSIX shell.
pub(crate) fn own_command(words: &[&str], path: &Path) -> String {
    let own =
        std::env::args_os().next().map_or_else(|| "anneal".into(), |own| own.to_string_lossy().into_owned());
    let path = path.to_string_lossy();
    let all = std::iter::once(own.as_str()).chain(words.iter().copied()).chain([&*path]);
    all.map(quoted).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the shell itself.
    #[test]
    fn a_shell_reads_every_word_back() {
        for word in ["runs/a", "two words", "it's", "$HOME `x` \"y\" ;&|", "", "-x", "é*?"] {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
