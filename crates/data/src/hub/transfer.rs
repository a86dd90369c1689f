//! One file, from a server that may fail in every way to a file that is whole.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderMap, Response, header};

use super::part::{About, BUFFER, Listed, Part, Place};
use super::{Client, Message, Outbox};
use crate::{Error, Result};

/// Redirects that are followed: the Hub needs one, to where it stores large files.
const REDIRECTS: usize = 5;
/// A server's wish to wait longer than this is not granted; the attempt counts as failed. The Hub counts requests in
/// windows of 5 minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Why an attempt failed.
pub(super) enum Failure {
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

fn passing(why: impl Into<String>) -> Failure {
    Failure::Passing(why.into(), None)
}

/// Tries as often as `client` says, and tells `again` of every wait. `kept` are the bytes that stay after a failure.
pub(super) fn patiently<T>(
    client: &Client,
    url: &str,
    again: &dyn Fn(String, Duration),
    kept: &dyn Fn() -> u64,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T> {
    let mut waits = client.waits.iter();
    loop {
        let (why, wished) = match attempt() {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(why, wished)) => (why, wished),
        };
        let granted = wished.is_none_or(|wished| wished <= LONGEST_WAIT);
        let Some(wait) = waits.next().filter(|_| granted) else {
            let why = match wished.filter(|_| !granted) {
                Some(wished) => {
                    format!("{why}, and wants to be asked in {} s at the earliest", wished.as_secs())
                }
                None => why,
            };
            return Err(Error::Download { url: url.into(), why, kept: kept() });
        };
        let wait = wished.unwrap_or(*wait).max(*wait);
        again(why, wait);
        std::thread::sleep(wait);
    }
}

/// What an answer that is neither contents nor a redirect means.
pub(super) fn refusal(client: &Client, url: &str, kept: u64, response: &Response<ureq::Body>) -> Failure {
    let status = response.status().as_u16();
    let why = format!("the server answers {status}");
    match status {
        401 | 403 => Error::Forbidden { url: url.into(), status, token: client.has_token() }.into(),
        404 | 410 => Error::NoSuchFile { url: url.into() }.into(),
        408 | 425 | 429 | 500..=599 => Failure::Passing(why, wished_wait(response.headers())),
        _ => Error::Download { url: url.into(), why, kept }.into(),
    }
}

/// How long the server asks to be left alone: `Retry-After` in seconds, or the time left in a window that is used up,
/// as the Hub says it: `RateLimit: "api";r=0;t=113`.
fn wished_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let after = text("retry-after").and_then(|value| value.trim().parse().ok());
    let window = || {
        let mut parts = text("ratelimit")?.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix("t="))?.parse().ok()
    };
    after.or_else(window).map(Duration::from_secs)
}

/// Makes the file whole, in several attempts.
pub(super) fn fetch(
    client: &Client,
    url: &str,
    listed: &Listed,
    place: &Place,
    outbox: &Outbox,
) -> Result<()> {
    let folder = place.file.parent().expect("a file lies in a folder");
    fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    // It stays: whoever waits for it must wait for the same file as whoever comes after.
    let lock = File::create(&place.lock).map_err(Error::io(&place.lock, "create it"))?;
    // Another process may be at the same file; then its work is ours.
    lock.lock().map_err(Error::io(&place.lock, "lock it"))?;
    let again = |why, wait| outbox.say(Message::Again { url: url.into(), why, wait });
    patiently(client, url, &again, &|| place.kept(), || match place.whole(listed) {
        Some(_) => Ok(()),
        None => attempt(client, url, listed, place, outbox),
    })
}

/// What a server offers.
struct Offer {
    response: Response<ureq::Body>,
    /// Where the endpoint says which version it is before it redirects, as the Hub does for large files.
    linked: Option<About>,
}

