//! What is issued is read back by this crate and, as a foreign witness, by the openssl command.

mod golden;

use std::process::Command;

use time::macros::datetime;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::*;
use crate::inspect::{Unfit, verify};
use crate::key::Algorithm;
use crate::spec::{self, Names};

const NOW: OffsetDateTime = datetime!(2026-11-21 10:00:00 UTC);

fn year() -> Validity {
    Validity { now: NOW, length: Duration::hours(8760) }
}

fn names() -> Names {
    Names {
        node: "node-1".into(),
        advertise: [10, 1, 2, 3].into(),
        service: [10, 96, 0, 1].into(),
        dns_domain: "cluster.local".into(),
        endpoint: Some("api.example.org".into()),
        api_sans: vec!["*.wild.example.org".into()],
        etcd_server_sans: vec![],
        etcd_peer_sans: vec![],
    }
}

struct Ca {
    cert: Cert,
    key: Key,
}

fn ca(algorithm: Algorithm) -> Ca {
    let key = Key::generate(algorithm).unwrap();
    let pem = authority("kubernetes", &key, Validity { now: NOW, length: Duration::hours(87600) }).unwrap();
    Ca { cert: Cert::from_pem(pem.as_bytes()).unwrap(), key }
}

fn api_leaf() -> spec::Leaf {
    spec::leaves(&names(), false).remove(0)
}

#[test]
fn an_authority_is_as_kubeadms() {
    for algorithm in Algorithm::ALL {
        let ca = ca(algorithm);
        let (_, x) = X509Certificate::from_der(ca.cert.der()).unwrap();
        assert_eq!(x.subject().to_string(), "CN=kubernetes");
        assert_eq!(x.issuer(), x.subject());
        assert!(x.verify_signature(None).is_ok());
        assert_eq!(ca.cert.not_before(), NOW - Duration::minutes(5));
        assert_eq!(ca.cert.not_after(), NOW + Duration::hours(87600));
        assert_eq!(ca.cert.sans(), [San::Dns("kubernetes".into())]);
        let bc = x.basic_constraints().unwrap().unwrap();
        assert!(bc.critical && bc.value.ca && bc.value.path_len_constraint.is_none());
        let ku = x.key_usage().unwrap().unwrap();
        assert!(ku.critical);
        assert_eq!(ku.value.flags, 0b10_0101, "digitalSignature, keyEncipherment, keyCertSign");
        assert!(x.extended_key_usage().unwrap().is_none());
        assert!(
            x.extensions().iter().any(|e| matches!(e.parsed_extension(), ParsedExtension::SubjectKeyIdentifier(_)))
        );
        let serial = x.raw_serial();
        assert!(serial.len() <= 8 && serial.iter().any(|b| *b != 0) && serial[0] < 0x80);
        ca.cert.belongs_to(&ca.key).unwrap();
    }
}

