//! Durations as Go writes them: `24h0m0s`, `1.5s`, `0`.

use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads what Go's `time.ParseDuration` reads, without negative ones: none of kubeadm's fields has a use for them.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        nanos = nanos.checked_add(amount(number, u128::from(*scale))?)?;
        rest = tail;
    }
    if text.is_empty() || nanos > i64::MAX as u128 {
        return None;
    }
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// `1.25` of a unit, in nanoseconds.
fn amount(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |s: &str| if s.is_empty() { Some(0) } else { s.parse::<u128>().ok() };
    // More digits than nanoseconds can hold say nothing; Go drops them too.
    let fraction = fraction.get(..fraction.len().min(18))?;
    let part = digits(fraction)?.checked_mul(scale)? / 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?.checked_mul(scale)?.checked_add(part)
}

/// Writes it as Go does, so that it reads the same in kubeadm's documents.
pub fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (scale, unit) = match nanos {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{unit}", decimal(nanos, scale));
    }
    let seconds = nanos / 1_000_000_000;
    let in_minute = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{in_minute}s"),
        (0, minutes) => format!("{minutes}m{in_minute}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{in_minute}s"),
    }
}

fn decimal(value: u128, scale: u128) -> String {
    let width = scale.ilog10() as usize;
    let text = format!("{}.{:0width$}", value / scale, value % scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_and_written_as_in_go() {
        for (text, written) in [
            ("0", "0s"),
            ("24h", "24h0m0s"),
            ("8760h", "8760h0m0s"),
            ("1h30m", "1h30m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("1.5h", "1h30m0s"),
            (".5m", "30s"),
            ("100ms", "100ms"),
            ("1500us", "1.5ms"),
            ("2µs", "2µs"),
            ("7ns", "7ns"),
            ("+4m", "4m0s"),
            ("1h1h", "2h0m0s"),
        ] {
            assert_eq!(duration(text).map(duration_text).as_deref(), Some(written), "{text}");
        }
        for text in ["", "5", "1d", "-1s", "h", "1.h.", "1..5s", ".s", "1 h", "9999999999h", "1h-1m"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0..=i64::MAX as u64) {
            let value = Duration::from_nanos(nanos);
            prop_assert_eq!(duration(&duration_text(value)), Some(value));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.hmsµnu+-]{0,60}") {
            let _ = duration(&text);
        }
    }
}
