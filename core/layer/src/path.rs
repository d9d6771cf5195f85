//! Paths as layers write them.

use crate::error::FormatError;
use crate::limits::Limits;

/// The names in `path`, from the root. As everybody who unpacks a tar does, it takes every path for an absolute one:
/// empty names and `.` mean nothing, and `..` never leads out of the root. What is in the names is not looked at.
pub fn path_names(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

/// The same, of what a file system can hold.
pub(crate) fn components<'a>(
    path: &'a [u8],
    limits: &Limits,
) -> Result<Vec<&'a [u8]>, FormatError> {
    let named = || String::from_utf8_lossy(path);
    if path.len() > limits.path_bytes_max {
        return Err(FormatError::entry(
            &named(),
            format!("has a path of more than {} bytes", limits.path_bytes_max),
        ));
    }
    if path.contains(&0) {
        return Err(FormatError::entry(&named(), "has a NUL in its path"));
    }
    let names = path_names(path);
    if names.iter().any(|name| name.len() > limits.name_bytes_max) {
        return Err(FormatError::entry(
            &named(),
            format!("has a name of more than {} bytes", limits.name_bytes_max),
        ));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_taken_from_the_root() {
        let limits = Limits::default();
        let clean = |path: &str| {
            let names = components(path.as_bytes(), &limits).unwrap();
            String::from_utf8(names.join(&b'/')).unwrap()
        };
        for root in ["", ".", "/", "./", "..", "../..", "a/..", "/./../"] {
            assert_eq!(clean(root), "", "{root:?}");
        }
        for (path, cleaned) in [
            ("a", "a"),
            ("./a/", "a"),
            ("//a///b//", "a/b"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a/./b/..", "a"),
            ("...", "..."),
        ] {
            assert_eq!(clean(path), cleaned);
        }
    }

    #[test]
    fn what_no_file_system_can_hold_is_refused() {
        let limits = Limits::default();
        assert!(components(b"a\0b", &limits).is_err());
        assert!(components(&[b'x'; 256], &limits).is_err());
        assert!(components(&[b'x'; 255], &limits).is_ok());
        assert!(components(&b"x/".repeat(2049), &limits).is_err());
    }
}
