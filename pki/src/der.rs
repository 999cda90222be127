//! The little DER that is needed to carry private keys between PKCS#8, PKCS#1 and SEC1, and PEM's frame.

use zeroize::Zeroizing;

/// INTEGER.
pub(crate) const INTEGER: u8 = 0x02;
/// BIT STRING.
pub(crate) const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub(crate) const OCTET_STRING: u8 = 0x04;
/// SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed.
pub(crate) const CONTEXT_0: u8 = 0xa0;
/// `[1]`, constructed.
pub(crate) const CONTEXT_1: u8 = 0xa1;

/// The first element of `input` if it has this tag: its content and what follows it.
pub(crate) fn take(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = input.split_first()?;
    if first != tag {
        return None;
    }
    let (&short, mut rest) = rest.split_first()?;
    let mut length = usize::from(short);
    if short >= 0x80 {
        let (bytes, after) = rest.split_at_checked(usize::from(short & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        length = bytes.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        rest = after;
    }
    rest.split_at_checked(length)
}

/// One element.
pub(crate) fn element(tag: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(content.len() + 6));
    out.push(tag);
    let bytes = content.len().to_be_bytes();
    let used = bytes.iter().skip_while(|byte| **byte == 0);
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            out.push(0x80 | u8::try_from(used.clone().count()).unwrap_or(8));
            out.extend(used);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A PEM block as Go writes it: 64 columns, a newline at the end.
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(data_encoding::BASE64.encode(der));
    let mut out = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 34));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    let mut rest = body.as_str();
    while let Some((line, after)) = rest.split_at_checked(64) {
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    if !rest.is_empty() {
        out.push_str(rest);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_any_length_come_back() {
        for length in [0usize, 1, 127, 128, 255, 256, 65535, 65536] {
            let content = vec![7; length];
            let mut der = element(OCTET_STRING, &content).to_vec();
            der.push(9);
            assert_eq!(take(OCTET_STRING, &der), Some((content.as_slice(), &[9u8][..])));
        }
        assert_eq!(take(OCTET_STRING, &[4, 2, 0]), None);
        assert_eq!(take(OCTET_STRING, &[4, 0x80]), None);
        assert_eq!(take(OCTET_STRING, &[4, 0x85, 1, 1, 1, 1, 1]), None);
        assert_eq!(take(INTEGER, &[]), None);
    }

    #[test]
    fn pem_has_64_columns() {
        let text = pem("X", &[0; 49]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "-----BEGIN X-----");
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines[2].len(), 4);
        assert_eq!(*pem("X", &[]), "-----BEGIN X-----\n-----END X-----\n");
    }
}
