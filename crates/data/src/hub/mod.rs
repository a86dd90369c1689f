//! Files of public data sets on the Hugging Face Hub, downloaded once and kept in the cache.
//!
//! A file is fetched under another name beside its own, with what the server says of it (ETag, size, SHA-256) in a small
//! file; it gets its name when it has its size and, where the Hub tells a SHA-256 as it does for large files, the right
//! contents. Whatever interrupts a download, the next one goes on where it broke off, if the server still has the same
//! version; what is complete but for its name is checked and named without a request. What is there is not asked for
//! again, so that everything works offline then.
//!
//! ```text
//! <cache>/downloads/karpathy--climbmix-400b-shuffle/shard_00000.parquet
//!                                                  /.shard_00000.parquet.json        what it is
//!                                                  /.shard_00000.parquet.part        what is here while it is not whole
//!                                                  /.shard_00000.parquet.part.json   what that will be
//!                                                  /.shard_00000.parquet.lock        held by the process that fetches it
//!                                                  /.files.json                      a listing, for sources that need one
//! ```

mod part;
mod source;
mod transfer;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, header};

use crate::{Error, Progress, Result, whole};
use part::{Listed, Place};
use source::Wanted;
pub use source::{CLIMBMIX_MOST_SHARDS, CLIMBMIX_SHARDS, HubSource};
use transfer::{Failure, patiently, refusal};

/// Where the Hub is.
pub const ENDPOINT: &str = "https://huggingface.co";
/// Waits between the five attempts at a file (autoresearch).
pub const WAITS: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(16)];
/// A connection without a byte for so long is given up.
const STALL: Duration = Duration::from_secs(30);
/// To connect, TLS included.
const CONNECT: Duration = Duration::from_secs(20);

/// How to reach the Hub.
#[derive(Clone)]
pub struct HubOptions {
    /// Its address; [`ENDPOINT`], or a mirror of it.
    pub endpoint: String,
    /// An access token, for data sets that are not open to all. Sent to the endpoint's host only.
    pub token: Option<String>,
    /// Never use the network.
    pub offline: bool,
    /// Files that are downloaded at the same time.
    pub jobs: usize,
    /// Waits between attempts; one more attempt than there are.
    pub waits: Vec<Duration>,
    /// Without a byte for so long, a connection counts as broken.
    pub stall: Duration,
}

impl fmt::Debug for HubOptions {
    /// Without the token, which must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HubOptions { endpoint, token, offline, jobs, waits, stall } = self;
        f.debug_struct("HubOptions")
            .field("endpoint", endpoint)
            .field("token", &token.as_ref().map(|_| "…"))
            .field("offline", offline)
            .field("jobs", jobs)
            .field("waits", waits)
            .field("stall", stall)
            .finish()
    }
}

impl HubOptions {
    /// As the environment says, in the words of Hugging Face's own programs: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> HubOptions {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let on = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
        HubOptions {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()),
            token: text("HF_TOKEN"),
            offline: text("HF_HUB_OFFLINE").is_some_and(on),
            jobs: 4,
            waits: WAITS.into(),
            stall: STALL,
        }
    }
}

/// A file of a data set in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Its name in the data set.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The server's name for its version.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// The files of a data set, all of them in the cache; what is missing is downloaded. `progress` is told of bytes and of
/// attempts that are repeated.
///
/// # Errors
/// [`Error::Offline`], [`Error::Download`], [`Error::Forbidden`], [`Error::NoSuchFile`]; [`Error::Io`] and its like when
/// the cache cannot be written.
pub fn fetch(
    source: &HubSource,
    options: &HubOptions,
    cache_dir: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Vec<LocalFile>> {
    let folder = folder(source, cache_dir);
    let client = Client::new(options);
    let base = format!("{}/datasets/{}/resolve/{}", client.endpoint, source.id(), source.revision());
    let place = |listed: Listed| match transfer::inside(&folder, &listed.name) {
        Some(file) => Ok((listed, Place::of(file))),
        None => {
            let url = format!("{base}/{}", listed.name);
            Err(Error::Download { url, why: "its name leads out of the folder".into(), kept: 0 })
        }
    };
    let files = wanted(source, &client, &folder, progress)?;
    let files: Vec<(Listed, Place)> = files.into_iter().map(place).collect::<Result<_>>()?;
    let missing: VecDeque<Missing> = (files.iter())
        .filter(|(listed, place)| place.whole(listed).is_none())
        .map(|(listed, place)| Missing { url: format!("{base}/{}", listed.name), listed, place })
        .collect();
    if !missing.is_empty() {
        if options.offline {
            let files = missing.iter().map(|missing| missing.listed.name.clone()).collect();
            return Err(Error::Offline { name: source.to_string(), files });
        }
        fetch_all(&client, missing, options.jobs, progress)?;
    }
    let found = files.into_iter().map(|(listed, place)| {
        let about = place.whole(&listed).ok_or_else(|| Error::Source {
            path: place.file.clone(),
            why: "it was there a moment ago and is not now".into(),
        })?;
        Ok(LocalFile { name: listed.name, path: place.file, etag: about.etag, size: about.size })
    });
    found.collect()
}

/// A file to download.
struct Missing<'f> {
    url: String,
    listed: &'f Listed,
    place: &'f Place,
}

