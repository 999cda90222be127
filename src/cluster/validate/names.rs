//! The forms that Kubernetes gives names, addresses and paths. Each check answers what is wrong, in words.

use std::net::IpAddr;

/// A DNS name as Kubernetes wants it (RFC 1123 subdomain).
pub(crate) fn subdomain(name: &str) -> Result<(), &'static str> {
    if name.len() > 253 {
        return Err("is longer than 253 characters");
    }
    if name.split('.').all(is_label) {
        return Ok(());
    }
    Err("must be lower-case letters, digits, - and ., and begin and end with a letter or digit")
}

/// One part of a DNS name; its length is not limited here, as in Kubernetes' subdomains.
fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// A name of at most 63 characters without dots (RFC 1123 label).
pub(crate) fn label(name: &str) -> Result<(), &'static str> {
    if name.len() <= 63 && is_label(name) {
        return Ok(());
    }
    Err("must be at most 63 lower-case letters, digits and -, and begin and end with a letter or digit")
}

/// What may stand in a certificate's alternative names: an address, a DNS name, or `*.` and a DNS name.
pub(crate) fn alternative(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || subdomain(name.strip_prefix("*.").unwrap_or(name)).is_ok()
}

/// The key of a label or taint: a name, with a DNS name and a slash before it or without.
pub(crate) fn qualified(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, name)) => subdomain(prefix).is_ok() && is_part(name),
        None => is_part(name),
    }
}

/// The value of a label or taint.
pub(crate) fn label_value(value: &str) -> bool {
    value.is_empty() || is_part(value)
}

fn is_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&part.len()) && part.bytes().all(inner) && part.starts_with(edge) && part.ends_with(edge)
}

/// The first half of a bootstrap token, if it is one: 6 characters, a dot, 16 characters.
pub(crate) fn token_id(token: &str) -> Option<&str> {
    let right =
        |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let (id, secret) = token.split_once('.')?;
    (right(id, 6) && right(secret, 16)).then_some(id)
}

/// A group that a bootstrap token may name.
pub(crate) fn token_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b':' | b'-');
    (1..=256).contains(&rest.len()) && rest.bytes().all(inner) && !rest.ends_with([':', '-'])
}

/// `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`, split; `None` for anything else.
pub(crate) fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(text) => Some((host, Some(port(text)?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    if text.parse::<IpAddr>().is_ok() {
        return Some((text, None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, text)) => (host, Some(port(text)?)),
        None => (text, None),
    };
    let host_is_right = host.parse::<IpAddr>().is_ok() || subdomain(host).is_ok() && !looks_like_ipv4(host);
    host_is_right.then_some((host, port))
}

/// Digits and dots alone are a mistyped address, whatever DNS says.
fn looks_like_ipv4(host: &str) -> bool {
    host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// A registry with a path or without: `registry.k8s.io`, `localhost:5000/a/b`.
pub(crate) fn repository(text: &str) -> bool {
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let (host, port) = first.split_once(':').unwrap_or((first, "1"));
    let host_is_right = !host.is_empty()
        && host.split('.').all(|part| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            !part.is_empty() && part.bytes().all(inner) && !part.starts_with(['-', '_']) && !part.ends_with(['-', '_'])
        });
    let part_is_right = |part: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        part.bytes().all(inner) && part.starts_with(edge) && part.ends_with(edge)
    };
    host_is_right && port.parse::<u16>().is_ok() && parts.all(part_is_right)
}

/// An image's tag.
pub(crate) fn tag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for fine in ["a", "a-b.c", "0", "cp-1.example.org"] {
            assert!(subdomain(fine).is_ok(), "{fine}");
        }
        for wrong in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "a b", "é"] {
            assert!(subdomain(wrong).is_err(), "{wrong}");
        }
        assert!(subdomain(&"a".repeat(254)).is_err() && label(&"a".repeat(64)).is_err() && label("a.b").is_err());
        for fine in ["10.0.0.1", "::1", "*.example.org", "example.org"] {
            assert!(alternative(fine), "{fine}");
        }
        for wrong in ["*", "a.*.b", "https://a", "a:1", "10.0.0.0/8"] {
            assert!(!alternative(wrong), "{wrong}");
        }
        assert!(qualified("node-role.kubernetes.io/control-plane") && qualified("A_b.c"));
        assert!(!qualified("a/b/c") && !qualified("/a") && !qualified("a/") && !qualified(""));
        assert!(label_value("") && label_value("a.B") && !label_value("a b"));
    }

    #[test]
    fn tokens() {
        assert_eq!(token_id("abcdef.0123456789abcdef"), Some("abcdef"));
        for wrong in ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef.x"] {
            assert_eq!(token_id(wrong), None);
        }
        assert!(token_group("system:bootstrappers:a:b-c") && token_group("system:bootstrappers:x"));
        assert!(
            !token_group("system:masters")
                && !token_group("system:bootstrappers:")
                && !token_group("system:bootstrappers:a-")
        );
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(host_port("cp.example.org:8443"), Some(("cp.example.org", Some(8443))));
        assert_eq!(host_port("cp"), Some(("cp", None)));
        assert_eq!(host_port("10.0.0.1:1"), Some(("10.0.0.1", Some(1))));
        assert_eq!(host_port("fd00::1"), Some(("fd00::1", None)));
        assert_eq!(host_port("[fd00::1]:6443"), Some(("fd00::1", Some(6443))));
        assert_eq!(host_port("[fd00::1]"), Some(("fd00::1", None)));
        for wrong in [
            "",
            ":6443",
            "a:",
            "a:0",
            "a:65536",
            "a:b",
            "[a]:1",
            "[::1]x",
            "http://a",
            "a:1:2",
            "10.0.0.256",
            "10.0.0:1",
        ] {
            assert_eq!(host_port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn images() {
        for fine in ["registry.k8s.io", "localhost:5000", "r.example.org/a/b-c", "REGISTRY.example.org/a"] {
            assert!(repository(fine), "{fine}");
        }
        for wrong in ["", "https://r", "r/", "r/A", "r//a", "r:x", "r/a b", "r/a:tag"] {
            assert!(!repository(wrong), "{wrong}");
        }
        assert!(tag("v1.14.2") && !tag("") && !tag("-x") && !tag("a b") && !tag("a@sha256:0"));
    }
}
