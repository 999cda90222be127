//! What a plain scalar means, read as Kubernetes reads it: YAML 1.1 without dates and base 60.
//!
//! kubeadm, the API server and the kubelet all decode through one Go library, for which `no` is false, `0644` is octal and
//! `1_000` is a number. Reading it any other way would show the user a different document from the one that they get.

use serde_json::Number;

/// A scalar's meaning.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Number(Number),
    Text,
}

/// The meaning of an unquoted scalar.
pub(crate) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Scalar::Text;
    }
    number(text).map_or(Scalar::Text, Scalar::Number)
}

/// A number in one of YAML 1.1's spellings. Infinity and not-a-number have no place in JSON and stay text.
pub(crate) fn number(text: &str) -> Option<Number> {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.strip_prefix(['+', '-']) {
        Some(rest) => (plain.starts_with('-'), rest),
        None => (false, plain.as_str()),
    };
    if let Some(value) = integer(digits) {
        return if negative { 0_i64.checked_sub_unsigned(value).map(Number::from) } else { Some(Number::from(value)) };
    }
    if is_float(digits) { plain.parse::<f64>().ok().and_then(Number::from_f64) } else { None }
}

fn integer(digits: &str) -> Option<u64> {
    let radix = |prefixes: [&str; 2]| prefixes.into_iter().find_map(|p| digits.strip_prefix(p));
    let (digits, radix) = if let Some(rest) = radix(["0x", "0X"]) {
        (rest, 16)
    } else if let Some(rest) = radix(["0b", "0B"]) {
        (rest, 2)
    } else if let Some(rest) = radix(["0o", "0O"]) {
        (rest, 8)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (digits.get(1..)?, 8)
    } else {
        (digits, 10)
    };
    // from_str_radix takes a sign of its own; ours is already off.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Digits with at most one dot and an exponent, as YAML writes a float: `1.`, `.5`, `1e3`.
fn is_float(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (digits, None),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let exponent_is_right = exponent.is_none_or(|e| !e.is_empty() && all_digits(e));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    exponent_is_right && all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_mean_what_kubernetes_makes_of_them() {
        let int = |n: i64| Scalar::Number(n.into());
        let float = |n: f64| Scalar::Number(Number::from_f64(n).unwrap());
        for (text, meaning) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("no", Scalar::Bool(false)),
            ("Off", Scalar::Bool(false)),
            ("y", Scalar::Bool(true)),
            ("tRue", Scalar::Text),
            ("0", int(0)),
            ("-7", int(-7)),
            ("0644", int(0o644)),
            ("0o17", int(15)),
            ("0x1F", int(31)),
            ("-0b11", int(-3)),
            ("1_000", int(1000)),
            ("08", float(8.0)),
            ("1e3", float(1000.0)),
            ("1.36", float(1.36)),
            (".5", float(0.5)),
            ("1.", float(1.0)),
            ("1.36.3", Scalar::Text),
            ("10.96.0.0/12", Scalar::Text),
            ("12:30", Scalar::Text),
            ("2026-11-21", Scalar::Text),
            (".inf", Scalar::Text),
            ("-", Scalar::Text),
            ("+-1", Scalar::Text),
            ("0x+1", Scalar::Text),
            ("e3", Scalar::Text),
            ("1e", Scalar::Text),
            (".", Scalar::Text),
            ("18446744073709551615", Scalar::Number(u64::MAX.into())),
            ("-9223372036854775808", int(i64::MIN)),
        ] {
            assert_eq!(resolve(text), meaning, "{text:?}");
        }
    }
}
