//! Phase `host`: kernel modules and sysctls that Kubernetes needs, now and after a reboot. kubeadm wants a person to do
//! this. One step also journals what the programs that are started later will leave on the machine.

use std::sync::Arc;

use async_trait::async_trait;
use kprov_providers::machine::Command;
use kprov_providers::steps::{Grows, Label, Sysctl, WriteFile};
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch, labelled};

use crate::facts::{Facts, NO_RESOLVERS};
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "host";
/// Key of the step which journals what grows on the machine: whatever makes such a thing needs it.
pub const FIRST: &str = "host/sysctl-file";

/// Without any resolver CoreDNS would not start. One in the discard-only prefix (RFC 6666) is never reached, and fails
/// at once where there is no IPv6.
const NOWHERE: &str =
    "# This machine has no resolver: names outside the cluster are answered with an error.\nnameserver 100::1\n";

const SYSCTL_FILE: &str = "/etc/sysctl.d/99-kprov.conf";
const MODULES_FILE: &str = "/etc/modules-load.d/99-kprov.conf";

/// Directories that kubelet, containerd, CNI plugins and flannel fill, with all that is in them.
pub const TREES: [&str; 14] = [
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/run/cni",
    "/run/containerd",
    "/run/flannel",
    "/run/kubernetes",
    "/run/netns",
    "/run/nri",
];

/// Directories that a container's mount makes where they are missing.
const DIRS: [&str; 2] = ["/usr/lib/modules", "/etc/ssl/certs"];

const FILES: [&str; 1] = ["/run/xtables.lock"];

/// What kubelet, kube-proxy and CNI plugins set on the machine.
const THEIRS: [&str; 13] = [
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.ip_forward",
    "net.netfilter.nf_conntrack_buckets",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
];

/// What kubelet's unit wants, and systemd starts for it alone.
const UNITS: [&str; 1] = ["network-online.target"];

/// Steps that make the kernel ready. `v6`: the cluster has IPv6 subnets.
pub fn host(facts: &Facts, v6: bool, machine: &Arc<dyn Machine>) -> Plan {
    let mut plan = Plan::new();
    let mut first = Label::new(FIRST, PHASE);
    if facts.resolv_conf.as_deref() == Some(NO_RESOLVERS) {
        plan.add(WriteFile::new(Label::new("host/resolvers", PHASE), machine.clone(), NO_RESOLVERS, NOWHERE));
        first = first.needs(["host/resolvers"]);
    }
    // Before the first step: some of the settings that it remembers are there only once their modules are.
    if !facts.modules.is_empty() {
        let text: String = facts.modules.iter().map(|module| format!("{module}\n")).collect();
        let label = Label::new("host/modules-file", PHASE);
        plan.add(WriteFile::new(label, machine.clone(), MODULES_FILE, text));
        let label = Label::new("host/modules", PHASE).needs(["host/modules-file"]);
        plan.add(Modules { label, machine: machine.clone(), modules: facts.modules.clone() });
        first = first.needs(["host/modules"]);
    }
    let sysctls = sysctls(facts, v6);
    let lines: String = sysctls.iter().map(|name| format!("{name} = 1\n")).collect();
    let file = WriteFile::new(first, machine.clone(), SYSCTL_FILE, lines);
    plan.add(Grows::new(file, machine.clone()).trees(TREES).dirs(DIRS).files(FILES).sysctls(THEIRS).units(UNITS));
    for name in sysctls {
        let label = Label::new(format!("host/sysctl/{name}"), PHASE).needs([FIRST]);
        plan.add(Sysctl::new(label, machine.clone(), name, "1"));
    }
    plan
}

fn sysctls(facts: &Facts, v6: bool) -> Vec<&'static str> {
    let mut names = vec!["net.ipv4.ip_forward"];
    if facts.bridge_netfilter {
        names.push("net.bridge.bridge-nf-call-iptables");
        names.push("net.bridge.bridge-nf-call-ip6tables");
    }
    if v6 {
        names.push("net.ipv6.conf.all.forwarding");
        names.push("net.ipv6.conf.default.forwarding");
    }
    names
}

/// Loads kernel modules. They stay after a reset: nothing tells who else uses them by then.
struct Modules {
    label: Label,
    machine: Arc<dyn Machine>,
    modules: Vec<String>,
}

impl Modules {
    fn missing(&self) -> anyhow::Result<Vec<String>> {
        let mut missing = Vec::new();
        for module in &self.modules {
            if self.machine.meta(&format!("/sys/module/{module}"))?.is_none() {
                missing.push(module.clone());
            }
        }
        Ok(missing)
    }
}

#[async_trait]
impl Step for Modules {
    labelled!();

    fn describe(&self) -> String {
        format!("load the kernel modules {}", self.modules.join(", "))
    }

    async fn check(&self, _: &Outputs) -> anyhow::Result<Status> {
        Ok(if self.missing()?.is_empty() { Status::Ready(Outputs::none()) } else { Status::Missing })
    }

    async fn made(&self, _: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _: &Outputs, _: &Watch) -> anyhow::Result<Outputs> {
        let mut args = vec!["--all".to_owned(), "--".to_owned()];
        args.extend(self.missing()?);
        let exit = self.machine.run(Command::new("modprobe", args)).await?;
        anyhow::ensure!(exit.success(), "modprobe: {}", String::from_utf8_lossy(&exit.stderr).trim());
        Ok(Outputs::none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::facts;
    use kprov_providers::machine::fake::FakeMachine;

    fn keys(facts: &Facts, v6: bool) -> Vec<String> {
        let machine: Arc<dyn Machine> = Arc::new(FakeMachine::new());
        let plan = host(facts, v6, &machine);
        plan.validate().unwrap();
        plan.steps().iter().map(|step| step.key().to_string()).collect()
    }

    #[test]
    fn modules_only_where_there_are_some() {
        assert_eq!(
            keys(&Facts { bridge_netfilter: false, ..facts() }, false),
            ["host/sysctl-file", "host/sysctl/net.ipv4.ip_forward"]
        );
        let alone = Facts { resolv_conf: Some(NO_RESOLVERS.to_owned()), bridge_netfilter: false, ..facts() };
        assert_eq!(keys(&alone, false)[..2], ["host/resolvers", "host/sysctl-file"]);
        let loading = Facts { modules: vec!["br_netfilter".to_owned()], bridge_netfilter: true, ..facts() };
        assert_eq!(
            keys(&loading, true),
            [
                "host/modules-file",
                "host/modules",
                "host/sysctl-file",
                "host/sysctl/net.ipv4.ip_forward",
                "host/sysctl/net.bridge.bridge-nf-call-iptables",
                "host/sysctl/net.bridge.bridge-nf-call-ip6tables",
                "host/sysctl/net.ipv6.conf.all.forwarding",
                "host/sysctl/net.ipv6.conf.default.forwarding",
            ]
        );
    }
}
