//! Mappings of user namespaces, as containerd writes them: `container:host:length`, joined by commas.

use std::fs;
use std::os::fd::OwnedFd;

use crate::raw::IdleChild;
use crate::{Error, Result};

/// The most ranges in one map: the kernel's limit.
const RANGES_MAX: usize = 340;

/// The uid and gid mapping of a user namespace. Both have ranges, and both map the container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    uids: Vec<Range>,
    gids: Vec<Range>,
}

/// `length` ids from `container` on are the ids from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    container: u32,
    host: u32,
    length: u32,
}

/// A mapping that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// Not of the form `container:host:length`, decimal numbers of which the first two are below 4294967295.
    #[error("{0:?} is not of the form CONTAINER:HOST:LENGTH[,…] with ids below 4294967295")]
    Syntax(String),
    /// A range that ends beyond the last id.
    #[error("{0:?} goes beyond the last id, 4294967294")]
    TooLong(String),
    /// More ranges than the kernel takes.
    #[error("more than 340 ranges, the kernel's limit")]
    TooMany,
    /// The container's root is nobody on the host.
    #[error("it maps no id to the container's id 0; add a range that starts at 0")]
    NoRoot,
}

impl IdMap {
    /// Reads the two lists of ranges.
    pub fn parse(uids: &str, gids: &str) -> Result<Self, IdMapError> {
        Ok(IdMap {
            uids: parse_ranges(uids)?,
            gids: parse_ranges(gids)?,
        })
    }

    /// The host's uid and gid of the container's root.
    pub fn root(&self) -> (u32, u32) {
        // `parse_ranges` has seen that 0 is mapped.
        let host = |ranges: &[Range]| root_of(ranges).unwrap_or_default();
        (host(&self.uids), host(&self.gids))
    }

    /// A user namespace with this mapping, for idmapped mounts. It lives as long as the descriptor or a mount.
    pub fn user_namespace(&self) -> Result<OwnedFd> {
        let child = IdleChild::in_new_user_namespace()
            .map_err(|error| Error::new("create a user namespace", error))?;
        let process = format!("/proc/{}", child.pid.as_raw_nonzero());
        for (file, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let path = format!("{process}/{file}");
            fs::write(&path, kernel_form(ranges))
                .map_err(|error| Error::new(format!("write {path}"), error))?;
        }
        let path = format!("{process}/ns/user");
        let namespace =
            fs::File::open(&path).map_err(|error| Error::new(format!("open {path}"), error))?;
        Ok(namespace.into())
    }
}

fn parse_ranges(text: &str) -> Result<Vec<Range>, IdMapError> {
    let ranges: Vec<Range> = text.split(',').map(parse_range).collect::<Result<_, _>>()?;
    if ranges.len() > RANGES_MAX {
        return Err(IdMapError::TooMany);
    }
    match root_of(&ranges) {
        Some(_) => Ok(ranges),
        None => Err(IdMapError::NoRoot),
    }
}

fn parse_range(text: &str) -> Result<Range, IdMapError> {
    let syntax = || IdMapError::Syntax(text.chars().take(80).collect());
    let number = |part: Option<&str>| {
        part.filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|part| part.parse::<u32>().ok())
            .ok_or_else(syntax)
    };
    // u32::MAX is the id that means "none".
    let id = |part| number(part).and_then(|id| (id != u32::MAX).then_some(id).ok_or_else(syntax));
    let mut parts = text.split(':');
    let range = Range {
        container: id(parts.next())?,
        host: id(parts.next())?,
        length: number(parts.next())?,
    };
    if parts.next().is_some() || range.length == 0 {
        return Err(syntax());
    }
    for first in [range.container, range.host] {
        if first.checked_add(range.length).is_none() {
            return Err(IdMapError::TooLong(text.to_owned()));
        }
    }
    Ok(range)
}

fn root_of(ranges: &[Range]) -> Option<u32> {
    ranges
        .iter()
        .find(|range| range.container == 0)
        .map(|range| range.host)
}

/// Ranges as `/proc/PID/uid_map` takes them.
fn kernel_form(ranges: &[Range]) -> String {
    ranges
        .iter()
        .map(|range| format!("{} {} {}\n", range.container, range.host, range.length))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_pair_is_that_of_the_range_from_zero() {
        let map = IdMap::parse("1:200000:10,0:100000:1", "0:7:65536").unwrap();
        assert_eq!(map.root(), (100_000, 7));
        assert_eq!(kernel_form(&map.uids), "1 200000 10\n0 100000 1\n");
    }

    #[test]
    fn what_is_no_mapping_is_refused_with_the_reason() {
        for bad in [
            "",
            "0",
            "0:1",
            "0:1:2:3",
            "a:1:1",
            "0:1:-1",
            "+0:1:1",
            "0:1:1,",
            "0:1:0",
            " 0:1:1",
            "0:4294967295:1",
            "4294967295:0:1",
            "0:1:4294967296",
        ] {
            let error = IdMap::parse(bad, "0:0:1").unwrap_err();
            assert!(matches!(error, IdMapError::Syntax(_)), "{bad:?}: {error}");
            assert_eq!(IdMap::parse("0:0:1", bad).unwrap_err(), error);
        }
        let long = IdMap::parse("0:4294967290:6", "0:0:1").unwrap_err();
        assert!(matches!(long, IdMapError::TooLong(_)));
        assert!(IdMap::parse("0:4294967290:5", "0:0:1").is_ok());
        // Every id mapped to itself, as in the first user namespace.
        let identity = "0:0:4294967295";
        assert_eq!(IdMap::parse(identity, identity).unwrap().root(), (0, 0));
        let beyond = IdMap::parse("0:1:4294967295", "0:0:1").unwrap_err();
        assert!(matches!(beyond, IdMapError::TooLong(_)));
        assert_eq!(
            IdMap::parse("1:0:1", "0:0:1").unwrap_err(),
            IdMapError::NoRoot
        );
        let many = vec!["0:0:1"; RANGES_MAX + 1].join(",");
        assert_eq!(
            IdMap::parse(&many, "0:0:1").unwrap_err(),
            IdMapError::TooMany
        );
    }
}
