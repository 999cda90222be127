//! The command as a script sees it: exit codes, what is on stdout and what on stderr, flags that are there and flags that
//! are refused. Needs no root and no bundle; a home of its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, line: &str) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_kprov"))
            .args(line.split_whitespace())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran::of(line, &output)
    }
}

struct Ran {
    line: String,
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(line: &str, output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or_else(|| panic!("{line}: {}", output.status));
        Self { line: line.to_owned(), code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    #[track_caller]
    fn ends(&self, code: i32, stderr: &str) -> &Self {
        let all = format!("kprov {}\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        assert_eq!(self.code, code, "{all}");
        assert!(self.stderr.contains(stderr), "no {stderr:?} on stderr\n{all}");
        self
    }
}

/// kubeadm's flags by command (contract A.2), `!` before those that are not supported yet, with a value that fits.
const FLAGS: [(&str, &[&str]); 4] = [
    (
        "init",
        &[
            "apiserver-advertise-address 192.0.2.1",
            "apiserver-bind-port 6443",
            "apiserver-cert-extra-sans a.example.org",
            "cert-dir /etc/kubernetes/pki",
            "!certificate-key 00",
            "config -",
            "control-plane-endpoint api.example.org",
            "cri-socket /run/x.sock",
            "dry-run",
            "feature-gates NodeLocalCRISocket=true",
            "ignore-preflight-errors all",
            "image-repository registry.example.org",
            "kubernetes-version v1.36.3",
            "node-name cp",
            "!patches /etc/patches",
            "pod-network-cidr 10.244.0.0/16",
            "service-cidr 10.96.0.0/12",
            "service-dns-domain cluster.local",
            "!skip-certificate-key-print",
            "!skip-phases preflight",
            "skip-token-print",
            "token abcdef.0123456789abcdef",
            "token-ttl 1h",
            "!upload-certs",
        ],
    ),
    (
        "join",
        &[
            "!apiserver-advertise-address 192.0.2.1",
            "!apiserver-bind-port 6443",
            "!certificate-key 00",
            "config -",
            "!control-plane",
            "cri-socket /run/x.sock",
            "!discovery-file /etc/x.conf",
            "discovery-token abcdef.0123456789abcdef",
            "discovery-token-ca-cert-hash sha256:00",
            "discovery-token-unsafe-skip-ca-verification",
            "dry-run",
            "ignore-preflight-errors all",
            "node-name w",
            "!patches /etc/patches",
            "!skip-phases preflight",
            "tls-bootstrap-token abcdef.0123456789abcdef",
            "token abcdef.0123456789abcdef",
        ],
    ),
    (
        "reset",
        &[
            "cert-dir /etc/kubernetes/pki",
            "cleanup-tmp-dir",
            "config -",
            "cri-socket /run/x.sock",
            "dry-run",
            "force",
            "ignore-preflight-errors all",
            "kubeconfig /etc/x.conf",
            "!skip-phases preflight",
        ],
    ),
    (
        "token create",
        &[
            "!certificate-key 00",
            "config -",
            "description x",
            "dry-run",
            "groups system:bootstrappers:x",
            "kubeconfig /etc/x.conf",
            "print-join-command",
            "ttl 1h",
            "!upload-certs",
            "usages signing",
        ],
    ),
];

#[test]
fn every_flag_of_kubeadm_is_there_or_refused_by_name() {
    let home = Home::new();
    for (command, flags) in FLAGS {
        let help = home.run(&format!("{command} --help")).ends(0, "").stdout.clone();
        for flag in flags {
            let refused = flag.strip_prefix('!');
            let flag = refused.unwrap_or(flag);
            let name = flag.split(' ').next().unwrap();
            assert!(help.contains(&format!("--{name}")), "kprov {command} --help does not name --{name}");
            if refused.is_some() {
                home.run(&format!("{command} --{flag}")).ends(2, "not supported yet").ends(2, &format!("--{name}"));
            }
        }
    }
    for command in ["init", "join", "reset"] {
        home.run(&format!("{command} phase preflight")).ends(2, "not supported yet");
        home.run(&format!("{command} --no-such-flag")).ends(2, "--no-such-flag");
    }
}

#[test]
fn fields_that_are_not_supported_yet_are_refused_with_their_place() {
    let home = Home::new();
    let file = home.0.path().join("kubeadm.yaml");
    let cases = [
        ("init", "InitConfiguration", "certificateKey: '00'"),
        ("init", "InitConfiguration", "skipPhases: [preflight]"),
        ("init", "InitConfiguration", "patches: {directory: /etc/patches}"),
        ("init", "InitConfiguration", "nodeRegistration: {imagePullPolicy: Always}"),
        ("init", "ClusterConfiguration", "featureGates: {RootlessControlPlane: true}"),
        ("join", "JoinConfiguration", "controlPlane: {}"),
        ("join", "JoinConfiguration", "discovery: {file: {kubeConfigPath: /etc/x.conf}}"),
        ("join", "JoinConfiguration", "skipPhases: [preflight]"),
        ("reset", "ResetConfiguration", "skipPhases: [preflight]"),
    ];
    for (command, kind, field) in cases {
        std::fs::write(&file, format!("apiVersion: kubeadm.k8s.io/v1beta4\nkind: {kind}\n{field}\n")).unwrap();
        let ran = home.run(&format!("{command} --config {}", file.display()));
        ran.ends(2, "not supported yet").ends(2, "kubeadm.yaml:3:");
    }
}

/// The last line on stdout.
fn last(ran: &Ran) -> Value {
    serde_json::from_str(ran.stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|why| panic!("kprov {}: {why}\n{}", ran.line, ran.stdout))
}

#[test]
fn with_json_the_last_line_is_the_result_whatever_happens() {
    let home = Home::new();
    for (line, code) in [
        ("init --no-such-flag -o json", 2),
        ("init --output=json --upload-certs", 2),
        ("join -o json", 1),
        ("start -o json", 1),
        ("token delete nonsense -o json", 2),
        ("token create --kubeconfig /nowhere/x.conf -o json", 1),
    ] {
        let ran = home.run(line);
        let result = last(&ran);
        assert_eq!((ran.code, &result["type"], &result["state"]), (code, &"result".into(), &"failed".into()), "{line}");
        assert_eq!(result["exitCode"], code, "{line}");
    }
    let ran = home.run("token create abcdef.0123456789abcdef --dry-run --kubeconfig /nowhere/x.conf -o json");
    let result = last(ran.ends(0, ""));
    assert_eq!((&result["type"], &result["token"]), (&"result".into(), &"abcdef.0123456789abcdef".into()));
    assert_eq!(ran.stdout.lines().count(), 1);
}

#[test]
fn where_there_is_no_cluster() {
    let home = Home::new();
    assert!(home.run("status").ends(0, "").stdout.contains("kprov up"));
    home.run("status --name none").ends(1, "no cluster of this name on this host: none");
    for command in ["ssh", "stop", "start", "kubectl get nodes", "kubeconfig", "kubeconfig --merge", "image load x.tar"]
    {
        home.run(command).ends(1, "hint: kprov up");
    }
    for command in ["down", "down --yes", "down --name other"] {
        assert!(home.run(command).ends(0, "").stdout.contains("nothing to do"), "{command}");
    }
    assert_eq!(std::fs::read_dir(home.0.path()).unwrap().count(), 0, "looking leaves nothing");
}

#[test]
fn versions_and_completions() {
    let home = Home::new();
    let version = env!("CARGO_PKG_VERSION");
    let json: Value = serde_json::from_str(&home.run("version -o json").ends(0, "").stdout).unwrap();
    assert_eq!(json["version"], version);
    let yaml = home.run("version -o yaml").ends(0, "").stdout.clone();
    assert!(yaml.lines().any(|line| line.starts_with("version: ") && line.contains(version)), "{yaml}");
    assert_eq!(home.run("--version").ends(0, "").stdout.trim(), format!("kprov {version}"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(home.run(&format!("completion {shell}")).ends(0, "").stdout.contains("kprov"), "{shell}");
    }
    home.run("completion tcsh").ends(2, "tcsh");
}

#[test]
fn without_a_bundle_all_else_that_is_wrong_is_told_too() {
    let home = Home::new();
    home.run("init --pod-network-cidr 10.0.0.0/33").ends(1, "10.0.0.0/33");
    home.run("init --bundle /nowhere/bundle.tar.zst --ignore-preflight-errors all").ends(1, "/nowhere/bundle.tar.zst");
}
