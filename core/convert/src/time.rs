//! Times as JSON has them (RFC 3339).

use pontoon_layer::Time;

/// The first and the last second of the years 1 to 9999, all that RFC 3339 can write.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

const DAY: i64 = 86_400;

/// `time` in UTC, without a fraction if it has none. `None` if it cannot be written.
pub(crate) fn text(time: Time) -> Option<String> {
    if !SECONDS.contains(&time.seconds) || time.nanoseconds >= 1_000_000_000 {
        return None;
    }
    let (year, month, day) = date(time.seconds.div_euclid(DAY));
    let second = time.seconds.rem_euclid(DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = match time.nanoseconds {
        0 => String::new(),
        nanoseconds => {
            let digits = format!("{nanoseconds:09}");
            format!(".{}", digits.trim_end_matches('0'))
        }
    };
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
    ))
}

/// Year, month and day of the day that is so many days after 1970-01-01. Counted in years that begin in March, so that
/// the day that is not always there is the last one (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let month = match march_month {
        0..=9 => march_month + 3,
        _ => march_month - 9,
    };
    let year = era * 400 + year + i64::from(month <= 2);
    (year, month, day - (153 * march_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everybody_reads_them() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 500_000_000, "2000-02-29T00:00:00.5Z"),
            (1_709_251_199, 1, "2024-02-29T23:59:59.000000001Z"),
            (-1, 0, "1969-12-31T23:59:59Z"),
            (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59Z"),
        ] {
            let time = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(text(time).as_deref(), Some(expected));
        }
        for seconds in [i64::MIN, -62_135_596_801, 253_402_300_800, i64::MAX] {
            let time = Time {
                seconds,
                nanoseconds: 0,
            };
            assert_eq!(text(time), None);
        }
    }
}
