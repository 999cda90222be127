//! The steps on a machine in memory.

use kprov_pki::inspect::Cert;
use kprov_pki::spec::Authority;
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::{Made, Outputs, Status, Watch};

use super::*;
use crate::cluster::Cni;
use crate::cluster::kubeadm::{
    ClusterConfiguration, InitConfiguration, LocalApiEndpoint, Networking, NodeRegistration,
};

pub(crate) const DIR: &str = "/etc/kubernetes/pki";

/// A cluster with the defaults that the PKI reads.
pub(crate) fn cluster() -> Cluster {
    let text = |text: &str| Some(text.to_owned());
    Cluster {
        init: InitConfiguration {
            node_registration: Some(NodeRegistration { name: text("cp-1"), ..Default::default() }),
            local_api_endpoint: Some(LocalApiEndpoint { advertise_address: text("10.1.2.3"), bind_port: Some(6443) }),
            ..Default::default()
        },
        config: ClusterConfiguration {
            networking: Some(Networking {
                service_subnet: text("10.96.0.0/12"),
                dns_domain: text("cluster.local"),
                ..Default::default()
            }),
            certificates_dir: text(DIR),
            cluster_name: text("kubernetes"),
            encryption_algorithm: text("ECDSA-P256"),
            control_plane_endpoint: text("api.example.org"),
            ..Default::default()
        },
        kubelet: serde_json::Value::Null,
        proxy: serde_json::Value::Null,
        kubelet_from_user: false,
        proxy_from_user: false,
        cni: Cni::None,
        single_node: false,
        notes: Vec::new(),
        warnings: crate::cluster::Problems::default(),
    }
}

/// Runs all steps in their order: what was made. The first one that is foreign or fails ends it.
pub(crate) async fn run(plan: &Plan) -> Result<Vec<String>, String> {
    run_knowing(plan, &mut Outputs::none()).await
}

/// The same with what earlier runs have handed on.
pub(crate) async fn run_knowing(plan: &Plan, known: &mut Outputs) -> Result<Vec<String>, String> {
    plan.validate().unwrap();
    let mut made = Vec::new();
    for step in plan.steps() {
        match step.check(known).await.map_err(|e| format!("{e:#}"))? {
            Status::Ready(outputs) => known.merge(outputs),
            Status::Foreign(why) => return Err(why),
            Status::Missing | Status::Differs(_) => {
                step.made(known).await.map_err(|e| format!("{e:#}"))?;
                let outputs = step.apply(known, &Watch::quiet()).await.map_err(|e| format!("{e:#}"))?;
                known.merge(outputs);
                made.push(step.key().to_string());
                let after = step.check(known).await.unwrap();
                assert!(matches!(after, Status::Ready(_)), "{} after apply: {after:?}", step.key());
            }
        }
    }
    Ok(made)
}

fn plan(machine: &FakeMachine) -> Plan {
    let machine: Arc<dyn Machine> = Arc::new(machine.clone());
    certs(&cluster(), &machine, &[]).unwrap()
}

fn read(machine: &FakeMachine, path: &str) -> Vec<u8> {
    machine.read(&format!("{DIR}/{path}")).unwrap().unwrap_or_else(|| panic!("{path} is not there"))
}

#[tokio::test]
async fn all_files_with_their_modes_and_a_second_run_changes_nothing() {
    let machine = FakeMachine::new();
    let made = run(&plan(&machine)).await.unwrap();
    assert_eq!(
        made.join(" "),
        "pki/ca pki/front-proxy-ca pki/etcd/ca pki/apiserver pki/apiserver-kubelet-client pki/front-proxy-client \
         pki/etcd/server pki/etcd/peer pki/etcd/healthcheck-client pki/apiserver-etcd-client pki/sa"
    );
    for name in &made {
        let path = name.strip_prefix("pki/").unwrap();
        let [public, public_mode] = if path == "sa" { ["pub", "600"] } else { ["crt", "644"] };
        for (suffix, mode) in [("key", "600"), (public, public_mode)] {
            let meta = machine.meta(&format!("{DIR}/{path}.{suffix}")).unwrap().unwrap();
            assert_eq!(format!("{:o}", meta.mode), mode, "{path}.{suffix}");
        }
    }
    let before = machine.dump();
    assert_eq!(run(&plan(&machine)).await.unwrap(), Vec::<String>::new());
    assert_eq!(machine.dump(), before);
}

