//! The oracle's configurations (tests/oracle) once more, on real machines: `kprov init` and the real `kubeadm init` of the
//! same documents, side by side; every file with its mode and owner and every object of both clusters is compared. After
//! each the tools change machines: kubeadm's init comes right after kprov's reset, and kprov's after kubeadm's.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use kprov::yaml;
use serde_json::{Value, json};

use crate::bare::bring;
use crate::foreign::Kit;
use crate::host::{Bare, Clock, Host};
use crate::interop::{CONFIG, OUR_RESET, THEIR_RESET, settled, their_init};
use crate::kubectl::{Kubectl, wait};
use crate::oracle::allowed::{Allowed, PLANS, STARTUP, unused};
use crate::remote::Remote;
use crate::twins::{TWINS, Twin, capped, compare};

/// Where the configurations are.
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../oracle");
/// Those that are not tried here, and why.
const LEFT_OUT: [(&str, &str); 1] =
    [("default", "interop compares two machines of it on every run, with kprov's pod network")];
/// How long controllers may go on writing after init has returned.
const SETTLES: Duration = Duration::from_secs(60);

/// What `extras` mounts and hands over must be there, and be what the components can read; kubeadm wants the sysctl for
/// `dual-stack` from its user.
const FILES: &str = "sysctl -qw net.ipv6.conf.default.forwarding=1
mkdir -p /etc/kubernetes-authz /etc/scheduler /etc/zone
cat >/etc/kubernetes-authz/authz.yaml <<'E'
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}]
E
cat >/etc/scheduler/config.yaml <<'E'
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/scheduler.conf}
E";

/// Where `extras` and `subnets` have etcd's data and certificates.
const OWN_DIRS: &str = "/srv/etcd /srv/pki";

/// The configuration whose etcd is somebody else's.
const EXTERNAL: &str = "external-etcd";
/// Its CA, and the certificate with which it and its clients show themselves.
const CERTIFICATES: [(&str, &str); 2] = [
    ("ca", "-subj /CN=etcd-ca"),
    (
        "one",
        "-subj /CN=etcd -CA ca.crt -CAkey ca.key -addext basicConstraints=CA:FALSE \
         -addext subjectAltName=DNS:etcd.example.test -addext extendedKeyUsage=serverAuth,clientAuth",
    ),
];

/// Starts it on a machine, among containers that are not Kubernetes'; neither tool knows more of it than its name.
const ETCD: &str = "set -e; image=$(ctr -n k8s.io images ls -q | grep /etcd: | head -n 1)
ctr -n k8s.io images export /root/etcd.tar $image && ctr -n outside images import /root/etcd.tar
ctr -n outside run -d --net-host --mount type=bind,src=/etc/etcd,dst=/etc/etcd,options=rbind:ro $image etcd etcd --data-dir /data \
    --listen-client-urls https://0.0.0.0:2379 --advertise-client-urls https://etcd.example.test:2379 \
    --cert-file /etc/etcd/client/cert.pem --key-file /etc/etcd/client/key.pem \
    --client-cert-auth --trusted-ca-file /etc/etcd/ca.crt";
/// Ends it.
const NO_ETCD: &str = "ctr -n outside tasks rm -f etcd && ctr -n outside containers rm etcd";

/// Fields whose registries and sockets are not there.
const ELSEWHERE: [(&str, &str); 5] = [
    ("", "imageRepository"),
    ("/dns", "imageRepository"),
    ("/dns", "imageTag"),
    ("/etcd/local", "imageTag"),
    ("/nodeRegistration", "criSocket"),
];

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let kit = Kit::prepare(host)?;
    let machines = host.bare("parity", &["cp-1", "cp-2"])?;
    // Whose turn it is on which: kprov's, kubeadm's.
    let mut sides = [("cp-1", machines.remote("cp-1")?), ("cp-2", machines.remote("cp-2")?)];
    for (name, machine) in &sides {
        kit.install(machine)?;
        bring(host, machine)?;
        let address = machines.address(name)?;
        machine.run(&format!("{FILES}\necho {address} api.example.test etcd.example.test >>/etc/hosts"))?;
        certificates(host, machine)?;
    }
    clock.lap("two machines as users of kubeadm have them");

    let of_plans = PLANS.iter().filter(|it| !it.cases.is_empty() && !it.cases.contains(&"default"));
    let of_pods =
        Allowed { cases: &["extras"], line: "object/Pod *.startupProbe.failureThreshold: 39 => 390", why: STARTUP };
    let mut allowed: Vec<Allowed> = [TWINS, capped(&sides[0].1)?].concat();
    allowed.extend(of_plans.copied().chain([of_pods]));
    let (mut used, mut tried, mut failed) = (BTreeSet::new(), 0, Vec::new());
    for case in names()? {
        if let Some((_, why)) = LEFT_OUT.iter().find(|(left, _)| *left == case) {
            println!("           left out: {case} ({why})");
            continue;
        }
        if case == EXTERNAL {
            for (_, machine) in &sides {
                machine.run(ETCD)?;
            }
        }
        match one(&machines, &case, &sides, &allowed, &mut used) {
            Ok(compared) => clock.lap(&format!("{case}: {compared} files and objects are the same")),
            Err(error) => {
                clock.lap(&format!("{case} FAILED: {error:#}"));
                failed.push(case.clone());
            }
        }
        for ((_, machine), reset) in sides.iter().zip([OUR_RESET, THEIR_RESET]) {
            // kubeadm's leaves directories of the user's own choice.
            machine.run(&format!("{reset} && rm -rf {OWN_DIRS}"))?;
            if case == EXTERNAL {
                machine.run(NO_ETCD)?;
            }
        }
        sides.swap(0, 1);
        tried += 1;
    }
    ensure!(failed.is_empty(), "not the same: {}", failed.join(", "));
    ensure!(tried >= 10, "only {tried} configurations were tried");
    let unmet = unused(&allowed, &used);
    ensure!(unmet.is_empty(), "does not differ any more:\n{}", unmet.join("\n"));
    machines.destroy()
}

