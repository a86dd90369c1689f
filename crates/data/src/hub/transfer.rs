//! One file, from a server that may fail in every way to a file that is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ureq::http::{Response, header};

use super::{Client, Message, Outbox};
use crate::{Error, Result, whole};

/// Redirects that are followed: the Hub needs one, to where it stores large files.
const REDIRECTS: usize = 5;
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;
/// A server's wish to wait longer than this is not granted; the attempt counts as failed.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// What is known of a file that is, or becomes, the one on the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// The server's name for this version; of a large file on the Hub its SHA-256.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

/// Where a file is kept, and what belongs to it while it is not whole.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    part: PathBuf,
    about: PathBuf,
    lock: PathBuf,
}

impl Place {
    pub(super) fn of(file: PathBuf) -> Place {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = |ending: &str| file.with_file_name(format!(".{name}.{ending}"));
        Place { part: beside("part"), about: beside("json"), lock: beside("lock"), file }
    }

    pub(super) fn about(&self) -> Option<About> {
        serde_json::from_slice(&fs::read(&self.about).ok()?).ok()
    }

    /// What it is, when it is all there.
    pub(super) fn whole(&self) -> Option<About> {
        let about = self.about()?;
        (fs::metadata(&self.file).ok()?.len() == about.size).then_some(about)
    }
}

/// Why an attempt failed.
enum Failure {
    /// Another one may succeed, perhaps after this time.
    Passing(String, Option<Duration>),
    /// No other will.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

/// Makes the file whole, in several attempts.
pub(super) fn fetch(client: &Client, url: &str, place: &Place, outbox: &Outbox) -> Result<()> {
    let folder = place.file.parent().expect("a file lies in a folder");
    fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    let lock = File::create(&place.lock).map_err(Error::io(&place.lock, "create it"))?;
    // Another process may be at the same file; then its work is ours.
    lock.lock().map_err(Error::io(&place.lock, "lock it"))?;
    let mut waits = client.waits.iter();
    while place.whole().is_none() {
        let (why, wished) = match attempt(client, url, place, outbox) {
            Ok(()) => break,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(why, wished)) => (why, wished),
        };
        let wait = waits.next().filter(|_| wished.is_none_or(|wished| wished <= LONGEST_WAIT));
        let Some(wait) = wait else {
            let kept = fs::metadata(&place.part).map_or(0, |part| part.len());
            return Err(Error::Download { url: url.into(), why, kept });
        };
        let wait = wished.unwrap_or(*wait).max(*wait);
        outbox.say(Message::Again { url: url.into(), why, wait });
        std::thread::sleep(wait);
    }
    // Who waits for the lock has the file open and sees the file whole.
    let _ = fs::remove_file(&place.lock);
    Ok(())
}

