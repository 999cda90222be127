//! Other runtimes, and what another Kubernetes left.

use kprov_providers::machine::Exit;

use super::network::listens;
use super::*;

#[tokio::test]
async fn a_second_runtime() {
    let socket = |path: &str| format!("0: 00000002 00000000 00010000 0001 01 1 {path}\n");
    let both = |m: &FakeMachine| {
        let sockets = socket("/run/containerd/containerd.sock") + &socket("/run/crio/crio.sock");
        m.put("/proc/net/unix", format!("Num\n{sockets}"));
        for program in ["containerd", "crio"] {
            m.on(program, |_, _| Ok(Exit { stdout: b"x 2.1.3\n".to_vec(), ..Exit::default() }));
        }
    };
    assert_eq!(
        said(both).await,
        ["error [CRI] container runtimes run already, choose one of them: unix:///run/containerd/containerd.sock, \
          unix:///run/crio/crio.sock => --cri-socket unix:///run/containerd/containerd.sock"]
    );
    // One that is installed, and does not run: ours would need the place of its configuration.
    assert_eq!(
        said(|m| m.put("/etc/containerd/config.toml", "version = 2\n")).await,
        [
            "error [FileAvailable--etc-containerd-config.toml] there is another one than kprov's, which it does not replace: \
          /etc/containerd/config.toml => mv /etc/containerd/config.toml /etc/containerd/config.toml.old"
        ]
    );
}

#[tokio::test]
async fn leftovers_of_k3s_and_its_sister() {
    for name in ["k3s", "rke2"] {
        let (program, data) = (format!("/usr/local/bin/{name}"), format!("/var/lib/rancher/{name}"));
        let (uninstall, inside) = (format!("{program}-uninstall.sh"), format!("{data}/server/x"));
        let installed = |m: &FakeMachine| {
            [&program, &uninstall, &inside].into_iter().for_each(|file| m.put(file, ""));
            if name == "k3s" {
                // Its programs and ports are part of it, and not told once more.
                m.link("/usr/bin/kubelet", "k3s").unwrap();
                listens(m, 77, "/usr/local/bin/k3s", "0::/system.slice/k3s.service\n");
            }
        };
        let error = format!(
            "error [OtherKubernetes] {name} is installed here: its programs, ports, links and rules are in the way => {uninstall}"
        );
        assert_eq!(said(installed).await, [error]);
        let warning = format!(
            "warning [OtherKubernetes] {name} was here and left its data, which kprov leaves alone: {data} => rm -rf {data}"
        );
        assert_eq!(said(|m| m.put(&inside, "")).await, [warning]);
    }
}

#[tokio::test]
async fn leftovers_of_an_older_kubeadm() {
    type Oddity = fn(&FakeMachine);
    let cases: [(&str, Oddity, &str); 5] = [
        (
            "a cluster",
            |m| m.put("/etc/kubernetes/manifests/etcd.yaml", ""),
            "error [FileAvailable--etc-kubernetes-manifests-etcd.yaml] there is one already, from another cluster or tool: \
             /etc/kubernetes/manifests/etcd.yaml => kprov reset --force",
        ),
        (
            "its data",
            |m| m.put("/var/lib/etcd/member/x", ""),
            "error [DirAvailable--var-lib-etcd] there is data of another etcd in /var/lib/etcd => mv /var/lib/etcd /var/lib/etcd.old",
        ),
        (
            "its packages",
            |m| {
                m.put("/usr/bin/kubelet", "older");
                m.put("/var/lib/dpkg/info/kubelet.list", "");
            },
            "error [FileAvailable--usr-bin-kubelet] there is another one than the bundle's, which kprov does not replace: \
             /usr/bin/kubelet => apt-get purge -y --allow-change-held-packages kubeadm kubelet kubectl kubernetes-cni",
        ),
        (
            "links that its reset leaves",
            |m| m.put("/proc/net/dev", "x\nx\n  eth0: 0\n  cni0: 0\nflannel.1: 0\n"),
            "error [PodLinks] another pod network left its links, with addresses of its own: cni0, flannel.1 => \
             ip link delete cni0 && ip link delete flannel.1",
        ),
        (
            "a CNI configuration that its reset leaves",
            |m| m.put("/etc/cni/net.d/05-cilium.conflist", ""),
            "error [CNIConfig] another pod network would be used instead of flannel: /etc/cni/net.d/05-cilium.conflist => \
             mv /etc/cni/net.d/05-cilium.conflist /etc/cni/net.d/05-cilium.conflist.old (or --fix)",
        ),
    ];
    for (what, oddity, wanted) in cases {
        assert_eq!(said(oddity).await, [wanted], "{what}");
    }
}
