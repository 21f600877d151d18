//! Numbers in few characters, so that columns stay narrow and still.

use crate::top::model::Rate;
use crate::top::scrape::Quantile;

/// What stands for a number that is not known.
pub const UNKNOWN: &str = "–";

/// A count: `1,204`, `241k`, `12.3M`.
pub fn count(number: f64) -> String {
    if number < 99_999.5 {
        return grouped(number.round() as u64);
    }
    scaled(number, 1000.0, &["k", "M", "G", "T"])
}

/// A rate in a second: `0`, `0.4`, `12`, `241k`.
pub fn rate(number: Rate) -> String {
    match number {
        None => UNKNOWN.to_owned(),
        Some(number) if number > 0.0 && number < 9.95 => format!("{number:.1}"),
        Some(number) => count(number),
    }
}

/// Bytes: `0 B`, `64.0 KiB`, `1.2 MiB`.
pub fn bytes(number: f64) -> String {
    if number < 1024.0 {
        return format!("{number:.0} B");
    }
    scaled(number, 1024.0, &[" KiB", " MiB", " GiB", " TiB"])
}

/// A time in seconds, in two or three digits: `0 s`, `0.4 ms`, `12 ms`, `3.1 s`, `4 m`, `2 h`, `5 d`.
pub fn seconds(number: f64) -> String {
    match number {
        ..0.00005 => "0 s".to_owned(),
        ..0.00995 => format!("{:.1} ms", number * 1e3),
        ..0.9995 => format!("{:.0} ms", number * 1e3),
        ..9.95 => format!("{number:.1} s"),
        ..99.5 => format!("{number:.0} s"),
        ..5940.0 => format!("{:.0} m", number / 60.0),
        ..172_800.0 => format!("{:.0} h", number / 3600.0),
        _ => format!("{:.0} d", number / 86400.0),
    }
}

/// A quantile of times.
pub fn quantile(number: Option<Quantile>) -> String {
    match number {
        None => UNKNOWN.to_owned(),
        Some(Quantile::About(number)) => seconds(number),
        Some(Quantile::Above(number)) => format!(">{}", seconds(number)),
    }
}

/// Parts of a core: `41%`.
pub fn percent(number: Rate) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), |part| format!("{:.0}%", part * 100.0))
}

/// A number of things, with the thing's name in the right form.
pub fn of(number: f64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1.0 { one } else { many })
}

/// A curve of these numbers, the newest at the right, in at most `width` characters.
pub fn curve(numbers: impl DoubleEndedIterator<Item = f64> + Clone, width: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let newest = numbers.rev().take(width);
    let most = newest.clone().fold(0.0, f64::max);
    let step = |number: f64| match most {
        0.0 => STEPS[0],
        _ => STEPS[((number / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    let steps: Vec<char> = newest.map(step).collect();
    steps.into_iter().rev().collect()
}

/// The text in at most `width` characters; what is cut off is told by an ellipsis.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The text in at most `width` characters; the middle gives way, because addresses differ at their
/// end.
pub fn cut_within(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let (left, right) = (width.saturating_sub(1) / 2, width.saturating_sub(1).div_ceil(2));
    text.chars().take(left).chain(['…']).chain(text.chars().skip(length - right)).collect()
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn scaled(number: f64, base: f64, units: &[&str]) -> String {
    let (mut number, mut unit) = (number / base, 0);
    while number >= base - 0.05 && unit + 1 < units.len() {
        (number, unit) = (number / base, unit + 1);
    }
    let digits = usize::from(number < 99.95);
    format!("{number:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_few_characters() {
        assert_eq!([0.0, 1204.0, 99_999.0].map(count), ["0", "1,204", "99,999"]);
        assert_eq!([240_800.0, 999_999.0, 12_300_000.0].map(count), ["241k", "1.0M", "12.3M"]);
        assert_eq!([0.0, 0.44, 9.96].map(|n| rate(Some(n))), ["0", "0.4", "10"]);
        assert_eq!([512.0, 65_536.0, 1_258_291.0].map(bytes), ["512 B", "64.0 KiB", "1.2 MiB"]);
        let times = [0.0, 0.0004, 0.012, 3.12, 240.0, 7200.0, 432_000.0].map(seconds);
        assert_eq!(times, ["0 s", "0.4 ms", "12 ms", "3.1 s", "4 m", "2 h", "5 d"]);
        assert_eq!((rate(None), percent(Some(0.414))), ("–".into(), "41%".into()));
        assert_eq!(cut("orders:eu", 6), "order…");
        assert_eq!(cut_within("10.20.30.40:9090", 12), "10.20…0:9090");
    }

    #[test]
    fn a_curve_ends_with_the_newest() {
        assert_eq!(curve([0.0, 4.0, 8.0].into_iter(), 2), "▄█");
        assert_eq!(curve([0.0, 0.0].into_iter(), 9), "▁▁");
    }
}
