//! `kprov token`: bootstrap tokens, which machines join with.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use kprov_pki::token::{DEFAULT_GROUP, Token, is_group, is_id};
use kprov_providers::Machine;
use kprov_providers::kube::token::{Found, Life, Terms};
use kprov_providers::kube::{Api, token};
use kprov_providers::machine::this::ThisMachine;
use serde::Serialize;

use super::error::{Failure, Result};
use super::init::ADMIN_CONF;
use super::{Shell, act, output};
use crate::cluster::{duration, duration_text};
use crate::phases::bootstrap_token::DEFAULT_TTL;
use crate::token::line;

/// Make, list and delete the tokens that machines join with
#[derive(Debug, clap::Args)]
pub(super) struct Args {
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

/// Where the cluster's API is.
#[derive(Debug, Clone, clap::Args)]
struct Kubeconfig {
    /// Kubeconfig of an administrator
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", default_value = ADMIN_CONF)]
    kubeconfig: String,
}

/// Make a token in the cluster, and print it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov token create
  kprov token create --print-join-command
  kprov token create --ttl 2h --description 'for the new rack'")]
struct Create {
    /// The token [default: a new random one]
    #[arg(value_name = "TOKEN")]
    token: Option<String>,

    /// For people
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,

    /// Groups that its holder is in
    #[arg(long, value_name = "GROUP,GROUP", value_delimiter = ',', default_value = DEFAULT_GROUP, value_parser = group)]
    groups: Vec<String>,

    /// How long it lives; 0 never expires
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_TTL, value_parser = ttl)]
    ttl: std::time::Duration,

    /// What it is for
    #[arg(long, value_name = "USE,USE", value_delimiter = ',', default_value = "signing,authentication",
          value_parser = ["signing", "authentication"])]
    usages: Vec<String>,

    /// Print the whole line to type on a machine that is to join
    #[arg(long)]
    print_join_command: bool,

    #[command(flatten)]
    api: Kubeconfig,
}

/// List the cluster's tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov token list\n  kprov token list -o json")]
struct List {
    #[command(flatten)]
    api: Kubeconfig,
}

/// Delete tokens, by id or whole
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov token delete abcdef")]
struct Delete {
    /// A token's id (what is before the dot), or the token
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,

    #[command(flatten)]
    api: Kubeconfig,
}

/// Print a random token, without making it in a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov init --token \"$(kprov token generate)\"")]
struct Generate {}

fn ttl(text: &str) -> std::result::Result<std::time::Duration, String> {
    duration(text).ok_or_else(|| "no duration, as 24h or 90m".to_owned())
}

fn group(text: &str) -> std::result::Result<String, String> {
    if is_group(text) { Ok(text.to_owned()) } else { Err("a group starts with system:bootstrappers:".to_owned()) }
}

/// Runs the command; its exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    if let Command::Generate(Generate {}) = args.command {
        let token = Token::generate().map_err(Failure::internal)?;
        output::stdout(&format!("{}\n", *token.reveal()));
        return Ok(0);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::internal)?;
    runtime.block_on(async {
        match args.command {
            Command::Create(args) => create(args, shell).await,
            Command::List(args) => list(&args, shell).await,
            Command::Delete(args) => delete(&args, shell).await,
            Command::Generate(_) => Ok(()),
        }
    })?;
    Ok(0)
}

/// The API, and the kubeconfig's bytes.
async fn open(path: &str) -> Result<(kube::Client, Vec<u8>)> {
    // KUBECONFIG may be a list; kubectl's first file is where it writes to.
    let first = path.split(':').find(|part| !part.is_empty()).unwrap_or(path);
    let path = std::path::absolute(Path::new(first)).map_err(Failure::internal)?;
    let path = path.to_string_lossy().into_owned();
    let machine: Arc<dyn Machine> = Arc::new(ThisMachine::new().map_err(Failure::internal)?);
    let bytes = machine.read(&path).map_err(Failure::user)?.ok_or_else(|| {
        Failure::user(anyhow::anyhow!("no kubeconfig of an administrator there: {path}"))
            .hint("run it on a control-plane machine, or give --kubeconfig")
    })?;
    let api = Api::new(machine, [path], None);
    Ok((api.need().await.map_err(Failure::user)?, bytes))
}

fn failed(error: anyhow::Error) -> Failure {
    let kind = act::kind_of(&error);
    Failure { kind, error, hints: Vec::new() }
}

