//! A file on its way: what is here of it, of which version, and how it becomes whole.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result, whole};

/// Bytes read at a time.
pub(super) const BUFFER: usize = 256 << 10;

/// Which version of a file it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// The server's name for this version, without its quotes; one that begins with `W/` is weak: it does not promise
    /// equal bytes.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
    /// SHA-256 of its contents, where the server tells it.
    #[serde(default)]
    pub(super) sha256: Option<String>,
}

impl About {
    /// Whether other bytes would have another name.
    pub(super) fn names_its_bytes(&self) -> bool {
        self.sha256.is_some() || (!self.etag.is_empty() && !self.etag.starts_with("W/"))
    }
}

/// A file of a data set as a listing describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Its path in the data set.
    pub(super) name: String,
    /// Bytes.
    pub(super) size: Option<u64>,
    /// SHA-256 of its contents; the Hub gives it for large files.
    pub(super) sha256: Option<String>,
}

impl Listed {
    /// A file of which only the name is known.
    pub(super) fn named(name: String) -> Listed {
        Listed { name, ..Listed::default() }
    }

    /// The version that a server offers for it. The checksum is the server's, else the listing's.
    pub(super) fn as_offered(&self, etag: String, size: u64) -> About {
        // The Hub's name for a version of a large file.
        let is_sum = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        let sha256 = if is_sum { Some(etag.to_lowercase()) } else { self.sha256.clone() };
        About { etag, size, sha256 }
    }

    /// What speaks against `about` being the file that was listed.
    pub(super) fn other_than(&self, about: &About) -> Option<String> {
        let size = self.size.filter(|size| *size != about.size);
        let sum = self.sha256.as_ref().filter(|_| about.sha256.is_some() && about.sha256 != self.sha256);
        match (size, sum) {
            (Some(size), _) => Some(format!("{} bytes, where {size} are listed", about.size)),
            (None, Some(_)) => Some("other contents than those listed".into()),
            (None, None) => None,
        }
    }
}

/// Where a file is kept, and what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    /// What the file is.
    about: PathBuf,
    part: PathBuf,
    /// What the part will be.
    part_about: PathBuf,
    pub(super) lock: PathBuf,
}

impl Place {
    pub(super) fn of(file: PathBuf) -> Place {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = |ending: &str| file.with_file_name(format!(".{name}.{ending}"));
        Place {
            about: beside("json"),
            part: beside("part"),
            part_about: beside("part.json"),
            lock: beside("lock"),
            file,
        }
    }

    /// What it is, when it is all there and is what is listed.
    pub(super) fn whole(&self, listed: &Listed) -> Option<About> {
        let about = read(&self.about)?;
        let here = fs::metadata(&self.file).ok()?.len() == about.size;
        (here && listed.other_than(&about).is_none()).then_some(about)
    }

    /// Bytes that are here of a file that is not whole.
    pub(super) fn kept(&self) -> u64 {
        fs::metadata(&self.part).map_or(0, |part| part.len())
    }
}

fn read(path: &Path) -> Option<About> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, "remove it")(error)),
        _ => Ok(()),
    }
}

/// The unfinished file, under a lock. All its bytes are of the version that is recorded beside it.
pub(super) struct Part<'p> {
    place: &'p Place,
    file: File,
    about: Option<About>,
    have: u64,
}

impl<'p> Part<'p> {
    pub(super) fn open(place: &'p Place) -> Result<Part<'p>> {
        let about = read(&place.part_about);
        // Killed between the two renames of `finish`.
        if about.is_some() && !place.part.exists() && !place.about.exists() && place.file.exists() {
            fs::rename(&place.file, &place.part).map_err(Error::io(&place.part, "rename the file to it"))?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&place.part);
        let mut file = file.map_err(Error::io(&place.part, "write it"))?;
        let have = file.seek(SeekFrom::End(0)).map_err(Error::io(&place.part, "read it"))?;
        let mut part = Part { place, file, about, have };
        let usable = |about: &About| match about.size {
            size if have == size => about.sha256.is_some(),
            // A name that does not stand for its bytes cannot tell whether the next ones belong to these.
            size => have < size && about.names_its_bytes(),
        };
        if !part.about.as_ref().is_some_and(usable) {
            part.cut()?;
        }
        Ok(part)
    }

    /// The version that the bytes are of; none while there are none.
    pub(super) fn about(&self) -> Option<&About> {
        self.about.as_ref().filter(|_| self.have > 0)
    }

    pub(super) fn have(&self) -> u64 {
        self.have
    }

    /// Whether all its bytes are here, to be compared with their checksum.
    pub(super) fn is_complete(&self) -> bool {
        self.about().is_some_and(|about| about.size == self.have)
    }

    /// What follows is this version from its first byte on.
    pub(super) fn begin(&mut self, about: &About) -> Result<()> {
        self.cut()?;
        if self.about.as_ref() == Some(about) {
            return Ok(());
        }
        // Before the new name stands on the disk, so that it never stands beside the old bytes.
        self.file.sync_all().map_err(Error::io(&self.place.part, "sync it"))?;
        let json = serde_json::to_vec(about).expect("numbers and strings can be written");
        whole::write(&self.place.part_about, &json)?;
        self.about = Some(about.clone());
        Ok(())
    }

    /// Drops the bytes.
    pub(super) fn cut(&mut self) -> Result<()> {
        self.have = 0;
        self.file.set_len(0).map_err(Error::io(&self.place.part, "write it"))
    }

    /// Puts these behind what is there.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let fail = || Error::io(&self.place.part, "write it");
        self.file.seek(SeekFrom::Start(self.have)).map_err(fail())?;
        self.file.write_all(bytes).map_err(fail())?;
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Gives the file its name, if its contents are those that were announced; otherwise drops them and says why.
    pub(super) fn finish(mut self) -> Result<Result<(), String>> {
        let place = self.place;
        if let Some(expected) = self.about.as_ref().and_then(|about| about.sha256.clone()) {
            let found = self.sha256()?;
            if found != expected {
                self.cut()?;
                return Ok(Err(format!("its SHA-256 is {found}, expected {expected}")));
            }
        }
        self.file.sync_all().map_err(Error::io(&place.part, "sync it"))?;
        // An older version's description must not stand beside the new file.
        remove(&place.about)?;
        fs::rename(&place.part, &place.file)
            .map_err(Error::io(&place.file, "give the finished file its name"))?;
        fs::rename(&place.part_about, &place.about)
            .map_err(Error::io(&place.about, "rename a file to it"))?;
        whole::sync_folder(&place.file);
        Ok(Ok(()))
    }

    fn sha256(&mut self) -> Result<String> {
        let fail = || Error::io(&self.place.part, "read it");
        self.file.seek(SeekFrom::Start(0)).map_err(fail())?;
        let mut sum = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.file.read(&mut buffer).map_err(fail())? {
                0 => return Ok(crate::tokenizer::hex(&sum.finalize())),
                read => sum.update(&buffer[..read]),
            }
        }
    }
}
