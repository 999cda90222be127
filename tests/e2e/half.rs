//! What an etcd is left with whose disk is full at its very first writes, laid down for certain: no API server has answered
//! yet, none ever will with this etcd, and `init` again has it begin anew.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::bare::bring;
use crate::dice::tries;
use crate::host::{Clock, Host};
use crate::kubectl::{Kubectl, wait};
use crate::remote::Remote;

const READY: Duration = Duration::from_secs(180);

/// The database ends after two and a half pages: etcd ends at each start.
const DATABASE: &str = "truncate -s 9000 /var/lib/etcd/member/snap/db";

/// No database, and a log with no more than its head, of three records: etcd runs, of a cluster without members. A record
/// has its length before it, in the lower 56 of 64 bits; the others tell what it is padded with (etcd's wal/encoder.go).
const LOG: &str = "rm /var/lib/etcd/member/snap/db; log=$(ls /var/lib/etcd/member/wal/*.wal); at=0; \
     for record in 1 2 3; do \
       word=$(od -An -td8 -j $at -N 8 $log); pad=$(((word >> 56) & 255)); [ $pad -ge 128 ] || pad=0; \
       at=$((at + 8 + (word & 0xffffffffffffff) + (pad & 7))); \
     done; truncate -s $at $log && truncate -s 64000000 $log";

/// Both; with KPROV_TEST_KILLS so many times.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let machines = host.bare("half", &["cp-1"])?;
    let machine = machines.remote("cp-1")?;
    bring(host, &machine)?;
    let mut clock = Clock::new();
    for _ in 0..tries(1) {
        for (what, cut, tells) in [("half a database", DATABASE, Some("panic|fatal")), ("the head of a log", LOG, None)]
        {
            trial(&machine, cut, tells).with_context(|| format!("an etcd with {what}"))?;
            clock.lap(&format!("init again where etcd has {what}"));
            machine.run("/root/kprov reset --force 2>&1")?;
        }
    }
    Ok(())
}

/// Kills an `init` whose etcd has just begun, and that etcd; its data is cut; the kubelet starts it again. Then `init`
/// again: once etcd's log tells of this, or at once.
fn trial(machine: &Remote, cut: &str, tells: Option<&str>) -> anyhow::Result<()> {
    // The process itself, not its container: the runtime may not count it as running yet.
    machine.run(&format!(
        "(setsid /root/kprov init >/dev/null 2>&1 </dev/null &); \
         for n in $(seq 3000); do ls /var/lib/etcd/member/wal/*.wal && test -s /var/lib/etcd/member/snap/db && break; sleep 0.02; done; \
         pkill -9 -x kprov; systemctl stop kubelet; while pkill -9 -x etcd; do sleep 0.02; done; \
         {{ {cut}; }} && systemctl start kubelet"
    ))?;
    if let Some(tells) = tells {
        told(machine, tells)?;
    }
    let said = machine.run("/root/kprov init 2>&1")?;
    ensure!(said.contains("empty /var/lib/etcd"), "init again does not say that it empties etcd's data:\n{said}");
    Kubectl(machine.clone()).wait_all_ready(1, READY)
}

fn told(machine: &Remote, words: &str) -> anyhow::Result<()> {
    let logs = "/var/log/pods/kube-system_etcd-*/etcd";
    let told = wait(READY, || machine.run(&format!("grep -qE '{words}' {logs}/*.log")).map(drop));
    if told.is_err() {
        let seen = format!(
            "ls -l {logs} /var/lib/etcd/member/*; tail -n 20 {logs}/*.log; crictl ps -a; journalctl -u kubelet -n 20 --no-pager"
        );
        let output = machine.output(&seen)?;
        return told.context(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Ok(())
}
