//! A worker joins on a machine in memory whose kubelet is made up and whose cluster is a real TLS server.

use kprov_providers::machine::UnitVerb;
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::{Made, Status};

use super::*;
use crate::discovery::tests::meeting::{cluster, joining, kubelet_conf};
use crate::discovery::tests::server::{Pki, Server};
use crate::discovery::{Place, meet};
use crate::facts::Cgroups;
use crate::facts::tests::facts;
use crate::phases::certs::tests::run_knowing;

const UNIT: &str = "/etc/systemd/system/kubelet.service";
const NODE: &str = "/api/v1/nodes/worker-1";

/// A machine whose kubelet gets its certificate and registers its Node as soon as it is started with what it needs.
fn machine(server: &Arc<Server>, pki: &Pki) -> FakeMachine {
    let machine = FakeMachine::new();
    machine.put(UNIT, "[Service]\n");
    machine.put("/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", "[Service]\n");
    let conf = kubelet_conf(&format!("https://{}", server.endpoint()), pki, "worker-1");
    let registers = server.clone();
    machine.on_unit(move |machine, name, verb| {
        if name != "kubelet.service" || !matches!(verb, UnitVerb::Start | UnitVerb::Restart) {
            return Ok(());
        }
        for needed in ["/etc/kubernetes/pki/ca.crt", kubelet::CONFIG, kubelet::INSTANCE_CONFIG, kubelet::FLAGS] {
            assert!(machine.read(needed)?.is_some(), "{needed} is not there when the kubelet starts");
        }
        if machine.read(KUBELET_CONF)?.is_none() {
            assert!(machine.read(BOOTSTRAP_CONF)?.is_some(), "no bootstrap kubeconfig when the kubelet starts");
            machine.put(KUBELET_CONF, &conf);
        }
        registers.on(NODE, |who| (if who == "system:node:worker-1" { 200 } else { 403 }, "{}".into()));
        Ok(())
    });
    machine.on_probe(|_, url| {
        let answer = (url == "http://127.0.0.1:10248/healthz").then(|| (200, "ok".into()));
        async move { answer }.boxed()
    });
    machine
}

async fn join(machine: &FakeMachine, server: &Server, pki: &Pki, facts: &Facts) -> Result<Vec<String>, String> {
    join_knowing(machine, server, pki, facts, &mut Outputs::none()).await
}

async fn join_knowing(
    machine: &FakeMachine,
    server: &Server,
    pki: &Pki,
    facts: &Facts,
    known: &mut Outputs,
) -> Result<Vec<String>, String> {
    let held: Arc<dyn Machine> = Arc::new(machine.clone());
    let joining = joining(server, pki);
    let met = meet(&joining, "v1.36.3", &held, &|_| ()).await.map_err(|e| format!("{e:#}"))?;
    let mut plan = Plan::new();
    plan.add(WriteFile::new(Label::new("first", "host"), held.clone(), "/etc/first", ""));
    plan.extend(worker(&joining, facts, &met, &held, &["first".into()], &[]).unwrap());
    run_knowing(&plan, known).await
}

async fn made_up() -> (Pki, Arc<Server>) {
    let pki = Pki::new();
    let server = Arc::new(cluster(&pki).await);
    server.on(NODE, |_| (404, "{}".into()));
    (pki, server)
}

#[tokio::test]
async fn a_worker_joins_and_a_second_run_changes_nothing() {
    let (pki, server) = made_up().await;
    let machine = machine(&server, &pki);
    let mut known = Outputs::none();
    join_knowing(&machine, &server, &pki, &facts(), &mut known).await.unwrap();
    assert!(machine.meta(BOOTSTRAP_CONF).unwrap().is_none(), "removed");
    assert_eq!(machine.read("/etc/kubernetes/pki/ca.crt").unwrap().unwrap(), pki.ca.to_pem().as_bytes());
    assert_eq!(machine.meta("/etc/kubernetes/pki/ca.crt").unwrap().unwrap().mode, 0o644);
    let before = machine.dump();
    let again = join_knowing(&machine, &server, &pki, &facts(), &mut known).await.unwrap();
    assert_eq!(again, Vec::<String>::new());
    assert_eq!(machine.dump(), before);
}

