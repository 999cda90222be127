//! The configurations: a folder each beside this file, with the documents that both tools are given (`input.yaml`), the
//! environment of both (`env`), and what kubeadm made of them (`kubeadm.jsonl`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kprov::yaml;
use serde_json::Value;

use crate::findings::Findings;

/// Address of the machine on which both tools run.
pub(crate) const ADDRESS: &str = "192.0.2.10";
/// Port of its API server.
pub(crate) const PORT: u16 = 6443;
/// Its name.
pub(crate) const HOST: &str = "cp-1";
/// Directories of certificates that it has beside /etc/ssl/certs.
pub(crate) const CA_DIRS: [&str; 2] = ["/usr/share/ca-certificates", "/etc/pki/tls/certs"];

/// One configuration.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// The documents.
    pub(crate) input: String,
    /// Variables of the environment.
    pub(crate) env: Vec<(String, String)>,
}

/// All configurations, by service subnet: with it an API server must be started.
pub(crate) fn all(version: &str) -> BTreeMap<String, Vec<Case>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    let mut cases: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    for dir in dirs.into_iter().filter(|dir| dir.is_dir()) {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let input = read("input.yaml").unwrap_or_else(|| panic!("{} has no input.yaml", dir.display()));
        let env = read("env").unwrap_or_default();
        let case = Case {
            name: dir.file_name().unwrap().to_str().unwrap().to_owned(),
            dir,
            input: input.replace("VERSION", version),
            env: env
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
        };
        let services = case.value("/networking/serviceSubnet").unwrap_or_else(|| "10.96.0.0/12".to_owned());
        cases.entry(services).or_default().push(case);
    }
    cases
}

impl Case {
    /// The text of a field of any of the documents.
    fn value(&self, pointer: &str) -> Option<String> {
        let documents = yaml::values(&self.input).unwrap();
        documents.iter().find_map(|document| document.pointer(pointer)?.as_str().map(str::to_owned))
    }

    /// certificatesDir.
    pub(crate) fn pki(&self) -> String {
        self.value("/certificatesDir").unwrap_or_else(|| "/etc/kubernetes/pki".to_owned())
    }

    /// etcd's data.
    pub(crate) fn etcd(&self) -> String {
        self.value("/etcd/local/dataDir").unwrap_or_else(|| "/var/lib/etcd".to_owned())
    }

    /// The node's name.
    pub(crate) fn node(&self) -> String {
        self.value("/nodeRegistration/name").unwrap_or_else(|| HOST.to_owned())
    }

    /// An add-on is not wanted.
    pub(crate) fn disabled(&self, addon: &str) -> bool {
        let pointer = if addon == "coredns" { "/dns/disabled" } else { "/proxy/disabled" };
        let documents = yaml::values(&self.input).unwrap();
        documents.iter().any(|document| document.pointer(pointer) == Some(&Value::Bool(true)))
    }

    /// Flags of kprov. kubeadm brings no pod network; what flannel brings with it is looked at in one configuration.
    pub(crate) fn flags(&self) -> Vec<String> {
        let cni = if self.name == "default" { "flannel" } else { "none" };
        vec!["--cni".to_owned(), cni.to_owned()]
    }

    fn golden(&self) -> PathBuf {
        self.dir.join("kubeadm.jsonl")
    }

    /// What kubeadm made, as it is kept.
    pub(crate) fn theirs(&self) -> Findings {
        let text = std::fs::read_to_string(self.golden()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str::<(String, Value)>(line).unwrap()).collect()
    }

    /// Keeps what kubeadm made.
    pub(crate) fn keep(&self, found: &Findings) {
        std::fs::write(self.golden(), lines(found)).unwrap();
    }
}

/// One line for each entry.
pub(crate) fn lines(found: &Findings) -> String {
    found.iter().map(|entry| serde_json::to_string(&entry).unwrap() + "\n").collect()
}
