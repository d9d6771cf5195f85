//! One header block (POSIX.1-2017, `pax`, "ustar Interchange Format"; GNU's `tar.h`).

use pontoon_layer::Time;

use super::Kind;
use crate::error::{Error, Result};

pub(crate) const BLOCK_BYTES: usize = 512;

/// Linux' largest device numbers.
const MAJOR_MAX: u64 = (1 << 12) - 1;
const MINOR_MAX: u64 = (1 << 20) - 1;

/// The last second that containerd sets (`pkg/archive/time.go`): 2262, where 64 bits of nanoseconds end.
const SECONDS_MAX: i64 = i64::MAX / 1_000_000_000;

/// What a header block says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) typeflag: u8,
    pub(super) path: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) mode: u16,
    pub(super) stored_mode: u64,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) atime: Option<Time>,
    pub(super) ctime: Option<Time>,
    pub(super) device: (u64, u64),
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Header> {
        let name = text(&block[..100]);
        check_sum(block, &name)?;
        let number = |what: &str, from: usize, to: usize| {
            number(&block[from..to])
                .ok_or_else(|| Error::archive(&name, format!("{what} is no number")))
        };
        let unsigned = |what: &str, from: usize, to: usize| {
            u64::try_from(number(what, from, to)?)
                .map_err(|_| Error::archive(&name, format!("{what} is negative")))
        };
        let format = Format::of(block);
        let stored_mode = unsigned("the mode", 100, 108)?;
        let mode = stored_mode & 0o7777;
        let device = if format == Format::V7 {
            (0, 0)
        } else {
            let numbers = (
                unsigned("a device", 329, 337)?,
                unsigned("a device", 337, 345)?,
            );
            (numbers.0, numbers.1)
        };
        let prefix = match format {
            Format::Ustar => text(&block[345..500]),
            Format::Star => text(&block[345..476]),
            Format::Gnu | Format::V7 => Vec::new(),
        };
        Ok(Header {
            typeflag: block[156],
            target: text(&block[157..257]),
            mode: u16::try_from(mode).unwrap_or_default(),
            stored_mode,
            uid: unsigned("the owner", 108, 116)?,
            gid: unsigned("the group", 116, 124)?,
            size: unsigned("the size", 124, 136)?,
            mtime: Time {
                seconds: number("the time", 136, 148)?,
                nanoseconds: 0,
            },
            atime: format.more_time(block, 345, 476),
            ctime: format.more_time(block, 357, 488),
            device,
            path: if prefix.is_empty() {
                name
            } else {
                [&prefix[..], b"/", &name].concat()
            },
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Format {
    fn of(block: &[u8; BLOCK_BYTES]) -> Format {
        match (&block[257..263], &block[263..265]) {
            (b"ustar\0", _) if &block[508..512] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        }
    }
}

impl Format {
    /// A time that GNU's format has at `gnu`, if it has it, and star's at `star`, always. Nobody unpacks with it, so
    /// what is no time is none.
    fn more_time(self, block: &[u8; BLOCK_BYTES], gnu: usize, star: usize) -> Option<Time> {
        let field = match self {
            Format::Gnu if block[gnu] != 0 => &block[gnu..gnu + 12],
            Format::Star => &block[star..star + 12],
            _ => return None,
        };
        let seconds = number(field)?;
        Some(Time {
            seconds,
            nanoseconds: 0,
        })
    }
}

/// What a type flag means.
pub(super) fn kind(typeflag: u8, device: (u64, u64), path: &[u8]) -> Result<Kind> {
    let device = || match device {
        (major @ 0..=MAJOR_MAX, minor @ 0..=MINOR_MAX) => Ok((major as u32, minor as u32)),
        (major, minor) => Err(Error::archive(
            path,
            format!("{major}:{minor} is no device of Linux'"),
        )),
    };
    Ok(match typeflag {
        b'0' => Kind::File,
        // Before POSIX, a slash at its end made a directory.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => {
            let (major, minor) = device()?;
            Kind::CharDevice { major, minor }
        }
        b'4' => {
            let (major, minor) = device()?;
            Kind::BlockDevice { major, minor }
        }
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(Error::Unsupported {
                path: String::from_utf8_lossy(path).into_owned().into(),
                what: format!("an entry of type {:?}", char::from(other)),
            });
        }
    })
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|byte| *byte == 0);
    field[..end.unwrap_or(field.len())].to_vec()
}

/// A number in octal digits, or, where the first bit is set, in base 256 with a sign; nothing is 0.
fn number(field: &[u8]) -> Option<i64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            let negative = first & 0x40 != 0;
            let start = if negative {
                i128::from(first | 0x80) - 256
            } else {
                i128::from(first & 0x3f)
            };
            let mut number = start;
            for byte in rest {
                number = number.checked_mul(256)?.checked_add(i128::from(*byte))?;
            }
            i64::try_from(number).ok()
        }
        _ => {
            let trimmed = field.trim_ascii_start();
            let begin = trimmed.iter().position(|byte| *byte != 0 && *byte != b' ');
            let digits = text(&trimmed[begin.unwrap_or(trimmed.len())..]);
            let digits = digits.trim_ascii();
            if digits.is_empty() {
                return Some(0);
            }
            digits.iter().try_fold(0_i64, |number, digit| match digit {
                b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

/// The sum of all bytes, that of the sum itself taken as blanks; old programs added signed bytes.
fn check_sum(block: &[u8; BLOCK_BYTES], name: &[u8]) -> Result<()> {
    let stored = number(&block[148..156]);
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (place, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&place) {
            b' '
        } else {
            *byte
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if stored == Some(unsigned) || stored == Some(signed) {
        return Ok(());
    }
    Err(Error::archive(
        name,
        "the sum of a header is wrong; this is no tar archive, or it was damaged",
    ))
}

/// What containerd makes of times that it cannot set: 1970.
pub(super) fn bound(time: Time) -> Time {
    if (0..SECONDS_MAX).contains(&time.seconds) {
        time
    } else {
        Time::default()
    }
}
