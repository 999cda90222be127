//! Swap that is on. The kubelet is told to accept it, so it stops nothing; `--fix` turns it off.

use kprov_providers::machine::{Swap, swaps};

use super::{Finding, Fix, Look};
use crate::facts::net::text;

pub(super) fn all(look: &Look<'_>) -> anyhow::Result<Option<Finding>> {
    let on = swaps(look.machine)?;
    if on.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = on.iter().map(|swap| swap.device.as_str()).collect();
    let message = format!("swap is on ({}): the kubelet is told to accept it, pods do not use it", names.join(", "));
    let finding = Finding::warning("Swap", message);
    // A container sees its host's, and must leave it alone.
    for swap in &on {
        if look.machine.meta(&swap.device)?.is_none() {
            return Ok(Some(finding.hint("on the host of this machine: swapoff -a")));
        }
    }
    let dphys = look.machine.meta("/etc/dphys-swapfile")?.map(|_| "systemctl disable dphys-swapfile".to_owned());
    let keep = keep_off(&on, &text(look.machine, "/etc/fstab")?).or(dphys);
    let hint = match &keep {
        Some(keep) => format!("swapoff -a; and for the next boot: {keep}"),
        None => "swapoff -a".to_owned(),
    };
    let fixes = on.into_iter().map(|swap| Fix::SwapOff { swap, keep: keep.clone() });
    Ok(Some(finding.hint(hint).fixed_by(fixes)))
}

/// The command after which a boot leaves it off, where it is known what turns it on.
fn keep_off(on: &[Swap], fstab: &str) -> Option<String> {
    let is_swap = |line: &str| !line.starts_with('#') && line.split_whitespace().nth(2) == Some("swap");
    let lines: Vec<String> = fstab
        .lines()
        .enumerate()
        .filter(|(_, line)| is_swap(line.trim_start()))
        .map(|(index, _)| format!("{}s/^/#/", index + 1))
        .collect();
    if !lines.is_empty() {
        return Some(format!("sed -i '{}' /etc/fstab", lines.join(";")));
    }
    let zram: Vec<String> = on
        .iter()
        .filter_map(|swap| swap.device.strip_prefix("/dev/").filter(|name| name.starts_with("zram")))
        .map(|name| format!("dev-{name}.swap"))
        .collect();
    (!zram.is_empty()).then(|| format!("systemctl mask {}", zram.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_it_on_at_boot() {
        let on = |device: &str| [Swap { device: device.to_owned(), priority: -2 }];
        let fstab =
            "UUID=1 / ext4 defaults 0 1\n# /dev/sdb none swap sw 0 0\n/dev/sda2 none swap sw 0 0\n\n/s none swap sw\n";
        assert_eq!(keep_off(&on("/dev/sda2"), fstab).unwrap(), "sed -i '3s/^/#/;5s/^/#/' /etc/fstab");
        assert_eq!(keep_off(&on("/dev/zram0"), "").unwrap(), "systemctl mask dev-zram0.swap");
        assert_eq!(keep_off(&on("/swapfile"), ""), None);
    }
}