#[tokio::test]
async fn made_names_what_is_new_and_nothing_else() {
    let machine = FakeMachine::new();
    machine.put(
        "/etc/kubernetes/pki/ca.key",
        kprov_pki::Key::generate(kprov_pki::Algorithm::EcdsaP256).unwrap().to_pem().unwrap().as_bytes(),
    );
    let plan = plan(&machine);
    let of = |key: &str| plan.steps().iter().find(|s| s.key().as_str() == key).unwrap().clone();
    let file = |path: &str| Made::File { path: path.into() };
    assert_eq!(of("pki/ca").made(&Outputs::none()).await.unwrap(), [file("/etc/kubernetes/pki/ca.crt")]);
    assert_eq!(
        of("pki/etcd/ca").made(&Outputs::none()).await.unwrap(),
        [
            Made::Dir { path: "/etc/kubernetes/pki/etcd".into() },
            file("/etc/kubernetes/pki/etcd/ca.key"),
            file("/etc/kubernetes/pki/etcd/ca.crt")
        ]
    );
}

#[tokio::test]
async fn a_crash_at_any_write_converges_and_never_changes_a_key() {
    let unbroken = FakeMachine::new();
    run(&plan(&unbroken)).await.unwrap();
    let names = |m: &FakeMachine| m.dump_with(|_, _| Some(Vec::new()));
    for writes in 0..unbroken.changes() {
        let machine = FakeMachine::new();
        machine.crash_after(writes);
        run(&plan(&machine)).await.unwrap_err();
        machine.revive();
        let keys: Vec<(String, Vec<u8>)> = ["ca", "etcd/server", "sa"]
            .iter()
            .map(|name| format!("{DIR}/{name}.key"))
            .filter_map(|path| Some((path.clone(), machine.read(&path).unwrap()?)))
            .collect();
        run(&plan(&machine)).await.unwrap_or_else(|e| panic!("after {writes} writes: {e}"));
        assert_eq!(names(&machine), names(&unbroken), "after {writes} writes");
        for (path, before) in keys {
            assert_eq!(machine.read(&path).unwrap().unwrap(), before, "{path}");
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_stops_with_the_reason() {
    let good = FakeMachine::new();
    run(&plan(&good)).await.unwrap();
    let other = FakeMachine::new();
    run(&plan(&other)).await.unwrap();
    for (path, from, want) in [
        ("apiserver.crt", "apiserver.crt", "apiserver.crt is not signed by CN=kubernetes"),
        ("etcd/peer.key", "etcd/peer.key", "etcd/peer.crt does not belong to the key beside it"),
        ("ca.key", "ca.key", "ca.crt does not belong to the key beside it"),
        ("ca.crt", "apiserver.crt", "ca.crt is not a CA"),
        ("sa.pub", "sa.pub", "sa.pub does not belong to /etc/kubernetes/pki/sa.key"),
        ("front-proxy-ca.crt", "sa.pub", "front-proxy-ca.crt: not a PEM certificate"),
    ] {
        let machine = copy(&good);
        machine.put(&format!("{DIR}/{path}"), read(&other, from));
        let before = machine.dump();
        assert_eq!(run(&plan(&machine)).await, Err(format!("{DIR}/{want}")));
        assert_eq!(machine.dump(), before, "{path}: nothing was changed");
    }
}

#[tokio::test]
async fn names_that_are_missing_stop() {
    let machine = FakeMachine::new();
    run(&plan(&machine)).await.unwrap();
    let mut cluster = cluster();
    cluster.config.control_plane_endpoint = Some("other.example.org:8443".into());
    let machine: Arc<dyn Machine> = Arc::new(machine);
    let plan = certs(&cluster, &machine, &[]).unwrap();
    assert_eq!(run(&plan).await, Err(format!("{DIR}/apiserver.crt does not cover other.example.org")));
}

#[tokio::test]
async fn an_external_ca_must_bring_what_it_signs() {
    let machine = FakeMachine::new();
    run(&plan(&machine)).await.unwrap();
    machine.remove("/etc/kubernetes/pki/ca.key").unwrap();
    assert_eq!(run(&plan(&machine)).await.unwrap(), Vec::<String>::new(), "all is there");
    machine.remove("/etc/kubernetes/pki/apiserver.crt").unwrap();
    let want = "/etc/kubernetes/pki/apiserver.crt is not there, and cannot be made: /etc/kubernetes/pki/ca.crt has no key beside it";
    assert_eq!(run(&plan(&machine)).await.unwrap_err(), want);
}

#[tokio::test]
async fn a_chain_in_the_cas_file_is_kept() {
    let machine = FakeMachine::new();
    run(&plan(&machine)).await.unwrap();
    let chain = [read(&machine, "ca.crt"), read(&machine, "etcd/ca.crt")].concat();
    machine.put("/etc/kubernetes/pki/ca.crt", &chain);
    assert_eq!(run(&plan(&machine)).await.unwrap(), Vec::<String>::new());
    assert_eq!(read(&machine, "ca.crt"), chain);
    let signer = signer(&machine, DIR, Authority::Cluster).unwrap().unwrap();
    assert_eq!(signer.chain.len(), 2);
    assert_eq!(signer.pem, chain);
}

#[tokio::test]
async fn the_content_shown_has_no_secret() {
    let machine = FakeMachine::new();
    for step in plan(&machine).steps() {
        let text = step.content().unwrap();
        assert!(text.contains("<secret>") && !text.contains("PRIVATE"), "{text}");
    }
    let plan = plan(&machine);
    let api = plan.steps().iter().find(|s| s.key().as_str() == "pki/apiserver").unwrap();
    assert_eq!(
        api.content().unwrap(),
        "CN=kube-apiserver\nsigned by: kubernetes\nusage: server\nnames: api.example.org, cp-1, kubernetes, \
         kubernetes.default, kubernetes.default.svc, kubernetes.default.svc.cluster.local, 10.96.0.1, 10.1.2.3\n\
         valid: 8760h\nkey: ECDSA-P256 <secret>\n"
    );
}

#[tokio::test]
async fn rsa_where_it_is_asked_for() {
    let machine = FakeMachine::new();
    let mut cluster = cluster();
    cluster.config.encryption_algorithm = Some("RSA-2048".into());
    let held: Arc<dyn Machine> = Arc::new(machine.clone());
    let plan = certs(&cluster, &held, &[]).unwrap();
    let mut only_ca = Plan::new();
    only_ca.extend(plan);
    run(&only_ca).await.unwrap();
    assert!(read(&machine, "ca.key").starts_with(b"-----BEGIN RSA PRIVATE KEY-----"));
    assert!(read(&machine, "sa.key").starts_with(b"-----BEGIN RSA PRIVATE KEY-----"));
    let cert = Cert::from_pem(&read(&machine, "apiserver.crt")).unwrap();
    let key = kprov_pki::Key::from_pem(&read(&machine, "apiserver.key")).unwrap();
    cert.belongs_to(&key).unwrap();
}

/// Another machine with the same PKI.
fn copy(from: &FakeMachine) -> FakeMachine {
    let to = FakeMachine::new();
    for dir in [DIR.to_owned(), format!("{DIR}/etcd")] {
        for name in from.list(&dir).unwrap().unwrap() {
            let path = format!("{dir}/{name}");
            if let Ok(Some(content)) = from.read(&path) {
                to.put(&path, content);
            }
        }
    }
    to
}