#[tokio::test]
async fn a_kill_after_any_change_converges() {
    let (pki, server) = made_up().await;
    let unbroken = machine(&server, &pki);
    let at_start = unbroken.changes();
    join(&unbroken, &server, &pki, &facts()).await.unwrap();
    let content = |path: &str, _: &[u8]| (path == KUBELET_CONF).then(Vec::new);
    for changes in 0..unbroken.changes() - at_start {
        let (pki, server) = (&pki, Arc::new(cluster(&pki).await));
        server.on(NODE, |_| (404, "{}".into()));
        let machine = machine(&server, pki);
        machine.crash_after(changes);
        join(&machine, &server, pki, &facts()).await.unwrap_err();
        machine.revive();
        join(&machine, &server, pki, &facts()).await.unwrap_or_else(|e| panic!("after {changes} changes: {e}"));
        assert_eq!(machine.dump_with(content), unbroken.dump_with(content), "after {changes} changes");
    }
}

#[tokio::test]
async fn a_ca_that_is_there_is_never_changed() {
    let (pki, server) = made_up().await;
    let machine = machine(&server, &pki);
    machine.put("/etc/kubernetes/pki/ca.crt", "mine");
    let why = join(&machine, &server, &pki, &facts()).await.unwrap_err();
    assert!(why.contains("/etc/kubernetes/pki/ca.crt"), "{why}");
    assert_eq!(machine.read("/etc/kubernetes/pki/ca.crt").unwrap().unwrap(), b"mine");
}

#[tokio::test]
async fn what_is_made_is_journalled_and_shows_no_secret() {
    let (pki, server) = made_up().await;
    let machine = machine(&server, &pki);
    let held: Arc<dyn Machine> = Arc::new(machine.clone());
    let joining = joining(&server, &pki);
    let met = meet(&joining, "v1.36.3", &held, &|_| ()).await.unwrap();
    let plan = worker(&joining, &facts(), &met, &held, &[], &[]).unwrap();
    for step in plan.steps() {
        let shown = format!("{}{}", step.describe(), step.content().unwrap_or_default());
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
    }
    let bootstrap = plan.steps().iter().find(|s| s.key().as_str() == "join/bootstrap-kubeconfig").unwrap();
    let content = bootstrap.content().unwrap();
    assert!(content.contains("token: <secret>") && content.contains(&server.endpoint()), "{content}");
    let made = bootstrap.made(&Outputs::none()).await.unwrap();
    let file = |path: &str| Made::File { path: path.into() };
    assert!(made.contains(&file(BOOTSTRAP_CONF)) && made.contains(&file(KUBELET_CONF)), "{made:?}");
    // Another token than the one that is there, from an earlier try.
    machine.put(BOOTSTRAP_CONF, "token: earlier");
    let Status::Differs(text) = bootstrap.check(&Outputs::none()).await.unwrap() else { panic!("not different") };
    assert!(!text.contains("earlier") && !text.contains("012345"), "{text}");
}

#[test]
fn the_clusters_values_are_corrected_for_this_machine_alone() {
    let met = Met {
        place: Place { server: "https://x:6443".into(), ca_pem: Vec::new() },
        config: Default::default(),
        kubelet: serde_json::json!({
            "cgroupDriver": "cgroupfs", "failCgroupV1": false,
            "authentication": {"x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
        }),
        token: "abcdef.0123456789abcdef".parse().unwrap(),
        member: false,
    };
    let mut joining = crate::cluster::Joining { join: Default::default(), warnings: Default::default() };
    joining.join.ca_cert_path = Some("/etc/ca.crt".into());
    let (config, notes) = fitted(&joining, &Facts { cgroups: Cgroups::V2, ..facts() }, &met);
    assert_eq!(config["cgroupDriver"], "systemd");
    assert_eq!(config["authentication"]["x509"]["clientCAFile"], "/etc/ca.crt");
    assert_eq!(notes.len(), 2, "{notes:?}");
}
