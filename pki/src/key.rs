//! Private keys: made, read, and written as kubeadm writes them.

use std::str::FromStr;

use rcgen::{KeyPair, PublicKeyData, RsaKeySize};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::{Error, der};

/// Kind of a key, in kubeadm's words (`encryptionAlgorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `ECDSA-P256`
    EcdsaP256,
    /// `ECDSA-P384`
    EcdsaP384,
    /// `RSA-2048`
    Rsa2048,
    /// `RSA-3072`
    Rsa3072,
    /// `RSA-4096`
    Rsa4096,
}

impl Algorithm {
    /// All of them, in kubeadm's order.
    pub const ALL: [Self; 5] = [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096, Self::EcdsaP256, Self::EcdsaP384];

    /// kubeadm's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA-P256",
            Self::EcdsaP384 => "ECDSA-P384",
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa3072 => "RSA-3072",
            Self::Rsa4096 => "RSA-4096",
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|a| a.name() == text).ok_or(Error::KeyKind)
    }
}

/// A private key. It is never printed: `Debug` leaves its content out.
#[derive(Debug)]
pub struct Key {
    pub(crate) pair: KeyPair,
}

/// AlgorithmIdentifier parameters of the two curves: the whole OID element.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

impl Key {
    /// A new random key. RSA takes a good part of a second; do it beside other work.
    ///
    /// # Errors
    /// When the library cannot make one.
    pub fn generate(algorithm: Algorithm) -> Result<Self, Error> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let pair = match algorithm {
            Algorithm::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Algorithm::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Algorithm::Rsa2048 => rsa(RsaKeySize::_2048),
            Algorithm::Rsa3072 => rsa(RsaKeySize::_3072),
            Algorithm::Rsa4096 => rsa(RsaKeySize::_4096),
        };
        Ok(Self { pair: pair.map_err(|e| Error::Crypto { doing: "generating a key", reason: e.to_string() })? })
    }

    /// Reads the first private key of a PEM file: SEC1, PKCS#1 or PKCS#8.
    ///
    /// # Errors
    /// When there is none, or one of a kind that is not supported.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Error::Malformed("a PEM private key"))?;
        let pair = KeyPair::try_from(&der).map_err(|_| Error::KeyKind)?;
        Ok(Self { pair })
    }

    /// The key as kubeadm writes it: `EC PRIVATE KEY` (SEC1) or `RSA PRIVATE KEY` (PKCS#1).
    ///
    /// # Errors
    /// For a key of another kind.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, Error> {
        let stored = Zeroizing::new(self.pair.serialize_der());
        let curve = if self.pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            Some(P256)
        } else if self.pair.is_compatible(&rcgen::PKCS_ECDSA_P384_SHA384) {
            Some(P384)
        } else if self.pair.is_compatible(&rcgen::PKCS_RSA_SHA256) {
            None
        } else {
            return Err(Error::KeyKind);
        };
        let inner = within_pkcs8(&stored).unwrap_or(&stored);
        match curve {
            None => Ok(der::pem("RSA PRIVATE KEY", inner)),
            Some(oid) => {
                let sec1 =
                    sec1(inner, oid, self.pair.der_bytes()).ok_or(Error::Malformed("an elliptic-curve private key"))?;
                Ok(der::pem("EC PRIVATE KEY", &sec1))
            }
        }
    }

    /// The public half as PKIX `PUBLIC KEY`.
    pub fn public_pem(&self) -> String {
        der::pem("PUBLIC KEY", &self.spki()).to_string()
    }

    /// The public half as DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }
}

/// Content of the PKCS#8 wrapper: `SEQUENCE { INTEGER, SEQUENCE, OCTET STRING inner }`. None where it is no PKCS#8.
fn within_pkcs8(der: &[u8]) -> Option<&[u8]> {
    let (body, _) = der::take(der::SEQUENCE, der)?;
    let (_, rest) = der::take(der::INTEGER, body)?;
    let (_, rest) = der::take(der::SEQUENCE, rest)?;
    der::take(der::OCTET_STRING, rest).map(|(inner, _)| inner)
}

/// RFC 5915 with curve and public key, which Go's parser and older OpenSSLs want inside the key.
fn sec1(inner: &[u8], curve: &[u8], public: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (body, _) = der::take(der::SEQUENCE, inner)?;
    let (_, rest) = der::take(der::INTEGER, body)?;
    let (secret, _) = der::take(der::OCTET_STRING, rest)?;
    let mut bits = vec![0];
    bits.extend_from_slice(public);
    let mut out = Zeroizing::new(Vec::new());
    out.extend_from_slice(&der::element(der::INTEGER, &[1]));
    out.extend_from_slice(&der::element(der::OCTET_STRING, secret));
    out.extend_from_slice(&der::element(der::CONTEXT_0, curve));
    out.extend_from_slice(&der::element(der::CONTEXT_1, &der::element(der::BIT_STRING, &bits)));
    Some(der::element(der::SEQUENCE, &out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_from_its_pem() {
        for algorithm in [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Rsa2048, Algorithm::Rsa3072] {
            let key = Key::generate(algorithm).unwrap();
            let pem = key.to_pem().unwrap();
            let label = if algorithm.name().starts_with("RSA") { "RSA" } else { "EC" };
            assert!(pem.starts_with(&format!("-----BEGIN {label} PRIVATE KEY-----\n")), "{algorithm:?}");
            let again = Key::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(again.spki(), key.spki(), "{algorithm:?}");
            assert_eq!(again.to_pem().unwrap(), pem, "{algorithm:?}: written the same after reading");
            let wrapped = der::pem("PRIVATE KEY", &key.pair.serialize_der());
            assert_eq!(Key::from_pem(wrapped.as_bytes()).unwrap().to_pem().unwrap(), pem, "{algorithm:?}: from PKCS#8");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for junk in ["", "junk", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"] {
            assert!(Key::from_pem(junk.as_bytes()).is_err());
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let pem = key.to_pem().unwrap();
        let secret = pem.lines().nth(1).unwrap();
        assert!(!format!("{key:?}").contains(&secret[..20]));
    }
}