fn attempt(client: &Client, url: &str, place: &Place, outbox: &Outbox) -> Result<(), Failure> {
    let part = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&place.part);
    let part = &mut part.map_err(Error::io(&place.part, "write it"))?;
    let mut have = part.seek(SeekFrom::End(0)).map_err(Error::io(&place.part, "read it"))?;
    let recorded = place.about();
    if recorded.is_none() {
        have = 0;
    }

    // The Hub answers for a large file with the file's name (its SHA-256) and size, and says where it lies.
    let mut linked = None;
    let mut at = url.to_owned();
    let mut answer = None;
    for _ in 0..=REDIRECTS {
        let if_range = recorded.as_ref().filter(|_| linked.is_none()).map(|about| about.etag.as_str());
        let response =
            client.get(&at, have, if_range).map_err(|error| Failure::Passing(error.to_string(), None))?;
        if !response.status().is_redirection() {
            answer = Some(response);
            break;
        }
        let found = About {
            etag: etag(&response, "x-linked-etag"),
            size: number(&response, "x-linked-size").unwrap_or(0),
        };
        if linked.is_none() && !found.etag.is_empty() && found.size > 0 {
            if recorded.as_ref() != Some(&found) {
                have = 0;
            }
            linked = Some(found);
        }
        let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let to = to.and_then(|to| super::join(&at, to));
        at = to.ok_or_else(|| Failure::Passing(format!("{at} redirects to nowhere"), None))?;
    }
    let Some(mut response) = answer else {
        return Err(Failure::Passing(format!("it redirects more than {REDIRECTS} times"), None));
    };

    let status = response.status().as_u16();
    let announced = number(&response, "content-length");
    let size = match status {
        200 => {
            have = 0;
            announced
        }
        206 => match content_range(&response) {
            // Some servers know no If-Range.
            Some(_)
                if linked.is_none()
                    && recorded.as_ref().is_some_and(|r| r.etag != etag(&response, "etag")) =>
            {
                cut(part, place)?;
                return Err(Failure::Passing("it is no longer the file that it was".into(), None));
            }
            Some((from, total)) if from == have => Some(total),
            other => {
                cut(part, place)?;
                return Err(Failure::Passing(
                    format!("bytes from {have} on were asked for, {other:?} came"),
                    None,
                ));
            }
        },
        416 => {
            // More is here than there.
            cut(part, place)?;
            return Err(Failure::Passing("what is here is longer than the file".into(), None));
        }
        401 | 403 => {
            return Err(Error::Forbidden { url: url.into(), status, token: client.has_token() }.into());
        }
        404 | 410 => return Err(Error::NoSuchFile { url: url.into() }.into()),
        408 | 425 | 429 | 500..=599 => {
            let wait = number(&response, "retry-after").map(Duration::from_secs);
            return Err(Failure::Passing(format!("the server answers {status}"), wait));
        }
        _ => {
            return Err(Error::Download {
                url: url.into(),
                why: format!("the server answers {status}"),
                kept: have,
            }
            .into());
        }
    };
    let about = match (linked, size) {
        (Some(linked), Some(size)) if linked.size != size => {
            return Err(Failure::Passing(
                format!("{size} bytes are offered, {} announced", linked.size),
                None,
            ));
        }
        (Some(linked), _) => linked,
        (None, Some(size)) => About { etag: etag(&response, "etag"), size },
        (None, None) => {
            return Err(Failure::Passing("the server does not say how large the file is".into(), None));
        }
    };
    if have == 0 {
        cut(part, place)?;
    }
    if recorded.as_ref() != Some(&about) {
        let json = serde_json::to_vec(&about).expect("numbers and strings can be written");
        whole::write(&place.about, &json)?;
    }
    outbox.say(Message::Size { url: url.into(), bytes: about.size });
    outbox.say(Message::Bytes { url: url.into(), bytes: have });

    part.seek(SeekFrom::Start(have)).map_err(Error::io(&place.part, "write it"))?;
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => {
                return Err(Failure::Passing(
                    format!("it broke off after {have} of {} bytes ({error})", about.size),
                    None,
                ));
            }
        };
        have += read as u64;
        if have > about.size {
            cut(part, place)?;
            return Err(Failure::Passing(format!("more than the {} bytes announced came", about.size), None));
        }
        part.write_all(&buffer[..read]).map_err(Error::io(&place.part, "write it"))?;
        outbox.say(Message::Bytes { url: url.into(), bytes: have });
    }
    if have < about.size {
        return Err(Failure::Passing(format!("it ended after {have} of {} bytes", about.size), None));
    }
    verify(part, place, &about)?;
    part.sync_all().map_err(Error::io(&place.part, "sync it"))?;
    fs::rename(&place.part, &place.file)
        .map_err(Error::io(&place.file, "give the finished file its name"))?;
    whole::sync_folder(&place.file);
    Ok(())
}

/// Compares the contents with their name, where that is a SHA-256.
fn verify(part: &mut File, place: &Place, about: &About) -> Result<(), Failure> {
    if about.etag.len() != 64 || !about.etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    part.seek(SeekFrom::Start(0)).map_err(Error::io(&place.part, "read it"))?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = part.read(&mut buffer).map_err(Error::io(&place.part, "read it"))?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
    }
    let found = crate::tokenizer::hex(&sum.finalize());
    if found != about.etag.to_lowercase() {
        cut(part, place)?;
        return Err(Failure::Passing(format!("its SHA-256 is {found}, expected {}", about.etag), None));
    }
    Ok(())
}

/// Begins the unfinished file anew.
fn cut(part: &File, place: &Place) -> Result<(), Failure> {
    Ok(part.set_len(0).map_err(Error::io(&place.part, "write it"))?)
}

/// The value of an ETag without quotes and mark; empty when there is none.
fn etag(response: &Response<ureq::Body>, name: &str) -> String {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.trim_start_matches("W/").trim_matches('"').to_owned()
}

fn number(response: &Response<ureq::Body>, name: &str) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.trim().parse().ok()
}

/// First byte and length of the whole from `bytes FIRST-LAST/LENGTH`.
fn content_range(response: &Response<ureq::Body>) -> Option<(u64, u64)> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

/// A path inside a data set's folder; `None` when it would lead out of it.
pub(super) fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\\');
    name.split('/').all(plain).then(|| folder.join(name))
}
