//! Bootstrap tokens of a cluster, and the line that other machines join with.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use kprov_pki::inspect::Cert;
use kprov_pki::kubeconfig::Kubeconfig;
use kprov_pki::pin::Pin;
use kprov_pki::token::Token;
use kprov_providers::Machine;
use kprov_providers::kube::{Api, token};

use crate::phases::bootstrap_token::DESCRIPTION;

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
