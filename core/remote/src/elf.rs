//! What an ELF file says about the other files that it needs. Pure, and bounded: the file is anybody's.
//!
//! The format is that of the System V ABI (`elf.h`): a header, program headers, and in the dynamic section offsets into a
//! table of strings.

use std::ops::Range;

/// So much of a file is looked at for its headers, in bytes: linkers put the program headers behind the file's header.
pub(crate) const HEAD_BYTES: usize = 4096;

/// The most bytes of a dynamic section and of its strings that are looked at.
const DYNAMIC_BYTES_MAX: u64 = 64 << 10;
const STRINGS_BYTES_MAX: u64 = 1 << 20;

/// The most program headers and needed libraries.
const HEADERS_MAX: usize = 64;
const NEEDED_MAX: usize = 256;

/// The longest name of a library or list of directories, in bytes.
const STRING_BYTES_MAX: usize = 4096;

/// Types of program headers.
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;

/// Tags of the dynamic section.
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// The shape of numbers in a file.
#[derive(Debug, Clone, Copy)]
struct Shape {
    is_wide: bool,
    is_little: bool,
}

impl Shape {
    fn number(self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(length)?)?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(match self.is_little {
            true => bytes.iter().rev().fold(0, add),
            false => bytes.iter().fold(0, add),
        })
    }

    /// A number as wide as an address.
    fn word(self, bytes: &[u8], narrow_at: usize, wide_at: usize) -> Option<u64> {
        match self.is_wide {
            true => self.number(bytes, wide_at, 8),
            false => self.number(bytes, narrow_at, 4),
        }
    }
}

/// A part of the file that is mapped.
#[derive(Debug, Clone)]
struct Load {
    address: u64,
    file: Range<u64>,
}

/// The headers of a file.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    shape: Shape,
    /// `e_machine`.
    pub(crate) machine: u64,
    /// Where the path of its interpreter is.
    pub(crate) interpreter: Option<Range<u64>>,
    /// Where its dynamic section is.
    pub(crate) dynamic: Option<Range<u64>>,
    loads: Vec<Load>,
}

impl Head {
    /// Reads the headers in `bytes`, the first [`HEAD_BYTES`] of a file. `None` if it is no ELF file that can be run.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"\x7fELF")?;
        let shape = Shape {
            is_wide: *rest.first()? == 2,
            is_little: *rest.get(1)? == 1,
        };
        let from = usize::try_from(shape.word(bytes, 28, 32)?).ok()?;
        let (size_at, count_at) = match shape.is_wide {
            true => (54, 56),
            false => (42, 44),
        };
        let size = shape.number(bytes, size_at, 2)? as usize;
        let count = (shape.number(bytes, count_at, 2)? as usize).min(HEADERS_MAX);
        let mut head = Head {
            shape,
            machine: shape.number(bytes, 18, 2)?,
            interpreter: None,
            dynamic: None,
            loads: Vec::new(),
        };
        for index in 0..count {
            let at = from.checked_add(index.checked_mul(size)?)?;
            head.add(bytes.get(at..)?)?;
        }
        Some(head)
    }

    fn add(&mut self, header: &[u8]) -> Option<()> {
        let shape = self.shape;
        let start = shape.word(header, 4, 8)?;
        let length = shape.word(header, 16, 32)?;
        let file = start..start.checked_add(length)?;
        match shape.number(header, 0, 4)? {
            PT_LOAD => self.loads.push(Load {
                address: shape.word(header, 8, 16)?,
                file,
            }),
            PT_DYNAMIC => self.dynamic = Some(bounded(file, DYNAMIC_BYTES_MAX)),
            PT_INTERP => self.interpreter = Some(bounded(file, STRING_BYTES_MAX as u64)),
            _ => {}
        }
        Some(())
    }

    /// Where in the file the byte at `address` is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.loads.iter().find_map(|load| {
            let inside = address.checked_sub(load.address)?;
            let length = load.file.end - load.file.start;
            (inside < length).then(|| load.file.start + inside)
        })
    }

    /// Reads the dynamic section `bytes`.
    pub(crate) fn dynamic(&self, bytes: &[u8]) -> Option<Dynamic> {
        let size = if self.shape.is_wide { 16 } else { 8 };
        let mut dynamic = Dynamic::default();
        let (mut strings, mut strings_bytes) = (None, STRINGS_BYTES_MAX);
        for entry in bytes.chunks_exact(size) {
            let tag = self.shape.word(entry, 0, 0)?;
            let value = self.shape.word(entry, 4, 8)?;
            match tag {
                DT_NULL => break,
                DT_NEEDED if dynamic.needed.len() < NEEDED_MAX => dynamic.needed.push(value),
                DT_STRTAB => strings = self.offset(value),
                DT_STRSZ => strings_bytes = value,
                DT_RPATH => dynamic.rpath = Some(value),
                DT_RUNPATH => dynamic.runpath = Some(value),
                _ => {}
            }
        }
        let start = strings?;
        dynamic.strings = bounded(start..start.checked_add(strings_bytes)?, STRINGS_BYTES_MAX);
        Some(dynamic)
    }
}

fn bounded(range: Range<u64>, most: u64) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(most))
}

