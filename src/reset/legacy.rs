//! Rules in the kernel's older tables, which only the machine's own legacy iptables programs reach.

use kprov_providers::Machine;
use kprov_providers::machine::Command;

use super::rules::is_their_chain;

/// Saving and restoring programs of both families.
const PROGRAMS: [(&str, &str); 2] =
    [("iptables-legacy-save", "iptables-legacy-restore"), ("ip6tables-legacy-save", "ip6tables-legacy-restore")];

/// True when there are rules of Kubernetes' parts in the older tables.
pub(super) async fn any(machine: &dyn Machine) -> bool {
    for (save, _) in PROGRAMS {
        if let Some(saved) = saved(machine, save).await
            && without(&saved) != saved
        {
            return true;
        }
    }
    false
}

/// Takes them out.
pub(super) async fn remove(machine: &dyn Machine) -> anyhow::Result<()> {
    for (save, restore) in PROGRAMS {
        let Some(saved) = saved(machine, save).await else { continue };
        let kept = without(&saved);
        if kept == saved {
            continue;
        }
        let mut command = Command::new(restore, Vec::<String>::new());
        command.stdin = kept.into_bytes();
        let exit = machine.run(command).await?;
        anyhow::ensure!(exit.success(), "{restore}: {}", String::from_utf8_lossy(&exit.stderr).trim());
    }
    Ok(())
}

/// The rules as text; none where the program is not there or the kernel has no such tables.
async fn saved(machine: &dyn Machine, save: &str) -> Option<String> {
    // Asking would load the older tables into the kernel: only where they are already.
    let names = if save.starts_with("ip6") { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
    if machine.read(names).ok().flatten().is_none_or(|names| names.is_empty()) {
        return None;
    }
    machine.run(Command::new(save, Vec::<String>::new())).await.ok().filter(|e| e.success()).map(|e| e.text())
}

/// The text without chains of theirs and without rules that name one.
fn without(saved: &str) -> String {
    saved
        .lines()
        .filter(|line| {
            let words = line.split([' ', ':']).filter(|word| !word.is_empty());
            !words.into_iter().any(is_their_chain)
        })
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_rules_stay() {
        let saved = "*nat\n:PREROUTING ACCEPT [1:2]\n:KUBE-SERVICES - [0:0]\n:DOCKER - [0:0]\n\
            -A PREROUTING -m comment --comment \"x\" -j KUBE-SERVICES\n-A PREROUTING -j DOCKER\n\
            -A KUBE-SERVICES -j RETURN\nCOMMIT\n";
        assert_eq!(
            without(saved),
            "*nat\n:PREROUTING ACCEPT [1:2]\n:DOCKER - [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n"
        );
        assert_eq!(without("*filter\nCOMMIT\n"), "*filter\nCOMMIT\n");
    }
}
