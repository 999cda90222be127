//! Durations as Go writes and reads them: `8760h0m0s`, `1m30s`, `500ms`.

use std::time::Duration;

/// Units in nanoseconds, as Go names them. Longer names first, so that `ms` is not read as `m`.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];

/// Reads a duration. `None` where Go would not take it either, or where it is negative.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let number: f64 = number.parse().ok()?;
        let (name, unit) = UNITS.iter().find(|(name, _)| after.starts_with(name))?;
        nanos += number * unit;
        rest = after.strip_prefix(name)?;
    }
    // Go counts nanoseconds in 63 bits.
    (!text.is_empty() && nanos < 9.2e18).then(|| Duration::from_secs_f64((nanos / 1e9 * 1e9).round() / 1e9))
}

/// Writes a duration as Go does: `24h0m0s`, `1m30s`, `1.5s`, `500ms`, `0s`.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let nanos = duration.subsec_nanos();
    if seconds == 0 && nanos > 0 {
        let (value, unit) = match nanos {
            1_000_000.. => (f64::from(nanos) / 1e6, "ms"),
            1_000.. => (f64::from(nanos) / 1e3, "µs"),
            _ => (f64::from(nanos), "ns"),
        };
        return format!("{value}{unit}");
    }
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if nanos == 0 { String::new() } else { format!(".{nanos:09}").trim_end_matches('0').to_owned() };
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (text, seconds) in [
            ("0", 0.0),
            ("0s", 0.0),
            ("8760h0m0s", 31_536_000.0),
            ("1m30s", 90.0),
            ("1.5h", 5400.0),
            ("500ms", 0.5),
            ("+2m", 120.0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "1", "h", "-1h", "1d", "1h ", " 1h", "1..5h", "300000000h", "1h-1m"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn as_go_writes_them() {
        for text in ["0s", "24h0m0s", "1m30s", "4m0s", "500ms", "1.5s", "8760h0m0s"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    proptest! {
        #[test]
        fn written_and_read_again(seconds in 0u64..4_000_000_000, millis in 0u32..1000) {
            let value = Duration::new(seconds, millis * 1_000_000);
            let again = duration(&duration_text(value)).unwrap();
            prop_assert!(again.abs_diff(value) < Duration::from_micros(2));
        }

        #[test]
        fn anything_is_read_or_refused(text in "\\PC*|[0-9.hmsuµ+-]*") {
            let _ = duration(&text);
        }
    }
}
