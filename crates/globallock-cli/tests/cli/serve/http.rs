//! A client that sends what it is told, right or wrong.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::support::LIMIT;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// By names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A connection to a server on this host.
pub(super) struct Connection<S = TcpStream> {
    stream: BufReader<S>,
    host: String,
    opened: Instant,
}

impl Connection {
    pub(super) fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Connection::over(stream, port)
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}

impl<S: Read + Write> Connection<S> {
    pub(super) fn over(stream: S, port: u16) -> Self {
        let host = format!("127.0.0.1:{port}");
        Connection { stream: BufReader::new(stream), host, opened: Instant::now() }
    }

    /// Sends a request, with these headers beside those that each has, and reads the answer.
    pub(super) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        self.send(method, path, headers, body);
        self.reply().expect("there is an answer")
    }

    pub(super) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            text += &format!("host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("content-length: {}\r\n", body.len());
        }
        self.write(format!("{text}\r\n{body}").as_bytes());
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
        self.stream.get_mut().flush().unwrap();
    }

    /// Writes as much as the server takes.
    pub(super) fn try_write(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// Reads an answer; none if the server closes the connection instead.
    pub(super) fn reply(&mut self) -> Option<Reply> {
        let (status, headers) = self.head()?;
        let mut body = Vec::new();
        if let Some(length) = headers.get("content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.stream.read_exact(&mut body).ok()?;
        } else if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            while let Some(chunk) = self.chunk().filter(|chunk| !chunk.is_empty()) {
                body.extend(chunk);
            }
        }
        Some(Reply { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// The status and the headers of an answer whose body is not read.
    pub(super) fn head(&mut self) -> Option<(u16, BTreeMap<String, String>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1)?.parse().ok()?;
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some((status, headers));
            }
            let (name, value) = line.split_once(':')?;
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let length = self.stream.read_until(b'\n', &mut line).ok()?;
        (length > 0).then(|| String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(self.line()?.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).ok()?;
        chunk.truncate(length);
        Some(chunk)
    }

    /// The next server-sent event: what it is, and its data. None at the end, which the server has to say.
    pub(super) fn event(&mut self) -> Option<(String, serde_json::Value)> {
        let mut text = String::new();
        while !text.ends_with("\n\n") {
            assert!(self.opened.elapsed() < 3 * LIMIT, "nothing that is waited for is told");
            let chunk = self.chunk().expect("it ends as it should");
            if chunk.is_empty() {
                return None;
            }
            text += std::str::from_utf8(&chunk).unwrap();
        }
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let data = serde_json::from_str(field("data: ")).unwrap_or_else(|error| panic!("{error}: {text}"));
        Some((field("event: ").to_owned(), data))
    }
}
