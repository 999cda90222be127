//! Text from templates. Kubernetes objects are never made this way: they are typed values, serialised.

use serde::Serialize;

/// A template that does not fit its values: a defect of ours.
#[derive(Debug, thiserror::Error)]
#[error("rendering {name}: {error}")]
pub struct RenderError {
    name: &'static str,
    error: tera::Error,
}

/// Fills a template in. Nothing is escaped; an unknown name in it is an error.
///
/// # Errors
/// When template and values do not fit.
pub fn text(name: &'static str, template: &str, values: &impl Serialize) -> Result<String, RenderError> {
    let failed = |error| RenderError { name, error };
    let context = tera::Context::from_serialize(values).map_err(failed)?;
    tera::Tera::one_off(template, &context, false).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fills_in_without_escaping() {
        assert_eq!(text("t", "a = {{ a }}\n", &json!({"a": "\"<&>\""})).unwrap(), "a = \"<&>\"\n");
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let text = text("t", "{{ b }}", &json!({"a": 1})).unwrap_err().to_string();
        assert!(text.starts_with("rendering t: "), "{text}");
    }
}
