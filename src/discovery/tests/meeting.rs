//! What a joining worker learns, and what stops it.

use std::sync::Arc;

use kprov_pki::kubeconfig::{Kubeconfig, User};
use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;
use serde_json::json;

use super::server::cluster_info_of;
use super::*;
use crate::cluster::kubeadm::{BootstrapTokenDiscovery, Discovery, JoinConfiguration, NodeRegistration, Timeouts};
use crate::cluster::{Joining, Problems};

const NODE: &str = "/api/v1/nodes/worker-1";

/// A cluster with its configuration, for whoever holds the token or has the name of its node.
pub(crate) async fn cluster(pki: &Pki) -> Server {
    let server = Server::start(pki, |_| (404, String::new())).await;
    let info = cluster_info_of(&format!("https://{}", server.endpoint()), pki, Some(&token()));
    server.answer(move |_| (200, info.clone()));
    let map = |key: &'static str, text: &'static str| {
        move |who: &str| match who {
            "bearer abcdef.0123456789abcdef" | "system:node:worker-1" => {
                (200, json!({"data": {key: text}}).to_string())
            }
            "anonymous" => (403, "{}".into()),
            _ => (401, "{}".into()),
        }
    };
    let base = "/api/v1/namespaces/kube-system/configmaps";
    server.on(
        &format!("{base}/kubeadm-config"),
        map("ClusterConfiguration", "kubernetesVersion: v1.36.3\nsomethingNew: {}\n"),
    );
    server.on(&format!("{base}/kubelet-config"), map("kubelet", "cgroupDriver: systemd\nhealthzPort: 10248\n"));
    server
}

