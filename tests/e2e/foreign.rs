//! A machine as users of kubeadm have it: containerd, kubelet, kubectl and kubeadm as packages would install them, the
//! images imported, no CNI plugins, nothing of kprov.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kprov::bundle::images::export;
use kprov::bundle::locate::{Search, locate};
use kprov::bundle::unpack::{FILES, unpack};
use kprov::bundle::verify::open;

use crate::bench::separate;
use crate::host::Host;
use crate::remote::Remote;

/// Binaries that the packages bring.
const BINARIES: [&str; 6] = [
    KUBELET,
    "/usr/local/bin/kubectl",
    "/usr/local/bin/containerd",
    "/usr/local/bin/containerd-shim-runc-v2",
    "/usr/local/bin/ctr",
    "/usr/local/bin/runc",
];

const KUBELET: &str = "/usr/bin/kubelet";

const KUBELET_UNIT: &str = "[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10
[Install]
WantedBy=multi-user.target
";

const KUBELET_DROP_IN: &str = r#"[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"#;

const CONTAINERD_UNIT: &str = "[Unit]
Description=containerd container runtime
After=network.target dbus.service
[Service]
ExecStart=/usr/local/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
[Install]
WantedBy=multi-user.target
";

/// What a user of kubeadm has downloaded.
pub struct Kit {
    archive: PathBuf,
    images: Vec<PathBuf>,
    pause: String,
}

impl Kit {
    /// Takes it out of the bundle, beside which the real kubeadm is put.
    ///
    /// # Errors
    /// When the bundle lacks a part.
    pub fn prepare(host: &Host) -> anyhow::Result<Self> {
        Self::with(host, None)
    }

    /// The same with Kubernetes' components as programs of their own, out of this directory.
    ///
    /// # Errors
    /// When the bundle or the directory lacks a part.
    pub fn separate(host: &Host, programs: &Path) -> anyhow::Result<Self> {
        Self::with(host, Some(programs))
    }

    fn with(host: &Host, programs: Option<&Path>) -> anyhow::Result<Self> {
        let dir = host.state("kit.d");
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned();
        let found = locate(&Search {
            file: Some(host.bundle.clone()),
            beside: None,
            cache: None,
            arch,
            version: None,
            key: None,
        })?;
        let unpacked = dir.join("bundle");
        unpack(open(&found.path)?, &unpacked, &mut |_, _| true)?;
        let images = dir.join("images.tar");
        export(&found.path, &found.id, &images, None)?;
        let mut images = vec![images];
        if let Some(programs) = programs {
            // Imported after the bundle's own, whose names they take.
            let separate = dir.join("separate.tar");
            separate::images(&found.manifest, &images[0], programs, &separate)?;
            images.push(separate);
        }
        let archive = dir.join("kit.tar");
        let mut tar = tar::Builder::new(File::create(&archive)?);
        for path in BINARIES {
            let file = found.manifest.files.iter().find(|file| file.path == path);
            let file = file.with_context(|| format!("the bundle has no {path}"))?;
            if programs.is_some() && path == KUBELET {
                continue;
            }
            let sha = file.sha256().with_context(|| format!("{path} has no content"))?;
            append(&mut tar, path, 0o755, &std::fs::read(unpacked.join(FILES).join(sha))?)?;
        }
        if let Some(programs) = programs {
            append(&mut tar, KUBELET, 0o755, &std::fs::read(programs.join("kubelet"))?)?;
        }
        append(&mut tar, "/usr/bin/kubeadm", 0o755, &std::fs::read(&host.kubeadm)?)?;
        for (path, text) in [
            ("/usr/lib/systemd/system/kubelet.service", KUBELET_UNIT),
            ("/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", KUBELET_DROP_IN),
            ("/usr/lib/systemd/system/containerd.service", CONTAINERD_UNIT),
        ] {
            append(&mut tar, path, 0o644, text.as_bytes())?;
        }
        tar.into_inner()?.flush()?;
        let pause = found.manifest.images.iter();
        let pause = pause.map(|image| image.name.clone()).find(|name| name.contains("/pause:")).context("no pause")?;
        Ok(Self { archive, images, pause })
    }

    /// Installs it on a machine, starts containerd and imports the images, for want of a registry.
    ///
    /// # Errors
    /// With what a command there said.
    pub fn install(&self, machine: &Remote) -> anyhow::Result<()> {
        machine.upload(&self.archive, "/root/kit.tar", "644")?;
        let config = self.containerd_config(&machine.run("stat -fc %T /sys/fs/cgroup")?);
        machine.run(&format!(
            "set -e; tar -C / -xf /root/kit.tar; mkdir -p /etc/containerd
cat >/etc/containerd/config.toml <<'E'
{config}E
sysctl -qw net.ipv4.ip_forward=1
systemctl daemon-reload; systemctl enable -q kubelet containerd; systemctl start containerd
rm /root/kit.tar"
        ))?;
        for images in &self.images {
            machine.upload(images, "/root/images.tar", "644")?;
            machine.run("ctr -n k8s.io images import /root/images.tar >/dev/null && rm /root/images.tar")?;
        }
        Ok(())
    }

    /// As an administrator writes it for such a host: what it lacks (cgroup v2, AppArmor, a capability) is said there.
    fn containerd_config(&self, cgroups: &str) -> String {
        let systemd = cgroups.trim() == "cgroup2fs";
        format!(
            "version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = {systemd}
",
            self.pause
        )
    }
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, mode: u32, data: &[u8]) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_mtime(1);
    Ok(tar.append_data(&mut header, Path::new(path.trim_start_matches('/')), data)?)
}
