//! Times as JSON has them.

use crate::tree::Time;

/// The last second that containerd sets (`pkg/archive/time.go`): 2262, where 64 bits of nanoseconds end.
const SECONDS_MAX: i64 = i64::MAX / 1_000_000_000;

/// The moment that `text` is (RFC 3339). Nothing, and what is no time, is 1970, as other readers have it; so is what
/// containerd sets to 1970 when it unpacks.
pub(super) fn parse(text: &str) -> Time {
    let time = parse_strictly(text).unwrap_or_default();
    if (0..SECONDS_MAX).contains(&time.seconds) {
        time
    } else {
        Time::default()
    }
}

fn parse_strictly(text: &str) -> Option<Time> {
    let (date, rest) = text.split_at_checked(10)?;
    let year = number(date.get(..4)?)?;
    let month = number(date.get(5..7)?)?;
    let day = number(date.get(8..)?)?;
    let (clock, rest) = rest.split_at_checked(9)?;
    let hour = number(clock.get(1..3)?)?;
    let minute = number(clock.get(4..6)?)?;
    let second = number(clock.get(7..)?)?;
    let separators = [
        date.get(4..5)?,
        date.get(7..8)?,
        clock.get(..1)?,
        clock.get(3..4)?,
        clock.get(6..7)?,
    ];
    if !matches!(separators, ["-", "-", "T" | "t" | " ", ":", ":"])
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (nanoseconds, zone) = fraction(rest)?;
    let seconds = days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
    Some(Time {
        seconds: seconds - offset(zone)?,
        nanoseconds,
    })
}

/// A number of nothing but digits.
fn number(digits: &str) -> Option<i64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The nanoseconds of a fraction of a second, if `text` begins with one, and what comes after it.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let Some(text) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(length)?;
    let digits = digits.get(..length.min(9))?;
    let value = u32::try_from(number(digits)?).ok()?;
    let missing = u32::try_from(9 - digits.len()).ok()?;
    Some((value.checked_mul(10_u32.pow(missing))?, rest))
}

/// The seconds that a zone is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let (sign, zone) = match zone.split_at_checked(1)? {
        ("+", zone) => (1, zone),
        ("-", zone) => (-1, zone),
        _ => return None,
    };
    let (hours, minutes) = zone.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    Some(sign * (number(hours)? * 3600 + number(minutes)? * 60))
}

/// Days in the Gregorian calendar. The year begins in March, so that its leap day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let day_of_year = (153 * since_march + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds, nanoseconds) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:30:45Z", 951_827_445, 0),
            ("2024-12-31T23:59:60Z", 1_735_689_600, 0),
            ("2026-11-24T23:00:00.5+01:00", 1_795_557_600, 500_000_000),
            (
                "2026-11-24T22:00:00.123456789-00:30",
                1_795_559_400,
                123_456_789,
            ),
            ("1969-12-31T23:59:59.9999999999Z", -1, 999_999_999),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
        ] {
            let time = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(parse_strictly(text), Some(time), "{text}");
        }
    }

    #[test]
    fn what_containerd_cannot_set_is_1970() {
        assert_eq!(parse("1970-01-01T00:00:01Z").seconds, 1);
        for text in [
            "1969-12-31T23:59:59.5Z",
            "0001-01-01T00:00:00Z",
            "2262-04-12T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(parse(text), Time::default(), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_1970() {
        for text in [
            "",
            "Z",
            "2026",
            "2026-11-24",
            "2026-11-24T23:00:00",
            "2026-13-24T23:00:00Z",
            "2026-11-24T23:00:00.Z",
            "2026-11-24T23:00:00+1:00",
            "+026-11-24T23:00:00Z",
            "2026-11-24T23:00:0\u{e9}Z",
            "\u{e9}\u{e9}26-11-24T23:00:00Z",
        ] {
            assert_eq!(parse_strictly(text), None, "{text}");
            assert_eq!(parse(text), Time::default());
        }
    }
}
