//! `kprov token`: bootstrap tokens of the cluster whose kubeconfig is on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use kprov_pki::token::Token;
use kprov_providers::Machine;
use kprov_providers::kube::{self, Api, sign, token as secrets};
use kprov_providers::machine::this::ThisMachine;
use serde_json::{Value, json};

use super::act::{self, End};
use super::error::{Failure, Kind, Result};
use super::output::{self, Format};
use super::{Shell, init};
use crate::cluster::kubeadm::BootstrapToken;
use crate::token;

/// Create, list and delete bootstrap tokens, with which machines join
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The kubeconfig to reach the cluster with
    #[arg(long, global = true, value_name = "FILE", env = "KUBECONFIG", default_value = init::ADMIN_CONF)]
    kubeconfig: String,

    /// Only print what would be created or deleted
    #[arg(long, global = true)]
    dry_run: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Delete(Delete),
    Generate(Generate),
}

/// Create a token in the cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov token create --print-join-command
  kprov token create --ttl 2h --description 'for rack 7'")]
struct Create {
    /// The token, as [a-z0-9]{6}.[a-z0-9]{16} [default: a new one]
    token: Option<String>,

    /// Also print the whole line that a worker joins with
    #[arg(long)]
    print_join_command: bool,

    /// For people: what it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Extra groups of who authenticates with it, each as system:bootstrappers:…
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    groups: Option<Vec<String>>,

    /// What it may be used for: signing, authentication
    #[arg(long, value_name = "USAGE", value_delimiter = ',')]
    usages: Option<Vec<String>>,

    /// How long it lives (1s, 2h …); 0 for ever [default: 24h]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// A file with an InitConfiguration, whose first bootstrap token says what is not given here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// With --print-join-command: the line of a further control plane (not supported yet)
    #[arg(long, value_name = "HEX")]
    certificate_key: Option<String>,

    /// Upload control-plane certificates to the kubeadm-certs Secret (not supported yet)
    #[arg(long)]
    upload_certs: bool,
}

/// List the cluster's tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov token list\n  kprov token list -o json")]
struct List {}

/// Delete tokens by id or whole
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov token delete abcdef")]
struct Delete {
    /// `abcdef` or `abcdef.0123456789abcdef`
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

/// Print a new random token; the cluster is not told of it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov init --token $(kprov token generate)")]
struct Generate {}

/// Runs the command; its exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    // KUBECONFIG may be a list: its first file counts.
    let first = args.kubeconfig.split(':').find(|part| !part.is_empty()).unwrap_or(init::ADMIN_CONF);
    let kubeconfig = std::path::absolute(first).map_err(Failure::internal)?.display().to_string();
    runtime.block_on(async {
        match args.command {
            Command::Create(create) => self::create(create, args.dry_run, &kubeconfig, shell).await,
            Command::List(List {}) => list(&kubeconfig, shell).await,
            Command::Delete(delete) => self::delete(delete, args.dry_run, &kubeconfig, shell).await,
            Command::Generate(Generate {}) => {
                let token = Token::generate().map_err(Failure::internal)?;
                let text = token.reveal();
                output::value(shell.format, &json!({"token": text.as_str()}), |_| format!("{}\n", text.as_str()))
            }
        }
    })?;
    Ok(0)
}

fn machine() -> Result<Arc<dyn Machine>> {
    Ok(Arc::new(ThisMachine::new().map_err(Failure::internal)?))
}

async fn client(machine: &Arc<dyn Machine>, kubeconfig: &str) -> Result<::kube::Client> {
    let api = Api::new(machine.clone(), [kubeconfig], None);
    api.need().await.map_err(|error| {
        Failure::user(error).hint("run it as root on a control plane, or name a kubeconfig: --kubeconfig FILE")
    })
}

fn failed(doing: &str, error: &::kube::Error) -> Failure {
    of(kube::failure(doing, error))
}

fn of(error: anyhow::Error) -> Failure {
    Failure { kind: act::kind_of(&error), error, hints: Vec::new() }
}

