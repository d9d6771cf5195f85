//! Enough HTTP to talk to a registry on loopback. Requests are HTTP/1.0, so that an
//! answer ends where the connection does and is never chunked.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::error::{At, Error, Result};

const LIMIT: Duration = Duration::from_mins(1);

/// An answer to a request.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Fails unless the status is `wanted`.
    pub fn expect(self, what: &str, wanted: u16) -> Result<Self> {
        if self.status == wanted {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.body).into_owned();
        Err(Error::unexpected(
            what,
            format!("status {}: {body}", self.status),
        ))
    }
}

/// Sends one request to `host` (`address:port`) and reads the answer.
pub fn request(
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let stream = TcpStream::connect(host).at("connect to", host)?;
    stream
        .set_read_timeout(Some(LIMIT))
        .at("set a timeout for", host)?;
    exchange(stream, host, method, path, headers, body)
}

/// Fetches `path` from a server on a unix socket.
pub fn get_unix(socket: &Path, path: &str) -> Result<Response> {
    let stream = UnixStream::connect(socket).at("connect to", socket)?;
    stream
        .set_read_timeout(Some(LIMIT))
        .at("set a timeout for", socket)?;
    exchange(stream, "localhost", "GET", path, &[], b"")
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).at("write to", host)?;
    stream.write_all(body).at("write to", host)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).at("read from", host)?;
    parse(&answer).ok_or_else(|| Error::unexpected(format!("{method} {path}"), "not an answer"))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers
        .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
        .collect();
    Some(Response {
        status,
        headers,
        body: answer[end + 4..].to_vec(),
    })
}
