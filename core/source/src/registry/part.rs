//! Which part of a blob an answer holds.

use std::ops::Range;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::blob::Source;
use super::endpoint::Endpoint;
use super::exchange::Answer;
use super::failure;
use crate::error::{Error, Result};

/// What the body of an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// What was asked for.
    Part,
    /// The whole blob.
    Whole,
}

impl Source {
    /// What `answer`, a success of `endpoint`, holds, who was asked for `range`.
    pub(super) fn held(
        &self,
        answer: &Answer,
        endpoint: &Endpoint,
        range: &Range<u64>,
    ) -> Result<Held> {
        let response = &answer.response;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            self.check_range(response, &answer.host, range)?;
            return Ok(Held::Part);
        }
        if endpoint.door.is_some() {
            // A dfdaemon before June 2026 gives a part with 200.
            if content_range(response).is_some() {
                self.check_range(response, &answer.host, range)?;
                return Ok(Held::Part);
            }
            let length = response.content_length();
            if length != Some(self.size) && length == Some(range.end - range.start) {
                return Ok(Held::Part);
            }
        }
        self.check_whole(response, &answer.host)?;
        Ok(Held::Whole)
    }

    fn check_range(&self, response: &Response, host: &str, range: &Range<u64>) -> Result<()> {
        let got = content_range(response).filter(|got| got.bytes.is_some());
        let Some(got) = got else {
            return Err(failure::malformed(
                host,
                &self.object,
                "a part of it without saying which",
            ));
        };
        if got.total.is_some_and(|total| total != self.size) {
            return Err(self.other_size(host, got.total));
        }
        match got.bytes {
            Some((start, _)) if start == range.start => Ok(()),
            _ => Err(failure::malformed(
                host,
                &self.object,
                "another part of it than was asked for",
            )),
        }
    }

    fn check_whole(&self, response: &Response, host: &str) -> Result<()> {
        match response.content_length() {
            Some(length) if length != self.size => Err(self.other_size(host, Some(length))),
            _ => Ok(()),
        }
    }

    /// It is not as large as its descriptor says.
    pub(super) fn other_size(&self, host: &str, stated: Option<u64>) -> Error {
        let actual = stated.map_or("smaller".to_owned(), |stated| {
            format!("{stated} bytes large")
        });
        failure::mismatch(host, &self.object, &format!("{} bytes", self.size), &actual)
    }
}

pub(super) struct ContentRange {
    /// First and last.
    pub(super) bytes: Option<(u64, u64)>,
    pub(super) total: Option<u64>,
}

/// RFC 9110 section 14.4.
pub(super) fn content_range(response: &Response) -> Option<ContentRange> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (bytes, total) = text
        .trim()
        .strip_prefix("bytes")?
        .trim_start()
        .split_once('/')?;
    let bytes = match bytes.trim() {
        "*" => None,
        bytes => {
            let (first, last) = bytes.split_once('-')?;
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        }
    };
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some(ContentRange { bytes, total })
}
