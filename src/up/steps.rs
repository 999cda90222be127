//! The coarse steps of the operator's side. Each can be looked at and made again at any time; what they leave is
//! remembered by the machines' own record, so that `down` needs no journal.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kprov_providers::ssh::{Host, Session, upload::sha256};
use kprov_providers::{Key, Made, Outputs, Status, Step, Watch};
use kube::api::Api;

use super::there::{self, KPROV, Task};
use super::{CONTROL_PLANE, Ground, Until, documents, kubeconfig, leave, places, template};
use crate::ready::{self, Scope};

/// What `init` on a machine ends with: the administrator's kubeconfig.
const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// What `join` on a machine ends with: the kubelet's kubeconfig.
const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";

/// The file by which a machine is seen to be a node.
fn conf(machine: &str) -> &'static str {
    if machine == CONTROL_PLANE { ADMIN_CONF } else { KUBELET_CONF }
}

/// True where the machine has become a node, or is half way there: with the bundle that it got at its time.
async fn is_node(session: &Session, conf: &str) -> anyhow::Result<bool> {
    Ok(session.run(&format!("test -e {conf}"), b"").await?.success())
}

/// What a step does. Machines by their short names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Make the template that machines are copied from.
    Template,
    /// Make a machine and start it.
    Machine(String),
    /// Bring kprov and the bundle onto it.
    Bring(String),
    /// `kprov init` on the control plane.
    Init,
    /// Fetch the kubeconfig.
    Kubeconfig,
    /// `kprov join` on a worker.
    Join(String),
    /// Drain a worker, reset it, delete its Node, remove its machine.
    Leave(String),
    /// Wait until all is Ready.
    Ready,
}

/// A step of the operator's side.
pub struct Coarse {
    ground: Arc<Ground>,
    work: Work,
    key: Key,
    needs: Vec<Key>,
}

/// So much of a bundle's beginning is compared, in bytes.
const HEAD: u64 = 1 << 20;

/// SHA-256 of a file's first bytes.
fn head_sha256(path: &std::path::Path) -> anyhow::Result<String> {
    let mut head = Vec::new();
    std::fs::File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(crate::bundle::manifest::sha256_hex(&head))
}

impl Coarse {
    /// A step that needs others.
    pub fn new(ground: Arc<Ground>, work: Work, needs: &[String]) -> Self {
        let key = match &work {
            Work::Template => "template".to_owned(),
            Work::Machine(machine) => format!("machine/{machine}"),
            Work::Bring(machine) => format!("bring/{machine}"),
            Work::Init => format!("init/{CONTROL_PLANE}"),
            Work::Kubeconfig => "kubeconfig".to_owned(),
            Work::Join(machine) => format!("join/{machine}"),
            Work::Leave(machine) => format!("leave/{machine}"),
            Work::Ready => "ready".to_owned(),
        };
        Self { ground, work, key: key.into(), needs: needs.iter().map(|need| need.as_str().into()).collect() }
    }

    /// Its key as text.
    pub fn name(&self) -> String {
        self.key.as_str().to_owned()
    }

    async fn host(&self, machine: &str) -> anyhow::Result<Host> {
        self.ground.machines.lock().await.ssh(machine)
    }

    async fn look(&self) -> anyhow::Result<bool> {
        let ground = &self.ground;
        Ok(match &self.work {
            Work::Template => {
                let machines = ground.machines.lock().await;
                let made = |name: &String| machines.get(name).is_ok_and(|machine| !machine.host_key.is_empty());
                machines.store().has(&ground.template) || ground.wanted.iter().all(made)
            }
            Work::Machine(machine) => ground.machines.lock().await.alive(machine),
            Work::Bring(machine) => self.brought(machine).await?,
            Work::Init => self.registered(CONTROL_PLANE).await,
            Work::Kubeconfig => ground.places.kubeconfig(&ground.name).is_file(),
            Work::Join(machine) => self.registered(machine).await,
            Work::Leave(machine) => ground.machines.lock().await.get(machine).is_err(),
            Work::Ready => {
                let Ok(client) = self.client().await else { return Ok(false) };
                let health = ready::look(&client, &Scope::all(ground.nodes())).await.unwrap_or_else(|error| {
                    ready::Health { waiting: vec![error.to_string()], ..ready::Health::default() }
                });
                health.waiting.is_empty()
            }
        })
    }