#[test]
fn a_leaf_is_as_kubeadms() {
    let ca = ca(Algorithm::EcdsaP256);
    for want in spec::leaves(&names(), false) {
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let cert = Cert::from_pem(leaf(&want, &key, &ca.cert, &ca.key, year()).unwrap().as_bytes()).unwrap();
        let (_, x) = X509Certificate::from_der(cert.der()).unwrap();
        assert_eq!(cert.common_name(), want.common_name);
        assert_eq!(cert.sans(), want.sans);
        let bc = x.basic_constraints().unwrap().unwrap();
        assert!(bc.critical && !bc.value.ca);
        let ku = x.key_usage().unwrap().unwrap();
        assert!(ku.critical);
        assert_eq!(ku.value.flags, 0b101);
        let eku = x.extended_key_usage().unwrap().unwrap();
        assert!(!eku.critical);
        assert_eq!(eku.value.server_auth, want.usage != Usage::Client, "{}", want.path);
        assert_eq!(eku.value.client_auth, want.usage != Usage::Server, "{}", want.path);
        let ext =
            |f: fn(&ParsedExtension<'_>) -> bool| x.extensions().iter().filter(|e| f(e.parsed_extension())).count();
        assert_eq!(ext(|e| matches!(e, ParsedExtension::SubjectKeyIdentifier(_))), 0);
        assert_eq!(ext(|e| matches!(e, ParsedExtension::AuthorityKeyIdentifier(_))), 1);
        verify(&[cert], std::slice::from_ref(&ca.cert)).unwrap();
    }
}

#[test]
fn clients_carry_their_group() {
    let ca = ca(Algorithm::EcdsaP256);
    for client in spec::clients("node-1") {
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let pem = leaf(&client.leaf(), &key, &ca.cert, &ca.key, year()).unwrap();
        let cert = Cert::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(cert.common_name(), client.user);
        assert_eq!(cert.organizations(), client.group.map(str::to_owned).as_slice());
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let (ours, other) = (ca(Algorithm::EcdsaP256), ca(Algorithm::EcdsaP256));
    let key = Key::generate(Algorithm::EcdsaP384).unwrap();
    let pem = leaf(&api_leaf(), &key, &ours.cert, &ours.key, year()).unwrap();
    let cert = Cert::from_pem(pem.as_bytes()).unwrap();
    // The same name, another key: the signature decides, not the name.
    assert_eq!(
        verify(std::slice::from_ref(&cert), std::slice::from_ref(&other.cert)),
        Err(Unfit::Signer("CN=kubernetes".into()))
    );
    cert.valid_at(NOW).unwrap();
    assert!(matches!(cert.valid_at(NOW - Duration::minutes(6)), Err(Unfit::NotYet { .. })));
    assert_eq!(
        cert.valid_at(NOW + Duration::hours(8761)).unwrap_err().to_string(),
        "expired at 2027-11-21T10:00:00Z (the time here is 2027-11-21T11:00:00Z)"
    );
    assert_eq!(cert.belongs_to(&ours.key), Err(Unfit::Key));
    let names: Vec<San> =
        ["api.example.org", "a.wild.example.org", "a.b.wild.example.org", "10.1.2.4"].map(San::new).into();
    assert_eq!(cert.covers(&names).unwrap_err().to_string(), "does not cover a.b.wild.example.org, 10.1.2.4");
}

#[test]
fn a_chain_over_an_intermediate_holds() {
    let root = ca(Algorithm::Rsa2048);
    let middle_key = Key::generate(Algorithm::EcdsaP256).unwrap();
    let mut params = params("middle", None, &[], year()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(root.cert.der()), &root.key.pair).unwrap();
    let middle = Cert::from_der(params.signed_by(&middle_key.pair, &issuer).unwrap().der()).unwrap();
    let key = Key::generate(Algorithm::EcdsaP256).unwrap();
    let cert = Cert::from_pem(leaf(&api_leaf(), &key, &middle, &middle_key, year()).unwrap().as_bytes()).unwrap();
    let roots = std::slice::from_ref(&root.cert);
    verify(&[cert.clone(), middle.clone()], roots).unwrap();
    assert!(verify(std::slice::from_ref(&cert), roots).is_err());
    // A CA file that holds a chain: its first certificate signs.
    verify(std::slice::from_ref(&cert), &[middle.clone(), root.cert.clone()]).unwrap();
    // A leaf is no authority, whatever it signed.
    let stranger = Cert::from_pem(leaf(&api_leaf(), &key, &cert, &key, year()).unwrap().as_bytes()).unwrap();
    assert!(verify(&[stranger, cert, middle], roots).is_err());
}

#[test]
fn a_broken_certificate_is_refused() {
    let ca = ca(Algorithm::EcdsaP256);
    let der = ca.cert.der();
    for end in [0, 1, 10, der.len() - 1] {
        assert!(Cert::from_der(&der[..end]).is_err());
    }
    assert!(Cert::from_der(&[der, &[0]].concat()).is_err());
    assert!(Cert::from_pem(b"").is_err());
}

/// Needs the openssl command: a witness that shares no code with us. Without it the test says so and, where everything
/// must run (KPROV_TEST_ALL=1), fails.
fn openssl(args: &[&str]) -> Option<String> {
    match Command::new("openssl").args(args).output() {
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "openssl {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
            Some(text)
        }
        Err(error) => {
            assert!(std::env::var_os("KPROV_TEST_ALL").is_none(), "openssl cannot be run: {error}");
            println!("left out: openssl cannot be run: {error}");
            None
        }
    }
}

#[test]
fn openssl_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for algorithm in [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Rsa2048] {
        let ca = ca(algorithm);
        let key = Key::generate(algorithm).unwrap();
        let pem = leaf(&api_leaf(), &key, &ca.cert, &ca.key, year()).unwrap();
        let (ca_file, cert) = (file("ca.crt", &ca.cert.to_pem()), file("leaf.crt", &pem));
        let key_file = file("leaf.key", &key.to_pem().unwrap());
        let at = NOW.unix_timestamp().to_string();
        let args = ["verify", "-x509_strict", "-attime", &at, "-purpose", "sslserver", "-verify_hostname", "node-1"];
        let Some(text) = openssl(&[&args[..], &["-CAfile", &ca_file, &cert]].concat()) else { return };
        assert!(text.contains("OK"), "{text}");
        let public = openssl(&["pkey", "-in", &key_file, "-pubout"]).unwrap();
        assert_eq!(public, key.public_pem(), "{algorithm:?}");
        // openssl checks that the public half inside the key belongs to the secret one.
        openssl(&["pkey", "-in", &key_file, "-check", "-noout"]).unwrap();
    }
    let cert = file("ca.crt", &ca(Algorithm::EcdsaP256).cert.to_pem());
    let text = openssl(&["x509", "-in", &cert, "-noout", "-text"]).unwrap();
    for want in
        ["CA:TRUE", "Digital Signature, Key Encipherment, Certificate Sign\n", "DNS:kubernetes", "Key Identifier"]
    {
        assert!(text.contains(want), "{want} not in {text}");
    }
    assert!(!text.contains("pathlen"));
}
