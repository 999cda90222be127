//! Every check against a machine in memory that has its fault, and one that has none.

mod hosts;

use std::time::{Duration, UNIX_EPOCH};

use kprov_providers::machine::fake::FakeMachine;

use super::*;
use crate::bundle::manifest::{Blob, Content, HostFile, Image};
use crate::facts::tests::facts;
use crate::facts::{Cgroups, Runtime};
use crate::phases::certs::tests::cluster as plain;

const ADDRESS: &str = "192.0.2.10";

/// A machine on which nothing is amiss.
fn machine() -> FakeMachine {
    let machine = FakeMachine::new();
    for tool in ["/usr/bin/mount", "/usr/sbin/losetup", "/bin/cp", "/usr/sbin/nft", "/usr/sbin/apparmor_parser"] {
        machine.put(tool, "");
    }
    machine.put("/etc/hosts", "127.0.0.1 localhost\n192.0.2.10 cp-1\n");
    machine.put("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
    machine.put("/proc/self/mounts", "proc /proc proc rw 0 0\n");
    machine.put("/proc/sys/kernel/osrelease", "6.1.0\n");
    machine.put(
        "/lib/modules/6.1.0/modules.builtin",
        ["overlay", "bridge", "br_netfilter", "veth", "nf_conntrack", "vxlan", "nf_tables"]
            .map(|m| format!("kernel/x/{m}.ko\n"))
            .concat(),
    );
    machine.put("/lib/modules/6.1.0/modules.dep", "");
    machine.put("/proc/net/route", ROUTES);
    machine
}

const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
    eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

fn cluster() -> Cluster {
    let mut cluster = plain();
    cluster.cni = crate::cluster::Cni::Flannel;
    cluster.config.control_plane_endpoint = None;
    cluster.config.kubernetes_version = Some("v1.36.3".to_owned());
    if let Some(endpoint) = cluster.init.local_api_endpoint.as_mut() {
        endpoint.advertise_address = Some(ADDRESS.to_owned());
    }
    if let Some(networking) = cluster.config.networking.as_mut() {
        networking.pod_subnet = Some("10.244.0.0/16".to_owned());
    }
    cluster
}

const IMAGES: [&str; 8] = [
    "registry.k8s.io/pause:3.10.2",
    "registry.k8s.io/etcd:3.6.8-0",
    "registry.k8s.io/kube-apiserver:v1.36.3",
    "registry.k8s.io/kube-controller-manager:v1.36.3",
    "registry.k8s.io/kube-scheduler:v1.36.3",
    "registry.k8s.io/kube-proxy:v1.36.3",
    "registry.k8s.io/coredns/coredns:v1.14.2",
    "kprov.io/flannel:v0.28.4",
];

fn bundle() -> Manifest {
    Manifest {
        format: 1,
        kubernetes: "v1.36.3".to_owned(),
        arch: "amd64".to_owned(),
        parts: Default::default(),
        files: vec![HostFile {
            path: "/usr/bin/kubelet".to_owned(),
            mode: 0o755,
            unless: Vec::new(),
            content: Content::Blob("aa".to_owned()),
        }],
        images: IMAGES
            .map(|name| Image {
                name: name.to_owned(),
                digest: "sha256:00".to_owned(),
                config: "sha256:01".to_owned(),
                layers: Vec::new(),
            })
            .into(),
        blobs: vec![Blob { sha256: "aa".to_owned(), size: 3 }],
    }
}

/// Names of what is found, errors with `!`, for a fault in the facts, the machine and the cluster.
async fn found(
    facts_of: impl FnOnce(&mut Facts),
    machine_of: impl FnOnce(&FakeMachine),
    cluster_of: impl FnOnce(&mut Cluster),
    ours: &[&str],
) -> Vec<String> {
    let (mut facts, machine, mut cluster) = (facts(), machine(), cluster());
    facts_of(&mut facts);
    machine_of(&machine);
    cluster_of(&mut cluster);
    let ours = |path: &str| ours.contains(&path);
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let bundle = bundle();
    let look = Look { machine: &machine, facts: &facts, ours: &ours, bundle: Some(&bundle), now };
    let before = machine.dump();
    let found = init(&look, &cluster).await.unwrap();
    assert_eq!(machine.dump(), before, "checks touch nothing");
    assert!(found.iter().all(|f| !f.message.ends_with('.')), "no full stop: {found:?}");
    let errors = found.iter().filter(|f| f.severity == Severity::Error);
    assert!(errors.into_iter().all(|f| f.hint.is_some()), "what mends each is said: {found:?}");
    found.into_iter().map(|f| if f.severity == Severity::Error { format!("!{}", f.name) } else { f.name }).collect()
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_amiss() {
    assert_eq!(found(|_| (), |_| (), |_| (), &[]).await, Vec::<String>::new());
}

#[tokio::test]
async fn faults_of_the_machine() {
    type Fault = fn(&mut Facts);
    let cases: [(Fault, &[&str]); 11] = [
        (|f| f.root = false, &["!IsPrivilegedUser"]),
        (|f| f.cpus = 1, &["!NumCPU"]),
        (|f| f.memory_mb = 1699, &["!Mem"]),
        (|f| f.systemd = false, &["!Systemd"]),
        (|f| f.arch = "arm64".to_owned(), &["!SystemVerification"]),
        (|f| f.var_free_mb = Some(1000), &["!DiskSpace"]),
        (|f| f.kernel = "4.9.0".to_owned(), &["!SystemVerification"]),
        (|f| f.hostname = "x".to_owned(), &[]),
        (|f| f.resolvers.clear(), &["Resolvers"]),
        (
            |f| {
                f.resolvers = vec!["127.0.0.1".parse().unwrap()];
                f.loopback_resolver_only = true;
            },
            &["!Resolvers"],
        ),
        (|f| f.addresses.clear(), &["!Network", "!AdvertiseAddress"]),
    ];
    for (number, (fault, expected)) in cases.into_iter().enumerate() {
        assert_eq!(found(fault, |_| (), |_| (), &[]).await, expected, "case {number}");
    }
}

#[tokio::test]
async fn cgroup_v1_is_accepted_with_a_warning() {
    let mounts = ["cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"]
        .map(|c| format!("cgroup /sys/fs/cgroup/{c} cgroup rw,{c} 0 0\n"))
        .concat();
    let v1 = |facts: &mut Facts| facts.cgroups = Cgroups::V1;
    let mounted = mounts.clone();
    assert_eq!(found(v1, |m| m.put("/proc/self/mounts", mounted), |_| (), &[]).await, ["SystemVerification"]);
    let without = mounts.replace("memory", "x");
    let names = found(v1, |m| m.put("/proc/self/mounts", without), |_| (), &[]).await;
    assert_eq!(names, ["SystemVerification", "!SystemVerification"]);
}

#[tokio::test]
async fn faults_among_files() {
    type Fault = fn(&FakeMachine);
    let cases: [(Fault, &str); 12] = [
        (|m| m.put("/proc/swaps", "Filename\n/swap file 1 0 -2\n"), "Swap"),
        (|m| m.remove("/usr/bin/mount").unwrap(), "!FileExisting-mount"),
        (|m| m.put("/etc/hosts", ""), "Hostname"),
        (|m| m.put("/etc/ufw/ufw.conf", "ENABLED=yes\n"), "Firewalld"),
        (|m| m.put("/sys/fs/cgroup/cgroup.controllers", "cpu cpuset pids"), "!SystemVerification"),
        (|m| m.put("/lib/modules/6.1.0/modules.builtin", "kernel/x/overlay.ko\n"), "!SystemVerification"),
        (|m| m.put("/proc/self/mounts", "proc /proc/sys proc ro 0 0\n"), "!FileContent--proc-sys-net-ipv4-ip_forward"),
        (|m| m.put("/etc/kubernetes/manifests/etcd.yaml", ""), "!FileAvailable--etc-kubernetes-manifests-etcd.yaml"),
        (|m| m.put("/var/lib/etcd/member/x", ""), "!DirAvailable--var-lib-etcd"),
        (|m| m.put("/usr/bin/kubelet", "another"), "!FileAvailable--usr-bin-kubelet"),
        (|m| m.put("/etc/cni/net.d/05-other.conflist", ""), "!CNIConfig"),
        (|m| m.remove("/usr/sbin/nft").unwrap(), "FileExisting-nft"),
    ];
    for (fault, expected) in cases {
        let names = found(|_| (), fault, |_| (), &[]).await;
        assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
        assert!(names.iter().all(|name| name.split('-').next() == expected.split('-').next()), "{expected}: {names:?}");
    }
}

#[tokio::test]
async fn what_the_journal_made_is_passed_over() {
    let made = |m: &FakeMachine| {
        m.put("/etc/kubernetes/manifests/etcd.yaml", "");
        m.put("/var/lib/etcd/member/x", "");
        m.put("/usr/bin/kubelet", "ours of an older run");
        // 10.244.0.0/24 through cni0.
        m.put("/proc/net/route", format!("{ROUTES}cni0\t0000F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"));
    };
    let ours = [
        "/etc/kubernetes/manifests/etcd.yaml",
        "/var/lib/etcd",
        "/usr/bin/kubelet",
        "/etc/systemd/system/kubelet.service",
    ];
    assert_eq!(found(|_| (), made, |_| (), &ours).await, Vec::<String>::new());
    let names = found(|_| (), made, |_| (), &[]).await;
    assert!(names.contains(&"!PodSubnet".to_owned()), "{names:?}");
}

/// Port 6443 is listened on by a socket of process 77.
fn taken(machine: &FakeMachine, program: &str) {
    let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    let line = "0: 00000000:192B 00000000:0000 0A 0:0 0:0 0 0 0 4711 1 0 100\n";
    machine.put("/proc/net/tcp", format!("{head}{line}"));
    machine.put("/proc/77/cmdline", format!("/usr/bin/{program}\0-x\0"));
    machine.put("/proc/77/fd/.keep", "");
    machine.link("/proc/77/fd/3", "socket:[4711]").unwrap();
}

#[tokio::test]
async fn ports_may_only_be_held_by_what_belongs_there() {
    let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    assert_eq!(found(|_| (), |m| taken(m, "nginx"), |_| (), &[]).await, ["!Port-6443"]);
    assert_eq!(found(|_| (), |m| taken(m, "nginx"), |_| (), &[manifest]).await, ["!Port-6443"]);
    assert_eq!(found(|_| (), |m| taken(m, "kube-apiserver"), |_| (), &[]).await, ["!Port-6443"]);
    assert_eq!(found(|_| (), |m| taken(m, "kube-apiserver"), |_| (), &[manifest]).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_foreign_runtime_is_looked_at() {
    let runtime = |version: &str| Runtime {
        name: "containerd".to_owned(),
        version: version.to_owned(),
        socket: "unix:///run/containerd/containerd.sock".to_owned(),
    };
    let says = |machine: &FakeMachine, program: &str, text: String| {
        machine.on(program, move |_, _| {
            Ok(kprov_providers::machine::Exit { stdout: text.clone().into_bytes(), ..Default::default() })
        });
    };
    let config = "disabled_plugins = []\n[x.pinned_images]\n  sandbox = 'registry.k8s.io/pause:3.10.2'\n\
                  [x.runtimes.runc.options]\n  SystemdCgroup = true\n";
    let answer = |machine: &FakeMachine| {
        says(machine, "containerd", config.to_owned());
        says(machine, "ctr", IMAGES.join("\n"));
    };
    assert_eq!(found(|f| f.runtime = Some(runtime("2.1.0")), answer, |_| (), &[]).await, Vec::<String>::new());
    let names = found(|f| f.runtime = Some(runtime("1.7.0")), answer, |_| (), &[]).await;
    assert_eq!(names, ["!ContainerRuntimeVersion"]);
    let empty = |m: &FakeMachine| {
        answer(m);
        says(m, "ctr", String::new());
    };
    assert_eq!(found(|f| f.runtime = Some(runtime("2.1.0")), empty, |_| (), &[]).await, ["!ImagePull"; 8]);
    let older = |m: &FakeMachine| {
        answer(m);
        says(m, "containerd", config.replace("3.10.2", "3.10.1"));
    };
    assert_eq!(found(|f| f.runtime = Some(runtime("2.1.0")), older, |_| (), &[]).await, ["!ImagePull"]);
    let poor = |f: &mut Facts| {
        f.runtime = Some(runtime("2.1.0"));
        f.missing_capabilities = vec!["CAP_SYS_RESOURCE".to_owned()];
    };
    assert_eq!(found(poor, answer, |_| (), &[]).await, ["!CRI"]);
    let two = vec![runtime("2.1.0"), Runtime { name: "cri-o".to_owned(), ..runtime("1.34") }];
    assert_eq!(found(|f| f.runtimes = two, |_| (), |_| (), &[]).await, ["!CRI"]);
}

#[tokio::test]
async fn images_that_the_bundle_does_not_have_are_told() {
    let elsewhere = |cluster: &mut Cluster| cluster.config.image_repository = Some("registry.example.org".to_owned());
    // All but flannel's, which has no other name.
    assert_eq!(found(|_| (), |_| (), elsewhere, &[]).await, ["ImagePull"; 6]);
}

#[tokio::test]
async fn an_external_etcd_needs_its_files() {
    let external = |cluster: &mut Cluster| {
        cluster.config.etcd = Some(crate::cluster::kubeadm::Etcd {
            external: Some(crate::cluster::kubeadm::ExternalEtcd {
                endpoints: Some(vec!["https://192.0.2.50:2379".to_owned()]),
                ca_file: Some("/etc/etcd/ca.crt".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        });
    };
    assert_eq!(found(|_| (), |_| (), external, &[]).await, ["!ExternalEtcdClientCertificates"]);
}

#[test]
fn errors_are_ignored_by_name_in_any_case() {
    let findings = || vec![Finding::error("Port-6443", "x"), Finding::error("Mem", "y"), Finding::warning("Swap", "z")];
    let left = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let all = ignore(findings(), &names);
        assert_eq!(all.len(), 3, "what is ignored is still told");
        errors(&all).iter().map(|f| f.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(left(&[]), ["Port-6443", "Mem"]);
    assert_eq!(left(&["port-6443"]), ["Mem"]);
    assert_eq!(left(&["MEM", "PORT-6443"]), Vec::<String>::new());
    assert_eq!(left(&["ALL"]), Vec::<String>::new());
}

#[test]
fn only_what_is_safe_and_not_ignored_is_mended() {
    let move_away = || Fix::MoveAway("/etc/cni/net.d/05-x.conf".to_owned());
    let findings = || vec![Finding::error("CNIConfig", "x").fixed_by([move_away()]), Finding::error("Mem", "y")];
    let (mended, left) = fixable(findings(), &[]);
    assert_eq!((mended[0].fixes.clone(), left[0].name.as_str()), (vec![move_away()], "Mem"));
    let (mended, left) = fixable(findings(), &["cniconfig".to_owned()]);
    assert_eq!((mended.len(), left.len()), (0, 2));
}

#[test]
fn paths_are_named_as_kubeadm_does() {
    assert_eq!(path_name("DirAvailable", "/var/lib/etcd"), "DirAvailable--var-lib-etcd");
    assert_eq!(path_name("FileContent", "/proc/sys/net/ipv4/ip_forward"), "FileContent--proc-sys-net-ipv4-ip_forward");
}
