//! The steps on a machine in memory that has its PKI.

use kprov_pki::inspect::Cert;
use kprov_providers::machine::fake::FakeMachine;

use super::*;
use crate::phases::certs::tests::{cluster, run};

fn plan(machine: &FakeMachine) -> Plan {
    let machine: Arc<dyn Machine> = Arc::new(machine.clone());
    let mut plan = certs::certs(&cluster(), &machine, &[]).unwrap();
    plan.extend(kubeconfig(&cluster(), &machine, &[]).unwrap());
    plan
}

fn config(machine: &FakeMachine, file: &str) -> Kubeconfig {
    let text = machine.read(&format!("{DIR}/{file}")).unwrap().unwrap();
    crate::yaml::from_str(std::str::from_utf8(&text).unwrap()).unwrap()
}

#[tokio::test]
async fn five_files_that_go_where_they_should() {
    let machine = FakeMachine::new();
    let made = run(&plan(&machine)).await.unwrap();
    assert_eq!(
        made[11..].join(" "),
        "kubeconfig/admin kubeconfig/super-admin kubeconfig/kubelet kubeconfig/controller-manager kubeconfig/scheduler"
    );
    let (cluster, local) = ("https://api.example.org:6443", "https://10.1.2.3:6443");
    let ca = machine.read("/etc/kubernetes/pki/ca.crt").unwrap().unwrap();
    for (file, user, group, server) in [
        ("admin.conf", "kubernetes-admin", Some("kubeadm:cluster-admins"), cluster),
        ("super-admin.conf", "kubernetes-super-admin", Some("system:masters"), cluster),
        ("kubelet.conf", "system:node:cp-1", Some("system:nodes"), local),
        ("controller-manager.conf", "system:kube-controller-manager", None, local),
        ("scheduler.conf", "system:kube-scheduler", None, local),
    ] {
        assert_eq!(machine.meta(&format!("{DIR}/{file}")).unwrap().unwrap().mode, 0o600);
        let config = config(&machine, file);
        assert_eq!(config.current_context, format!("{user}@kubernetes"));
        let (to, who) = config.current().unwrap();
        assert_eq!((to.server.as_str(), to.ca_pem().unwrap().as_ref()), (server, Some(&ca)), "{file}");
        let pem = match who.cert_pem().unwrap() {
            Some(pem) => pem,
            None => machine.read(who.client_certificate.as_deref().unwrap()).unwrap().unwrap(),
        };
        let cert = Cert::from_pem(&pem).unwrap();
        assert_eq!(cert.common_name(), user);
        assert_eq!(cert.organizations(), group.map(str::to_owned).as_slice());
    }
}

#[tokio::test]
async fn the_kubelet_finds_its_rotating_certificate() {
    let machine = FakeMachine::new();
    run(&plan(&machine)).await.unwrap();
    let (_, user) = config(&machine, "kubelet.conf").current().map(|(c, u)| (c.clone(), u.clone())).unwrap();
    assert_eq!(user, User::file(KUBELET_CURRENT));
    let kprov_providers::machine::Kind::Link(target) = machine.meta(KUBELET_CURRENT).unwrap().unwrap().kind else {
        panic!("no link");
    };
    // kubelet-client-2006-01-02-15-04-05.pem
    let name = target.strip_prefix("/var/lib/kubelet/pki/kubelet-client-").unwrap();
    assert_eq!(name.len(), "2006-01-02-15-04-05.pem".len());
    assert_eq!(machine.meta(&target).unwrap().unwrap().mode, 0o600);
    assert_eq!(machine.meta(KUBELET_DIR).unwrap().unwrap().mode, 0o700);
    let both = machine.read(&target).unwrap().unwrap();
    Cert::from_pem(&both).unwrap().belongs_to(&PrivateKey::from_pem(&both).unwrap()).unwrap();
}

#[tokio::test]
async fn a_file_to_which_a_killed_run_gave_no_name_yet_goes() {
    let machine = FakeMachine::new();
    let unnamed = format!("{KUBELET_PKI}/.kubelet-client-2026-01-02-03-04-05.pem.kprov-new");
    machine.put(&unnamed, "what a killed run left");
    run(&plan(&machine)).await.unwrap();
    assert!(machine.meta(&unnamed).unwrap().is_none());
}

