//! Bootstrap tokens of a cluster, and the line that other machines join with.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use kprov_pki::inspect::Cert;
use kprov_pki::kubeconfig::Kubeconfig;
use kprov_pki::pin::Pin;
use kprov_pki::token::Token;
use kprov_providers::Machine;
use kprov_providers::kube::token::Found;
use kprov_providers::kube::{Api, token};
use serde_json::{Value, json};

use crate::cluster::kubeadm::BootstrapToken;
use crate::phases::bootstrap_token::DESCRIPTION;
pub use crate::phases::bootstrap_token::terms;

/// The line with a token that still lives, our own first; `None` when there is no such token any more.
///
/// # Errors
/// When the kubeconfig on the machine cannot be used, or the API does not answer.
pub async fn join_line(machine: &Arc<dyn Machine>, kubeconfig: &str) -> Result<Option<String>> {
    let api = Api::new(machine.clone(), [kubeconfig], None);
    let now = SystemTime::now();
    let mut found = token::list(&api.need().await?).await.context("listing bootstrap tokens")?;
    found.retain(|token| token.joins() && token.lives(now));
    // A token that the user typed is as good; the order makes the answer the same at every call.
    found.sort_by_key(|token| !token.description.starts_with(DESCRIPTION));
    let kubeconfig = machine.read(kubeconfig)?.with_context(|| format!("not there: {kubeconfig}"))?;
    found.first().map(|found| line(&kubeconfig, &found.token)).transpose()
}

/// `kprov join HOST:PORT --token T --discovery-token-ca-cert-hash sha256:HEX` for the cluster of a kubeconfig.
///
/// # Errors
/// When the kubeconfig names no server or holds no CA.
pub fn line(kubeconfig: &[u8], token: &Token) -> Result<String> {
    let kubeconfig: Kubeconfig =
        crate::yaml::from_str(std::str::from_utf8(kubeconfig)?).context("reading the kubeconfig")?;
    let (cluster, _) = kubeconfig.current().context("the kubeconfig has no current context")?;
    let ca = cluster.ca_pem()?.context("the kubeconfig holds no CA")?;
    let pins: Vec<String> = Cert::chain_from_pem(&ca)?
        .iter()
        .map(|cert| format!("--discovery-token-ca-cert-hash {}", Pin::of(cert)))
        .collect();
    let server = cluster.server.trim_start_matches("https://").trim_end_matches('/');
    Ok(format!("kprov join {server} --token {} {}", *token.reveal(), pins.join(" ")))
}

/// The first bootstrap token of the InitConfiguration among a text's documents.
///
/// # Errors
/// When the text is no YAML, or has no such token.
pub fn of_config(text: &str) -> Result<BootstrapToken> {
    let documents = crate::yaml::values(text)?;
    let init = documents.iter().find(|d| d.get("kind").and_then(Value::as_str) == Some("InitConfiguration"));
    let token = init.and_then(|init| init.pointer("/bootstrapTokens/0")).context("no bootstrapTokens in it")?;
    Ok(serde_json::from_value(token.clone())?)
}

/// Checks what a person said of a token, but for the token itself.
///
/// # Errors
/// An unknown usage, or a group that no token may give.
pub fn check(token: &BootstrapToken) -> Result<()> {
    if let Some(usage) = token.usages.iter().flatten().find(|u| !matches!(u.as_str(), "signing" | "authentication")) {
        bail!("no such usage (signing, authentication): {usage}");
    }
    if let Some(group) = token.groups.iter().flatten().find(|group| !kprov_pki::token::is_group(group)) {
        bail!("a group must begin with system:bootstrappers: and end with a letter or digit: {group}");
    }
    Ok(())
}

/// A token as kubeadm's `token list -o json` shows it.
pub fn shown(found: &Found) -> Value {
    let mut value = json!({
        "apiVersion": "output.kubeadm.k8s.io/v1alpha3",
        "kind": "BootstrapToken",
        "token": found.token.reveal().as_str(),
    });
    if let Some(fields) = value.as_object_mut() {
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        if !found.description.is_empty() {
            put("description", found.description.as_str().into());
        }
        if let Some(time) = &found.expiration {
            put("expires", time.as_str().into());
        }
        if !found.usages.is_empty() {
            put("usages", json!(found.usages));
        }
        if !found.groups.is_empty() {
            put("groups", json!(found.groups));
        }
    }
    value
}

/// A token as a row of `token list`: token, time left, end, usages, description, groups.
pub fn row(found: &Found, now: SystemTime) -> Vec<String> {
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let (left, end) = match &found.expiration {
        None => ("<forever>".to_owned(), "<never>".to_owned()),
        Some(text) => (time_left(text, now), text.clone()),
    };
    let token = found.token.reveal().as_str().to_owned();
    let description = or_none(found.description.clone());
    vec![token, left, end, or_none(found.usages.join(",")), description, or_none(found.groups.join(","))]
}

/// `23h`, `59m`, `12s`; `<invalid>` when it is over or cannot be read, as kubeadm says it.
fn time_left(end: &str, now: SystemTime) -> String {
    let end = time::OffsetDateTime::parse(end, &time::format_description::well_known::Rfc3339);
    let seconds = end.map(|end| (end - time::OffsetDateTime::from(now)).whole_seconds()).unwrap_or(-1);
    match seconds {
        ..0 => "<invalid>".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400.. => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn found() -> Found {
        Found {
            token: "abcdef.0123456789abcdef".parse().unwrap(),
            description: String::new(),
            expiration: Some("2023-11-15T22:13:20Z".into()),
            usages: vec!["authentication".into(), "signing".into()],
            groups: Vec::new(),
        }
    }

    #[test]
    fn a_row_says_what_kubeadm_s_says() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_086_400);
        let left = |before: u64| row(&found(), end - Duration::from_secs(before)).swap_remove(1);
        assert_eq!([left(86_399), left(3_599), left(59), left(172_800)], ["23h", "59m", "59s", "2d"]);
        let over = row(&found(), end + Duration::from_secs(1));
        assert_eq!(over[1], "<invalid>");
        assert_eq!(over[3..], ["authentication,signing", "<none>", "<none>"]);
        let never = row(&Found { expiration: None, ..found() }, end);
        assert_eq!(never[1..3], ["<forever>", "<never>"]);
    }

    #[test]
    fn as_kubeadm_s_output_kind() {
        let value = shown(&found());
        assert_eq!(value["kind"], "BootstrapToken");
        assert_eq!(value["token"], "abcdef.0123456789abcdef");
        assert_eq!(value.get("groups"), None);
    }

    #[test]
    fn a_file_s_first_token_is_taken() {
        let text = "kind: ClusterConfiguration\n---\nkind: InitConfiguration\nbootstrapTokens: [{ttl: 1h}]\n";
        assert_eq!(of_config(text).unwrap().ttl.as_deref(), Some("1h"));
        assert!(of_config("kind: InitConfiguration\n").is_err());
    }

    #[test]
    fn usages_and_groups_are_checked() {
        let token = |usage: &str, group: &str| BootstrapToken {
            usages: Some(vec![usage.into()]),
            groups: Some(vec![group.into()]),
            ..BootstrapToken::default()
        };
        assert!(check(&token("signing", "system:bootstrappers:a")).is_ok());
        assert!(check(&token("sign", "system:bootstrappers:a")).is_err());
        assert!(check(&token("signing", "system:masters")).is_err());
    }
}
