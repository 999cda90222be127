//! The real kubeadm: phase after phase in a root of its own, against a real API server at the address of a machine that
//! is not there. It runs in a network namespace and under a host name of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kprov::yaml;
use serde_json::Value;
use time::OffsetDateTime;

use crate::api::{Api, fast_dir};
use crate::cases::{self, ADDRESS, CA_DIRS, Case, HOST, PORT};
use crate::findings::{Findings, Scene};
use crate::tree::Tree;

/// Names the directory to which the findings go; set: this process is the one in the namespaces.
pub(crate) const OUT: &str = "KPROV_ORACLE_OUT";

/// Runs this very program once more, in namespaces, as [`run`]; the findings are in the directory then.
pub(crate) fn in_namespaces(out: &Path) -> Result<(), String> {
    let me = std::env::current_exe().unwrap();
    let child = Command::new("unshare").args(["--net", "--uts", "--"]).arg(me).env(OUT, out).output();
    let child = child.map_err(|e| format!("unshare: {e}"))?;
    if child.status.success() {
        return Ok(());
    }
    let (told, why) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    Err(format!("kubeadm's run ended with {}:\n{told}{why}", child.status))
}

/// The endpoint of `ha-endpoint`. Before 1.36 kubeadm asks there, not at the address of this machine's API server.
const ENDPOINT: (&str, u16) = ("api.example.test", 8443);

/// All configurations.
pub(crate) async fn run(kubeadm: &Path, binaries: &Path, version: &str, out: &Path) {
    let balance = format!(
        "nft 'table ip oracle {{ chain out {{ type nat hook output priority -100; tcp dport {} dnat to {ADDRESS}:{PORT}; }}; }}'",
        ENDPOINT.1
    );
    let address = format!("ip addr add {ADDRESS}/32 dev lo");
    for line in [address, "ip link set lo up".to_owned(), balance, format!("hostname {HOST}")] {
        let done = Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(done.success(), "{line}: {done}");
    }
    for (services, cases) in cases::all(version) {
        let api = Api::start_at(binaries, &services, ADDRESS.parse().unwrap(), PORT).await;
        for case in cases {
            api.start_over().await;
            let found = one(kubeadm, &case, &api).await;
            fs::write(out.join(&case.name), cases::lines(&found)).unwrap();
        }
    }
}

async fn one(kubeadm: &Path, case: &Case, api: &Api) -> Findings {
    let begin = OffsetDateTime::now_utc();
    let place = fast_dir();
    let root = place.path();
    for dir in CA_DIRS.iter().chain(&["/etc/ssl/certs", "/tmp"]) {
        fs::create_dir_all(root.join(dir.trim_start_matches('/'))).unwrap();
    }
    fs::write(root.join("input.yaml"), &case.input).unwrap();
    fs::write(root.join("etc/hosts"), format!("{ADDRESS} {}\n", ENDPOINT.0)).unwrap();
    let phase = |names: &str| {
        let mut command = Command::new(kubeadm);
        command.arg("--rootfs").arg(root).args(["init", "phase"]).args(names.split(' '));
        command.args(["--config", "/input.yaml"]).env_clear().envs(case.env.iter().cloned()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let (told, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: kubeadm init phase {names}: {}\n{told}{why}", case.name, output.status);
    };
    for names in ["certs all", "kubeconfig all", "etcd local", "control-plane all", "kubelet-start"] {
        phase(names);
    }
    let tree = Tree::of_folder(root);
    let pki = case.pki();
    let read = |name: &str| tree.file(&format!("{pki}/{name}")).unwrap().to_owned();
    api.serve_with(&read("ca.crt"), &read("apiserver.crt"), &read("apiserver.key")).await;
    let identity = the_kubelet(root, &tree);
    api.register(&case.node(), &read("ca.crt"), &identity).await;
    for names in ["upload-config all", "mark-control-plane", "bootstrap-token", "kubelet-finalize all"] {
        phase(names);
    }
    for addon in ["coredns", "kube-proxy"] {
        if !case.disabled(addon) {
            phase(&format!("addon {addon}"));
        }
    }
    let tree = Tree::of_folder(root);
    let time = (begin, OffsetDateTime::now_utc());
    let scene = Scene { pki, etcd: case.etcd(), time, input: case.input.clone() };
    let mut found = scene.files(&tree);
    found.extend(scene.objects(&tree, &api.objects().await, &api.baseline));
    found
}

/// What the kubelet does before kubeadm finishes its kubeconfig: it keeps the certificate from there as its own.
fn the_kubelet(root: &Path, tree: &Tree) -> Vec<u8> {
    let config: Value = yaml::from_str(tree.text("/etc/kubernetes/kubelet.conf").unwrap()).unwrap();
    let user = &config["users"][0]["user"];
    let decode = |name: &str| STANDARD.decode(user[name].as_str().unwrap()).unwrap();
    let both = [decode("client-certificate-data"), decode("client-key-data")].concat();
    let dir = root.join("var/lib/kubelet/pki");
    let file = "kubelet-client-2000-01-01-00-00-00.pem";
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(file), &both).unwrap();
    fs::set_permissions(dir.join(file), fs::Permissions::from_mode(0o600)).unwrap();
    symlink(format!("/var/lib/kubelet/pki/{file}"), dir.join("kubelet-client-current.pem")).unwrap();
    both
}
