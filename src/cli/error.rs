//! What went wrong, in the user's words, and the exit code that says whose it is to mend.

use std::fmt;

/// Whose it is to mend; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The user's: preflight, configuration, wrong pin, expired token, bad bundle. Exit 1.
    User,
    /// Usage, and options that are not supported yet. Exit 2.
    Usage,
    /// The far side: unreachable, timed out. Exit 3.
    Remote,
    /// A bug of ours. Exit 4.
    Internal,
    /// Ctrl-C. Exit 130.
    Cancelled,
}

impl Kind {
    /// The exit code. Of several failures the highest is the command's.
    pub fn code(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Usage => 2,
            Self::Remote => 3,
            Self::Internal => 4,
            Self::Cancelled => 130,
        }
    }
}

/// Why a command ends without having done what was asked.
#[derive(Debug)]
pub struct Failure {
    /// Whose it is.
    pub kind: Kind,
    /// What, in one sentence or several lines.
    pub error: anyhow::Error,
    /// Commands or edits that mend it.
    pub hints: Vec<String>,
}

/// What every command returns.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// The user's to mend.
    pub fn user(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: Kind::User, error: error.into(), hints: Vec::new() }
    }

    /// Usage.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, error: anyhow::anyhow!("{message}"), hints: Vec::new() }
    }

    /// The far side's.
    pub fn remote(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: Kind::Remote, error: error.into(), hints: Vec::new() }
    }

    /// Ours.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: Kind::Internal, error: error.into(), hints: Vec::new() }
    }

    /// The same failure with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {:#}", self.error)?;
        for hint in &self.hints {
            write!(f, "\nhint: {hint}")?;
        }
        if self.kind == Kind::Internal {
            f.write_str("\nhint: this is a bug of kprov; please report it with the lines above")?;
        }
        Ok(())
    }
}
