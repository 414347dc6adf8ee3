//! Units as people write and read them: durations, sizes, counts with separators.

use core::time::Duration;

/// A count with thousands separated: `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something: `1 message`, `1,234 messages`. The noun is one that takes an s.
pub fn counted(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", grouped(count))
}

/// The verb after so many of something.
pub fn are(count: u64) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// A duration with its two largest units: `1h30m`, `41m`, `3.2s`, `250ms`, `80us`.
pub fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let pair = |whole: u64, unit: &str, rest: u64, rest_unit: &str| match rest {
        0 => format!("{whole}{unit}"),
        _ => format!("{whole}{unit}{rest}{rest_unit}"),
    };
    match secs {
        86_400.. => pair(secs / 86_400, "d", secs % 86_400 / 3_600, "h"),
        3_600.. => pair(secs / 3_600, "h", secs % 3_600 / 60, "m"),
        60.. => pair(secs / 60, "m", secs % 60, "s"),
        10.. => format!("{secs}s"),
        1.. => format!("{:.1}s", duration.as_secs_f64()),
        0 if duration.as_millis() > 0 => format!("{}ms", duration.as_millis()),
        0 if duration.is_zero() => "0s".to_string(),
        0 => format!("{}us", duration.as_micros()),
    }
}

/// A size in binary units: `4.0 KiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `90`, `90s`, `5m`, `1h30m`, `2d`, `250ms`, `4 hours`: a bare number counts seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let unit = rest[..letters].to_ascii_lowercase();
        rest = rest[letters..].trim_start();
        if unit.is_empty() && (parts > 0 || !rest.is_empty()) {
            return None;
        }
        total = total.checked_add(one_unit(number, &unit)?)?;
        parts += 1;
    }
    if parts == 0 { None } else { Some(total) }
}

fn one_unit(number: u64, unit: &str) -> Option<Duration> {
    let secs = match unit {
        "us" => return Some(Duration::from_micros(number)),
        "ms" => return Some(Duration::from_millis(number)),
        "" | "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(secs)?))
}

/// `1024`, `64K`, `64 KiB`, `10M`, `2GiB`: binary multiples, a bare number counts bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_durations_and_sizes_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(0, "message"), "0 messages");
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(1_234, "open file"), "1,234 open files");
        assert_eq!([0, 1, 2].map(are), ["are", "is", "are"]);
        assert_eq!(duration(Duration::from_secs(5_400)), "1h30m");
        assert_eq!(duration(Duration::from_millis(3_200)), "3.2s");
        assert_eq!(duration(Duration::from_micros(80)), "80us");
        assert_eq!(duration(Duration::ZERO), "0s");
        assert_eq!(size(512), "512 B");
        assert_eq!(size(4_096), "4.0 KiB");
        assert_eq!(size(3 << 30), "3.0 GiB");
    }

    #[test]
    fn durations_are_read_in_many_forms_and_nonsense_is_refused() {
        let cases = [
            ("90", Some(90_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("4 hours", Some(14_400_000)),
            ("250ms", Some(250)),
            ("", None),
            ("m", None),
            ("5x", None),
            ("1h30", None),
            ("99999999999999999999", None),
        ];
        for (text, millis) in cases {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_are_binary_and_do_not_overflow() {
        assert_eq!(parse_size("64 KiB"), Some(65_536));
        assert_eq!(parse_size("10m"), Some(10 << 20));
        assert_eq!(parse_size("99999999999999T"), None);
        assert_eq!(parse_size("1x"), None);
    }
}
