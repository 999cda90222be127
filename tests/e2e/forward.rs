//! Machines' packets get through on hosts whose packet filter drops what is forwarded, as Docker, ufw and firewalld set it
//! up. Each such host is a network namespace here, with the bridge that the `local` provider makes, two namespaces in the
//! place of machines, and one "outside" that has no way back to them but by masquerade. The filter of this host is never
//! touched.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use kprov_providers::local::network::{Network, Place};

use crate::host::{Clock, Host};
use crate::kubectl::wait;

/// Makes this program one of those hosts; see [`inside`].
pub const WORD: &str = "--trial-where-forward-is-drop";

/// A host: its name; how FORWARD becomes DROP; how all rules of that chain, ours too, are taken away; all its rules.
type Filter = (&'static str, &'static str, &'static str, &'static str);

const FILTERS: [Filter; 3] = [
    ("iptables-nft", "iptables-nft -P FORWARD DROP", "iptables-nft -F FORWARD", "nft -s list ruleset"),
    (
        "iptables-legacy",
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy -F FORWARD",
        "iptables-legacy -S; nft -s list ruleset",
    ),
    (
        "nft",
        "nft 'table inet firewall { chain forward { type filter hook forward priority 10; policy drop; \
         ct state invalid drop; }; }'",
        "nft flush chain inet firewall forward",
        "nft -s list ruleset",
    ),
];

/// Mounts and links of its own; what the provider remembers of sysctls is of this host alone, and those of inotify, which
/// all hosts here would share, are large enough.
const HOST: &str = r#"set -e
mount -t tmpfs tmpfs /run
mkdir /run/inotify
for name in max_user_instances max_user_watches max_queued_events; do echo 9999999 >/run/inotify/$name; done
mount --bind /run/inotify /proc/sys/fs/inotify
ip link set lo up
ip netns add outside
ip link add out type veth peer name eth0 netns outside
ip address add 192.0.2.1/24 dev out
ip link set out up
ip -n outside link set lo up
ip -n outside address add 192.0.2.2/24 dev eth0
ip -n outside link set eth0 up
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
exec "$@"
"#;

const OUTSIDE: &str = "192.0.2.2";
const PORT: u16 = 8080;

/// The scenario: all hosts at once, they mostly wait for packets that do not come.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let own = std::env::current_exe().context("finding this program")?;
    let mut hosts = Vec::new();
    for (name, ..) in FILTERS {
        let mut command = Command::new("unshare");
        // In a pid namespace all that it started ends with it.
        command.args([
            "--net",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", HOST, "sh"]);
        command.arg(&own).arg(WORD).arg(name).arg(&host.probe);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        hosts.push((name, command.spawn().context("running unshare")?));
    }
    let mut failed = Vec::new();
    for (name, child) in hosts {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            failed.push(format!("{name}: {}\n{out}{err}", output.status));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    clock.lap("machines reach each other and the outside: iptables-nft, iptables-legacy, an nft table of a firewall");
    Ok(())
}

/// Such a host, from inside: arguments are the filter's name and the probe.
pub fn inside(args: &[String]) -> anyhow::Result<()> {
    let [name, probe] = args else { bail!("usage: {WORD} FILTER PROBE") };
    let (_, drop, flush, list) = FILTERS.iter().find(|(known, ..)| known == name).context("no such filter")?;
    sh(drop)?;
    let before = sh(list)?;
    let network = Network { id: "7e57f0d0".to_owned(), subnet: "10.213.77.0/24".parse()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(network.create("trial"))?;
    let a = runtime.block_on(network.prepare("a", network.address(2)))?;
    let b = runtime.block_on(network.prepare("b", network.address(3)))?;
    let (there, outside) = (format!("{}:{PORT}", b.address), format!("{OUTSIDE}:{PORT}"));
    let servers = [serve(probe, netns(&b)?, "b")?, serve(probe, "outside", "outside")?];

    let pass = || {
        for (address, answer) in [(&there, "from b"), (&outside, "from outside")] {
            wait(Duration::from_secs(10), || {
                let said = get(probe, &a, address)?;
                ensure!(said.trim() == answer, "{address} answers: {said}");
                Ok(())
            })?;
        }
        anyhow::Ok(())
    };
    pass().context("with our rules")?;
    // Were packets not dropped without our rules, the above would show nothing.
    sh(flush)?;
    for address in [&there, &outside] {
        ensure!(get(probe, &a, address).is_err(), "{address} answers without our rules: nothing is dropped here");
    }
    runtime.block_on(network.create("trial"))?;
    pass().context("with our rules made again")?;
    let twice = sh(list)?;
    runtime.block_on(network.create("trial"))?;
    ensure!(sh(list)? == twice, "rules are made twice:\n{}", sh(list)?);

    for mut server in servers {
        server.kill()?;
        server.wait()?;
    }
    runtime.block_on(network.destroy());
    let after = sh(list)?;
    // A firewall's own rule went with the flush.
    let own = |text: &str| text.replace("\t\tct state invalid drop\n", "");
    ensure!(own(&after) == own(&before), "rules before:\n{before}\nand after:\n{after}");
    let links = sh("ip -brief link")?;
    ensure!(!links.contains(&network.id), "links are left:\n{links}");
    Ok(())
}

fn netns(place: &Place) -> anyhow::Result<&str> {
    place.netns.file_name().and_then(|name| name.to_str()).context("no namespace")
}

fn serve(probe: &str, netns: &str, name: &str) -> anyhow::Result<Child> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, probe, "serve", &PORT.to_string()]).env("NODE", name);
    command.stdin(Stdio::null()).spawn().context("running ip netns exec")
}

fn get(probe: &str, from: &Place, address: &str) -> anyhow::Result<String> {
    sh(&format!("ip netns exec {} {probe} get {address}", netns(from)?))
}

fn sh(command: &str) -> anyhow::Result<String> {
    let output = Command::new("sh").args(["-c", command]).output().context("running sh")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command}: {}\n{err}", output.status);
    Ok(out.into_owned())
}
