//! What needs no cluster of two: keys and certificates, `kprov version`, `kprov up`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::figures::{Figures, OURS, THEIRS, median};
use super::ways::timed;
use crate::host::Host;
use crate::interop::{self, CONFIG};
use crate::up::Kprov;

/// Phases `certs` and `kubeconfig` whole, on one machine, without the bare start of the processes.
///
/// # Errors
/// With what a tool said.
pub fn pki(host: &Host, ours: &Path, rounds: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let machines = host.copies("bench", "bench-kubeadm", &["cp-1"])?;
    let machine = machines.remote("cp-1")?;
    interop::documents(&machine, &machines.address("cp-1")?)?;
    machine.upload(ours, "/root/pki", "755")?;
    machine.run("systemctl is-system-running --wait >/dev/null; true")?;
    let clean = "rm -rf /etc/kubernetes/pki /etc/kubernetes/*.conf /var/lib/kubelet/pki /root/journal*; sync";
    for _ in 0..rounds {
        for (name, algorithm) in [("P-256", "ECDSA-P256"), ("RSA-2048", "RSA-2048")] {
            let config = format!("/root/{algorithm}.yaml");
            machine.run(&format!(
                "sed 's/^encryptionAlgorithm: .*/encryptionAlgorithm: {algorithm}/' {CONFIG} >{config}"
            ))?;
            let theirs =
                ["certs", "kubeconfig"].map(|phase| format!("kubeadm init phase {phase} all --config {config}"));
            for (whose, work, start) in [
                (OURS, format!("/root/pki {config} /root/journal 2>/root/log"), "/root/pki 2>/dev/null || true"),
                (
                    THEIRS,
                    format!("{} >/root/log 2>&1", theirs.join(" >/root/log 2>&1 && ")),
                    "kubeadm version; kubeadm version",
                ),
            ] {
                machine.run(clean)?;
                let (from, to) = timed(&machine, &format!("({start}) >/dev/null"))?;
                let start = to - from;
                let (from, to) = timed(&machine, &work)?;
                figures.add(&format!("PKI {name}"), whose, to - from - start, "s");
                figures.add(&format!("PKI, start of the processes ({name})"), whose, start, "s");
            }
        }
    }
    machines.destroy()
}

/// A command that does next to nothing: medians of twenty, and the most memory that it had.
///
/// # Errors
/// When it fails.
pub fn version(host: &Host, rounds: usize, figures: &mut Figures) -> anyhow::Result<()> {
    for _ in 0..rounds {
        for (whose, program) in [(OURS, &host.kprov), (THEIRS, &host.kubeadm)] {
            let mut times = Vec::new();
            for _ in 0..20 {
                let begin = Instant::now();
                let status = Command::new(program).arg("version").stdout(Stdio::null()).status()?;
                times.push(begin.elapsed().as_secs_f64() * 1e3);
                ensure!(status.success(), "{} version: {status}", program.display());
            }
            times.sort_by(f64::total_cmp);
            figures.add("version", whose, median(&times).unwrap_or_default(), "ms");
            let output = Command::new("/usr/bin/time").args(["-f", "%M"]).arg(program).arg("version").output();
            let output = output.context("/usr/bin/time (apt-get install time)")?;
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let kib: f64 = said.parse().with_context(|| format!("time said {said}"))?;
            figures.add("version, memory", whose, kib * 1.024e-3, "MB");
        }
    }
    Ok(())
}

/// `kprov up` with one worker, everything in the caches.
///
/// # Errors
/// With what kprov said.
pub fn up(host: &Host, rounds: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let kprov = Kprov::new(host);
    let args = ["up", "--workers", "1", "--bundle", kprov.bundle()];
    // Makes the template of machines where there is none.
    kprov.ok(&args)?;
    kprov.ok(&["down"])?;
    for _ in 0..rounds {
        let begin = Instant::now();
        kprov.ok(&args)?;
        figures.add("up", OURS, begin.elapsed().as_secs_f64(), "s");
        kprov.ok(&["down"])?;
    }
    Ok(())
}
