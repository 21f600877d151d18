//! Times on the command line. Every option that takes one reads it here: a duration such as `5m`,
//! or a moment as RFC 3339 writes it.

use std::time::{Duration, SystemTime};

/// Seconds in a minute.
const MINUTE: u64 = 60;

/// A moment, or the distance to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// This far from now; the option says in which direction.
    Away(Duration),
    /// At this moment.
    At(SystemTime),
}

/// Parses a duration. Zero needs no unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration; write 500ms, 30s, 5m or 1h30m"))
}

/// Parses a duration above zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() { Err("must be above zero".to_owned()) } else { Ok(time) }
}

/// Parses a duration above zero, or a moment.
pub fn when(text: &str) -> Result<When, String> {
    if let Some(moment) = rfc3339(text) {
        return Ok(When::At(moment));
    }
    match duration(text) {
        Ok(Duration::ZERO) => Err("must be above zero".to_owned()),
        Ok(time) => Ok(When::Away(time)),
        Err(_) => Err(format!(
            "{text:?} is not a time; write 5m, or a moment such as 2026-11-26T12:00:00Z"
        )),
    }
}

/// Parses a moment as RFC 3339 (§5.6) writes it, with `Z` or an offset from UTC.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.to_ascii_uppercase();
    if text.ends_with('Z') {
        return humantime::parse_rfc3339(&text).ok();
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+hh:mm".len())?)?;
    let (east, digits) = match offset.split_at(1) {
        ("+", digits) => (true, digits),
        ("-", digits) => (false, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_once(':')?;
    let number = |digits: &str, limit: u64| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u64>().ok())?.filter(|number| *number < limit)
    };
    let minutes = number(hours, 24)? * MINUTE + number(minutes, MINUTE)?;
    let offset = Duration::from_secs(minutes * MINUTE);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    if east { local.checked_sub(offset) } else { local.checked_add(offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_an_offset() {
        let noon = humantime::parse_rfc3339("2026-11-26T12:00:00Z").unwrap();
        for text in [
            "2026-11-26T12:00:00Z",
            "2026-11-26t12:00:00.000z",
            "2026-11-26T13:00:00+01:00",
            "2026-11-26T06:30:00-05:30",
            "2026-11-26T12:00:00+00:00",
        ] {
            assert_eq!(when(text), Ok(When::At(noon)), "{text}");
        }
        for text in
            ["2026-11-26T12:00:00", "2026-11-26", "12:00", "2026-11-26T12:00:00+1:00", "ü+01:00"]
        {
            assert!(when(text).unwrap_err().contains("is not a time"), "{text}");
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_zero_needs_none() {
        assert_eq!(when("5m"), Ok(When::Away(Duration::from_secs(300))));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for text in ["30", "5 parsecs", "", "-5m", "0"] {
            assert!(when(text).is_err(), "{text}");
        }
    }
}
