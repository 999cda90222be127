//! What the commands for clusters on the operator's side share: which cluster, where it is kept, whose an error is.

use kprov_providers::local::{Machines, Unfit};

use super::act;
use super::error::{Failure, Kind, Result};
use crate::up::places::{Places, valid_name};
use crate::up::{life, there};

/// `--name NAME`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NameArg {
    /// The cluster
    #[arg(long, value_name = "NAME", default_value = "kprov", value_parser = valid_name)]
    pub name: String,
}

/// Where clusters are kept, from the environment.
///
/// # Errors
/// When neither the XDG variables nor HOME are set.
pub(super) fn places() -> Result<Places> {
    let variable = |name| std::env::var_os(name);
    Places::from_env(
        variable("XDG_STATE_HOME").as_deref(),
        variable("XDG_CACHE_HOME").as_deref(),
        variable("HOME").as_deref(),
    )
    .map_err(Failure::user)
}

/// A cluster that must be there.
///
/// # Errors
/// When there is none of this name, with the command that makes one.
pub(super) async fn open(places: &Places, name: &str) -> Result<Machines> {
    life::open(places, name).await.map_err(|error| {
        let failure = failure(error);
        if places.cluster(name).exists() { failure } else { failure.hint(format!("kprov up --name {name}")) }
    })
}

/// An error of the operator's side as a failure: kprov on a machine has said whose it is; a host that cannot carry
/// machines names the command that mends it.
pub(super) fn failure(error: anyhow::Error) -> Failure {
    let kind = act::kind_of(&error);
    let hints = hints(&error);
    Failure { kind, error, hints }
}

/// Hints that an error carries.
pub(super) fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut hints = Vec::new();
    for cause in error.chain() {
        if let Some(refused) = cause.downcast_ref::<there::Refused>() {
            hints.extend(refused.hints.iter().cloned());
        }
        if let Some(unfit) = cause.downcast_ref::<Unfit>() {
            hints.extend(unfit.command.clone());
        }
    }
    hints
}

/// The kind that an exit code stands for.
pub(super) fn kind(code: u8) -> Kind {
    match code {
        1 => Kind::User,
        2 => Kind::Usage,
        3 => Kind::Remote,
        130 => Kind::Cancelled,
        _ => Kind::Internal,
    }
}
