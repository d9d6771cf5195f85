//! Sizes with their units.

use toml::de::DeValue;

use super::setting::{Setting, quoted};

/// A number of bytes, written with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// The largest first.
const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Setting for Bytes {
    fn allowed() -> String {
        "a size like \"512MiB\", \"20GiB\" or \"1TiB\", or 0".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        if let Some(integer) = value.as_integer() {
            // Of a plain number nobody knows what was meant.
            let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            return (number == 0).then_some(Bytes(0));
        }
        let text = value.as_str()?;
        UNITS.into_iter().find_map(|(unit, bytes)| {
            let number = text.strip_suffix(unit)?.trim_end();
            let number = number
                .bytes()
                .all(|digit| digit.is_ascii_digit())
                .then_some(number)?;
            number.parse::<u64>().ok()?.checked_mul(bytes).map(Bytes)
        })
    }

    fn write(&self) -> String {
        let fits = |(_, bytes): &(&str, u64)| self.0.is_multiple_of(*bytes);
        match UNITS.into_iter().find(fits) {
            Some((unit, bytes)) if self.0 > 0 => quoted(&format!("{}{unit}", self.0 / bytes)),
            _ => "0".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<u64> {
        let value = DeValue::parse(text).unwrap();
        Bytes::read(value.get_ref()).map(|bytes| bytes.0)
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for bytes in [0, 1, 1023, 1024, 3 << 20, 20 << 30, 1 << 40, u64::MAX] {
            assert_eq!(read(&Bytes(bytes).write()), Some(bytes));
        }
        assert_eq!(read("\"512 MiB\""), Some(512 << 20));
        for wrong in [
            "5",
            "\"5\"",
            "\"GiB\"",
            "\"-1GiB\"",
            "\"1GB\"",
            "true",
            "\"99999999TiB\"",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