    async fn client(&self) -> anyhow::Result<kube::Client> {
        ready::client(&self.ground.places.kubeconfig(&self.ground.name)).await
    }

    fn files(&self) -> [(std::path::PathBuf, String, u32); 2] {
        let ground = &self.ground;
        [(ground.kprov.clone(), KPROV.to_owned(), 0o755), (ground.bundle.path.clone(), ground.bundle_there(), 0o644)]
    }

    /// True where the very same kprov and bundle are on the machine, or it is a node by now and needs them no more.
    async fn brought(&self, machine: &str) -> anyhow::Result<bool> {
        let session = self.host(machine).await?.connect_within(Duration::from_secs(10)).await?;
        if is_node(&session, conf(machine)).await? {
            return Ok(true);
        }
        let [(kprov, kprov_there, _), (bundle, bundle_there, _)] = self.files();
        // The bundle's first bytes hold its manifest, which names all others; kprov there checks them when it unpacks.
        let ask =
            format!("sha256sum {kprov_there}; head -c {HEAD} {bundle_there} | sha256sum; stat -c %s {bundle_there}");
        let there = session.run(&ask, b"").await?.text();
        let (kprov, head, size) = (sha256(&kprov).await?, head_sha256(&bundle)?, std::fs::metadata(&bundle)?.len());
        Ok(there == format!("{kprov}  {kprov_there}\n{head}  -\n{size}\n"))
    }

    /// True where the machine has the file that kprov there ends with, and the API knows its node.
    async fn registered(&self, machine: &str) -> bool {
        let known = async {
            let client = self.client().await?;
            let name = self.ground.hostname(machine);
            let node = Api::<Node>::all(client).get_opt(&name).await?;
            let session = self.host(machine).await?.connect().await?;
            anyhow::Ok(node.is_some() && is_node(&session, conf(machine)).await?)
        };
        matches!(tokio::time::timeout(Duration::from_secs(10), known).await, Ok(Ok(true)))
    }

    async fn make(&self, watch: &Watch) -> anyhow::Result<()> {
        let ground = &self.ground;
        match &self.work {
            Work::Template => template::ensure(ground, watch).await,
            Work::Machine(machine) => {
                let view = {
                    let mut machines = ground.machines.lock().await;
                    machines.add(machine, &ground.template).await?;
                    machines.boot(machine).await?;
                    machines.clone()
                };
                view.wait_ssh(machine).await
            }
            Work::Bring(machine) => {
                let files = self.files();
                let files: Vec<_> = files.iter().map(|(from, to, mode)| (from.as_path(), to.as_str(), *mode)).collect();
                there::bring(&self.host(machine).await?, &files, |said| watch.say(said)).await
            }
            Work::Init => self.init().await,
            Work::Kubeconfig => {
                let session = self.host(CONTROL_PLANE).await?.connect_within(Duration::from_secs(10)).await?;
                let text = session.done("reading admin.conf", "cat /etc/kubernetes/admin.conf", b"").await?;
                let renamed = kubeconfig::rename(&text, &ground.name)?;
                places::write(&ground.places.kubeconfig(&ground.name), renamed.as_bytes(), 0o600)
            }
            Work::Join(machine) => self.join(machine).await,
            Work::Leave(machine) => self.leave(machine, watch).await,
            Work::Ready => {
                let client = self.client().await?;
                let scope = Scope::Cluster { nodes: ground.nodes(), pods: ground.until == Until::Pods };
                ready::wait(&client, &scope, &|said| watch.say(said)).await.map(drop)
            }
        }
    }

    async fn init(&self) -> anyhow::Result<()> {
        let ground = &self.ground;
        let (address, single) = {
            let machines = ground.machines.lock().await;
            (machines.get(CONTROL_PLANE)?.address, ground.wanted.len() == 1)
        };
        let input = documents::init(
            &ground.hostname(CONTROL_PLANE),
            address,
            &ground.bundle.manifest.kubernetes,
            single,
            documents::host_has_swap(),
        )?;
        let task = self.task(CONTROL_PLANE, "init", input).await?;
        there::run(&self.host(CONTROL_PLANE).await?, &task, &ground.events).await.map(drop)
    }

