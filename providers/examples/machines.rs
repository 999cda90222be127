//! Machines of this host without Kubernetes, for trying things by hand:
//!
//! ```text
//! machines DIR up N             make and start N bare machines (m-1 …), print how to reach them
//! machines DIR start|stop|cut|remove|link-down|link-up MACHINE
//! machines DIR run MACHINE COMMAND
//! machines DIR put MACHINE FILE TO
//! machines DIR down             remove all of it
//! ```
//!
//! DIR/cache holds the disks, unless CACHE is given before the verb: `machines DIR --cache CACHE up 2`.

#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use kprov_providers::Watch;
use kprov_providers::local::{Dirs, Machines, base};
use kprov_providers::ssh::{Session, upload::upload};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let Some(dir) = args.first().cloned() else { bail!("usage: machines DIR [--cache CACHE] VERB …") };
    args.remove(0);
    let dir = std::path::absolute(PathBuf::from(dir))?;
    let mut cache = dir.join("cache");
    if args.first().is_some_and(|arg| arg == "--cache") {
        cache = std::path::absolute(args.get(1).context("--cache needs a directory")?)?;
        args.drain(..2);
    }
    let dirs = Dirs { cache, state: dir.join("state") };
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up", count] => up(&dirs, count.parse()?).await,
        ["down"] => match Machines::open(&dirs).await? {
            Some(machines) => machines.destroy().await,
            None => Ok(()),
        },
        [verb, machine] => {
            let mut machines = Machines::open(&dirs).await?.context("no machines there")?;
            match *verb {
                "start" => machines.start(machine).await,
                "stop" => machines.stop(machine).await,
                "cut" => machines.power_cut(machine).await,
                "remove" => machines.remove(machine).await,
                "link-down" => machines.set_link(machine, false).await,
                "link-up" => machines.set_link(machine, true).await,
                _ => bail!("no such verb: {verb}"),
            }
        }
        ["run", machine, command] => {
            let session = connect(&dirs, machine).await?;
            let exit = session.run(command, b"").await?;
            println!("{}{}exit {}", exit.text(), String::from_utf8_lossy(&exit.stderr), exit.code);
            Ok(())
        }
        ["put", machine, from, to] => {
            let session = connect(&dirs, machine).await?;
            let begin = Instant::now();
            let sent = upload(&session, from.as_ref(), to, 0o755, |_| {}).await?;
            println!("{} in {:.2} s", if sent { "sent" } else { "there already" }, begin.elapsed().as_secs_f64());
            Ok(())
        }
        _ => bail!("usage: machines DIR [--cache CACHE] VERB …"),
    }
}

async fn connect(dirs: &Dirs, machine: &str) -> anyhow::Result<Session> {
    let machines = Machines::open(dirs).await?.context("no machines there")?;
    Ok(machines.ssh(machine)?.connect().await?)
}

async fn up(dirs: &Dirs, count: u32) -> anyhow::Result<()> {
    let name = dirs.state.parent().and_then(|dir| dir.file_name()).and_then(|name| name.to_str()).unwrap_or("m");
    let mut machines = Machines::open_or_create(dirs, &name.to_lowercase(), None, &[]).await?;
    let template = base::ensure(machines.store(), &Watch::quiet()).await?;
    for number in 1..=count {
        let begin = Instant::now();
        let machine = format!("m-{number}");
        machines.add(&machine, &template).await?;
        machines.start(&machine).await?;
        let address = machines.get(&machine)?.address;
        let key = machines.key_path();
        println!(
            "{machine} in {:.2} s: ssh -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@{address}",
            begin.elapsed().as_secs_f64(),
            key.display(),
        );
    }
    Ok(())
}
