//! Looks at and removes nftables rules over netlink, in the network namespace of the process: a machine need not have
//! the `nft` program, and a half-removed one may have lost it.

mod wire;

use anyhow::Context;

use self::wire::{Attributes, Message, Socket};

// linux/netfilter/nf_tables.h
const NEWTABLE: u8 = 0;
const GETTABLE: u8 = 1;
const DELTABLE: u8 = 2;
const NEWCHAIN: u8 = 3;
const GETCHAIN: u8 = 4;
const DELCHAIN: u8 = 5;
const NEWRULE: u8 = 6;
const GETRULE: u8 = 7;
const DELRULE: u8 = 8;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const ACCEPT: u32 = 1;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// `NFPROTO_*`: 1 inet, 2 ip, 10 ip6 …
    pub family: u8,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "?",
        };
        write!(f, "{family} {}", self.name)
    }
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its table.
    pub table: Table,
    /// Name.
    pub name: String,
    /// The kernel calls it by itself, and lets packets pass that no rule decides.
    pub accepting_base: bool,
    /// The kernel calls it by itself.
    pub base: bool,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its table.
    pub table: Table,
    /// Name of its chain.
    pub chain: String,
    /// Number within the table.
    pub handle: u64,
    /// All attributes, as the kernel gave them.
    body: Vec<u8>,
}

impl Rule {
    /// True when it jumps to a chain of this name (or carries it in a comment).
    pub fn names(&self, chain: &str) -> bool {
        let mut wanted = chain.as_bytes().to_vec();
        wanted.push(0);
        self.body.windows(wanted.len()).any(|window| window == wanted)
    }
}

/// One removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A table with all that is in it.
    Table(Table),
    /// All rules of a chain.
    Rules(Table, String),
    /// One rule.
    Rule(Table, String, u64),
    /// A chain without rules.
    Chain(Table, String),
}

/// The ruleset of this network namespace.
#[derive(Debug)]
pub struct Nft(Socket);

impl Nft {
    /// Opens it; `None` where the kernel has no nf_tables.
    ///
    /// # Errors
    /// When the kernel refuses for another reason (missing rights).
    pub fn open() -> anyhow::Result<Option<Self>> {
        let Some(socket) = Socket::open().context("opening the netlink socket of nftables")? else { return Ok(None) };
        let nft = Self(socket);
        match nft.tables() {
            Ok(_) => Ok(Some(nft)),
            Err(e) if e.root_cause().downcast_ref::<rustix::io::Errno>().is_some_and(|e| wire::absent(*e)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All tables.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn tables(&self) -> anyhow::Result<Vec<Table>> {
        let messages = self.0.dump(GETTABLE).context("listing nftables tables")?;
        Ok(messages
            .iter()
            .filter(|m| m.kind == NEWTABLE)
            .filter_map(|m| Some(Table { family: m.family, name: m.attributes().text(TABLE_NAME)? }))
            .collect())
    }

    /// All chains.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn chains(&self) -> anyhow::Result<Vec<Chain>> {
        let messages = self.0.dump(GETCHAIN).context("listing nftables chains")?;
        Ok(messages.iter().filter(|m| m.kind == NEWCHAIN).filter_map(chain).collect())
    }

    /// All rules.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let messages = self.0.dump(GETRULE).context("listing nftables rules")?;
        Ok(messages.iter().filter(|m| m.kind == NEWRULE).filter_map(rule).collect())
    }

    /// Removes all of these in one transaction: all or nothing.
    ///
    /// # Errors
    /// When the kernel refuses one of them (it is gone already, or still in use).
    pub fn remove(&self, removals: &[Removal]) -> anyhow::Result<()> {
        if removals.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> = removals.iter().map(message).collect();
        self.0.transact(&messages).context("removing nftables rules")
    }
}

fn chain(message: &Message) -> Option<Chain> {
    let attributes = message.attributes();
    let base = attributes.get(CHAIN_HOOK).is_some();
    let policy = attributes.get(CHAIN_POLICY).and_then(|v| Some(u32::from_be_bytes(v.try_into().ok()?)));
    Some(Chain {
        table: Table { family: message.family, name: attributes.text(CHAIN_TABLE)? },
        name: attributes.text(CHAIN_NAME)?,
        accepting_base: base && policy == Some(ACCEPT),
        base,
    })
}

fn rule(message: &Message) -> Option<Rule> {
    let attributes = message.attributes();
    Some(Rule {
        table: Table { family: message.family, name: attributes.text(RULE_TABLE)? },
        chain: attributes.text(RULE_CHAIN)?,
        handle: u64::from_be_bytes(attributes.get(RULE_HANDLE)?.try_into().ok()?),
        body: message.body.clone(),
    })
}

fn message(removal: &Removal) -> Message {
    let (kind, table, body) = match removal {
        Removal::Table(table) => (DELTABLE, table, Attributes::write(&[(TABLE_NAME, text(&table.name))])),
        Removal::Rules(table, chain) => {
            (DELRULE, table, Attributes::write(&[(RULE_TABLE, text(&table.name)), (RULE_CHAIN, text(chain))]))
        }
        Removal::Rule(table, chain, handle) => {
            let handle = (RULE_HANDLE, handle.to_be_bytes().to_vec());
            (DELRULE, table, Attributes::write(&[(RULE_TABLE, text(&table.name)), (RULE_CHAIN, text(chain)), handle]))
        }
        Removal::Chain(table, chain) => {
            (DELCHAIN, table, Attributes::write(&[(CHAIN_TABLE, text(&table.name)), (CHAIN_NAME, text(chain))]))
        }
    };
    Message { kind, family: table.family, body }
}

fn text(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_read_back_as_what_they_name() {
        let table = Table { family: 2, name: "nat".to_owned() };
        let read = message(&Removal::Rule(table.clone(), "PREROUTING".to_owned(), 7));
        let rule = rule(&read).unwrap();
        assert_eq!((rule.table, rule.chain.as_str(), rule.handle, read.kind), (table, "PREROUTING", 7, DELRULE));
    }

    #[test]
    fn a_rule_names_whole_chains_only() {
        let table = Table { family: 2, name: "nat".to_owned() };
        let body = Attributes::write(&[(9, text("KUBE-SERVICES"))]);
        let rule = Rule { table, chain: "OUTPUT".to_owned(), handle: 1, body };
        assert!(rule.names("KUBE-SERVICES"));
        assert!(!rule.names("KUBE-SERVICE"));
    }
}
