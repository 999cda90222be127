//! Values that are no lists and no maps, against the types of the tables.

use serde_json::Number;

use super::super::duration::duration;
use crate::yaml::{Data, Node};

/// Types of the tables that are no structs: what [`scalar`] knows.
#[cfg(test)]
pub(crate) const SCALARS: [&str; 17] = [
    "string",
    "bool",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "duration",
    "time",
    "quantity",
    "duration-or-int",
];

/// What is wrong, and a hint.
type Wrong = (String, Option<String>);

/// A value of a type that is no struct; else what is wrong and what to do. `quoted` makes the hint to put it in quotes.
pub(super) fn scalar(node: &Node, of: &str, path: &str, quoted: impl Fn() -> Option<String>) -> Result<Data, Wrong> {
    let name = name(path);
    let wrong =
        |wanted: &str, hint: Option<String>| Err((format!("{name} must be {wanted}, not {}", what(node)), hint));
    match (of, &node.data) {
        ("string" | "quantity" | "time" | "duration" | "duration-or-int", Data::Text(text)) => {
            text_like(text, of, name)
        }
        ("quantity" | "duration-or-int" | "float32" | "float64", Data::Number(_))
        | ("bool", Data::Bool(_))
        | ("any", _) => Ok(node.data.clone()),
        ("string" | "time", Data::Bool(_) | Data::Number(_)) => wrong("text", quoted()),
        ("string" | "time" | "quantity", _) => wrong("text", None),
        ("duration" | "duration-or-int", _) => wrong("a duration", Some("as 30s, 5m or 1h30m".to_owned())),
        ("bool", Data::Text(text)) => {
            let quoted = matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no");
            wrong("true or false", quoted.then(|| "leave the quotes out".to_owned()))
        }
        ("bool", _) => wrong("true or false", None),
        (_, Data::Number(number)) => integer(number, of)
            .map(Data::Number)
            .ok_or_else(|| (format!("{name} must be {}, not {number}", range(of)), None)),
        (_, Data::Text(text)) if text.parse::<f64>().is_ok() => {
            wrong("a number", Some("leave the quotes out".to_owned()))
        }
        _ => wrong("a number", None),
    }
}

fn text_like(text: &str, of: &str, name: &str) -> Result<Data, Wrong> {
    let wrong =
        |wanted: &str, hint: &str| Err((format!("{name} must be {wanted}, not {text:?}"), Some(hint.to_owned())));
    match of {
        "duration" | "duration-or-int" if duration(text).is_none() => wrong("a duration", "as 30s, 5m or 1h30m"),
        "quantity" if !is_quantity(text) => wrong("a quantity", "as 100m, 512Mi or 2Gi"),
        "time" if !is_time(text) => wrong("a time", "as 2030-01-31T12:00:00Z"),
        _ => Ok(Data::Text(text.to_owned())),
    }
}

fn is_time(text: &str) -> bool {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
}

/// Kubernetes' resource quantities: a number and one of its suffixes.
fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let digits = number.chars().filter(char::is_ascii_digit).count();
    let dots = number.len() - digits;
    let exponent = |rest: &str| rest.strip_prefix(['+', '-']).unwrap_or(rest).parse::<u32>().is_ok();
    let suffix_is_right = matches!(
        suffix,
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei"
    ) || suffix.strip_prefix(['e', 'E']).is_some_and(exponent);
    digits > 0 && dots <= 1 && suffix_is_right
}

/// A whole number within its type; `1e3` is one as well.
fn integer(number: &Number, of: &str) -> Option<Number> {
    let value = match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(value), ..) => i128::from(value),
        (_, Some(value), _) => i128::from(value),
        // Up to 2^53 every whole f64 is exact.
        (.., Some(value)) if value.fract() == 0.0 && value.abs() < 9e15 => value as i128,
        _ => return None,
    };
    let (low, high) = bounds(of);
    if !(low..=high).contains(&value) {
        return None;
    }
    i64::try_from(value).map(Number::from).or_else(|_| u64::try_from(value).map(Number::from)).ok()
}

fn bounds(of: &str) -> (i128, i128) {
    let bits = of.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap_or(64_u32);
    if of.starts_with('u') { (0, (1 << bits) - 1) } else { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) }
}

fn range(of: &str) -> String {
    let (low, high) = bounds(of);
    if of.ends_with("64") || of == "int" {
        "a whole number".to_owned()
    } else {
        format!("a whole number from {low} to {high}")
    }
}

/// The last part of a path, as people call it: `podSubnet`, `taints[1]`, `memory.available` of a map.
pub(super) fn name(path: &str) -> &str {
    if let Some((_, key)) = path.strip_suffix(']').and_then(|path| path.rsplit_once('['))
        && key.parse::<usize>().is_err()
    {
        return key;
    }
    match path.rsplit('.').next() {
        Some("") | None => "a document",
        Some(name) => name,
    }
}

/// What a value is, for "must be text, not …".
pub(super) fn what(node: &Node) -> String {
    match &node.data {
        Data::Null => "nothing".to_owned(),
        Data::Bool(value) => format!("the truth value {value}"),
        Data::Number(number) => format!("the number {number}"),
        Data::Text(_) => "text".to_owned(),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a map".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_types() {
        let fits = |n: f64, of| integer(&Number::from_f64(n).unwrap(), of).is_some();
        assert!(fits(1000.0, "int32") && !fits(1.5, "int32") && !fits(3e9, "int32") && fits(3e9, "uint32"));
        assert!(!fits(-1.0, "uint32") && fits(-1.0, "int64") && !fits(1e300, "int"));
        assert!(
            integer(&Number::from(u64::MAX), "uint64").is_some() && integer(&Number::from(u64::MAX), "int64").is_none()
        );
    }

    #[test]
    fn quantities() {
        for fine in ["1", "1.5", ".5", "100m", "2Gi", "1e3", "1E-3", "-1k", "1."] {
            assert!(is_quantity(fine), "{fine}");
        }
        for wrong in ["", "Gi", "1 Gi", "1gi", "1.2.3", "1e", "x"] {
            assert!(!is_quantity(wrong), "{wrong}");
        }
    }
}
