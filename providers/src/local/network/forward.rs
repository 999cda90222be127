//! Packets of machines on their way through the host: forwarding on, masquerade in a table of our own, and accept
//! rules in whatever chains of others would drop them. All of it is taken back.
//!
//! An accept in our own table is not enough: a packet must pass every chain of the forward hook, and Docker, ufw and
//! firewalld drop there what they do not know. So a rule for our bridge goes to the front of those chains.

use serde_json::Value;

use super::Network;
use crate::local::tool::{feed, find, run, try_run};

/// Turns a network's packets on their way; safe to repeat.
pub(super) async fn open(network: &Network) -> anyhow::Result<()> {
    crate::local::settings::acquire(&network.id).await?;
    let (table, bridge, subnet) = (table(network), network.bridge(), network.subnet);
    let rules = format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n\
         chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
         ip saddr {subnet} ip daddr != {subnet} ip daddr != 224.0.0.0/4 oifname != \"{bridge}\" masquerade\n}}\n}}\n"
    );
    feed("nft", &["-f", "-"], rules.as_bytes()).await?;
    let listed = run("nft", &["-j", "list", "ruleset"]).await?;
    let ruleset = serde_json::from_str(&listed).unwrap_or(Value::Null);
    for chain in dropping(&ruleset) {
        for direction in ["iifname", "oifname"] {
            if !has(&ruleset, &chain, direction, &bridge) {
                let (family, table, name) = (&chain.0, &chain.1, &chain.2);
                run("nft", &["insert", "rule", family, table, name, direction, &bridge, "counter", "accept"]).await?;
            }
        }
    }
    if legacy() {
        for direction in ["-i", "-o"] {
            let rule = ["FORWARD", direction, &bridge, "-j", "ACCEPT"];
            if try_run("iptables-legacy", &[&["-w", "-C"], &rule[..]].concat()).await.is_none() {
                run("iptables-legacy", &[&["-w", "-I"], &rule[..]].concat()).await?;
            }
        }
    }
    Ok(())
}

/// Takes back what [`open`] made.
pub(super) async fn close(network: &Network) {
    let bridge = network.bridge();
    if let Some(listed) = try_run("nft", &["-j", "-a", "list", "ruleset"]).await {
        let ruleset = serde_json::from_str(&listed).unwrap_or(Value::Null);
        for (chain, handle) in ours(&ruleset, &bridge) {
            let handle = handle.to_string();
            try_run("nft", &["delete", "rule", &chain.0, &chain.1, &chain.2, "handle", &handle]).await;
        }
    }
    if legacy() {
        for direction in ["-i", "-o"] {
            try_run("iptables-legacy", &["-w", "-D", "FORWARD", direction, &bridge, "-j", "ACCEPT"]).await;
        }
    }
    try_run("nft", &["delete", "table", "ip", &table(network)]).await;
    crate::local::settings::release(&network.id).await;
}

fn table(network: &Network) -> String {
    format!("kprov-{}", network.id)
}

/// The kernel's older filter, used by itself where its table is loaded. Asking it would load it.
fn legacy() -> bool {
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    tables.lines().any(|line| line == "filter") && find("iptables-legacy").is_some()
}

/// Family, table and name of a chain.
type Chain = (String, String, String);

/// Base chains of the forward hook that may drop an IPv4 packet: by policy, or by a rule that is not a plain accept.
fn dropping(ruleset: &Value) -> Vec<Chain> {
    let mut found = Vec::new();
    for chain in objects(ruleset, "chain") {
        let family = text(chain, "family");
        if text(chain, "hook") != "forward" || text(chain, "type") != "filter" || !matches!(family, "ip" | "inet") {
            continue;
        }
        let id = (family.to_owned(), text(chain, "table").to_owned(), text(chain, "name").to_owned());
        let judges = objects(ruleset, "rule").any(|rule| belongs(rule, &id) && !harmless(rule));
        if text(chain, "policy") == "drop" || judges {
            found.push(id);
        }
    }
    found
}