/// `kprov join` to this server, with the pin of this PKI's CA.
pub(crate) fn joining(server: &Server, pki: &Pki) -> Joining {
    let text = |text: &str| Some(text.to_owned());
    Joining {
        join: JoinConfiguration {
            node_registration: Some(NodeRegistration { name: text("worker-1"), ..Default::default() }),
            ca_cert_path: text("/etc/kubernetes/pki/ca.crt"),
            discovery: Some(Discovery {
                bootstrap_token: Some(BootstrapTokenDiscovery {
                    token: text("abcdef.0123456789abcdef"),
                    api_server_endpoint: Some(server.endpoint()),
                    ca_cert_hashes: Some(vec![Pin::of(&pki.ca).to_string()]),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            timeouts: Some(Timeouts { discovery: text("1s"), ..Default::default() }),
            ..Default::default()
        },
        warnings: Problems::default(),
    }
}

/// A kubelet.conf for a node of this cluster.
pub(crate) fn kubelet_conf(server: &str, pki: &Pki, node: &str) -> String {
    let both = pki.client(&format!("system:node:{node}"), "system:nodes");
    let user = User::embedded(both.as_bytes(), both.as_bytes());
    let config = Kubeconfig::new("kubernetes", server, pki.ca.to_pem().as_bytes(), "default-auth", user);
    crate::yaml::to_string(&config).unwrap()
}

async fn try_join(joining: &Joining, machine: &FakeMachine) -> Result<Met, Trouble> {
    let machine: Arc<dyn Machine> = Arc::new(machine.clone());
    meet(joining, "v1.36.3", &machine, &|_| ()).await.map_err(|e| e.downcast().unwrap())
}

#[tokio::test]
async fn a_bare_machine_reads_the_configuration_with_its_token() {
    let pki = Pki::new();
    let server = cluster(&pki).await;
    let machine = FakeMachine::new();
    let before = machine.dump();
    let met = try_join(&joining(&server, &pki), &machine).await.unwrap();
    assert!(!met.member);
    assert_eq!(met.place.server, format!("https://{}", server.endpoint()));
    assert_eq!(met.config.kubernetes_version.as_deref(), Some("v1.36.3"));
    assert_eq!(met.kubelet, json!({"cgroupDriver": "systemd", "healthzPort": 10248}));
    assert_eq!(machine.dump(), before);
}

#[tokio::test]
async fn a_token_that_does_not_authenticate_is_said() {
    let pki = Pki::new();
    let server = cluster(&pki).await;
    let mut joining = joining(&server, &pki);
    // Signed for, but for signing only; or a TLS bootstrap token of its own that has expired.
    joining.join.discovery.as_mut().unwrap().tls_bootstrap_token = Some("zzzzzz.0123456789abcdef".into());
    let why = try_join(&joining, &FakeMachine::new()).await.err().unwrap();
    assert_eq!(why, Trouble::TokenRefused { id: "zzzzzz".into() });
}

#[tokio::test]
async fn a_ready_node_of_the_name_stops_a_machine_that_is_not_it() {
    let pki = Pki::new();
    let server = cluster(&pki).await;
    let joining = joining(&server, &pki);
    let node = |status: &'static str| {
        move |_: &str| (200, json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}).to_string())
    };
    for status in ["False", "Unknown"] {
        server.on(NODE, node(status));
        try_join(&joining, &FakeMachine::new()).await.unwrap();
    }
    server.on(NODE, node("True"));
    let why = try_join(&joining, &FakeMachine::new()).await.err().unwrap();
    assert_eq!(why, Trouble::NodeExists { node: "worker-1".into() });
    // The same machine again: it is its own Node.
    let machine = FakeMachine::new();
    machine.put(KUBELET_CONF, kubelet_conf(&format!("https://{}", server.endpoint()), &pki, "worker-1"));
    assert!(try_join(&joining, &machine).await.unwrap().member);
}

#[tokio::test]
async fn a_member_needs_no_token_any_more() {
    let pki = Pki::new();
    let server = cluster(&pki).await;
    server.answer(|_| (500, String::new()));
    let machine = FakeMachine::new();
    machine.put(KUBELET_CONF, kubelet_conf(&format!("https://{}", server.endpoint()), &pki, "worker-1"));
    let met = try_join(&joining(&server, &pki), &machine).await.unwrap();
    assert!(met.member);
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_member_of_another_cluster_or_by_another_name_is_told_so() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = cluster(&pki).await;
    let mut joining = joining(&server, &pki);
    let machine = FakeMachine::new();
    machine.put(KUBELET_CONF, kubelet_conf("https://old:6443", &other, "worker-1"));
    let other_cluster = Trouble::OtherCluster { server: "https://old:6443".into() };
    assert_eq!(try_join(&joining, &machine).await.err().unwrap(), other_cluster);
    joining.join.discovery.as_mut().unwrap().bootstrap_token.as_mut().unwrap().ca_cert_hashes = None;
    assert_eq!(try_join(&joining, &machine).await.err().unwrap(), other_cluster, "without pins as well");
    machine.put(KUBELET_CONF, kubelet_conf("https://x:6443", &pki, "worker-2"));
    let why = try_join(&joining, &machine).await.err().unwrap();
    assert_eq!(why, Trouble::OtherName { is: "worker-2".into(), wanted: "worker-1".into() });
    machine.put("/etc/kubernetes/manifests/kube-apiserver.yaml", "");
    assert_eq!(try_join(&joining, &machine).await.err().unwrap(), Trouble::ControlPlane);
}

#[tokio::test]
async fn a_kubelet_that_is_too_new_is_refused() {
    let pki = Pki::new();
    let server = cluster(&pki).await;
    let machine: Arc<dyn Machine> = Arc::new(FakeMachine::new());
    let why = meet(&joining(&server, &pki), "v1.37.0", &machine, &|_| ()).await.err().unwrap();
    assert!(matches!(why.downcast_ref(), Some(Trouble::Skew { .. })), "{why}");
}

#[tokio::test]
async fn a_cluster_without_kubeadms_configuration_is_said() {
    let pki = Pki::new();
    let server = cluster(&pki).await;
    server.on("/api/v1/namespaces/kube-system/configmaps/kubeadm-config", |_| (404, "{}".into()));
    let why = try_join(&joining(&server, &pki), &FakeMachine::new()).await.err().unwrap().to_string();
    assert!(why.contains("its ConfigMap kubeadm-config is not there"), "{why}");
}
