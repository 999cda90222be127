//! kprov's way and kubeadm's way from a machine where the images are there to a cluster of two, each step timed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use kprov::ready::{self, Scope};
use serde_json::{Value, json};

use super::figures::{OURS, THEIRS, THEIRS_OUR_FLANNEL};
use super::timeline::{self, Span};
use crate::bare::bring;
use crate::foreign::Kit;
use crate::host::{Bare, Host};
use crate::interop::{self, CONFIG, IGNORE, flannel};
use crate::kubectl::Kubectl;
use crate::remote::Remote;

/// Where flannel's manifest is put on kubeadm's machines.
const FLANNEL: &str = "/root/flannel.json";

/// Stands in kept manifests for the address of the API server.
const API_SERVER: &str = "ADDRESS-OF-THE-API-SERVER";

/// How a cluster is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `kprov init`, `kprov join`.
    Kprov,
    /// `kubeadm init`, flannel with the arguments of its project's manifest, `kubeadm join`.
    Kubeadm,
    /// The same with flannel as kprov applies it.
    KubeadmOurFlannel,
    /// The same on a machine with separate programs.
    Separate,
}

impl Way {
    /// Whose figures they are.
    pub fn whose(self) -> &'static str {
        match self {
            Self::Kprov => OURS,
            Self::Kubeadm | Self::Separate => THEIRS,
            Self::KubeadmOurFlannel => THEIRS_OUR_FLANNEL,
        }
    }

    /// The template of its machines.
    fn template(self) -> &'static str {
        match self {
            Self::Kprov => "bench-kprov",
            Self::Kubeadm | Self::KubeadmOurFlannel => "bench-kubeadm",
            Self::Separate => "bench-separate",
        }
    }
}

/// Makes the template of machines for this way: everything a user brings is there, images imported.
///
/// # Errors
/// With what a machine said.
pub fn template(host: &Host, way: Way, programs: &Path) -> anyhow::Result<()> {
    host.forget(way.template())?;
    let machines = host.bare("bench-make", &["cp-1"])?;
    let machine = machines.remote("cp-1")?;
    match way {
        Way::Kprov => {
            bring(host, &machine)?;
            machine.run("/root/kprov bundle install 2>&1")?;
        }
        Way::Kubeadm | Way::KubeadmOurFlannel => Kit::prepare(host)?.install(&machine)?,
        Way::Separate => Kit::separate(host, programs)?.install(&machine)?,
    }
    machines.freeze("cp-1", way.template())
}

/// Removes the templates.
///
/// # Errors
/// When one cannot be removed.
pub fn forget(host: &Host) -> anyhow::Result<()> {
    [Way::Kprov, Way::Kubeadm, Way::Separate].into_iter().try_for_each(|way| host.forget(way.template()))
}

/// What one cluster took, in seconds.
pub struct Round {
    /// Until `init` returned.
    pub init: f64,
    /// From the start of `init` until all system pods were Ready.
    pub ready: f64,
    /// From the start of the worker's `join` until its Node was Ready.
    pub join: f64,
    /// What happened when, from the start of `init`.
    pub timeline: Vec<Span>,
}

/// Two machines of one way, up and quiet.
pub struct Pair<'a> {
    host: &'a Host,
    /// Its machines.
    pub machines: Bare<'a>,
    way: Way,
    cp: Remote,
    worker: Remote,
    kubeconfig: std::path::PathBuf,
}

impl<'a> Pair<'a> {
    /// Starts them.
    ///
    /// # Errors
    /// With what a machine said.
    pub fn start(host: &'a Host, way: Way, set: &str) -> anyhow::Result<Self> {
        let machines = host.copies(set, way.template(), &["cp-1", "worker-1"])?;
        let (cp, worker) = (machines.remote("cp-1")?, machines.remote("worker-1")?);
        if way != Way::Kprov {
            interop::documents(&cp, &machines.address("cp-1")?)?;
            let manifest = host.state(if way == Way::Kubeadm { "flannel-plain.json" } else { "flannel.json" });
            let text = std::fs::read_to_string(manifest)?.replace(API_SERVER, &machines.address("cp-1")?);
            let own = host.state(&format!("{set}-flannel.json"));
            std::fs::write(&own, text)?;
            cp.upload(&own, FLANNEL, "644")?;
        }
        for machine in [&cp, &worker] {
            // What boots beside the work that is timed takes its processor. A degraded system is settled too.
            machine.run("systemctl is-system-running --wait >/dev/null; systemctl start containerd && sync")?;
        }
        let kubeconfig = host.state(&format!("{set}.kubeconfig"));
        Ok(Self { host, machines, way, cp, worker, kubeconfig })
    }

    /// Its two machines.
    pub fn both(&self) -> [&Remote; 2] {
        [&self.cp, &self.worker]
    }

