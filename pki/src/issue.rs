//! Certificates made from the table: authorities sign themselves, leaves are signed by them (contract A.5).

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use crate::inspect::Cert;
use crate::key::Key;
use crate::spec::{Leaf, San, Usage};
use crate::{Error, der, random};

/// How far back certificates begin, so that a machine whose clock is a little behind takes them too.
pub const BACKDATE: Duration = Duration::minutes(5);

/// From when on and how long a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The time now; certificates begin [`BACKDATE`] earlier.
    pub now: OffsetDateTime,
    /// They end this much after now.
    pub length: Duration,
}

/// A self-signed authority, as PEM.
///
/// # Errors
/// When the library refuses.
pub fn authority(common_name: &str, key: &Key, validity: Validity) -> Result<String, Error> {
    let mut params = params(common_name, None, &[San::Dns(common_name.to_owned())], validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(key)?);
    let cert = params.self_signed(&key.pair).map_err(refused)?;
    Ok(der::pem("CERTIFICATE", cert.der()).to_string())
}

/// A certificate for `key`'s public half, signed by an authority, as PEM.
///
/// # Errors
/// When the library refuses.
pub fn leaf(leaf: &Leaf, key: &Key, signer: &Cert, signer_key: &Key, validity: Validity) -> Result<String, Error> {
    let mut params = params(&leaf.common_name, leaf.organization.as_deref(), &leaf.sans, validity)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match leaf.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    // rcgen's own "explicitly no CA" brings a SubjectKeyIdentifier along, which kubeadm's leaves do not have.
    let mut no_ca = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![der::SEQUENCE, 0]);
    no_ca.set_criticality(true);
    params.custom_extensions = vec![no_ca];
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(signer.der()), &signer_key.pair).map_err(refused)?;
    let cert = params.signed_by(&key.pair, &issuer).map_err(refused)?;
    Ok(der::pem("CERTIFICATE", cert.der()).to_string())
}

/// Identifier of a public key as Go makes it (RFC 7093, method 1): the first 160 bits of a SHA-256 over the key's bits.
fn key_identifier(key: &Key) -> Result<Vec<u8>, Error> {
    let spki = key.spki();
    let (_, info) = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| Error::Malformed("a public key"))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &info.subject_public_key.data);
    Ok(digest.as_ref().iter().take(20).copied().collect())
}

fn refused(error: rcgen::Error) -> Error {
    Error::Crypto { doing: "making a certificate", reason: error.to_string() }
}

fn params(name: &str, group: Option<&str>, sans: &[San], validity: Validity) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, value(group));
    }
    subject.push(DnType::CommonName, value(name));
    params.distinguished_name = subject;
    params.not_before = validity.now - BACKDATE;
    params.not_after = validity.now + validity.length;
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.subject_alt_names = sans
        .iter()
        .map(|san| match san {
            San::Ip(ip) => Ok(SanType::IpAddress(*ip)),
            San::Dns(name) => name.as_str().try_into().map(SanType::DnsName).map_err(|_| Error::Name(name.clone())),
        })
        .collect::<Result<_, _>>()?;
    Ok(params)
}

/// PrintableString where it can be one, as Go writes it, else UTF-8.
fn value(text: &str) -> DnValue {
    text.try_into().map_or_else(|_| DnValue::Utf8String(text.to_owned()), DnValue::PrintableString)
}

/// 63 random bits, not zero.
fn serial() -> Result<[u8; 8], Error> {
    loop {
        let number = u64::from_be_bytes(random::<8>()?) >> 1;
        if number != 0 {
            return Ok(number.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