/// Downloads on several threads; the first error that no attempt mends ends it, when the others' files are done.
fn fetch_all(
    client: &Client,
    missing: VecDeque<Missing>,
    jobs: usize,
    progress: &dyn Fn(Progress),
) -> Result<()> {
    let files = missing.len();
    let jobs = jobs.clamp(1, files);
    let queue = Mutex::new(missing);
    let (sender, messages) = channel();
    let next = || queue.lock().expect("no thread panics while it takes a file").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let outbox = Outbox(sender.clone());
            scope.spawn(move || {
                while let Some(Missing { url, listed, place }) = next() {
                    let done = transfer::fetch(client, &url, listed, place, &outbox);
                    let failed = done.is_err();
                    outbox.say(Message::Done { done });
                    if failed {
                        // Nobody begins another one.
                        while next().is_some() {}
                    }
                }
            });
        }
        drop(sender);
        let mut state = State { files, ..State::default() };
        for message in messages {
            state.take(message, progress);
        }
        state.error.map_or(Ok(()), Err)
    })
}

/// What a thread tells.
enum Message {
    /// How large a file is.
    Size { url: String, bytes: u64 },
    /// How much of it is here.
    Bytes { url: String, bytes: u64 },
    /// An attempt failed, and another one follows.
    Again { url: String, why: String, wait: Duration },
    /// A file's end, one way or the other.
    Done { done: Result<()> },
}

#[derive(Clone)]
struct Outbox(Sender<Message>);

impl Outbox {
    fn say(&self, message: Message) {
        // The other end lives as long as the threads do.
        let _ = self.0.send(message);
    }
}

/// How far all of it is.
#[derive(Default)]
struct State {
    files: usize,
    done: usize,
    sizes: HashMap<String, u64>,
    bytes: HashMap<String, u64>,
    error: Option<Error>,
}

impl State {
    fn take(&mut self, message: Message, progress: &dyn Fn(Progress)) {
        match message {
            Message::Size { url, bytes } => _ = self.sizes.insert(url, bytes),
            Message::Bytes { url, bytes } => _ = self.bytes.insert(url, bytes),
            Message::Again { url, why, wait } => return progress(retrying(&url, &why, wait)),
            Message::Done { done } => match done {
                Ok(()) => self.done += 1,
                Err(error) => _ = self.error.get_or_insert(error),
            },
        }
        // Files that nobody has asked for yet are taken to be as large as the others.
        let known: u64 = self.sizes.values().sum();
        let total = known * self.files as u64 / self.sizes.len().max(1) as u64;
        let bytes = self.bytes.values().sum();
        progress(Progress::Downloading { bytes, total, done: self.done, files: self.files });
    }
}

fn retrying(url: &str, why: &str, wait: Duration) -> Progress {
    Progress::Retrying(format!("{url}: {why}; trying again in {} s", wait.as_secs()))
}

/// Where a data set's files are kept. Another revision is another data set.
fn folder(source: &HubSource, cache_dir: &Path) -> PathBuf {
    let id = source.id().replace('/', "--");
    let name = if source.revision() == "main" { id } else { format!("{id}@{}", source.revision()) };
    cache_dir.join("downloads").join(name)
}

