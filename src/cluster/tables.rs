//! The fields and types of kubeadm's, the kubelet's and kube-proxy's documents, as tools/fieldtable reads them from the Go
//! types of each Kubernetes release that kprov knows.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use super::version::Version;

/// The documents of one minor version of Kubernetes.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Table {
    /// The release they were read from.
    pub(crate) kubernetes: String,
    /// Fields of each type by the type's name; a document's type is named as its kind. A field's type is a Go basic type,
    /// `duration`, `quantity`, `time`, `any` …, `[]T`, `map:T`, or another type's name.
    pub(crate) types: BTreeMap<String, BTreeMap<String, String>>,
    /// What an empty component document is written as by kubeadm.
    pub(crate) empty: BTreeMap<String, Value>,
}

const TEXTS: [&str; 2] = [include_str!("tables/v1.35.json"), include_str!("tables/v1.36.json")];

fn all() -> &'static [Table] {
    static TABLES: OnceLock<Vec<Table>> = OnceLock::new();
    // They are ours and a test reads them: one that cannot be read would only check nothing.
    TABLES.get_or_init(|| TEXTS.iter().map(|text| serde_json::from_str(text).unwrap_or_default()).collect())
}

/// The table of a version's minor release; of the newest one before it where that is not known (then of the oldest).
pub(crate) fn table(version: Option<&str>) -> &'static Table {
    static NONE: OnceLock<Table> = OnceLock::new();
    let line = |text: &str| Version::parse(text).map(|v| (v.major, v.minor));
    let wanted = version.and_then(line).unwrap_or((u32::MAX, 0));
    let known = all();
    let best = known.iter().rev().find(|table| line(&table.kubernetes).is_some_and(|of| of <= wanted));
    best.or(known.first()).unwrap_or_else(|| NONE.get_or_init(Table::default))
}

#[cfg(test)]
mod tests {
    use super::super::input::Doc;
    use super::*;

    #[test]
    fn every_table_can_be_read_and_every_type_in_it_is_known() {
        assert_eq!(all().len(), TEXTS.len());
        for table in all() {
            assert!(Version::parse(&table.kubernetes).is_some());
            for doc in Doc::ALL {
                assert!(table.types.contains_key(doc.kind()), "{}", doc.kind());
            }
            for (name, fields) in &table.types {
                for (field, of) in fields {
                    let inner = of.trim_start_matches("[]").trim_start_matches("map:").trim_start_matches("[]");
                    let known = table.types.contains_key(inner) || super::super::schema::SCALARS.contains(&inner);
                    assert!(known, "{name}.{field}: {of}");
                }
            }
        }
    }

    #[test]
    fn the_nearest_table_is_taken() {
        assert_eq!(table(Some("v1.36.0")).kubernetes, "v1.36.3");
        assert_eq!(table(Some("v1.35.9")).kubernetes, "v1.35.4");
        assert_eq!(table(Some("v1.99.0")).kubernetes, "v1.36.3");
        assert_eq!(table(Some("v1.20.0")).kubernetes, "v1.35.4");
        assert_eq!(table(None).kubernetes, "v1.36.3");
    }
}
