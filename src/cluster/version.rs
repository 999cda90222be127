//! Kubernetes versions and how far apart they may be.

use std::cmp::Ordering;
use std::fmt;

/// A released version or a pre-release of one: `v1.36.3`, `v1.37.0-rc.1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// 1.
    pub major: u32,
    /// What skew is counted in.
    pub minor: u32,
    /// Patch release.
    pub patch: u32,
    /// `rc.1`; empty for a release.
    pub pre: String,
}

/// Oldest kubelet that a control plane serves: so many minor versions behind it.
pub const KUBELET_BEHIND: u32 = 3;

impl Version {
    /// Reads `v1.36.3` or `1.36.3`, with a pre-release or without; build metadata (`+…`) is left out.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
        if text.contains('-') && pre.split('.').any(|part| part.is_empty() || !is_identifier(part)) {
            return None;
        }
        let mut parts = numbers.split('.').map(number);
        let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
        if parts.next().is_some() {
            return None;
        }
        Some(Self { major, minor, patch, pre: pre.to_owned() })
    }

    /// `1.36`.
    pub fn line(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

/// Digits without leading zeros, as semantic versions have them.
fn number(text: &str) -> Option<u32> {
    let right = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if right { text.parse().ok() } else { None }
}

fn is_identifier(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.pre.is_empty() { Ok(()) } else { write!(f, "-{}", self.pre) }
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = |v: &Self| (v.major, v.minor, v.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => pre_release(&self.pre, &other.pre),
        })
    }
}

fn pre_release(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let order = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Two versions that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skew {
    /// The kubelet is newer than the control plane.
    #[error("the kubelet {kubelet} is newer than the control plane {control_plane}")]
    Newer {
        /// The kubelet's.
        kubelet: Version,
        /// The control plane's.
        control_plane: Version,
    },
    /// The kubelet is too old for the control plane.
    #[error(
        "the kubelet {kubelet} is more than {KUBELET_BEHIND} minor versions older than the control plane {control_plane}"
    )]
    Older {
        /// The kubelet's.
        kubelet: Version,
        /// The control plane's.
        control_plane: Version,
    },
}

/// Whether a kubelet may join a control plane.
///
/// # Errors
/// [`Skew`].
pub fn kubelet(control_plane: &Version, kubelet: &Version) -> Result<(), Skew> {
    let versions = || (kubelet.clone(), control_plane.clone());
    if (kubelet.major, kubelet.minor) > (control_plane.major, control_plane.minor) {
        let (kubelet, control_plane) = versions();
        return Err(Skew::Newer { kubelet, control_plane });
    }
    if kubelet.major != control_plane.major || control_plane.minor - kubelet.minor > KUBELET_BEHIND {
        let (kubelet, control_plane) = versions();
        return Err(Skew::Older { kubelet, control_plane });
    }
    Ok(())
}

/// What `kubernetesVersion` asks for, beside a version of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A version.
    Exactly(Version),
    /// A label that any bundle meets: absent, `stable`, `stable-1`.
    Any,
    /// A label for one minor version: `stable-1.36` as `1.36`.
    Line(String),
    /// A label that only the network could answer: `latest`, `ci/…`.
    Elsewhere,
}

/// Reads `kubernetesVersion`; `None` for what is neither version nor label.
pub fn wanted(text: &str) -> Option<Wanted> {
    match text {
        "" | "stable" | "stable-1" => return Some(Wanted::Any),
        _ => {}
    }
    if let Some(line) = text.strip_prefix("stable-") {
        let (major, minor) = line.split_once('.')?;
        return (number(major).is_some() && number(minor).is_some()).then(|| Wanted::Line(line.to_owned()));
    }
    if text == "latest" || text.starts_with("latest-") || text.starts_with("ci/") || text.starts_with("ci-cross/") {
        return Some(Wanted::Elsewhere);
    }
    Version::parse(text).map(Wanted::Exactly)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!(v("1.36.3"), v("v1.36.3+k"));
        assert_eq!(v("v1.37.0-rc.1").to_string(), "v1.37.0-rc.1");
        for text in [
            "",
            "v",
            "1.36",
            "1.36.3.4",
            "v01.36.3",
            "1.36.x",
            "vv1.36.3",
            "1.36.3-",
            "1.36.3-a..b",
            "1.36.-3",
            "1.36.+3",
        ] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        let rising = [
            "v1.35.9",
            "v1.36.0-alpha.2",
            "v1.36.0-alpha.10",
            "v1.36.0-alpha.a",
            "v1.36.0-rc.1",
            "v1.36.0",
            "v1.36.10",
            "v2.0.0",
        ];
        assert!(rising.map(v).is_sorted());
    }

    #[test]
    fn a_kubelet_may_be_three_minor_versions_behind_and_never_ahead() {
        let plane = v("v1.36.3");
        for fine in ["v1.36.9", "v1.36.0", "v1.33.0"] {
            assert_eq!(kubelet(&plane, &v(fine)), Ok(()));
        }
        assert!(matches!(kubelet(&plane, &v("v1.37.0-rc.1")), Err(Skew::Newer { .. })));
        assert!(matches!(kubelet(&plane, &v("v1.32.9")), Err(Skew::Older { .. })));
        assert!(matches!(kubelet(&v("v2.1.0"), &v("v1.36.0")), Err(Skew::Older { .. })));
    }

    #[test]
    fn labels() {
        assert_eq!(wanted("stable-1"), Some(Wanted::Any));
        assert_eq!(wanted("stable-1.35"), Some(Wanted::Line("1.35".to_owned())));
        assert_eq!(wanted("latest-1.36"), Some(Wanted::Elsewhere));
        assert_eq!(wanted("ci/latest"), Some(Wanted::Elsewhere));
        assert_eq!(wanted("1.36.3"), Some(Wanted::Exactly(v("1.36.3"))));
        assert_eq!(wanted("stable-x"), None);
        assert_eq!(wanted("1.36"), None);
    }
}