async fn create(args: Create, shell: &Shell) -> Result {
    let (client, kubeconfig) = open(&args.api.kubeconfig).await?;
    let made = match &args.token {
        Some(text) => text.parse::<Token>().map_err(|error| Failure::usage(format!("{error}: the token")))?,
        None => Token::generate().map_err(Failure::internal)?,
    };
    let life = (!args.ttl.is_zero()).then_some(Life::For(args.ttl));
    let terms = Terms { description: args.description, life, usages: args.usages, groups: args.groups };
    token::create(&client, &made, &terms).await.map_err(failed)?;
    let join = line(&kubeconfig, &made).map_err(Failure::user)?;
    let value = serde_json::json!({"token": made.reveal().as_str(), "join": join});
    output::value(shell.format, &value, |_| {
        if args.print_join_command { format!("{join}\n") } else { format!("{}\n", *made.reveal()) }
    })
}

/// A token as it is listed: a person asked to see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    token: String,
    ttl: String,
    expires: Option<String>,
    usages: Vec<String>,
    description: String,
    groups: Vec<String>,
}

fn row(found: &Found, now: SystemTime) -> Row {
    let end = found.expiration.as_deref().map(|text| {
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).map(SystemTime::from)
    });
    let ttl = match end {
        None => "<forever>".to_owned(),
        Some(Ok(end)) => match end.duration_since(now) {
            Ok(left) => duration_text(std::time::Duration::from_secs(left.as_secs())),
            Err(_) => "<expired>".to_owned(),
        },
        Some(Err(_)) => "<invalid>".to_owned(),
    };
    Row {
        token: found.token.reveal().to_string(),
        ttl,
        expires: found.expiration.clone(),
        usages: found.usages.clone(),
        description: found.description.clone(),
        groups: found.groups.clone(),
    }
}

async fn list(args: &List, shell: &Shell) -> Result {
    let (client, _) = open(&args.api.kubeconfig).await?;
    let found = token::list(&client).await.context("listing bootstrap tokens").map_err(failed)?;
    let now = SystemTime::now();
    let rows: Vec<Row> = found.iter().map(|found| row(found, now)).collect();
    output::value(shell.format, &rows, |rows| {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
                vec![
                    row.token.clone(),
                    row.ttl.clone(),
                    row.expires.clone().unwrap_or_else(|| "<never>".to_owned()),
                    none(&row.usages.join(",")),
                    none(&row.description),
                    none(&row.groups.join(",")),
                ]
            })
            .collect();
        output::columns(&["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"], &cells)
    })
}

async fn delete(args: &Delete, shell: &Shell) -> Result {
    // All are looked at before any is deleted.
    let ids: Vec<&str> = args
        .tokens
        .iter()
        .map(|text| {
            let id = text.split_once('.').map_or(text.as_str(), |(id, _)| id);
            let fits = is_id(id) && (id == text || text.parse::<Token>().is_ok());
            if fits { Ok(id) } else { Err(Failure::usage("not a token or its id (6 of a-z and 0-9)")) }
        })
        .collect::<Result<_>>()?;
    let (client, _) = open(&args.api.kubeconfig).await?;
    for id in &ids {
        let there = token::delete(&client, id).await.with_context(|| format!("deleting token {id}")).map_err(failed)?;
        if !there {
            return Err(Failure::user(anyhow::anyhow!("no such token: {id}")).hint("kprov token list"));
        }
    }
    let value = serde_json::json!({"deleted": ids});
    output::value(shell.format, &value, |_| ids.iter().map(|id| format!("bootstrap token {id} deleted\n")).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_row_says_how_long_a_token_lives() {
        let found = |expiration: Option<&str>| Found {
            token: "abcdef.0123456789abcdef".parse().unwrap(),
            description: String::new(),
            expiration: expiration.map(str::to_owned),
            usages: Vec::new(),
            groups: Vec::new(),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(row(&found(None), now).ttl, "<forever>");
        assert_eq!(row(&found(Some("2023-11-15T22:13:20Z")), now).ttl, "24h0m0s");
        assert_eq!(row(&found(Some("2023-11-14T00:00:00Z")), now).ttl, "<expired>");
        assert_eq!(row(&found(Some("soon")), now).ttl, "<invalid>");
    }

    #[test]
    fn flags_are_judged_before_the_api_is_asked() {
        assert!(ttl("24h").is_ok() && ttl("tomorrow").is_err());
        assert!(group("system:masters").is_err());
        assert!(group(DEFAULT_GROUP).is_ok());
    }
}
