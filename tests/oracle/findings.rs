//! What a tool has made of a machine and of its cluster, as data: one entry for each file and each object.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kprov::yaml;
use kprov_pki::inspect::Cert;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::certificate::{certificate, labels, private_key};
use super::tree::{Tree, What};

/// What is compared: a name like `pki/apiserver.crt` → what it is.
pub(crate) type Findings = BTreeMap<String, Value>;

/// What is known of a run beside its files.
pub(crate) struct Scene {
    /// certificatesDir.
    pub(crate) pki: String,
    /// etcd's data.
    pub(crate) etcd: String,
    /// Begin and end of the run.
    pub(crate) time: (OffsetDateTime, OffsetDateTime),
    /// The documents that both tools were given.
    pub(crate) input: String,
}

/// The kubelet's own certificates: the kubelet, not kubeadm, makes that directory.
const KUBELET_PKI: &str = "/var/lib/kubelet/pki";

impl Scene {
    /// Certificates of the authorities.
    pub(crate) fn authorities(&self, tree: &Tree) -> Vec<Vec<u8>> {
        let all = ["ca.crt", "front-proxy-ca.crt", "etcd/ca.crt"];
        all.iter().filter_map(|name| Some(tree.file(&format!("{}/{name}", self.pki))?.to_owned())).collect()
    }

    /// All that the files say.
    pub(crate) fn files(&self, tree: &Tree) -> Findings {
        let mut found = Findings::new();
        let roots = ["/etc/kubernetes", "/var/lib/kubelet", &self.pki, &self.etcd];
        let below = |path: &str, root: &str| path == root || path.starts_with(&format!("{root}/"));
        let wanted = |path: &str| roots.iter().any(|root| below(path, root)) && !below(path, KUBELET_PKI);
        modes(tree, wanted, &mut found);
        self.pki(tree, &mut found);
        for path in tree.files_below("/etc/kubernetes").into_iter().filter(|path| !path.starts_with(&self.pki)) {
            let name = path.rsplit('/').next().unwrap();
            let document = || yaml::from_str::<Value>(tree.text(path).unwrap()).unwrap();
            match path.rsplit_once('.') {
                Some((_, "conf")) => found.insert(format!("kubeconfig/{name}"), self.kubeconfig(document(), tree)),
                Some((_, "yaml")) => found.insert(format!("manifest/{name}"), document()),
                _ => panic!("{path}: a file that nobody compares"),
            };
        }
        for path in tree.files_below("/var/lib/kubelet").into_iter().filter(|path| !path.starts_with(KUBELET_PKI)) {
            let name = path.rsplit('/').next().unwrap();
            let text = tree.text(path).unwrap();
            let value = if name.ends_with(".yaml") { yaml::from_str(text).unwrap() } else { environment(text) };
            found.insert(format!("kubelet/{name}"), value);
        }
        found
    }

    fn pki(&self, tree: &Tree, found: &mut Findings) {
        let authorities = self.authorities(tree);
        let current = format!("{KUBELET_PKI}/kubelet-client-current.pem");
        for path in tree.files_below(&self.pki) {
            let bytes = tree.file(path).unwrap();
            let beside = |extension: &str| tree.file(&format!("{}.{extension}", path.rsplit_once('.').unwrap().0));
            let value = match path.rsplit_once('.') {
                Some((_, "crt")) => self.certificate(bytes, &authorities),
                Some((_, "key")) => {
                    let of_cert = beside("crt").map(|pem| Cert::from_pem(pem).unwrap().spki().to_owned());
                    private_key(bytes, of_cert.or_else(|| Some(public(beside("pub")?))).as_deref())
                }
                Some((_, "pub")) => json!({"PEM": labels(bytes)}),
                _ => panic!("{path}: a file that nobody compares"),
            };
            found.insert(format!("pki{}", path.strip_prefix(&self.pki).unwrap()), value);
        }
        let both = tree.file(&current).unwrap_or_else(|| panic!("{current} is not there"));
        let spki = Cert::from_pem(both).unwrap().spki().to_owned();
        let value = json!({"certificate": self.certificate(both, &authorities), "key": private_key(both, Some(&spki))});
        found.insert("kubelet/kubelet-client-current.pem".to_owned(), value);
    }

    fn certificate(&self, pem: &[u8], authorities: &[Vec<u8>]) -> Value {
        certificate(pem, authorities, self.time)
    }

    /// A kubeconfig whose certificates and keys are data.
    pub(crate) fn kubeconfig(&self, mut config: Value, tree: &Tree) -> Value {
        let authorities = self.authorities(tree);
        let decode = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        for entry in config["clusters"].as_array_mut().into_iter().flatten() {
            if let Some(data) = entry["cluster"].get_mut("certificate-authority-data") {
                let known = authorities.first() == Some(&decode(data));
                *data = if known { json!("the cluster's CA") } else { json!("another CA") };
            }
        }
        for entry in config["users"].as_array_mut().into_iter().flatten() {
            let user = entry["user"].as_object_mut().unwrap();
            let Some(pem) = user.get("client-certificate-data").map(decode) else { continue };
            user.insert("client-certificate-data".to_owned(), self.certificate(&pem, &authorities));
            let spki = Cert::from_pem(&pem).unwrap().spki().to_owned();
            let key = private_key(&decode(&user["client-key-data"]), Some(&spki));
            user.insert("client-key-data".to_owned(), key);
        }
        config
    }
}

/// Kind, mode and owner of all things at such paths.
pub(crate) fn modes(tree: &Tree, wanted: impl Fn(&str) -> bool, found: &mut Findings) {
    for (path, thing) in tree.0.iter().filter(|(path, _)| wanted(path)) {
        let kind = match &thing.what {
            What::Dir => "directory".to_owned(),
            What::Link(_) => "link".to_owned(),
            What::File(_) => "file".to_owned(),
            What::Other(letter) => format!("another ({letter})"),
        };
        let (user, group) = thing.owner;
        found.insert(format!("mode{path}"), json!(format!("{kind} {:04o} {user}:{group}", thing.mode)));
    }
}

/// A public key as DER.
fn public(pem: &[u8]) -> Vec<u8> {
    use rustls_pki_types::SubjectPublicKeyInfoDer;
    use rustls_pki_types::pem::PemObject;
    SubjectPublicKeyInfoDer::from_pem_slice(pem).unwrap().as_ref().to_vec()
}

/// `NAME="--a=1 --b=2"` as name → arguments.
fn environment(text: &str) -> Value {
    let lines = text.lines().map(|line| {
        let (name, value) = line.split_once('=').unwrap();
        let words: Vec<&str> = value.trim_matches('"').split_whitespace().collect();
        (name.to_owned(), json!(words))
    });
    Value::Object(lines.collect())
}
