//! YAML in and out: the only file that names the YAML crate.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value as one YAML document, strings that would read as something else quoted.
///
/// # Errors
/// When the value has a shape that YAML cannot hold.
pub fn to_string<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

/// One YAML document as a value.
///
/// # Errors
/// When it is no YAML or not of this shape; the text says where.
pub fn from_str<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    Ok(serde_saphyr::from_str(text)?)
}
