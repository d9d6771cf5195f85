//! Extended header records (POSIX.1-2017, `pax`, "pax Extended Header").

use pontoon_layer::Time;

use crate::error::{Error, Result};

/// Extended attributes, as GNU tar, star and Go write them.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The largest name of an extended attribute, in bytes: Linux' own limit.
const XATTR_NAME_BYTES_MAX: usize = 255;

/// What the records say about the next entry. A record without a value says nothing, as in Go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) ctime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: bool,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Records> {
        let mut records = Records::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or_else(|| malformed("cannot be read"))?;
            records.set(key, value)?;
            bytes = rest;
        }
        Ok(records)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let text = || {
            if value.contains(&0) {
                return Err(malformed("has a NUL in a name"));
            }
            Ok(Some(value.to_vec()).filter(|value| !value.is_empty()))
        };
        let number = || match value {
            [] => Ok(None),
            digits => (decimal(digits).map(Some)).ok_or_else(|| malformed("has no number")),
        };
        let moment = || match value {
            [] => Ok(None),
            text => (time(text).map(Some)).ok_or_else(|| malformed("has no time")),
        };
        match key {
            b"path" => self.path = text()?,
            b"linkpath" => self.target = text()?,
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = moment()?,
            b"atime" => self.atime = moment()?,
            // Nothing is set to it.
            b"ctime" => self.ctime = time(value),
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
            return Err(malformed(
                "has an extended attribute with an impossible name",
            ));
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts all of it, itself included; and what is behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..blank])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at(equals);
    if key.is_empty() {
        return None;
    }
    Some((key, &value[1..], rest))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds since 1970, with a sign and a fraction if need be; what is finer than nanoseconds is cut off.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    let whole = i64::try_from(decimal(whole)?).ok()?;
    let mut nanoseconds = 0_u32;
    for place in 0..9 {
        let digit = match fraction.get(place) {
            Some(digit @ b'0'..=b'9') => u32::from(digit - b'0'),
            Some(_) => return None,
            None => 0,
        };
        nanoseconds = nanoseconds * 10 + digit;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds: whole,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -whole,
            nanoseconds: 0,
        },
        (true, _) => Time {
            seconds: -whole - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn malformed(what: &str) -> Error {
    Error::archive(b"", format!("an extended header {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let records = Records::parse(
            b"12 path=a/b\n29 SCHILY.xattr.user.k=a=b\n\0\n15 mtime=-1.25\n8 size=\n",
        );
        let records = records.unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(records.xattrs, [(b"user.k".to_vec(), b"a=b\n\0".to_vec())]);
        assert_eq!(records.size, None);
        let before = Time {
            seconds: -2,
            nanoseconds: 750_000_000,
        };
        assert_eq!(records.mtime, Some(before));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [
            &b"12 path=a/b"[..],
            b"0 path=a\n",
            b"99 path=a\n",
            b"path=a\n",
            b"7 path\n",
            b"6 =ab\n",
            b"99999999999999999999999 a=b\n",
            b"12 path=a\0b\n",
            b"11 size=1x\n",
            b"13 mtime=1.x\n",
        ] {
            assert!(Records::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
