//! Looks at PKI files that are there already.

use anyhow::{Context, Result};
use kprov_pki::inspect::{Cert, verify};
use kprov_pki::spec::{Authority, Leaf};
use kprov_pki::{Error, Key};
use kprov_providers::Machine;
use time::OffsetDateTime;

/// An authority as it is on the machine.
#[derive(Debug)]
pub(crate) struct Signer {
    /// Its certificate, then whatever chain the file holds.
    pub chain: Vec<Cert>,
    /// The file as it is.
    pub pem: Vec<u8>,
    /// Absent: somebody else signs.
    pub key: Option<Key>,
}

/// What a pair of files is worth.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing there, or a key whose certificate is still to come.
    Missing,
    /// Good.
    Good,
    /// There, and not what is needed: why.
    Bad(String),
}

/// `DIR/PATH.crt`
pub(crate) fn crt(dir: &str, path: &str) -> String {
    format!("{dir}/{path}.crt")
}

/// `DIR/PATH.key`
pub(crate) fn key(dir: &str, path: &str) -> String {
    format!("{dir}/{path}.key")
}

/// Reads an authority. `None`: no certificate yet.
pub(crate) fn signer(machine: &dyn Machine, dir: &str, authority: Authority) -> Result<Option<Signer>> {
    let (crt, key) = (crt(dir, authority.path()), key(dir, authority.path()));
    let Some(pem) = machine.read(&crt)? else { return Ok(None) };
    let chain = Cert::chain_from_pem(&pem).context(crt)?;
    let key = machine.read(&key)?.map(|pem| Key::from_pem(&pem).context(key)).transpose()?;
    Ok(Some(Signer { chain, pem, key }))
}

/// Judges an authority's pair.
pub(crate) fn authority(machine: &dyn Machine, dir: &str, authority: Authority) -> Result<Verdict> {
    let (crt, key) = (crt(dir, authority.path()), key(dir, authority.path()));
    let signer = match signer(machine, dir, authority) {
        Ok(Some(signer)) => signer,
        Ok(None) => return lone_key(machine, &key),
        Err(e) => return malformed(e),
    };
    let Some(cert) = signer.chain.first() else { return Ok(Verdict::Missing) };
    if !cert.is_ca() {
        return Ok(Verdict::Bad(format!("{crt} is not a CA")));
    }
    let fit = cert.valid_at(OffsetDateTime::now_utc());
    let fit = fit.and_then(|()| signer.key.as_ref().map_or(Ok(()), |key| cert.belongs_to(key)));
    Ok(fit.map_or_else(|why| Verdict::Bad(format!("{crt} {why}")), |()| Verdict::Good))
}

/// Judges a pair that an authority signs.
pub(crate) fn leaf(machine: &dyn Machine, dir: &str, leaf: &Leaf) -> Result<Verdict> {
    let (crt, key) = (crt(dir, leaf.path), key(dir, leaf.path));
    let ca_crt = self::crt(dir, leaf.signer.path());
    let signer = match signer(machine, dir, leaf.signer) {
        Ok(signer) => signer,
        Err(e) => return malformed(e),
    };
    let Some(pem) = machine.read(&crt)? else {
        if signer.is_some_and(|s| s.key.is_none()) {
            let text = format!("{crt} is not there, and cannot be made: {ca_crt} has no key beside it");
            return Ok(Verdict::Bad(text));
        }
        return lone_key(machine, &key);
    };
    let Some(signer) = signer else {
        return Ok(Verdict::Bad(format!("{crt} is there, but not {ca_crt}, which should have signed it")));
    };
    let Some(key_pem) = machine.read(&key)? else {
        return Ok(Verdict::Bad(format!("{crt} is there, but not its key {key}")));
    };
    match fits(&pem, &key_pem, leaf, &signer) {
        Ok(None) => Ok(Verdict::Good),
        Ok(Some(why)) => Ok(Verdict::Bad(format!("{crt} {why}"))),
        Err(e) => Ok(Verdict::Bad(format!("{crt} or {key}: {e}"))),
    }
}

/// Whether a certificate and its key are good for this purpose; `None`: they are.
pub(crate) fn fits(pem: &[u8], key_pem: &[u8], leaf: &Leaf, signer: &Signer) -> Result<Option<String>, Error> {
    let chain = Cert::chain_from_pem(pem)?;
    let key = Key::from_pem(key_pem)?;
    let Some(cert) = chain.first() else { return Err(Error::Malformed("a PEM certificate")) };
    let fit = verify(&chain, &signer.chain)
        .and_then(|()| cert.valid_at(OffsetDateTime::now_utc()))
        .and_then(|()| cert.covers(&leaf.sans))
        .and_then(|()| cert.belongs_to(&key));
    Ok(fit.err().map(|why| why.to_string()))
}

/// A key alone is what a crash leaves between the two files: it is used.
fn lone_key(machine: &dyn Machine, path: &str) -> Result<Verdict> {
    Ok(match machine.read(path)?.map(|pem| Key::from_pem(&pem)) {
        None | Some(Ok(_)) => Verdict::Missing,
        Some(Err(e)) => Verdict::Bad(format!("{path} is {e}")),
    })
}

/// A file that cannot be read as what it should be is the user's; a machine that cannot be looked at is an error.
fn malformed(error: anyhow::Error) -> Result<Verdict> {
    if error.downcast_ref::<Error>().is_some() { Ok(Verdict::Bad(format!("{error:#}"))) } else { Err(error) }
}
