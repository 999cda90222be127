//! `--discovery-token-ca-cert-hash`: which CA a joining node may trust.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::inspect::Cert;

/// SHA-256 over a CA's DER SubjectPublicKeyInfo; written `sha256:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate.
    pub fn of(cert: &Cert) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, cert.spki());
        let mut pin = [0; 32];
        pin.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(pin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = Error::Malformed("a CA pin (sha256: and 64 hexadecimal digits)");
        let hex = text.strip_prefix("sha256:").ok_or(bad.clone())?;
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| bad.clone())?;
        bytes.try_into().map(Self).map_err(|_| bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(text.parse::<Pin>().unwrap().to_string(), text);
        assert_eq!(format!("sha256:{}", "0F".repeat(32)).parse::<Pin>().unwrap().to_string(), text);
        for bad in ["", "sha256:", "sha256:0f", "sha512:0f", &text[7..], &format!("{text}00")] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }
}
