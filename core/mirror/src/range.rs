//! `Range`, RFC 9110 section 14.

use std::ops::Range;

/// The longest header that is looked at, in bytes.
const TEXT_MAX: usize = 4096;

/// What a `Range` header asks for, of a blob whose size is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: there is no such header, or none that we understand.
    Whole,
    /// One part, not empty.
    Part(Range<u64>),
    /// Nothing that there is.
    Nowhere,
    /// Several parts, which are not given in one answer.
    Several,
}

/// Reads a header's value.
pub(crate) fn read(text: &str, size: u64) -> Wanted {
    let Some(set) = text.trim().strip_prefix("bytes=") else {
        return Wanted::Whole;
    };
    if set.len() > TEXT_MAX || set.contains(',') {
        return Wanted::Several;
    }
    let Some((first, last)) = set.trim().split_once('-') else {
        return Wanted::Whole;
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        // The last so many bytes.
        (None, Some(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Wanted::Whole,
    };
    match range.start < range.end {
        true => Wanted::Part(range),
        false => Wanted::Nowhere,
    }
}

/// Digits only: a sign is none. More than there can be is as good as the end.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_specification_are_read() {
        for (text, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=10-19", Wanted::Part(10..20)),
            (" bytes=10-19 ", Wanted::Part(10..20)),
            ("bytes=90-", Wanted::Part(90..100)),
            ("bytes=90-1000", Wanted::Part(90..100)),
            ("bytes=90-99999999999999999999999", Wanted::Part(90..100)),
            ("bytes=-10", Wanted::Part(90..100)),
            ("bytes=-1000", Wanted::Part(0..100)),
            ("bytes=-0", Wanted::Nowhere),
            ("bytes=100-", Wanted::Nowhere),
            ("bytes=100-200", Wanted::Nowhere),
            ("bytes=0-1,5-6", Wanted::Several),
            ("bytes=0-1,", Wanted::Several),
            // What is no range is no header.
            ("bytes=20-10", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(read(text, 100), wanted, "{text:?}");
        }
        assert_eq!(read("bytes=0-", 0), Wanted::Nowhere);
        assert_eq!(read("bytes=-5", 0), Wanted::Nowhere);
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_within(text in "bytes=[0-9]{0,22}-[0-9]{0,22}|.{0,30}", size: u64) {
            if let Wanted::Part(range) = read(&text, size) {
                assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