    async fn join(&self, machine: &str) -> anyhow::Result<()> {
        let ground = &self.ground;
        let host = self.host(machine).await?;
        let session = self.host(CONTROL_PLANE).await?.connect_within(Duration::from_secs(10)).await?;
        // Made when it is needed and soon gone; it travels on standard output and input only.
        let create =
            format!("{KPROV} token create --kubeconfig /etc/kubernetes/admin.conf --ttl 15m --description 'kprov up'");
        let token = session.done("making a bootstrap token", &create, b"").await?;
        let kubeconfig = std::fs::read_to_string(ground.places.kubeconfig(&ground.name))
            .context("reading the cluster's kubeconfig")?;
        let input = documents::join(&ground.hostname(machine), token.trim(), &kubeconfig)?;
        let task = self.task(machine, "join", input).await?;
        there::run(&host, &task, &ground.events).await.map(drop)
    }

    /// With the id of the bundle that was checked here, where it was also brought there by this `up`.
    async fn task(&self, machine: &str, command: &str, input: Vec<u8>) -> anyhow::Result<Task> {
        let bundle = self.ground.bundle_there();
        let mut args = vec![command, "-o", "json", "--config", "-", "--bundle", &bundle];
        let session = self.host(machine).await?.connect_within(Duration::from_secs(10)).await?;
        if !is_node(&session, conf(machine)).await? {
            args.extend(["--bundle-id", &self.ground.bundle.id]);
        }
        Ok(Task {
            name: command.to_owned(),
            args: args.into_iter().map(str::to_owned).collect(),
            input,
            witness: Some(conf(machine).to_owned()),
        })
    }

    async fn leave(&self, machine: &str, watch: &Watch) -> anyhow::Result<()> {
        let ground = &self.ground;
        let (client, node) = (self.client().await?, ground.hostname(machine));
        leave::drain(&client, &node, watch).await?;
        if ground.machines.lock().await.alive(machine) {
            watch.say(format!("resetting {node}"));
            let task = Task {
                name: "reset".into(),
                args: ["reset", "--force", "-o", "json"].map(str::to_owned).to_vec(),
                input: Vec::new(),
                witness: None,
            };
            // Its machine is removed anyway; what cannot be taken back in it goes with it.
            if let Err(error) = there::run(&self.host(machine).await?, &task, &ground.events).await {
                watch.warn(format!("{error:#}"));
            }
        }
        leave::forget(&client, &node).await?;
        ground.machines.lock().await.remove(machine).await
    }
}

#[async_trait]
impl Step for Coarse {
    fn key(&self) -> &Key {
        &self.key
    }

    fn phase(&self) -> &str {
        match self.work {
            Work::Template => "template",
            Work::Machine(_) => "machines",
            Work::Bring(_) => "bring",
            Work::Init => "init",
            Work::Kubeconfig => "kubeconfig",
            Work::Join(_) => "join",
            Work::Leave(_) => "leave",
            Work::Ready => "ready",
        }
    }

    fn needs(&self) -> &[Key] {
        &self.needs
    }

    fn describe(&self) -> String {
        let node = |machine: &str| self.ground.hostname(machine);
        match &self.work {
            Work::Template => format!("make the template of machines {}", self.ground.template),
            Work::Machine(machine) => format!("start machine {}", node(machine)),
            Work::Bring(machine) => format!("bring kprov and the bundle onto {}", node(machine)),
            Work::Init => format!("kprov init on {}", node(CONTROL_PLANE)),
            Work::Kubeconfig => format!("write {}", self.ground.places.kubeconfig(&self.ground.name).display()),
            Work::Join(machine) => format!("kprov join on {}", node(machine)),
            Work::Leave(machine) => format!("drain, reset and remove {}", node(machine)),
            Work::Ready if self.ground.until == Until::Node => "wait until all nodes are Ready".to_owned(),
            Work::Ready => "wait until all nodes and system pods are Ready".to_owned(),
        }
    }

    fn only_waits(&self) -> bool {
        self.work == Work::Ready
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(if self.look().await? { Status::Ready(Outputs::none()) } else { Status::Missing })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        // Stopped for good: what runs on a machine goes on there, and the next `up` attaches to it.
        tokio::select! {
            done = self.make(watch) => done?,
            () = watch.until_cancelled() => bail!("stopped"),
        }
        Ok(Outputs::none())
    }
}

/// Names of the nodes of a cluster by what is remembered of its machines.
pub fn node_names(machines: &kprov_providers::local::Machines) -> BTreeSet<String> {
    machines.record().machines.keys().map(|machine| machines.hostname(machine)).collect()
}