/// What a dynamic section says: offsets in the strings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// Libraries.
    pub(crate) needed: Vec<u64>,
    /// Where they are looked for.
    pub(crate) rpath: Option<u64>,
    pub(crate) runpath: Option<u64>,
    /// Where in the file the strings are.
    pub(crate) strings: Range<u64>,
}

/// The string at `offset` of `strings`, without its NUL.
pub(crate) fn string(strings: &[u8], offset: u64) -> Option<&[u8]> {
    let from = strings.get(usize::try_from(offset).ok()?..)?;
    let length = from
        .iter()
        .take(STRING_BYTES_MAX)
        .position(|byte| *byte == 0)?;
    from.get(..length).filter(|string| !string.is_empty())
}

/// The directory that Debian and its children have for libraries of a machine.
pub(crate) fn triplet(machine: u64) -> Option<&'static str> {
    Some(match machine {
        3 => "i386-linux-gnu",
        21 => "powerpc64le-linux-gnu",
        22 => "s390x-linux-gnu",
        40 => "arm-linux-gnueabihf",
        62 => "x86_64-linux-gnu",
        183 => "aarch64-linux-gnu",
        243 => "riscv64-linux-gnu",
        258 => "loongarch64-linux-gnu",
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A 64-bit file that needs `libraries` and looks for them in `runpath`.
    pub(crate) fn file(interpreter: &str, libraries: &[&str], runpath: &str) -> Vec<u8> {
        const ADDRESS: u64 = 0x40_0000;
        let interpreter = [interpreter.as_bytes(), b"\0"].concat();
        let mut strings = vec![0];
        let mut dynamic: Vec<(u64, u64)> = Vec::new();
        for library in libraries {
            dynamic.push((DT_NEEDED, strings.len() as u64));
            strings.extend([library.as_bytes(), b"\0"].concat());
        }
        dynamic.push((DT_RUNPATH, strings.len() as u64));
        strings.extend([runpath.as_bytes(), b"\0"].concat());
        let interpreter_at = 64 + 3 * 56;
        let strings_at = interpreter_at + interpreter.len() as u64;
        let dynamic_at = strings_at + strings.len() as u64;
        dynamic.push((DT_STRTAB, ADDRESS + strings_at));
        dynamic.push((DT_STRSZ, strings.len() as u64));
        dynamic.push((DT_NULL, 0));
        let end = dynamic_at + 16 * dynamic.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
        file.extend([0; 8]);
        file.extend(64_u64.to_le_bytes());
        file.extend([0; 14]);
        file.extend([56, 0, 3, 0]);
        file.resize(64, 0);
        for (kind, start, length) in [
            (PT_LOAD, 0, end),
            (PT_INTERP, interpreter_at, interpreter.len() as u64),
            (PT_DYNAMIC, dynamic_at, end - dynamic_at),
        ] {
            file.extend(kind.to_le_bytes());
            for number in [start, ADDRESS + start, 0, length, length, 1] {
                file.extend(number.to_le_bytes());
            }
        }
        file.extend(interpreter);
        file.extend(strings);
        for (tag, value) in dynamic {
            file.extend(tag.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        file
    }

    fn part(file: &[u8], range: &Range<u64>) -> Vec<u8> {
        let at = |offset: u64| {
            usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(file.len())
        };
        file.get(at(range.start)..at(range.end))
            .unwrap_or_default()
            .to_vec()
    }

    /// The interpreter, the libraries, and where these are looked for.
    type Needs = (Vec<u8>, Vec<Vec<u8>>, Option<Vec<u8>>);

    fn read(file: &[u8]) -> Option<Needs> {
        let head = Head::read(&file[..file.len().min(HEAD_BYTES)])?;
        let interpreter = part(file, head.interpreter.as_ref()?);
        let dynamic = head.dynamic(&part(file, head.dynamic.as_ref()?))?;
        let strings = part(file, &dynamic.strings);
        let text = |offset: &u64| string(&strings, *offset).map(<[u8]>::to_vec);
        let needed = dynamic.needed.iter().filter_map(text).collect();
        let path = dynamic.runpath.or(dynamic.rpath);
        Some((interpreter, needed, path.as_ref().and_then(text)))
    }

    #[test]
    fn a_file_says_what_it_needs() {
        let file = file("/lib/ld.so", &["liba.so.1", "libb.so"], "$ORIGIN/../lib");
        let (interpreter, needed, path) = read(&file).unwrap();
        assert_eq!(interpreter, b"/lib/ld.so\0");
        assert_eq!(needed, [b"liba.so.1".to_vec(), b"libb.so".to_vec()]);
        assert_eq!(path.unwrap(), b"$ORIGIN/../lib");
    }

    #[test]
    fn this_program_needs_the_c_library() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let (interpreter, needed, _) = read(&file).unwrap();
        assert!(interpreter.starts_with(b"/lib"), "{interpreter:?}");
        assert!(
            needed.iter().any(|name| name.starts_with(b"libc.")),
            "{needed:?}"
        );
    }

    #[test]
    fn whatever_a_file_has_in_it_is_survived() {
        let good = file("/lib/ld.so", &["liba.so.1", "libb.so"], "/x");
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = read(&bad);
            }
            let _ = read(&good[..at]);
        }
    }
}
