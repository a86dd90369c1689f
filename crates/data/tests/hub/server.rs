//! A small HTTP server that serves files as the Hub does, and fails as networks do.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does with one request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Behave {
    /// As a good server.
    Well,
    /// Closes the connection after so many bytes of the body.
    Drop(usize),
    /// Sends nothing more after so many bytes, and keeps the connection.
    Stall(usize),
    /// Answers with this status and header lines, and no body.
    Status(u16, String),
    /// Says that the file is only so long, and sends so much.
    Short(usize),
    /// Announces `x-linked-size` of so many bytes.
    LinkedSize(usize),
    /// Turns a bit of the contents around.
    Damage,
    /// Sends everything, whatever range was asked for.
    IgnoreRange,
    /// Gives the file this ETag.
    Etag(String),
    /// Likewise, and does not know `if-range`.
    Changed(String),
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    /// Bytes of a body that were sent.
    pub(crate) sent: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

type Faults = HashMap<String, Vec<Behave>>;

#[derive(Default)]
struct Inner {
    files: HashMap<String, Vec<u8>>,
    /// For each path, what to do with its first requests.
    faults: Faults,
    requests: Vec<Request>,
    /// Where large files lie, if not here.
    cdn: Option<String>,
    /// `Link` headers by path.
    links: HashMap<String, String>,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) url: String,
    inner: Arc<Mutex<Inner>>,
}

impl Server {
    pub(crate) fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let inner = Arc::new(Mutex::new(Inner::default()));
        let shared = inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || {
                    // A client that goes away is one of the things that happen.
                    let _ = serve(stream, &shared);
                });
            }
        });
        Server { url, inner }
    }

    /// Serves `contents` at `path`.
    pub(crate) fn put(&self, path: &str, contents: impl Into<Vec<u8>>) {
        self.lock().files.insert(path.into(), contents.into());
    }

    /// What happens to the next requests for `path`, in order; afterwards all goes well.
    pub(crate) fn misbehave(&self, path: &str, behave: impl IntoIterator<Item = Behave>) {
        self.lock().faults.entry(path.into()).or_default().extend(behave);
    }

    /// Sends clients to `cdn` for the contents, with the file's SHA-256 and size, as the Hub does for large files.
    pub(crate) fn redirect_to(&self, cdn: &Server) {
        self.lock().cdn = Some(cdn.url.clone());
    }

    /// Answers requests for `path` with this `Link` header.
    pub(crate) fn link(&self, path: &str, link: &str) {
        self.lock().links.insert(path.into(), link.into());
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics while it holds it")
    }
}

fn serve(stream: TcpStream, shared: &Mutex<Inner>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let (contents, behave, cdn, link) = {
        let mut inner = shared.lock().expect("no test panics while it holds it");
        inner.requests.push(Request { path: path.clone(), headers: headers.clone(), sent: 0 });
        let faults = inner.faults.entry(path.clone()).or_default();
        let behave = if faults.is_empty() { Behave::Well } else { faults.remove(0) };
        let link = inner.links.get(&path).map_or_else(String::new, |link| format!("link: {link}\r\n"));
        (inner.files.get(&path).cloned(), behave, inner.cdn.clone(), link)
    };
    let mut sent = 0;
    let done = answer(&stream, contents, &behave, cdn.as_deref(), &path, &headers, &link, &mut sent);
    let mut inner = shared.lock().expect("no test panics while it holds it");
    if let Some(request) = inner.requests.iter_mut().rev().find(|r| r.path == path && r.sent == 0) {
        request.sent = sent;
    }
    done
}

fn answer(
    mut stream: &TcpStream,
    contents: Option<Vec<u8>>,
    behave: &Behave,
    cdn: Option<&str>,
    path: &str,
    headers: &HashMap<String, String>,
    link: &str,
    sent: &mut usize,
) -> std::io::Result<()> {
    if let Behave::Status(status, more) = behave {
        return write!(
            stream,
            "HTTP/1.1 {status} No\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n"
        );
    }
    let Some(mut body) = contents else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    if let Some(cdn) = cdn.filter(|_| path.contains("/resolve/")) {
        let size = if let Behave::LinkedSize(size) = behave { *size } else { body.len() };
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: {cdn}/cdn{path}\r\nx-linked-size: {size}\r\nx-linked-etag: \"{}\"\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n",
            sha256(&body)
        );
    }
    match behave {
        Behave::Damage => body[0] ^= 1,
        Behave::Short(length) => body.truncate(*length),
        _ => {}
    }
    let etag = if let Behave::Etag(etag) | Behave::Changed(etag) = behave {
        etag.clone()
    } else {
        format!("v{}", body.len())
    };
    let from: Option<usize> =
        headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let ignores = matches!(behave, Behave::Changed(_));
    let same = ignores || headers.get("if-range").is_none_or(|wanted| *wanted == format!("\"{etag}\""));
    let from = from.filter(|_| same && *behave != Behave::IgnoreRange);
    let total = body.len();
    match from {
        Some(from) if from >= total => {
            return write!(
                stream,
                "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */{total}\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n"
            );
        }
        Some(from) => {
            body.drain(..from);
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}\r\n",
                total - 1
            )?;
        }
        None => write!(stream, "HTTP/1.1 200 OK\r\n")?,
    }
    let etag = if etag.starts_with("W/") { etag } else { format!("\"{etag}\"") };
    write!(stream, "etag: {etag}\r\n{link}content-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    let most = match behave {
        Behave::Drop(most) | Behave::Stall(most) => *most,
        _ => body.len(),
    };
    for piece in body[..most.min(body.len())].chunks(1000) {
        stream.write_all(piece)?;
        *sent += piece.len();
    }
    stream.flush()?;
    if matches!(behave, Behave::Stall(_)) {
        thread::sleep(Duration::from_secs(20));
    }
    Ok(())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
