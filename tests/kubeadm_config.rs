//! The documents that `init` makes, shown to the real kubeadm: it must take every one of them.
//!
//! The inputs are those of the golden plans. `KPROV_KUBEADM` names the kubeadm of the bundle's version; it is no part of a
//! bundle, so without it this test says that it was left out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod left_out;

use std::path::Path;
use std::process::Command;

use clap::Parser;
use kprov::cluster::flags::{CniChoice, InitFlags};
use kprov::cluster::{kubeadm, load_init};
use kprov::yaml;
use serde_json::Value;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: InitFlags,
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The documents that `init` makes of one golden case.
fn documents(root: &Path, case: &Path) -> String {
    let mut facts = json(&root.join("facts.json"));
    if case.join("facts.json").exists() {
        for (name, value) in json(&case.join("facts.json")).as_object().unwrap() {
            facts[name] = value.clone();
        }
    }
    let facts = serde_json::from_value(facts).unwrap();
    let bundle = serde_json::from_value(json(&root.join("bundle.json"))).unwrap();
    let args = std::fs::read_to_string(case.join("args")).unwrap_or_default();
    let mut flags = Line::parse_from(["init"].into_iter().chain(args.split_whitespace())).flags;
    let text = std::fs::read_to_string(case.join("cluster.yaml")).ok();
    if text.is_some() {
        flags.common.config = Some("cluster.yaml".into());
    }
    let cni = match &flags.cni {
        Some(CniChoice::File(path)) => Some(std::fs::read_to_string(case.join(path)).unwrap()),
        _ => None,
    };
    let config = text.as_deref().map(|text| ("cluster.yaml", text));
    let cluster = load_init(&flags, config, cni.as_deref(), &facts, &bundle).unwrap_or_else(|p| panic!("{p}"));
    let init = kubeadm::document("InitConfiguration", &cluster.init);
    let rest = yaml::to_documents(&[init, cluster.kubelet.clone(), cluster.proxy.clone()]).unwrap();
    cluster.config_yaml().unwrap() + "---\n" + &rest
}

#[test]
fn kubeadm_takes_what_init_makes() {
    let Some(program) = std::env::var_os("KPROV_KUBEADM") else {
        assert!(
            std::env::var_os("KPROV_TEST_ALL").is_none_or(|all| all != "1"),
            "KPROV_TEST_ALL=1 allows none to be left out: KPROV_KUBEADM names no kubeadm (scripts/kubeadm builds it)"
        );
        // Said on the terminal even where the test runner keeps a test's output to itself.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"LEFT OUT: kubeadm_takes_what_init_makes (KPROV_KUBEADM names no kubeadm)\n",
        );
        left_out::add("kubeadm_config", 1);
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = tempfile::tempdir().unwrap();
    let mut cases = 0;
    for case in std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let file = folder.path().join("documents.yaml");
        let text = documents(&root, &case);
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(&program).args(["config", "validate", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}\n{text}", case.display());
        // Fields that it does not know it only warns about.
        assert!(!said.contains("unknown field"), "{}: {said}\n{text}", case.display());
        cases += 1;
    }
    assert!(cases > 5, "only {cases} cases");
}
