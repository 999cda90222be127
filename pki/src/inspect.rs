//! What is there already: certificates and chains are read, and judged against what a cluster needs.

use std::fmt;
use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::Error;
use crate::key::Key;
use crate::spec::San;

/// A certificate and what we want to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cert {
    der: Vec<u8>,
    spki: Vec<u8>,
    subject: String,
    common_name: String,
    organizations: Vec<String>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    sans: Vec<San>,
    ca: bool,
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its time has not come: mostly a wrong clock.
    #[error("is not valid before {from} (the time here is {now})", from = stamp(*.from), now = stamp(*.now))]
    NotYet {
        /// Begin of validity.
        from: OffsetDateTime,
        /// The time it was looked at.
        now: OffsetDateTime,
    },
    /// Its time is over.
    #[error("expired at {until} (the time here is {now})", until = stamp(*.until), now = stamp(*.now))]
    Expired {
        /// End of validity.
        until: OffsetDateTime,
        /// The time it was looked at.
        now: OffsetDateTime,
    },
    /// Signed by somebody else.
    #[error("is not signed by {0}")]
    Signer(String),
    /// Names that a server needs are not in it.
    #[error("does not cover {}", list(.0))]
    Names(Vec<San>),
    /// The key beside it belongs to another certificate.
    #[error("does not belong to the key beside it")]
    Key,
    /// A leaf where an authority is needed.
    #[error("is not a CA")]
    NotCa,
    /// For somebody else.
    #[error("is for {found}, not for {wanted}")]
    Subject {
        /// Common name found.
        found: String,
        /// Common name wanted.
        wanted: String,
    },
}

fn list(names: &[San]) -> String {
    names.iter().map(San::to_string).collect::<Vec<_>>().join(", ")
}

/// A time to the second, RFC 3339 in UTC.
fn stamp(time: OffsetDateTime) -> impl fmt::Display {
    let t = time.to_offset(time::UtcOffset::UTC);
    let (year, month, day) = t.to_calendar_date();
    let (hour, minute, second) = t.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}

impl Cert {
    /// Reads one DER certificate.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let bad = Error::Malformed("a certificate");
        let (rest, x509) = X509Certificate::from_der(der).map_err(|_| bad.clone())?;
        if !rest.is_empty() {
            return Err(bad);
        }
        let names = x509.subject_alternative_name().map_err(|_| bad.clone())?;
        let sans = names.map(|ext| ext.value.general_names.iter().filter_map(san).collect()).unwrap_or_default();
        let subject = x509.subject();
        Ok(Self {
            der: der.to_owned(),
            spki: x509.public_key().raw.to_owned(),
            subject: subject.to_string(),
            common_name: subject
                .iter_common_name()
                .last()
                .and_then(|cn| cn.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            organizations: subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect(),
            not_before: x509.validity().not_before.to_datetime(),
            not_after: x509.validity().not_after.to_datetime(),
            sans,
            ca: x509.is_ca(),
        })
    }

    /// Reads all certificates of a PEM file, leaf first; other blocks are passed over.
    ///
    /// # Errors
    /// When there is none or one of them is broken.
    pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<Self>, Error> {
        let bad = Error::Malformed("a PEM certificate");
        let chain = CertificateDer::pem_slice_iter(pem)
            .map(|der| Self::from_der(&der.map_err(|_| bad.clone())?))
            .collect::<Result<Vec<_>, _>>()?;
        if chain.is_empty() { Err(bad) } else { Ok(chain) }
    }

    /// The first certificate of a PEM file.
    ///
    /// # Errors
    /// As [`Cert::chain_from_pem`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        Self::chain_from_pem(pem)?.into_iter().next().ok_or(Error::Malformed("a PEM certificate"))
    }

    /// The whole certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as PEM.
    pub fn to_pem(&self) -> String {
        crate::der::pem("CERTIFICATE", &self.der).to_string()
    }

    /// DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The last common name; empty where there is none.
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Organizations: the groups of a client.
    pub fn organizations(&self) -> &[String] {
        &self.organizations
    }

    /// DNS names and addresses.
    pub fn sans(&self) -> &[San] {
        &self.sans
    }

    /// Begin of validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whether it may sign others.
    pub fn is_ca(&self) -> bool {
        self.ca
    }

    /// Valid at this time.
    ///
    /// # Errors
    /// [`Unfit::NotYet`], [`Unfit::Expired`].
    pub fn valid_at(&self, now: OffsetDateTime) -> Result<(), Unfit> {
        if now < self.not_before {
            return Err(Unfit::NotYet { from: self.not_before, now });
        }
        if now > self.not_after {
            return Err(Unfit::Expired { until: self.not_after, now });
        }
        Ok(())
    }

    /// Has all these names. A wildcard covers one label.
    ///
    /// # Errors
    /// [`Unfit::Names`] with those it lacks.
    pub fn covers(&self, names: &[San]) -> Result<(), Unfit> {
        let missing: Vec<San> =
            names.iter().filter(|want| !self.sans.iter().any(|has| matches(has, want))).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(Unfit::Names(missing)) }
    }

    /// Belongs to this key.
    ///
    /// # Errors
    /// [`Unfit::Key`].
    pub fn belongs_to(&self, key: &Key) -> Result<(), Unfit> {
        if self.spki == key.spki() { Ok(()) } else { Err(Unfit::Key) }
    }

    /// Carries `signer`'s name and signature.
    fn signed_by(&self, signer: &Cert) -> bool {
        let (Ok((_, child)), Ok((_, parent))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&signer.der))
        else {
            return false;
        };
        signer.ca
            && child.issuer().as_raw() == parent.subject().as_raw()
            && child.verify_signature(Some(parent.public_key())).is_ok()
    }
}

/// The first of `chain` leads to one of `roots`, over the others of `chain`.
///
/// # Errors
/// [`Unfit::Signer`].
pub fn verify(chain: &[Cert], roots: &[Cert]) -> Result<(), Unfit> {
    let wanted = || Unfit::Signer(roots.first().map_or_else(|| "a CA".to_owned(), |root| root.subject.clone()));
    let (leaf, between) = chain.split_first().ok_or_else(wanted)?;
    let mut at = leaf;
    // Every turn goes one certificate up, and no chain is longer than what was given.
    for _ in 0..=between.len() {
        if roots.iter().any(|root| at.signed_by(root)) {
            return Ok(());
        }
        at = between.iter().find(|up| *up != at && at.signed_by(up)).ok_or_else(wanted)?;
    }
    Err(wanted())
}

fn matches(has: &San, want: &San) -> bool {
    match (has, want) {
        (San::Dns(has), San::Dns(want)) => {
            has == want
                || has.strip_prefix("*.").is_some_and(|tail| want.split_once('.').is_some_and(|(_, rest)| rest == tail))
        }
        _ => has == want,
    }
}

fn san(name: &GeneralName<'_>) -> Option<San> {
    match name {
        GeneralName::DNSName(name) => Some(San::Dns(name.to_ascii_lowercase())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(San::Ip)
        }
        _ => None,
    }
}