async fn create(args: Create, dry_run: bool, kubeconfig: &str, shell: &Shell) -> Result {
    for (flag, given) in [("--certificate-key", args.certificate_key.is_some()), ("--upload-certs", args.upload_certs)]
    {
        if given {
            return Err(Failure::usage(format!("{flag} is not supported yet")));
        }
    }
    let wanted = wanted(&args)?;
    let token: Token = match &wanted.token {
        Some(text) => text.parse().map_err(|error: kprov_pki::Error| usage(error.into()))?,
        None => Token::generate().map_err(Failure::internal)?,
    };
    let terms = token::terms(&wanted).map_err(usage)?;
    let machine = machine()?;
    if !dry_run {
        let client = client(&machine, kubeconfig).await?;
        secrets::create(&client, &token, &terms).await.map_err(of)?;
        if terms.usages.iter().any(|usage| usage == "signing") {
            // The controller manager does it too; where it has just begun, only after seconds.
            let _ = sign::sign_for(&client, &token).await;
        }
    }
    let text = token.reveal();
    let mut end = End::said(format!("{}\n", text.as_str())).field("token", text.as_str()).field("created", !dry_run);
    // A dry run may be without a cluster.
    if let Some(bytes) = machine.read(kubeconfig).map_err(Failure::user)? {
        let line = token::line(&bytes, &token).map_err(Failure::user)?;
        if args.print_join_command {
            end.text = format!("{line}\n");
        }
        end = end.field("join", line.as_str());
    }
    output::result(shell.format, end.fields, &end.text)
}

fn usage(error: anyhow::Error) -> Failure {
    Failure { kind: Kind::Usage, error, hints: Vec::new() }
}

/// The file's first token with the flags over it.
fn wanted(args: &Create) -> Result<BootstrapToken> {
    let mut token = BootstrapToken::default();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading {}", path.display()))
            .map_err(Failure::user)?;
        token = token::of_config(&text).with_context(|| path.display().to_string()).map_err(Failure::user)?;
    }
    let over = |field: &mut Option<String>, flag: &Option<String>| {
        if flag.is_some() {
            field.clone_from(flag);
        }
    };
    over(&mut token.token, &args.token);
    over(&mut token.description, &args.description);
    if let Some(ttl) = &args.ttl {
        (token.ttl, token.expires) = (Some(ttl.clone()), None);
    }
    token.groups = args.groups.clone().or(token.groups);
    token.usages = args.usages.clone().or(token.usages);
    token::check(&token).map_err(usage)?;
    Ok(token)
}

async fn list(kubeconfig: &str, shell: &Shell) -> Result {
    let client = client(&machine()?, kubeconfig).await?;
    let found = secrets::list(&client).await.map_err(|error| failed("listing tokens", &error))?;
    let objects: Vec<Value> = found.iter().map(token::shown).collect();
    match shell.format {
        // As kubeadm: one object after the other.
        Format::Json => {
            for object in &objects {
                output::stdout(&(serde_json::to_string(object).map_err(Failure::internal)? + "\n"));
            }
        }
        Format::Yaml => output::stdout(&crate::yaml::to_documents(&objects).map_err(Failure::internal)?),
        Format::Text => {
            let header = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"];
            let now = SystemTime::now();
            let rows: Vec<Vec<String>> = found.iter().map(|found| token::row(found, now)).collect();
            output::stdout(&output::columns(&header, &rows));
        }
    }
    Ok(())
}

async fn delete(args: Delete, dry_run: bool, kubeconfig: &str, shell: &Shell) -> Result {
    let ids: Vec<&str> = args.tokens.iter().map(|text| text.split('.').next().unwrap_or_default()).collect();
    // All are looked at before any is deleted.
    let fits = |text: &str, id: &str| kprov_pki::token::is_id(id) && (id == text || text.parse::<Token>().is_ok());
    if !args.tokens.iter().zip(&ids).all(|(text, id)| fits(text, id)) {
        return Err(Failure::usage("not a token or its id (6 of a-z and 0-9)"));
    }
    let client = client(&machine()?, kubeconfig).await?;
    let mut text = String::new();
    for id in &ids {
        if dry_run {
            text.push_str(&format!("would delete token {id}\n"));
            continue;
        }
        let there = secrets::delete(&client, id).await.map_err(|error| failed("deleting a token", &error))?;
        if !there {
            return Err(Failure::user(anyhow::anyhow!("no token with this id: {id}")).hint("kprov token list"));
        }
        text.push_str(&format!("bootstrap token {id} deleted\n"));
    }
    let end = End::said(text).field("ids", ids).field("deleted", !dry_run);
    output::result(shell.format, end.fields, &end.text)
}
