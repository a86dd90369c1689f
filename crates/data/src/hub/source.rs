//! Data sets on the Hub by name, and which of their files are wanted.

use std::fmt;

use crate::corpus::PINNED_SHARD;

/// Training shards of climbmix unless the source says otherwise (autoresearch).
pub const CLIMBMIX_SHARDS: u32 = 10;
/// There are shards 0 to 6,541 to train on; 6,542 is pinned as validation (autoresearch).
pub const CLIMBMIX_MOST_SHARDS: u32 = 6542;

/// A public data set of text.
///
/// | written | data set | files |
/// | --- | --- | --- |
/// | `climbmix`, `climbmix:N` | `karpathy/climbmix-400b-shuffle` | `shard_00000.parquet` … N of them (10), and the pinned `shard_06542.parquet` |
/// | `tinystories` | `roneneldan/TinyStories` | the Parquet files in `data` |
/// | `hf:OWNER/NAME[@REVISION][/FOLDER][:COLUMN]` | that one | the Parquet files of the folder, else its .jsonl files |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubSource {
    /// The first shards of climbmix-400b-shuffle.
    Climbmix {
        /// Training shards.
        shards: u32,
    },
    /// TinyStories.
    TinyStories,
    /// Any other.
    Dataset {
        /// `OWNER/NAME`.
        id: String,
        /// A branch, tag or commit.
        revision: String,
        /// The folder in it; empty for the whole data set.
        folder: String,
        /// The column, or field of a JSON line, with the text; `None` leaves it to
        /// [`ReadOptions::column`](crate::ReadOptions::column).
        column: Option<String>,
    },
}

/// What is wanted of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// These files.
    Files(Vec<String>),
    /// The text files of a folder (with a slash at its end, or empty): to be listed.
    Folder(String),
}

impl HubSource {
    /// What `text` names; `None` when it is of no form of these.
    pub(crate) fn parse(text: &str) -> Option<Result<HubSource, String>> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("climbmix", "") if !text.ends_with(':') => {
                Some(Ok(HubSource::Climbmix { shards: CLIMBMIX_SHARDS }))
            }
            ("climbmix", shards) => Some(match shards.parse() {
                Ok(shards @ 1..=CLIMBMIX_MOST_SHARDS) => Ok(HubSource::Climbmix { shards }),
                _ => Err(format!("{shards:?} is no number of shards, 1 to {CLIMBMIX_MOST_SHARDS}")),
            }),
            ("tinystories", "") => Some(Ok(HubSource::TinyStories)),
            ("hf", rest) => Some(HubSource::parse_dataset(rest)),
            _ => None,
        }
    }

    fn parse_dataset(text: &str) -> Result<HubSource, String> {
        let (path, column) = match text.split_once(':') {
            Some((path, column)) => (path, Some(column)),
            None => (text, None),
        };
        let fail =
            || Err("write hf:OWNER/NAME, hf:OWNER/NAME@REVISION/FOLDER:COLUMN or a part of that".to_owned());
        let Some((owner, rest)) = path.split_once('/') else { return fail() };
        let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let plain = |part: &str| {
            !part.is_empty()
                && part != ".."
                && part.chars().all(|c| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c))
        };
        let folder = folder.trim_end_matches('/');
        if ![owner, name, revision].into_iter().chain(folder.split('/').filter(|f| !f.is_empty())).all(plain)
            || column == Some("")
        {
            return fail();
        }
        Ok(HubSource::Dataset {
            id: format!("{owner}/{name}"),
            revision: revision.into(),
            folder: folder.into(),
            column: column.map(String::from),
        })
    }

    /// `OWNER/NAME`.
    pub fn id(&self) -> &str {
        match self {
            HubSource::Climbmix { .. } => "karpathy/climbmix-400b-shuffle",
            HubSource::TinyStories => "roneneldan/TinyStories",
            HubSource::Dataset { id, .. } => id,
        }
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        match self {
            HubSource::Dataset { revision, .. } => revision,
            _ => "main",
        }
    }

    /// The column, or field of a JSON line, with the text, if the source names it.
    pub fn column(&self) -> Option<&str> {
        match self {
            HubSource::Dataset { column, .. } => column.as_deref(),
            _ => None,
        }
    }

    /// The folder in the data set; empty for the whole of it.
    pub(crate) fn folder(&self) -> &str {
        match self {
            HubSource::Climbmix { .. } => "",
            HubSource::TinyStories => "data",
            HubSource::Dataset { folder, .. } => folder,
        }
    }

    pub(crate) fn wanted(&self) -> Wanted {
        match self {
            HubSource::Climbmix { shards } => {
                let training = (0..*shards).map(|number| format!("shard_{number:05}.parquet"));
                Wanted::Files(training.chain([PINNED_SHARD.to_owned()]).collect())
            }
            _ if self.folder().is_empty() => Wanted::Folder(String::new()),
            _ => Wanted::Folder(format!("{}/", self.folder())),
        }
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HubSource::Climbmix { shards } => write!(f, "climbmix:{shards}"),
            HubSource::TinyStories => write!(f, "tinystories"),
            HubSource::Dataset { id, revision, folder, column } => {
                let slash = if folder.is_empty() { "" } else { "/" };
                write!(f, "hf:{id}@{revision}{slash}{folder}")?;
                column.as_ref().map_or(Ok(()), |column| write!(f, ":{column}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for (text, written) in [
            ("climbmix", "climbmix:10"),
            ("climbmix:3", "climbmix:3"),
            ("tinystories", "tinystories"),
            ("hf:a/b", "hf:a/b@main"),
            ("hf:a/b@v1/c/d:story", "hf:a/b@v1/c/d:story"),
            ("hf:a/b.c-d_e/f/", "hf:a/b.c-d_e@main/f"),
        ] {
            let source = HubSource::parse(text).expect(text).expect(text);
            assert_eq!(source.to_string(), written);
            assert_eq!(HubSource::parse(written), Some(Ok(source)));
        }
        for text in ["climbmix.txt", "books/", "stories", "tinystories:3", "./climbmix", "C:/x"] {
            assert_eq!(HubSource::parse(text), None, "{text}");
        }
        for text in [
            "climbmix:0",
            "climbmix:6543",
            "climbmix:",
            "climbmix:x",
            "hf:a",
            "hf:a/../b",
            "hf:a/b@",
            "hf:a/b:",
            "hf:/b",
        ] {
            assert!(HubSource::parse(text).expect(text).is_err(), "{text}");
        }
    }

    #[test]
    fn climbmix_is_its_first_shards_and_the_pinned_one() {
        let wanted = HubSource::Climbmix { shards: 2 }.wanted();
        let files = ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"];
        assert_eq!(wanted, Wanted::Files(files.map(String::from).into()));
    }
}
