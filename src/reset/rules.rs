//! Which nftables rules are Kubernetes', kube-proxy's, flannel's and portmap's; the others stay.

use std::collections::BTreeSet;

use kprov_providers::nft::{Chain, Removal, Rule, Table};

/// Tables that are theirs as a whole; those of the CNI plugins all begin with `cni_`.
const TABLES: [&str; 3] = ["kube-proxy", "flannel-ipv4", "flannel-ipv6"];

/// How their chains in the shared tables of iptables begin.
const CHAINS: [&str; 3] = ["KUBE-", "CNI-", "FLANNEL-"];

/// The tables that iptables shares between all its users, and that it makes itself.
const SHARED: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// What is theirs in a ruleset.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ours {
    tables: Vec<Table>,
    chains: Vec<(Table, String)>,
}

/// True for a chain that one of them made.
pub(super) fn is_their_chain(name: &str) -> bool {
    CHAINS.iter().any(|prefix| name.starts_with(prefix))
}

/// Finds what is theirs.
pub(super) fn ours(tables: &[Table], chains: &[Chain]) -> Ours {
    let whole = |table: &Table| TABLES.contains(&table.name.as_str()) || table.name.starts_with("cni_");
    Ours {
        tables: tables.iter().filter(|t| whole(t)).cloned().collect(),
        chains: chains
            .iter()
            .filter(|c| SHARED.contains(&c.table.name.as_str()) && !c.base && is_their_chain(&c.name))
            .map(|c| (c.table.clone(), c.name.clone()))
            .collect(),
    }
}

impl Ours {
    /// Tables, and shared tables with the number of chains in them.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tables.iter().map(|t| format!("table {t}")).collect();
        for table in self.shared() {
            let count = self.chains.iter().filter(|(t, _)| *t == table).count();
            names.push(format!("{count} chains in table {table}"));
        }
        names
    }

    fn shared(&self) -> BTreeSet<Table> {
        self.chains.iter().map(|(table, _)| table.clone()).collect()
    }

    /// The removals, in an order that works: rules that lead to their chains, the chains' own rules, the chains.
    pub(super) fn removals(&self, rules: &[Rule]) -> Vec<Removal> {
        let mut removals: Vec<Removal> = self.tables.iter().cloned().map(Removal::Table).collect();
        for rule in rules {
            let within = |chain: &str| self.chains.iter().any(|(t, c)| *t == rule.table && c == chain);
            let leads = self.chains.iter().any(|(t, c)| *t == rule.table && rule.names(c));
            if leads && !within(&rule.chain) {
                removals.push(Removal::Rule(rule.table.clone(), rule.chain.clone(), rule.handle));
            }
        }
        removals.extend(self.chains.iter().cloned().map(|(table, chain)| Removal::Rules(table, chain)));
        removals.extend(self.chains.iter().cloned().map(|(table, chain)| Removal::Chain(table, chain)));
        removals
    }
}

/// Shared tables that held chains of theirs and now hold nothing: iptables made them for their sake.
pub(super) fn emptied(ours: &Ours, chains: &[Chain], rules: &[Rule]) -> Vec<Removal> {
    ours.shared()
        .into_iter()
        .filter(|table| {
            chains.iter().filter(|c| c.table == *table).all(|c| c.accepting_base)
                && !rules.iter().any(|r| r.table == *table)
        })
        .map(Removal::Table)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Table {
        Table { family: 2, name: name.to_owned() }
    }

    fn chain(of: &str, name: &str, base: bool) -> Chain {
        Chain { table: table(of), name: name.to_owned(), accepting_base: base, base }
    }

    #[test]
    fn only_theirs_is_taken() {
        let tables =
            [table("kube-proxy"), table("nat"), table("mine"), table("cni_hostport"), table("kube-proxy-mine")];
        let chains = [
            chain("nat", "PREROUTING", true),
            chain("nat", "KUBE-SERVICES", false),
            chain("nat", "DOCKER", false),
            chain("mine", "KUBE-LIKE", false),
        ];
        let found = ours(&tables, &chains);
        assert_eq!(found.tables, [table("kube-proxy"), table("cni_hostport")]);
        assert_eq!(found.chains, [(table("nat"), "KUBE-SERVICES".to_owned())]);
        assert_eq!(found.names(), ["table ip kube-proxy", "table ip cni_hostport", "1 chains in table ip nat"]);
        let removals = found.removals(&[]);
        assert_eq!(removals.last(), Some(&Removal::Chain(table("nat"), "KUBE-SERVICES".to_owned())));
    }

    #[test]
    fn a_shared_table_goes_only_when_nothing_is_left_in_it() {
        let found = ours(&[], &[chain("nat", "KUBE-SERVICES", false), chain("filter", "KUBE-FORWARD", false)]);
        let left =
            [chain("nat", "POSTROUTING", true), chain("filter", "FORWARD", true), chain("filter", "DOCKER", false)];
        assert_eq!(emptied(&found, &left, &[]), [Removal::Table(table("nat"))]);
        let dropping = [Chain { accepting_base: false, ..chain("nat", "INPUT", true) }];
        assert_eq!(emptied(&ours(&[], &[chain("nat", "CNI-X", false)]), &dropping, &[]), []);
    }
}
