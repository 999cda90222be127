//! CoreDNS' configuration as data.

use serde_json::{Value, json};

/// Directives in their order, each with its words and, where it has one, its block.
pub(crate) fn parse(text: &str) -> Value {
    block(
        &mut text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty()),
    )
}

fn block<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Value {
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        match words.last() {
            Some(&"}") => return all.into(),
            Some(&"{") => {
                words.pop();
                all.push(json!({"words": words, "block": block(lines)}));
            }
            _ => all.push(json!({"words": words})),
        }
    }
    all.into()
}
