//! Golden plans: a folder with input is planned and compared with its `plan.txt`. No machine is touched or needed.
//!
//! A case holds `cluster.yaml` (or nothing), `args` (flags of init, or nothing), `facts.json` (what differs from the
//! facts beside the cases) and `plan.txt`. `KPROV_GOLDEN=write cargo test --test golden` writes the plans anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use kprov::bundle::locate::Found;
use kprov::cluster::flags::{CniChoice, InitFlags};
use kprov::cluster::load_init;
use kprov::facts::Facts;
use kprov::plan::Plan;
use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;
use serde_json::Value;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: InitFlags,
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&read(path).unwrap_or_else(|| panic!("{} is not there", path.display()))).unwrap()
}

fn facts(root: &Path, case: &Path) -> Facts {
    let mut facts = json(&root.join("facts.json"));
    if case.join("facts.json").exists() {
        for (name, value) in json(&case.join("facts.json")).as_object().unwrap() {
            facts[name] = value.clone();
        }
    }
    serde_json::from_value(facts).unwrap()
}

fn plan(root: &Path, case: &Path) -> Plan {
    let found = Found {
        path: PathBuf::from("/root/kprov-bundle-v1.36.3-amd64.tar.zst"),
        id: "f".repeat(64),
        manifest: serde_json::from_value(json(&root.join("bundle.json"))).unwrap(),
    };
    let facts = facts(root, case);
    let args = read(&case.join("args")).unwrap_or_default();
    let mut flags = Line::parse_from(["init"].into_iter().chain(args.split_whitespace())).flags;
    let text = read(&case.join("cluster.yaml"));
    if text.is_some() {
        flags.common.config = Some("cluster.yaml".into());
    }
    let cni = match &flags.cni {
        Some(CniChoice::File(path)) => read(&case.join(path)),
        _ => None,
    };
    let config = text.as_deref().map(|text| ("cluster.yaml", text));
    let cluster = load_init(&flags, config, cni.as_deref(), &facts, &found.manifest)
        .unwrap_or_else(|problems| panic!("{}: {problems}", case.display()));
    let machine: Arc<dyn Machine> = Arc::new(FakeMachine::new());
    kprov::phases::init(&cluster, &facts, &found, &machine).unwrap()
}

/// A plan as people read it.
fn text(plan: &Plan) -> String {
    let mut out = String::new();
    for step in plan.steps() {
        let needs: Vec<&str> = step.needs().iter().map(kprov_providers::Key::as_str).collect();
        writeln!(out, "{} [{}]", step.key(), step.phase()).unwrap();
        writeln!(out, "  {}", step.describe()).unwrap();
        if !needs.is_empty() {
            writeln!(out, "  needs {}", needs.join(", ")).unwrap();
        }
        for line in step.content().unwrap_or_default().lines() {
            writeln!(out, "  | {line}").unwrap();
        }
        out.push('\n');
    }
    out
}

fn check(dir: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let case = root.join(dir);
    let plan = plan(&root, &case);
    plan.validate().unwrap();
    let text = text(&plan);
    for secret in ["0123456789abcdef", "PRIVATE KEY"] {
        assert!(!text.contains(secret), "{dir}: a secret is in the plan");
    }
    let golden = case.join("plan.txt");
    if std::env::var_os("KPROV_GOLDEN").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let wanted = read(&golden).unwrap_or_default();
    for (number, (is, should)) in text.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(is, should, "{dir}/plan.txt line {}", number + 1);
    }
    assert_eq!(text.lines().count(), wanted.lines().count(), "{dir}/plan.txt: number of lines");
}

macro_rules! cases {
    ($($name:ident $dir:literal),* $(,)?) => {$(
        #[test]
        fn $name() {
            check($dir);
        }
    )*};
}

cases! {
    default "default",
    ha_endpoint "ha-endpoint",
    dual_stack "dual-stack",
    rsa "rsa",
    extra_args_and_volumes "extra-args",
    external_etcd "external-etcd",
    single_node "single-node",
    no_cni "no-cni",
    own_cni_manifest "cni-manifest",
    cgroup_v1_host "cgroup-v1",
    own_runtime "own-runtime",
}