#[tokio::test]
async fn what_the_kubelets_directory_grows_is_taken_back_with_it() {
    let machine = FakeMachine::new();
    let plan = plan(&machine);
    let step = plan.steps().iter().find(|s| s.key().as_str() == "kubeconfig/kubelet").unwrap();
    let made = step.made(&Outputs::none()).await.unwrap();
    assert!(made.contains(&Made::Tree { path: KUBELET_DIR.into() }), "{made:?}");
    assert!(made.contains(&Made::File { path: "/etc/kubernetes/kubelet.conf".into() }), "{made:?}");
    machine.put("/var/lib/kubelet/mine", "");
    let made = step.made(&Outputs::none()).await.unwrap();
    assert!(!made.contains(&Made::Tree { path: KUBELET_DIR.into() }), "{made:?}");
}

#[tokio::test]
async fn a_crash_at_any_write_converges() {
    let unbroken = FakeMachine::new();
    run(&plan(&unbroken)).await.unwrap();
    // Names of the kubelet's files have the time in them.
    let names = |m: &FakeMachine| {
        let text = m.dump_with(|_, _| Some(Vec::new()));
        text.lines().filter(|l| !l.contains("kubelet-client-")).map(|l| format!("{l}\n")).collect::<String>()
    };
    let count = |m: &FakeMachine| m.list(KUBELET_PKI).unwrap().unwrap().len();
    for writes in 30..unbroken.changes() {
        let machine = FakeMachine::new();
        machine.crash_after(writes);
        run(&plan(&machine)).await.unwrap_err();
        machine.revive();
        run(&plan(&machine)).await.unwrap_or_else(|e| panic!("after {writes} writes: {e}"));
        assert_eq!(names(&machine), names(&unbroken), "after {writes} writes");
        assert_eq!(count(&machine), 2, "one certificate and the link, after {writes} writes");
    }
}

#[tokio::test]
async fn what_does_not_fit_stops_with_the_reason() {
    let (machine, other) = (FakeMachine::new(), FakeMachine::new());
    run(&plan(&machine)).await.unwrap();
    run(&plan(&other)).await.unwrap();
    let path = "/etc/kubernetes/admin.conf";
    let good = machine.read(path).unwrap().unwrap();
    for (content, why) in [
        (b"junk: [".to_vec(), "is not a kubeconfig"),
        (b"{}".to_vec(), "has no context in use, or one without its cluster or user"),
        (other.read(path).unwrap().unwrap(), "trusts another CA"),
        (
            machine.read("/etc/kubernetes/scheduler.conf").unwrap().unwrap(),
            "is for system:kube-scheduler, not for kubernetes-admin",
        ),
    ] {
        machine.put(path, &content);
        assert_eq!(run(&plan(&machine)).await, Err(format!("{path} {why}")));
        assert_eq!(machine.read(path).unwrap().unwrap(), content, "left as it was");
    }
    // Another address is the user's own affair.
    let text = String::from_utf8(good).unwrap().replace("api.example.org", "lb.example.org");
    machine.put(path, text);
    assert_eq!(run(&plan(&machine)).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn without_the_cas_key_they_must_be_brought() {
    let machine = FakeMachine::new();
    run(&plan(&machine)).await.unwrap();
    machine.remove("/etc/kubernetes/pki/ca.key").unwrap();
    assert_eq!(run(&plan(&machine)).await.unwrap(), Vec::<String>::new());
    machine.remove("/etc/kubernetes/scheduler.conf").unwrap();
    let why = run(&plan(&machine)).await.unwrap_err();
    assert!(why.starts_with("/etc/kubernetes/scheduler.conf is not there, and cannot be made"), "{why}");
}

#[tokio::test]
async fn the_content_shown_has_no_secret() {
    let machine = FakeMachine::new();
    let plan = plan(&machine);
    let of = |key: &str| plan.steps().iter().find(|s| s.key().as_str() == key).unwrap().content().unwrap();
    let admin = of("kubeconfig/admin");
    assert!(
        admin.contains("client-key-data: <secret>") && admin.contains("server: https://api.example.org:6443"),
        "{admin}"
    );
    assert!(of("kubeconfig/kubelet").contains(KUBELET_CURRENT));
}

/// The goal is a tenth of the 4 s that kubeadm takes with its RSA keys on two cores; here on a debug build.
#[tokio::test]
async fn pki_and_kubeconfigs_take_little_time() {
    let machine = FakeMachine::new();
    let started = std::time::Instant::now();
    run(&plan(&machine)).await.unwrap();
    let took = started.elapsed();
    println!("PKI and kubeconfigs: {took:?}");
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}