/// Names of all configurations.
fn names() -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(CASES)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The files of the etcd that is somebody else's.
fn certificates(host: &Host, machine: &Remote) -> anyhow::Result<()> {
    let dir = host.state("outside.d");
    std::fs::create_dir_all(&dir)?;
    for (name, args) in CERTIFICATES {
        let mut openssl = Command::new("openssl");
        openssl
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
            .args(args.split(' '));
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]).current_dir(&dir);
        let made = openssl.output()?;
        ensure!(made.status.success(), "openssl req: {}", String::from_utf8_lossy(&made.stderr));
    }
    machine.run("mkdir -p /etc/etcd/client")?;
    for (file, path) in [("ca.crt", "ca.crt"), ("one.crt", "client/cert.pem"), ("one.key", "client/key.pem")] {
        machine.upload(&dir.join(file), &format!("/etc/etcd/{path}"), "600")?;
    }
    Ok(())
}

/// Both control planes of one configuration, compared; how many things were.
fn one(
    machines: &Bare<'_>,
    case: &str,
    [(ours, our_machine), (theirs, their_machine)]: &[(&str, Remote); 2],
    allowed: &[Allowed],
    used: &mut BTreeSet<(usize, String)>,
) -> anyhow::Result<usize> {
    let twin = |machine: &Remote, name: &str| -> anyhow::Result<Twin> {
        let documents = documents(case, machine, &machines.address(name)?)?;
        let text = yaml::to_documents(&documents)?;
        machine.run(&format!("cat >{CONFIG} <<'E'\n{text}E\n"))?;
        let value = |pointer: &str| documents.iter().find_map(|it| Some(it.pointer(pointer)?.as_str()?.to_owned()));
        let node = value("/nodeRegistration/name").unwrap_or_else(|| machines.hostname(name));
        let mut twin = Twin::new(machine, node, machines.address(name)?, &text);
        twin.pki = value("/certificatesDir").unwrap_or(twin.pki);
        twin.etcd = value("/etcd/local/dataDir").or(twin.etcd).filter(|_| case != EXTERNAL);
        Ok(twin)
    };
    let (our, their) = (twin(our_machine, ours)?, twin(their_machine, theirs)?);
    let (said, their_said) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| their_init(their_machine, "kubeadm"));
        (our_machine.run(&format!("/root/kprov init --cni none --config {CONFIG} 2>&1")), beside.join())
    });
    their_said.map_err(|_| anyhow::anyhow!("kubeadm init broke off"))??;
    said?;
    for machine in [our_machine, their_machine] {
        settled(&Kubectl(machine.clone()), if case == EXTERNAL { 3 } else { 4 })?;
    }
    wait(SETTLES, || {
        // Only what stays counts as met.
        let mut met = BTreeSet::new();
        let (wrong, compared) = compare(&their, &our, allowed, case, &mut met)?;
        ensure!(wrong.is_empty(), "kubeadm's => ours:\n{}", wrong.join("\n"));
        used.append(&mut met);
        Ok(compared)
    })
}

/// The configuration's documents for such a machine: with its address and an endpoint that leads to it, without what is
/// [`ELSEWHERE`], and with what the kubelet and kube-proxy need here (kprov finds that out by itself).
fn documents(case: &str, machine: &Remote, address: &str) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(Path::new(CASES).join(case).join("input.yaml"))?;
    let text = text.replace("VERSION", "v1.36.3").replace("192.0.2.10", address);
    let text =
        text.replace(r#""https://192.0.2.21:2379", "https://192.0.2.22:2379""#, "https://etcd.example.test:2379");
    let mut documents = yaml::values(&text.replace("api.example.test:8443", "api.example.test:6443"))?;
    for (pointer, field) in ELSEWHERE {
        for document in &mut documents {
            if let Some(fields) = document.pointer_mut(pointer).and_then(Value::as_object_mut) {
                fields.remove(field);
            }
        }
    }
    let v1 = machine.run("stat -fc %T /sys/fs/cgroup")?.trim() != "cgroup2fs";
    let kubelet = if v1 { json!({"cgroupDriver": "cgroupfs", "failCgroupV1": false}) } else { json!({}) };
    let proxy = json!({"conntrack": {"maxPerCore": 0, "min": 0}});
    for (version, kind, needs) in [
        ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", kubelet),
        ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", proxy),
    ] {
        let there = documents.iter_mut().find(|document| document["kind"] == kind);
        let mut new = json!({"apiVersion": version, "kind": kind});
        let is_new = there.is_none();
        let document = there.unwrap_or(&mut new);
        for (field, value) in needs.as_object().into_iter().flatten() {
            document[field] = value.clone();
        }
        if is_new {
            documents.push(new);
        }
    }
    Ok(documents)
}