/// Asks for what is missing, through redirects.
fn ask(client: &Client, url: &str, listed: &Listed, part: &Part) -> Result<Offer, Failure> {
    let mut linked: Option<About> = None;
    let mut at = url.to_owned();
    for _ in 0..=REDIRECTS {
        // Behind a redirect the same contents have another name; there the range goes without a condition, and only for
        // the version that the endpoint named.
        let (from, if_range) = match (&linked, part.about()) {
            (None, Some(about)) => (part.have(), Some(about.etag.as_str())),
            (Some(linked), Some(about)) if linked == about => (part.have(), None),
            _ => (0, None),
        };
        let response = client.get(&at, from, if_range).map_err(|error| passing(error.to_string()))?;
        if !response.status().is_redirection() {
            return Ok(Offer { response, linked });
        }
        let etag = etag(&response, "x-linked-etag");
        let size = number(&response, "x-linked-size");
        if let (None, false, Some(size)) = (&linked, etag.is_empty(), size) {
            linked = Some(listed.as_offered(etag, size));
        }
        let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let to = to.and_then(|to| super::join(&at, to));
        at = to.ok_or_else(|| passing(format!("{at} redirects to nowhere")))?;
    }
    Err(passing(format!("it redirects more than {REDIRECTS} times")))
}

fn attempt(
    client: &Client,
    url: &str,
    listed: &Listed,
    place: &Place,
    outbox: &Outbox,
) -> Result<(), Failure> {
    let mut part = Part::open(place)?;
    if part.is_complete() && part.about().is_some_and(|about| listed.other_than(about).is_none()) {
        return part.finish()?.map_err(passing);
    }
    let Offer { mut response, linked } = ask(client, url, listed, &part)?;
    let status = response.status().as_u16();
    let (from, offered) = match status {
        200 => (0, number(&response, "content-length")),
        206 => match content_range(&response) {
            Some((from, total)) if from == part.have() => (from, Some(total)),
            other => {
                let why = format!("bytes from {} on were asked for, {other:?} came", part.have());
                part.cut()?;
                return Err(passing(why));
            }
        },
        416 => {
            part.cut()?;
            return Err(passing("what is here is longer than the file"));
        }
        _ => return Err(refusal(client, url, part.have(), &response)),
    };
    let about = match (linked, offered) {
        (Some(linked), Some(offered)) if linked.size != offered => {
            return Err(passing(format!("{offered} bytes are offered, {} announced", linked.size)));
        }
        (Some(linked), _) => linked,
        (None, Some(size)) => listed.as_offered(etag(&response, "etag"), size),
        (None, None) => return Err(passing("the server does not say how large the file is")),
    };
    if let Some(why) = listed.other_than(&about) {
        let why = format!("it has {why}: the data set has changed since; run the command again");
        return Err(Error::Download { url: url.into(), why, kept: 0 }.into());
    }
    if from > 0 && part.about() != Some(&about) {
        // Some servers know no If-Range.
        part.cut()?;
        return Err(passing("it is no longer the file that it was"));
    }
    if from == 0 {
        part.begin(&about)?;
    }
    outbox.say(Message::Size { url: url.into(), bytes: about.size });
    outbox.say(Message::Bytes { url: url.into(), bytes: part.have() });
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => {
                let have = part.have();
                return Err(passing(format!("it broke off after {have} of {} bytes ({error})", about.size)));
            }
        };
        if part.have() + read as u64 > about.size {
            part.cut()?;
            return Err(passing(format!("more than the {} bytes announced came", about.size)));
        }
        part.append(&buffer[..read])?;
        outbox.say(Message::Bytes { url: url.into(), bytes: part.have() });
    }
    if part.have() < about.size {
        return Err(passing(format!("it ended after {} of {} bytes", part.have(), about.size)));
    }
    part.finish()?.map_err(passing)
}

/// The value of an ETag without its quotes; empty when there is none.
fn etag(response: &Response<ureq::Body>, name: &str) -> String {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    match value.strip_prefix("W/") {
        Some(weak) => format!("W/{}", weak.trim_matches('"')),
        None => value.trim_matches('"').to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_wish_is_read_in_both_forms() {
        let wish = |name: &'static str, value: &'static str| {
            let headers =
                HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))]);
            wished_wait(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wish("retry-after", "120"), Some(120));
        assert_eq!(wish("ratelimit", "\"api\";r=0;t=113"), Some(113));
        assert_eq!(wish("ratelimit", "\"api\"; r=0; t=7"), Some(7));
        assert_eq!(wish("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), None, "the usual waits then");
    }
}
