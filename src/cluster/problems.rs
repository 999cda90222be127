//! What is wrong with the input: all of it at once, each thing with its place, the line, a caret and a hint.

use std::fmt;

use crate::yaml::Span;

/// What kind of problem: decides the exit code, and whether it may be ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A value that cannot be right. Exit 1.
    Invalid,
    /// A field that kubeadm does not know: preflight's `ConfigUnknownField`. Exit 1, or a warning where that is ignored.
    UnknownField,
    /// Flags that do not go together. Exit 2.
    Usage,
    /// Something of kubeadm's that kprov does not do yet. Exit 2.
    NotSupported,
}

/// Where the value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A place in a file.
    File {
        /// The file's name.
        name: String,
        /// Line, column and width.
        span: Span,
        /// The line itself, secrets starred out.
        line: String,
    },
    /// A flag: `--pod-network-cidr`.
    Flag(String),
    /// Neither: a default, or something that is missing altogether.
    Nowhere,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub kind: Kind,
    /// The field: `ClusterConfiguration.networking.podSubnet`; empty where no single field is to blame.
    pub field: String,
    /// Where.
    pub place: Place,
    /// What is wrong, in lower case.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// All things that are wrong, or (as warnings) odd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when the command line is to blame, or something is asked for that is not supported yet (exit 2 instead of 1).
    pub fn is_usage(&self) -> bool {
        self.0.iter().any(|p| matches!(p.kind, Kind::Usage | Kind::NotSupported))
    }

    /// Puts them into the order in which people meet them: flags, then the file from top to bottom.
    pub(crate) fn sort(&mut self) {
        self.0.sort_by_key(|p| match &p.place {
            Place::Flag(_) => (0, 0, 0),
            Place::File { span, .. } => (1, span.line, span.column),
            Place::Nowhere => (2, 0, 0),
        });
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut margin = String::from(" ");
        match &self.place {
            Place::File { name, span, line } => {
                margin = " ".repeat(span.line.to_string().len());
                let (line, before, width) = window(line, span);
                write!(f, "\n{margin}--> {name}:{}:{}", span.line, span.column)?;
                write!(f, "\n{margin} |\n{} | {line}\n{margin} | {before}{}", span.line, "^".repeat(width))?;
            }
            Place::Flag(flag) if !self.message.starts_with(flag) => write!(f, "\n{margin}--> {flag}")?,
            Place::Flag(_) | Place::Nowhere => {}
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{margin} = hint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.0.len() > 1 {
            write!(f, "\n\n{} problems", self.0.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Longest part of a line that is shown, in characters.
const SHOWN: usize = 120;

/// The line, what stands before the carets below it, and how many carets; a long line is cut around the place.
fn window(line: &str, span: &Span) -> (String, String, usize) {
    let characters: Vec<char> =
        line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let column = (span.column - 1).min(characters.len());
    let start = if characters.len() > SHOWN { column.saturating_sub(SHOWN / 3) } else { 0 };
    let shown: String = characters.iter().skip(start).take(SHOWN).collect();
    // Tabs stay tabs, so that the caret stands below the character whatever a tab's width is.
    let before = characters.iter().take(column).skip(start).map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
    let width = span.width.min((start + SHOWN).min(characters.len()).saturating_sub(column)).max(1);
    (shown, before, width)
}

/// Stars out what looks like the secret half of a bootstrap token, or a certificate key, in a line that is going to be shown.
pub(crate) fn without_secrets(line: &str) -> String {
    let mut shown: Vec<char> = line.chars().collect();
    let is_token = |c: char| c.is_ascii_alphanumeric();
    let mut start = 0;
    while start < shown.len() {
        let word = shown.iter().skip(start).take_while(|c| is_token(**c)).count();
        let end = start + word;
        let after_dot = shown.iter().skip(end + 1).take_while(|c| is_token(**c)).count();
        if (5..=7).contains(&word) && shown.get(end) == Some(&'.') && after_dot >= 12 {
            star(&mut shown, end + 1, after_dot);
            start = end + 1 + after_dot;
            continue;
        }
        let is_pin = start > 0 && shown.get(start - 1) == Some(&':');
        if word >= 48 && !is_pin {
            star(&mut shown, start, word);
        }
        start = end + 1;
    }
    shown.into_iter().collect()
}

fn star(line: &mut [char], start: usize, count: usize) {
    line.iter_mut().skip(start).take(count).for_each(|c| *c = '*');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: &str, number: usize, column: usize, width: usize) -> Problem {
        Problem {
            kind: Kind::Invalid,
            field: String::new(),
            place: Place::File { name: "c.yaml".into(), span: Span { line: number, column, width }, line: line.into() },
            message: "wrong".into(),
            hint: Some("right".into()),
        }
    }

    #[test]
    fn carets_stand_below_what_is_wrong() {
        assert_eq!(
            at("\tpodSubnet: x", 12, 13, 1).to_string(),
            "wrong\n  --> c.yaml:12:13\n   |\n12 | \tpodSubnet: x\n   | \t           ^\n   = hint: right"
        );
        let long = format!("{}bad{}", "x".repeat(300), "y".repeat(300));
        let text = at(&long, 1, 301, 3).to_string();
        let lines: Vec<&str> = text.lines().collect();
        let caret = lines[4].find('^').unwrap();
        assert_eq!(&lines[3][caret..caret + 3], "bad");
        assert!(text.lines().all(|l| l.len() < 140));
    }

    #[test]
    fn places_outside_the_line_do_not_panic() {
        for (column, width) in [(1, 1), (500, 500), (1, usize::MAX)] {
            let _ = at("é", 1, column, width).to_string();
        }
    }

    #[test]
    fn secrets_are_starred_out() {
        for (line, shown) in [
            ("token: abcdef.0123456789abcdef", "token: abcdef.****************"),
            ("token: \"abcdef.0123456789ABcde\" # x", "token: \"abcdef.***************\" # x"),
            ("caCertHashes: [sha256:0000000000000000000000000000000000000000000000000000000000000000]", ""),
            ("apiServerEndpoint: cp.example.org:6443", ""),
            ("image: registry.k8s.io/kube-apiserver", ""),
        ] {
            assert_eq!(without_secrets(line), if shown.is_empty() { line } else { shown });
        }
        let key = format!("certificateKey: {}", "a1".repeat(32));
        assert_eq!(without_secrets(&key), format!("certificateKey: {}", "*".repeat(64)));
    }
}
