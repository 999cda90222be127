//! A certificate as data: everything that a program may look at, nothing that is random.

use kprov_pki::Key;
use kprov_pki::inspect::Cert;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::asn1_rs::{Any, Oid};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// All that is to be compared. `issuers` are the authorities among which its signer must be; it was made within `time`.
pub(crate) fn certificate(pem: &[u8], issuers: &[Vec<u8>], time: (OffsetDateTime, OffsetDateTime)) -> Value {
    let chain = Cert::chain_from_pem(pem).unwrap();
    let leaf = chain.first().unwrap();
    let (_, x509) = X509Certificate::from_der(leaf.der()).unwrap();
    let signer = issuers.iter().map(|pem| Cert::from_pem(pem).unwrap()).find(|ca| {
        let (_, ca) = X509Certificate::from_der(ca.der()).unwrap();
        x509.verify_signature(Some(ca.public_key())).is_ok()
    });
    json!({
        "certificates": chain.len(),
        "version": x509.version().0 + 1,
        "serial": serial(x509.raw_serial()),
        "signature": oid(&x509.signature_algorithm.algorithm),
        "issuer": x509.issuer().to_string(),
        "signed by": signer.as_ref().map(Cert::common_name),
        "subject": x509.subject().to_string(),
        "key": public_key(&x509),
        "valid from": begin(leaf.not_before(), time),
        "valid for, minutes": length(leaf.not_before(), leaf.not_after(), time),
        "extensions": extensions(&x509, signer.as_ref()),
    })
}

fn minutes(from: OffsetDateTime, to: OffsetDateTime) -> f64 {
    (to - from).as_seconds_f64() / 60.0
}

/// kubeadm's certificates begin with their CA and end so long after they were made: on a slow host that is some minutes
/// more than half an hour's multiple and the five minutes for clocks that are behind.
fn length(from: OffsetDateTime, to: OffsetDateTime, (first, last): (OffsetDateTime, OffsetDateTime)) -> f64 {
    let found = minutes(from, to).round();
    let over = (found - 5.0).rem_euclid(30.0);
    if over <= minutes(first, last).round() { found - over } else { found }
}

/// Certificates are good from some minutes before they are made, for clocks that are behind.
fn begin(from: OffsetDateTime, (first, last): (OffsetDateTime, OffsetDateTime)) -> String {
    let second = time::Duration::SECOND;
    // Five is what both tools take; it goes first, because in a run of minutes fewer fit too.
    let found = [5].into_iter().chain(0..=minutes(from, last) as i64).find(|minutes| {
        let made = from + time::Duration::minutes(*minutes);
        made >= first - second && made <= last + second
    });
    found.map_or_else(|| format!("{from}"), |minutes| format!("{minutes} minutes before it was made"))
}

fn serial(bytes: &[u8]) -> &'static str {
    let fits = !bytes.is_empty() && bytes.len() <= 8 && bytes[0] < 0x80 && bytes.iter().any(|byte| *byte != 0);
    if fits { "positive, at most 63 bits" } else { "another" }
}

fn oid(oid: &Oid<'_>) -> String {
    match oid.to_id_string().as_str() {
        "1.2.840.113549.1.1.11" => "sha256 with RSA".to_owned(),
        "1.2.840.10045.4.3.2" => "ecdsa with sha256".to_owned(),
        "1.2.840.10045.4.3.3" => "ecdsa with sha384".to_owned(),
        other => other.to_owned(),
    }
}

fn public_key(x509: &X509Certificate<'_>) -> String {
    let info = x509.public_key();
    let algorithm = info.algorithm.algorithm.to_id_string();
    let curve =
        info.algorithm.parameters.as_ref().and_then(|any: &Any<'_>| any.as_oid().ok()).map(|o| o.to_id_string());
    match (algorithm.as_str(), curve.as_deref()) {
        ("1.2.840.113549.1.1.1", _) => {
            let (_, key) = Any::from_der(&info.subject_public_key.data).unwrap();
            let (_, modulus) = Any::from_der(key.data).unwrap();
            format!("RSA {}", modulus.data.iter().skip_while(|byte| **byte == 0).count() * 8)
        }
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => "EC P-256".to_owned(),
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => "EC P-384".to_owned(),
        other => format!("{other:?}"),
    }
}

fn extensions(x509: &X509Certificate<'_>, signer: Option<&Cert>) -> Value {
    let mut all = Map::new();
    for extension in x509.extensions() {
        let (name, value) = match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(it) => {
                ("basicConstraints", json!({"ca": it.ca, "path length": it.path_len_constraint}))
            }
            ParsedExtension::KeyUsage(it) => ("keyUsage", json!(it.to_string())),
            ParsedExtension::ExtendedKeyUsage(it) => {
                let other: Vec<String> = it.other.iter().map(Oid::to_id_string).collect();
                let more = json!([it.any, it.code_signing, it.email_protection, it.time_stamping, it.ocsp_signing]);
                (
                    "extendedKeyUsage",
                    json!({"server": it.server_auth, "client": it.client_auth, "more": more, "other": other}),
                )
            }
            ParsedExtension::SubjectAlternativeName(it) => {
                ("subjectAltName", it.general_names.iter().map(san).collect::<Vec<_>>().into())
            }
            ParsedExtension::SubjectKeyIdentifier(it) => {
                ("subjectKeyIdentifier", identifier(it.0, &x509.public_key().subject_public_key.data))
            }
            ParsedExtension::AuthorityKeyIdentifier(it) => {
                let own = it.key_identifier.as_ref().map(|id| id.0);
                let names = own.is_some() && own == signer.and_then(|ca| subject_key(ca.der())).as_deref();
                let plain = it.authority_cert_issuer.is_none() && it.authority_cert_serial.is_none();
                ("authorityKeyIdentifier", json!({"names its signer": names, "key identifier alone": plain}))
            }
            other => panic!("an extension that nobody compares: {other:?}"),
        };
        let twice = all.insert(name.to_owned(), json!({"critical": extension.critical, "is": value}));
        assert!(twice.is_none(), "{name} twice");
    }
    all.into()
}

fn identifier(id: &[u8], key: &[u8]) -> Value {
    if id == &Sha256::digest(key)[..20] { json!("sha256 of the key, 160 bits") } else { json!({"bytes": id.len()}) }
}

fn subject_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, x509) = X509Certificate::from_der(der).unwrap();
    x509.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(it) => Some(it.0.to_vec()),
        _ => None,
    })
}

fn san(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS {name}"),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => format!("IP {}", std::net::Ipv4Addr::from(v4)),
            Err(_) => format!("IP {}", std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).unwrap())),
        },
        other => format!("{other:?}"),
    }
}

/// A private key: how it is written, and whether it belongs to a certificate or public key (DER SubjectPublicKeyInfo).
pub(crate) fn private_key(pem: &[u8], spki: Option<&[u8]>) -> Value {
    let key = Key::from_pem(pem).unwrap();
    json!({"PEM": labels(pem), "belongs to what is beside it": spki.map(|spki| spki == key.spki())})
}

/// The kinds of PEM blocks of a file, in their order.
pub(crate) fn labels(pem: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(pem).unwrap();
    let labels = text.lines().filter_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    labels.map(str::to_owned).collect()
}