/// The files of a source. A listing is kept, and asked for again only while files are missing.
fn wanted(
    source: &HubSource,
    client: &Client,
    folder: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Vec<Listed>> {
    let within = match source.wanted() {
        Wanted::Files(names) => return Ok(names.into_iter().map(Listed::named).collect()),
        Wanted::Folder(within) => within,
    };
    let path = folder.join(".files.json");
    let kept: Option<Vec<Listed>> = fs::read(&path).ok().and_then(|json| serde_json::from_slice(&json).ok());
    if let Some(kept) = kept {
        let files = select(source, &kept, &within)?;
        let is_here = |listed: &Listed| {
            transfer::inside(folder, &listed.name).is_some_and(|file| Place::of(file).whole(listed).is_some())
        };
        if client.offline || files.iter().all(is_here) {
            return Ok(files);
        }
    }
    if client.offline {
        let files = vec!["the list of its files".into()];
        return Err(Error::Offline { name: source.to_string(), files });
    }
    let all = client.list(source, progress)?;
    fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    whole::write(&path, &serde_json::to_vec(&all).expect("names can be written"))?;
    select(source, &all, &within)
}

/// Those of the files that hold text, in the folder `within`.
fn select(source: &HubSource, all: &[Listed], within: &str) -> Result<Vec<Listed>> {
    let of_kind = |ending: &str| -> Vec<Listed> {
        let inside =
            |file: &&Listed| file.name.strip_prefix(within).is_some_and(|rest| !rest.starts_with('.'));
        all.iter().filter(inside).filter(|file| file.name.ends_with(ending)).cloned().collect()
    };
    let mut files = of_kind(".parquet");
    if files.is_empty() {
        files = of_kind(".jsonl");
    }
    if files.is_empty() {
        let place = if within.is_empty() { "it".to_owned() } else { format!("its folder {within}") };
        let some: Vec<&str> = all.iter().take(5).map(|file| file.name.as_str()).collect();
        let why =
            format!("{place} holds no .parquet or .jsonl file among {} ({} …)", all.len(), some.join(", "));
        return Err(Error::Source { path: source.to_string().into(), why });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Talks to one endpoint.
struct Client {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
    offline: bool,
    waits: Vec<Duration>,
}

impl Client {
    fn new(options: &HubOptions) -> Client {
        let config = ureq::Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(options.stall))
            .timeout_recv_response(Some(options.stall))
            .user_agent(concat!("anneal/", env!("CARGO_PKG_VERSION")))
            .build();
        Client {
            agent: config.into(),
            endpoint: options.endpoint.trim_end_matches('/').to_owned(),
            token: options.token.clone(),
            offline: options.offline,
            waits: options.waits.clone(),
        }
    }

    fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for what lies at `url` from byte `from` on; if it is no longer `if_range`, for all of it.
    fn get(&self, url: &str, from: u64, if_range: Option<&str>) -> Result<Response<ureq::Body>, ureq::Error> {
        // Sizes and ranges are those of the file, not of a packed form of it.
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            if let Some(etag) = if_range.filter(|etag| !etag.is_empty()) {
                request = request.header(header::IF_RANGE, format!("\"{etag}\""));
            }
        }
        // A token is nobody's business but the endpoint's.
        let ours = url.strip_prefix(&self.endpoint).is_some_and(|rest| rest.starts_with('/'));
        if let Some(token) = self.token.as_ref().filter(|_| ours) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call()
    }

    /// All files of a data set.
    fn list(&self, source: &HubSource, progress: &dyn Fn(Progress)) -> Result<Vec<Listed>> {
        let mut files = Vec::new();
        let mut url = Some(format!(
            "{}/api/datasets/{}/tree/{}?recursive=true",
            self.endpoint,
            source.id(),
            source.revision()
        ));
        while let Some(page) = url.take() {
            let again = |why: String, wait| progress(retrying(&page, &why, wait));
            let (entries, next) = patiently(self, &page, &again, &|| 0, || self.list_page(&page))?;
            files.extend(entries);
            url = next;
        }
        Ok(files)
    }

    /// The files of one page of a listing, and the next page's address.
    fn list_page(&self, page: &str) -> Result<(Vec<Listed>, Option<String>), Failure> {
        #[derive(Deserialize)]
        struct Entry {
            r#type: String,
            path: String,
            size: Option<u64>,
            /// Of a large file.
            lfs: Option<Lfs>,
        }
        #[derive(Deserialize)]
        struct Lfs {
            /// SHA-256 of the contents.
            oid: String,
        }
        let passing = |why: String| Failure::Passing(why, None);
        let mut response = self.get(page, 0, None).map_err(|error| passing(error.to_string()))?;
        if response.status() != 200 {
            return Err(refusal(self, page, 0, &response));
        }
        let text = response.body_mut().read_to_string().map_err(|error| passing(error.to_string()))?;
        let entries: Vec<Entry> = serde_json::from_str(&text)
            .map_err(|error| passing(format!("it is no list of files ({error})")))?;
        let files = entries.into_iter().filter(|entry| entry.r#type == "file").map(|entry| Listed {
            name: entry.path,
            size: entry.size,
            sha256: entry.lfs.map(|lfs| lfs.oid),
        });
        let link = response.headers().get(header::LINK).and_then(|link| link.to_str().ok());
        let next = link.and_then(next_page).and_then(|next| join(page, next));
        Ok((files.collect(), next))
    }
}

/// The address in `<…>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let part = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    part.split_once('<')?.1.split_once('>').map(|(address, _)| address)
}

/// Where `to`, whole or a path of the same host, leads from `from`.
fn join(from: &str, to: &str) -> Option<String> {
    if to.starts_with("http://") || to.starts_with("https://") {
        return Some(to.to_owned());
    }
    let host_at = from.find("://")? + 3;
    let host_end = from[host_at..].find('/').map_or(from.len(), |slash| host_at + slash);
    to.starts_with('/').then(|| format!("{}{to}", &from[..host_end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined_and_pages_found() {
        assert_eq!(join("http://a:1/b/c", "/d?e").as_deref(), Some("http://a:1/d?e"));
        assert_eq!(join("http://a", "/d").as_deref(), Some("http://a/d"));
        assert_eq!(join("http://a/b", "https://c/d").as_deref(), Some("https://c/d"));
        assert_eq!(join("http://a/b", "file:///etc"), None);
        assert_eq!(next_page(r#"<http://a/x?cursor=1>; rel="next""#), Some("http://a/x?cursor=1"));
        assert_eq!(next_page(r#"<http://a/x>; rel="prev""#), None);
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        let folder = Path::new("/cache/x");
        for name in ["../a", "a/../../b", "/etc/passwd", "", "a//b", "a\\..\\b"] {
            assert_eq!(transfer::inside(folder, name), None, "{name}");
        }
        assert_eq!(transfer::inside(folder, "data/a.parquet"), Some("/cache/x/data/a.parquet".into()));
    }
}