    /// Makes the cluster.
    ///
    /// # Errors
    /// With what the tool said.
    pub fn round(&self) -> anyhow::Result<Round> {
        let (begin, end, line, mut timeline) = if self.way == Way::Kprov { self.ours()? } else { self.theirs()? };
        std::fs::write(&self.kubeconfig, self.cp.run("cat /etc/kubernetes/admin.conf")?)?;
        let node = self.machines.hostname("cp-1");
        let ready = self.until(&Scope::all([node].into()))? - begin;
        let pods = Kubectl(self.cp.clone()).get("pods -A")?;
        timeline.extend(timeline::pods(self.way.whose(), &pods, begin));
        Ok(Round { init: end - begin, ready, join: self.join(&line)?, timeline })
    }

    fn ours(&self) -> anyhow::Result<(f64, f64, String, Vec<Span>)> {
        let (begin, end) = timed(&self.cp, "/root/kprov init -o json >/root/said 2>/root/log")?;
        let said = self.cp.run("cat /root/said")?;
        let result: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).context("kprov's result")?;
        let line = result["join"].as_str().and_then(|line| line.strip_prefix("kprov join ")).context("no join line")?;
        Ok((begin, end, line.to_owned(), timeline::kprov(&said, begin)?))
    }

    fn theirs(&self) -> anyhow::Result<(f64, f64, String, Vec<Span>)> {
        // Each line with its time, for the picture; the pipe's end is the command's.
        let stamp = "while IFS= read -r line; do printf '%s %s\\n' \"$EPOCHREALTIME\" \"$line\"; done >/root/said";
        let init = format!("set -o pipefail; kubeadm init --config {CONFIG} {IGNORE} 2>&1 | {stamp}");
        let (begin, end) = timed(&self.cp, &init)?;
        let (_, applied) =
            timed(&self.cp, &format!("kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f {FLANNEL} >/root/log"))?;
        let said = self.cp.run("cat /root/said")?;
        let whole: String = said.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned() + "\n")).collect();
        let mut timeline = timeline::kubeadm(self.way.whose(), &said, begin, end)?;
        timeline.push(Span::new(self.way.whose(), "kubectl apply", "flannel", end - begin, applied - begin));
        Ok((begin, end, interop::line(&whole)?, timeline))
    }

    fn join(&self, line: &str) -> anyhow::Result<f64> {
        let command = match self.way {
            Way::Kprov => format!("/root/kprov join {line} >/root/log 2>&1"),
            _ => format!("kubeadm join {line} {IGNORE} >/root/log 2>&1"),
        };
        let name = self.machines.hostname("worker-1");
        std::thread::scope(|scope| {
            let joining = scope.spawn(|| timed(&self.worker, &command));
            let ready = self.until(&Scope::Node { name, pods: false });
            let joined = joining.join().map_err(|_| anyhow::anyhow!("the thread that runs ssh panicked"))?;
            Ok(ready? - joined?.0)
        })
    }

    /// Waits, by a watch; when it was so far.
    fn until(&self, scope: &Scope) -> anyhow::Result<f64> {
        self.host.wait(async {
            let client = ready::client(&self.kubeconfig).await?;
            ready::wait(&client, scope, &|_| {}).await?;
            anyhow::Ok(now())
        })
    }
}

/// Keeps flannel's objects as kprov applied them, and as the project's own manifest would have them: it reaches the API
/// through the Service, and lets pods start at once.
///
/// # Errors
/// When they cannot be read.
pub fn keep_flannel(pair: &Pair<'_>) -> anyhow::Result<()> {
    let mut objects = flannel(&Kubectl(pair.cp.clone()))?;
    let address = pair.machines.address("cp-1")?;
    let write = |name: &str, objects: &[Value]| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        std::fs::write(pair.host.state(name), list.to_string().replace(&address, API_SERVER))
    };
    write("flannel.json", &objects)?;
    let daemons = objects.iter_mut().find(|object| object["kind"] == "DaemonSet").context("no DaemonSet of flannel")?;
    let container = &mut daemons["spec"]["template"]["spec"]["containers"][0];
    let has = |value: &Value, word: &str| value.as_str().is_some_and(|text| text.starts_with(word));
    let command = container["command"].as_array_mut().context("no command")?;
    command.retain(|word| !has(word, "--wait-for"));
    let env = container["env"].as_array_mut().context("no environment")?;
    env.retain(|entry| !has(&entry["name"], "KUBERNETES_SERVICE_"));
    Ok(write("flannel-plain.json", &objects)?)
}

/// When a command there began and ended, by the machine's clock, which is the host's.
///
/// # Errors
/// When it fails.
pub fn timed(machine: &Remote, command: &str) -> anyhow::Result<(f64, f64)> {
    let script = format!("b=$EPOCHREALTIME; ( {command} ); code=$?; echo \"$code $b $EPOCHREALTIME\"");
    let said = machine.run(&script)?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let [code, begin, end] = words[..] else { anyhow::bail!("{command}: {said}") };
    let log = || machine.run("tail -n 20 /root/said /root/log 2>/dev/null; true").unwrap_or_default();
    ensure!(code == "0", "{command} ended with {code}:\n{}", log());
    Ok((begin.parse()?, end.parse()?))
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
