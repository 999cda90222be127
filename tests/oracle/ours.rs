//! kprov: the plan of init, run by the engine on a machine in memory against a real API server on loopback.

use std::sync::Arc;

use clap::Parser;
use futures_util::FutureExt;
use kprov::bundle::locate::Found;
use kprov::cluster::flags::InitFlags;
use kprov::cluster::load_init;
use kprov::facts::{Answers, gather};
use kprov::phases;
use kprov_providers::Machine;
use serde_json::Value;
use time::OffsetDateTime;

use crate::api::{Api, fast_dir};
use crate::cases::{ADDRESS, CA_DIRS, Case, HOST, PORT};
use crate::findings::{Findings, Scene};
use crate::run::{Kill, Run};
use crate::tree::Tree;
use crate::world::{bare, give_programs, serve};

/// An address of this host that stands for the machine's: nobody else can reach what listens there.
pub(crate) const LOOPBACK: &str = "127.0.0.10";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: InitFlags,
}

/// What kprov makes of a configuration.
pub(crate) async fn one(case: &Case, api: &Arc<Api>, bundle: &Found) -> Findings {
    api.start_over().await;
    let begin = OffsetDateTime::now_utc();
    let machine = bare(HOST);
    for dir in CA_DIRS {
        machine.put(&format!("{dir}/one.pem"), "");
    }
    give_programs(&machine, bundle);
    let (held, pki, node) = (api.clone(), case.pki(), case.node());
    machine.on_probe(move |machine, url| {
        let (api, pki, node) = (held.clone(), pki.clone(), node.clone());
        async move {
            let here = url.contains(&format!("://{LOOPBACK}:{}/", api.port()));
            if here { serve(&machine, &api, &pki, &node).await } else { Some((200, "ok".to_owned())) }
        }
        .boxed()
    });
    let mut proxy = case.env.clone();
    // As the command itself asks for them.
    proxy.sort();
    let answers =
        Answers { root: true, nftables: true, sources: vec![ADDRESS.parse().unwrap()], proxy, ..Answers::default() };
    let facts = gather(&machine, answers, &|_| false, None).await.unwrap();
    let mut flags = Line::parse_from(["init"].into_iter().chain(case.flags().iter().map(String::as_str))).flags;
    flags.common.config = Some("input.yaml".into());
    let cluster = load_init(&flags, Some(("input.yaml", &case.input)), None, &facts, &bundle.manifest);
    let mut cluster = cluster.unwrap_or_else(|problems| panic!("{}: {problems}", case.name));
    let endpoint = cluster.init.local_api_endpoint.get_or_insert_default();
    endpoint.advertise_address = Some(LOOPBACK.to_owned());
    endpoint.bind_port = Some(api.port());

    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    let plan = phases::init(&cluster, &facts, bundle, &this).unwrap();
    let dir = fast_dir();
    let outcome = Run::new(machine.clone(), dir.path()).plan("init", &plan, Kill::Never).await.unwrap();
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(outcome.ok(), "{}: {}", case.name, failures.join("\n"));

    let tree = Tree::of_machine(&machine);
    let time = (begin, OffsetDateTime::now_utc());
    let scene = Scene { pki: case.pki(), etcd: case.etcd(), time, input: case.input.clone() };
    let mut found = scene.files(&tree);
    found.extend(scene.objects(&tree, &api.objects().await, &api.baseline));
    found.into_iter().map(|(name, value)| (name, theirs(value, api.port()))).collect()
}

/// Our stand-ins for the machine's address and port, as the machine's.
fn theirs(value: Value, port: u16) -> Value {
    match value {
        Value::String(text) => text.replace(LOOPBACK, ADDRESS).replace(&port.to_string(), &PORT.to_string()).into(),
        Value::Number(number) if number.as_u64() == Some(port.into()) => PORT.into(),
        Value::Array(items) => items.into_iter().map(|item| theirs(item, port)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, theirs(value, port))).collect(),
        other => other,
    }
}
