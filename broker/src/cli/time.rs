//! Times as people write and read them: RFC 3339 in UTC, Unix milliseconds, or so long ago.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MS_PER_DAY: i64 = 86_400_000;

/// The current time, Unix milliseconds.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Reads a time, as Unix milliseconds: `2026-11-21`, `2026-11-21T17:30:00Z`, `2026-11-21T17:30:00.5+02:00`, `1795280000000`,
/// or `-90s`, `-15m`, `-2h`, `-7d` before now. The error says so.
pub fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, now_ms()).ok_or_else(|| {
        format!("{text:?} is no time: write 2026-11-21T17:30:00Z, Unix milliseconds, or -15m for 15 minutes ago")
    })
}

fn parse_at(text: &str, now_ms: i64) -> Option<i64> {
    if let Some(ago) = text.strip_prefix('-') {
        let (number, unit) = ago.split_at_checked(ago.len().checked_sub(1)?)?;
        let unit_ms = match unit {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => MS_PER_DAY,
            _ => return None,
        };
        return now_ms.checked_sub(digits(number)?.checked_mul(unit_ms)?);
    }
    if let Some(number) = digits(text) {
        return Some(number);
    }
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (fixed(parts.next()?, 4)?, fixed(parts.next()?, 2)?, fixed(parts.next()?, 2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=days_of_month(year, month)).contains(&day) {
        return None;
    }
    let (time, offset_minutes) = if let Some(time) = time.strip_suffix('Z') {
        (time, 0)
    } else {
        let sign_at = time.rfind(['+', '-'])?;
        let (hours, minutes) = time[sign_at + 1..].split_once(':')?;
        let minutes = fixed(hours, 2)? * 60 + fixed(minutes, 2)?;
        (&time[..sign_at], if time.as_bytes()[sign_at] == b'+' { minutes } else { -minutes })
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':');
    let (hour, minute) = (fixed(parts.next()?, 2)?, fixed(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |second| fixed(second, 2))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    digits(fraction)?;
    let ms = digits(&format!("{fraction:0<3}")[..3])?;
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    Some((minutes * 60 + second) * 1_000 + ms)
}

/// A number of digits only.
fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn fixed(text: &str, count: usize) -> Option<i64> {
    (text.len() == count).then(|| digits(text))?
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first day of a year.
fn days_to_year(year: i64) -> i64 {
    let before = year - 1;
    let leap_days = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * (year - 1970) + leap_days(before) - leap_days(1969)
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    days_to_year(year) + (1..month).map(|month| days_of_month(year, month)).sum::<i64>() + day - 1
}

/// Writes a time as RFC 3339 in UTC, to the millisecond; one that has no such form as its number.
pub fn format(unix_ms: i64) -> String {
    let days = unix_ms.div_euclid(MS_PER_DAY);
    let ms = unix_ms.rem_euclid(MS_PER_DAY);
    if !(days_to_year(1)..days_to_year(10_000)).contains(&days) {
        return unix_ms.to_string();
    }
    // Leap days put it off by a few years at most.
    let mut year = 1970 + days.div_euclid(365);
    while days_to_year(year) > days {
        year -= 1;
    }
    while days_to_year(year + 1) <= days {
        year += 1;
    }
    let mut day = days - days_to_year(year);
    let mut month = 1;
    while day >= days_of_month(year, month) {
        day -= days_of_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", day + 1, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were_written() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("2024-12-31T12:00:00.000Z", 1_735_646_400_000),
            ("2026-11-21T17:30:00.250Z", 1_795_282_200_250),
            ("1969-12-31T23:59:59.999Z", -1),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
            ("0001-01-01T00:00:00.000Z", -62_135_596_800_000),
        ] {
            assert_eq!(format(unix_ms), text);
            assert_eq!(parse_at(text, 0), Some(unix_ms), "{text}");
        }
        // Every day of eight centuries lies after the one before.
        let mut last = String::new();
        for day in -140_000..150_000 {
            let text = format(day * MS_PER_DAY);
            assert!(text > last, "{text} follows {last}");
            assert_eq!(parse_at(&text, 0), Some(day * MS_PER_DAY));
            last = text;
        }
        for out_of_range in [i64::MAX, i64::MIN, 253_402_300_800_000, -62_135_596_800_001] {
            assert_eq!(format(out_of_range), out_of_range.to_string());
        }
    }

    #[test]
    fn people_may_be_brief() {
        let now = 1_795_282_200_000;
        for (text, unix_ms) in [
            ("2026-11-21", 1_795_219_200_000),
            ("2026-11-21T17:30Z", now),
            ("2026-11-21 18:30:00+01:00", now),
            ("2026-11-21T12:00:00.5-05:30", now + 500),
            ("1795282200000", now),
            ("-90s", now - 90_000),
            ("-15m", now - 900_000),
            ("-2h", now - 7_200_000),
            ("-7d", now - 7 * MS_PER_DAY),
        ] {
            assert_eq!(parse_at(text, now), Some(unix_ms), "{text}");
        }
        for broken in [
            "",
            "-",
            "-5",
            "-h",
            "yesterday",
            "2026-13-01",
            "2026-02-29",
            "2026-11-21T24:00Z",
            "2026-11-21T10:00",
            "1e3",
            "-ö",
        ] {
            assert_eq!(parse_at(broken, now), None, "{broken:?}");
        }
    }
}
