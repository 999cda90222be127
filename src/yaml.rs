//! YAML in and out: the only file that names the YAML crate.

use serde::Serialize;

/// A value as one YAML document, strings that would read as something else quoted.
///
/// # Errors
/// When the value has a shape that YAML cannot hold.
pub fn to_string<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}
