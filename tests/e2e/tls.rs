//! TLS 1.2 and newer only, shown by handshakes: of every port of a node that talks TLS, and of `kprov join`.
//!
//! Shaken by this host's openssl in the machine's network namespace, so that ports on its loopback are met too.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::host::Host;
use crate::kubectl::wait;
use crate::remote::Remote;
use crate::tree::namespace;

/// Ports of a worker: the kubelet.
pub const WORKER: &[u16] = &[10250];

/// Ports of a control plane: etcd for clients and for members, the API server, the kubelet, controller manager, scheduler.
pub const CONTROL_PLANE: &[u16] = &[2379, 2380, 6443, 10250, 10257, 10259];

/// What makes openssl speak 1.1 at all.
const OLD: [&str; 3] = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];

/// Every port of a machine that takes a TLS 1.2 handshake refuses one of 1.1, and those that should are among them.
///
/// # Errors
/// Names the port.
pub fn servers(address: &str, wanted: &[u16]) -> anyhow::Result<()> {
    let namespace = namespace(address)?;
    let mut found = BTreeSet::new();
    for listener in listeners(&namespace)? {
        if !shakes(&namespace, &listener, &["-tls1_2"])? {
            continue;
        }
        ensure!(!shakes(&namespace, &listener, &OLD)?, "{listener} of {address} speaks TLS 1.1");
        found.extend(listener.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()));
    }
    let missing: Vec<&u16> = wanted.iter().filter(|port| !found.contains(port)).collect();
    ensure!(missing.is_empty(), "{address} has no TLS on ports {missing:?}, but on {found:?}");
    Ok(())
}

/// `kprov join` on a machine turns away from a server that speaks TLS 1.1 alone, which openssl's client takes.
///
/// # Errors
/// When it does not.
pub fn joiner(host: &Host, machine: &Remote, address: &str) -> anyhow::Result<()> {
    let namespace = namespace(address)?;
    let (key, cert) = (host.state("old-tls.key"), host.state("old-tls.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=old", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()?;
    ensure!(made.status.success(), "openssl req: {}", String::from_utf8_lossy(&made.stderr));
    let mut server = inside(&namespace);
    server
        .args(["s_server", "-quiet", "-www", "-accept", "127.0.0.1:6443"])
        .args(OLD)
        .arg("-key")
        .arg(key)
        .arg("-cert")
        .arg(cert);
    let server = Stopped(server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait(Duration::from_secs(5), || {
        ensure!(shakes(&namespace, "127.0.0.1:6443", &OLD)?, "openssl does not speak TLS 1.1 with itself");
        Ok(())
    })?;
    let output = machine.output(
        "/root/kprov join 127.0.0.1:6443 --token abcdef.0123456789abcdef --discovery-token-unsafe-skip-ca-verification \
         --ignore-preflight-errors=all 2>&1",
    )?;
    drop(server);
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success(), "kprov join believes a server that speaks TLS 1.1:\n{said}");
    ensure!(said.contains("it speaks no TLS 1.2 or newer"), "kprov join does not say what is wrong with TLS:\n{said}");
    Ok(())
}

/// A process that ends with the test.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn inside(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "openssl"]);
    command
}

/// ADDRESS:PORT of all that listens there.
fn listeners(namespace: &str) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new("ss").args(["-N", namespace, "-Hltn"]).output().context("running ss")?;
    ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = text.lines().filter_map(|line| line.split_whitespace().nth(3));
    Ok(all
        .map(|at| at.replace("*:", "127.0.0.1:").replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "127.0.0.1:"))
        .collect())
}

/// True when the server shows its certificate: it has agreed to the version. It may still want one of the client.
fn shakes(namespace: &str, at: &str, version: &[&str]) -> anyhow::Result<bool> {
    let output = Command::new("timeout")
        .args(["5", "ip", "netns", "exec", namespace, "openssl", "s_client", "-connect", at])
        .args(version)
        .stdin(Stdio::null())
        .output()
        .context("running openssl")?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("BEGIN CERTIFICATE"))
}