/// A rule that can only let packets pass.
fn harmless(rule: &Value) -> bool {
    let expressions = rule.get("expr").and_then(Value::as_array);
    !expressions.into_iter().flatten().any(|expr| {
        ["drop", "reject", "jump", "goto", "queue", "vmap", "xt"].iter().any(|verdict| expr.get(verdict).is_some())
    })
}

/// True where a chain has our rule already.
fn has(ruleset: &Value, chain: &Chain, direction: &str, bridge: &str) -> bool {
    objects(ruleset, "rule").any(|rule| belongs(rule, chain) && names(rule, direction, bridge))
}

/// Our rules in chains of others, with their handles.
fn ours(ruleset: &Value, bridge: &str) -> Vec<(Chain, u64)> {
    objects(ruleset, "rule")
        .filter(|rule| names(rule, "iifname", bridge) || names(rule, "oifname", bridge))
        .filter_map(|rule| {
            let chain = (text(rule, "family").into(), text(rule, "table").into(), text(rule, "chain").into());
            Some((chain, rule.get("handle")?.as_u64()?))
        })
        .collect()
}

/// True where a rule is an accept of all that comes from or goes to the bridge.
fn names(rule: &Value, direction: &str, bridge: &str) -> bool {
    let expressions = || rule.get("expr").and_then(Value::as_array).into_iter().flatten();
    let matches = expressions().any(|expr| {
        expr.pointer("/match/left/meta/key").and_then(Value::as_str) == Some(direction)
            && expr.pointer("/match/right").and_then(Value::as_str) == Some(bridge)
            && expr.pointer("/match/op").and_then(Value::as_str) == Some("==")
    });
    matches && expressions().any(|expr| expr.get("accept").is_some())
}

fn belongs(rule: &Value, chain: &Chain) -> bool {
    text(rule, "family") == chain.0 && text(rule, "table") == chain.1 && text(rule, "chain") == chain.2
}

fn objects<'a>(ruleset: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    ruleset.get("nftables").and_then(Value::as_array).into_iter().flatten().filter_map(move |entry| entry.get(kind))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset() -> Value {
        serde_json::json!({"nftables": [
            {"chain": {"family":"ip","table":"filter","name":"FORWARD","type":"filter","hook":"forward","policy":"drop"}},
            {"chain": {"family":"ip","table":"mine","name":"F","type":"filter","hook":"forward","policy":"accept"}},
            {"chain": {"family":"inet","table":"fw","name":"F","type":"filter","hook":"forward","policy":"accept"}},
            {"chain": {"family":"inet","table":"fw","name":"I","type":"filter","hook":"input","policy":"drop"}},
            {"chain": {"family":"ip6","table":"filter","name":"FORWARD","type":"filter","hook":"forward","policy":"drop"}},
            {"rule": {"family":"inet","table":"fw","chain":"F","handle":7,"expr":[{"jump":{"target":"x"}}]}},
            {"rule": {"family":"ip","table":"mine","chain":"F","handle":8,"expr":[{"accept":null}]}},
            {"rule": {"family":"ip","table":"filter","chain":"FORWARD","handle":9,"expr":[
                {"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"kpb-1"}},{"counter":{}},{"accept":null}]}}
        ]})
    }

    #[test]
    fn only_chains_that_may_drop_get_a_rule() {
        let chains: Vec<_> = dropping(&ruleset()).into_iter().map(|c| format!("{} {} {}", c.0, c.1, c.2)).collect();
        assert_eq!(chains, ["ip filter FORWARD", "inet fw F"]);
    }

    #[test]
    fn our_rules_are_known_again_by_the_bridge() {
        let chain = ("ip".to_owned(), "filter".to_owned(), "FORWARD".to_owned());
        assert!(has(&ruleset(), &chain, "iifname", "kpb-1"));
        assert!(!has(&ruleset(), &chain, "oifname", "kpb-1"));
        assert!(!has(&ruleset(), &chain, "iifname", "kpb-2"));
        assert_eq!(ours(&ruleset(), "kpb-1"), [(chain, 9)]);
    }
}
