//! Judges a kubeconfig that is there already.

use anyhow::Result;
use kprov_pki::Error;
use kprov_pki::inspect::Cert;
use kprov_pki::kubeconfig::{Kubeconfig, User};
use kprov_pki::spec::Leaf;
use kprov_providers::Machine;
use zeroize::Zeroizing;

use crate::phases::certs::{Signer, fits};

/// Why it cannot be used; `None`: it can. Another server than ours is fine: people put their own in front.
pub(super) fn unfit(machine: &dyn Machine, text: &[u8], leaf: &Leaf, signer: &Signer) -> Result<Option<String>> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| crate::yaml::from_str::<Kubeconfig>(text).ok());
    let Some(config) = parsed else { return Ok(Some("is not a kubeconfig".into())) };
    let Some((cluster, user)) = config.current() else {
        return Ok(Some("has no context in use, or one without its cluster or user".into()));
    };
    let ca = match (&cluster.certificate_authority, cluster.ca_pem()) {
        (_, Err(e)) => return Ok(Some(format!("has a CA that is {e}"))),
        (_, Ok(Some(pem))) => Some(pem),
        (Some(path), Ok(None)) => machine.read(path)?,
        (None, Ok(None)) => None,
    };
    let trusted = ca.and_then(|pem| Cert::chain_from_pem(&pem).ok()).unwrap_or_default();
    if !trusted.iter().any(|cert| signer.chain.contains(cert)) {
        return Ok(Some("trusts another CA".into()));
    }
    let (cert, key) = match credentials(machine, user)? {
        Ok((Some(cert), Some(key))) => (cert, key),
        Ok((None, _)) if user.token.is_some() => return Ok(None),
        Ok(_) => return Ok(Some("has no client certificate, or one without its key".into())),
        Err(e) => return Ok(Some(format!("holds what is {e}"))),
    };
    if let Ok(cert) = Cert::from_pem(&cert)
        && cert.common_name() != leaf.common_name
    {
        return Ok(Some(format!("is for {}, not for {}", cert.common_name(), leaf.common_name)));
    }
    Ok(match fits(&cert, &key, leaf, signer) {
        Ok(None) => None,
        Ok(Some(why)) => Some(format!("has a client certificate that {why}")),
        Err(e) => Some(format!("holds what is {e}")),
    })
}

/// Certificate and key, PEM.
pub(crate) type Pair = (Option<Vec<u8>>, Option<Zeroizing<Vec<u8>>>);

/// Certificate and key, from the file itself or from where it points.
pub(crate) fn credentials(machine: &dyn Machine, user: &User) -> Result<Result<Pair, Error>> {
    let embedded = user.cert_pem().and_then(|cert| Ok((cert, user.key_pem()?)));
    Ok(match embedded {
        Err(e) => Err(e),
        Ok((cert, key)) => Ok((
            match (&user.client_certificate, cert) {
                (Some(path), None) => machine.read(path)?,
                (_, cert) => cert,
            },
            match (&user.client_key, key) {
                (Some(path), None) => machine.read(path)?.map(Zeroizing::new),
                (_, key) => key,
            },
        )),
    })
}
