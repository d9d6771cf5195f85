//! Domain values from and to messages, error classes from and to gRPC codes.

use std::time::{Duration, SystemTime};

use pontoon_snapshot::{Class, Error, Info, Key, Kind, Labels, Mount, Result, Usage};
use prost_types::Timestamp;
use tonic::Code;

use crate::{snapshots as v1, types};

/// The gRPC code that reports errors of `class`. containerd maps these back one to one.
pub fn code(class: Class) -> Code {
    match class {
        Class::NotFound => Code::NotFound,
        Class::AlreadyExists => Code::AlreadyExists,
        Class::FailedPrecondition => Code::FailedPrecondition,
        Class::Invalid => Code::InvalidArgument,
        Class::Exhausted => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::Unimplemented => Code::Unimplemented,
        Class::Corrupt => Code::DataLoss,
        Class::Internal => Code::Internal,
    }
}

/// The class that `code` reports; codes that no snapshotter answers are internal errors.
pub fn class(code: Code) -> Class {
    match code {
        Code::NotFound => Class::NotFound,
        Code::AlreadyExists => Class::AlreadyExists,
        Code::FailedPrecondition => Class::FailedPrecondition,
        Code::InvalidArgument | Code::OutOfRange => Class::Invalid,
        Code::ResourceExhausted => Class::Exhausted,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Class::Unavailable,
        Code::Unimplemented => Class::Unimplemented,
        Code::DataLoss => Class::Corrupt,
        _ => Class::Internal,
    }
}

/// The parent of a message, where the empty text means none.
pub fn parent(text: String) -> Result<Option<Key>> {
    if text.is_empty() {
        Ok(None)
    } else {
        Key::new(text).map(Some)
    }
}

/// The parent as a message has it.
pub fn parent_text(parent: Option<&Key>) -> String {
    parent.map(Key::as_str).unwrap_or_default().to_owned()
}

/// A mount as the API has it.
pub fn mount(mount: Mount) -> types::Mount {
    types::Mount {
        r#type: mount.fs_type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

/// A mount of the API as the domain has it.
pub fn mount_from(mount: types::Mount) -> Mount {
    Mount {
        fs_type: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

/// A kind as the API has it.
pub fn kind(kind: Kind) -> v1::Kind {
    match kind {
        Kind::View => v1::Kind::View,
        Kind::Active => v1::Kind::Active,
        Kind::Committed => v1::Kind::Committed,
    }
}

/// A kind of the API as the domain has it; `UNKNOWN` and unknown numbers are refused.
pub fn kind_from(number: i32) -> Result<Kind> {
    match v1::Kind::try_from(number) {
        Ok(v1::Kind::View) => Ok(Kind::View),
        Ok(v1::Kind::Active) => Ok(Kind::Active),
        Ok(v1::Kind::Committed) => Ok(Kind::Committed),
        Ok(v1::Kind::Unknown) | Err(_) => Err(Error::invalid(
            format!("snapshot kind {number}"),
            "use 1 (view), 2 (active) or 3 (committed)",
        )),
    }
}

/// An info as the API has it.
pub fn info(info: Info) -> v1::Info {
    v1::Info {
        name: info.key.as_str().to_owned(),
        parent: parent_text(info.parent.as_ref()),
        kind: kind(info.kind).into(),
        created_at: Some(timestamp(info.created)),
        updated_at: Some(timestamp(info.updated)),
        labels: info.labels.into_map(),
    }
}

/// An info of the API as the domain has it; refused where a part is not within the domain's limits.
pub fn info_from(info: v1::Info) -> Result<Info> {
    Ok(Info {
        key: Key::new(info.name)?,
        parent: parent(info.parent)?,
        kind: kind_from(info.kind)?,
        created: time_from(info.created_at)?,
        updated: time_from(info.updated_at)?,
        labels: Labels::new(info.labels)?,
    })
}

/// A usage as the API has it.
pub fn usage(usage: Usage) -> v1::UsageResponse {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    v1::UsageResponse {
        size: signed(usage.size_bytes),
        inodes: signed(usage.inodes),
    }
}

/// A usage of the API as the domain has it; negative numbers count as 0.
pub fn usage_from(usage: v1::UsageResponse) -> Usage {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    Usage {
        size_bytes: unsigned(usage.size),
        inodes: unsigned(usage.inodes),
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// Nanoseconds are kept; an absent time is the epoch.
fn time_from(timestamp: Option<Timestamp>) -> Result<SystemTime> {
    let Some(Timestamp { seconds, nanos }) = timestamp else {
        return Ok(SystemTime::UNIX_EPOCH);
    };
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let fraction = Duration::from_nanos(u64::from(nanos.unsigned_abs()));
    let base = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|base| base.checked_add(fraction))
        .ok_or_else(|| {
            Error::invalid(
                format!("timestamp {seconds}"),
                "it is out of range; use a UTC time",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_keeps_its_code() {
        for of in [
            Class::NotFound,
            Class::AlreadyExists,
            Class::FailedPrecondition,
            Class::Invalid,
            Class::Exhausted,
            Class::Unavailable,
            Class::Unimplemented,
            Class::Corrupt,
            Class::Internal,
        ] {
            assert_eq!(class(code(of)), of);
        }
    }

    #[test]
    fn an_info_survives_the_wire_to_the_nanosecond() {
        let created = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let before = Info {
            key: Key::new("default/1/x").unwrap(),
            parent: Some(Key::new("default/2/y").unwrap()),
            kind: Kind::Committed,
            created,
            updated: created + Duration::from_nanos(1),
            labels: Labels::new([("a".to_owned(), "b".to_owned())]).unwrap(),
        };
        assert_eq!(info_from(info(before.clone())).unwrap(), before);
    }

    #[test]
    fn hostile_numbers_are_refused_or_bounded() {
        for number in [-1, 0, 4, i32::MAX] {
            assert_eq!(kind_from(number).unwrap_err().class(), Class::Invalid);
        }
        for seconds in [i64::MIN, -1, 0, i64::MAX] {
            for nanos in [i32::MIN, 0, i32::MAX] {
                let _ = time_from(Some(Timestamp { seconds, nanos }));
            }
        }
        assert_eq!(
            usage_from(v1::UsageResponse {
                size: -1,
                inodes: -1
            }),
            Usage::default()
        );
        assert_eq!(
            usage(Usage {
                size_bytes: u64::MAX,
                inodes: 1
            })
            .size,
            i64::MAX
        );
    }
}
