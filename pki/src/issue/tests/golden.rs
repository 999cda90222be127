//! Certificates that kubeadm made of `testdata/kubeadm/init.yaml` (`make oracle` has it make others) against ours of the same names: all that
//! is not random must be the same bytes.

use std::collections::BTreeMap;

use super::*;
use crate::spec::Authority;

type Extensions = BTreeMap<String, (bool, Vec<u8>)>;

/// What is not random of a certificate.
#[derive(Debug, PartialEq)]
struct Fixed {
    version: u32,
    signature: String,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    /// Seconds.
    length: i64,
    extensions: Extensions,
}

fn fixed(der: &[u8]) -> Fixed {
    let (_, x) = X509Certificate::from_der(der).unwrap();
    let extensions = x.extensions().iter().map(|e| {
        let random = matches!(
            e.parsed_extension(),
            ParsedExtension::SubjectKeyIdentifier(_) | ParsedExtension::AuthorityKeyIdentifier(_)
        );
        let value = if random { vec![u8::try_from(e.value.len()).unwrap()] } else { e.value.to_vec() };
        (e.oid.to_id_string(), (e.critical, value))
    });
    Fixed {
        version: x.version().0,
        signature: x.signature_algorithm.algorithm.to_id_string(),
        issuer: x.issuer().as_raw().to_vec(),
        subject: x.subject().as_raw().to_vec(),
        length: x.validity().not_after.timestamp() - x.validity().not_before.timestamp(),
        extensions: extensions.collect(),
    }
}

fn kubeadms(path: &str) -> Fixed {
    let kept = || format!("{}/testdata/kubeadm", env!("CARGO_MANIFEST_DIR"));
    let file = format!("{}/{path}.crt", std::env::var("KPROV_PKI_GOLDEN").unwrap_or_else(|_| kept()));
    let pem = std::fs::read(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    fixed(Cert::from_pem(&pem).unwrap().der())
}

fn names() -> Names {
    Names {
        node: "cp-1".into(),
        advertise: [10, 1, 2, 3].into(),
        service: [10, 96, 0, 1].into(),
        dns_domain: "cluster.local".into(),
        endpoint: Some("api.example.org".into()),
        api_sans: vec!["Extra.example.org".into(), "10.9.9.9".into(), "*.wild.example.org".into()],
        etcd_server_sans: vec!["etcd.example.org".into()],
        etcd_peer_sans: vec!["10.8.8.8".into()],
    }
}

#[test]
fn ours_are_kubeadms_but_for_what_is_random() {
    let signer = |authority: Authority| {
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let validity = Validity { now: NOW, length: Duration::hours(87600) };
        let pem = super::authority(authority.common_name(), &key, validity).unwrap();
        (authority, Ca { cert: Cert::from_pem(pem.as_bytes()).unwrap(), key })
    };
    let signers: BTreeMap<Authority, Ca> = spec::authorities(false).into_iter().map(signer).collect();
    for (authority, ca) in &signers {
        assert_eq!(fixed(ca.cert.der()), kubeadms(authority.path()), "{}", authority.path());
    }
    let leaves = spec::leaves(&names(), false).into_iter().map(|leaf| (leaf.path.to_owned(), leaf));
    let clients = spec::clients("cp-1").into_iter().map(|client| (client.file.to_owned(), client.leaf()));
    for (path, want) in leaves.chain(clients) {
        let (ca, key) = (&signers[&want.signer], Key::generate(Algorithm::EcdsaP256).unwrap());
        let pem = leaf(&want, &key, &ca.cert, &ca.key, year()).unwrap();
        assert_eq!(fixed(Cert::from_pem(pem.as_bytes()).unwrap().der()), kubeadms(&path), "{path}");
    }
}
