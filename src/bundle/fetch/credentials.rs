//! User names and passwords by host, in the format of docker's `config.json`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::FetchError;

/// Who we are at some host.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

/// All that a file knows.
#[derive(Clone, Default)]
pub struct Credentials {
    logins: BTreeMap<String, Login>,
    /// Hosts whose password only a helper program knows; the empty name stands for all.
    helpers: BTreeMap<String, String>,
    path: Option<PathBuf>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("hosts", &self.logins.keys()).field("path", &self.path).finish()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Zeroizing<String>,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: Zeroizing<String>,
    #[serde(default)]
    identitytoken: Zeroizing<String>,
}

/// `https://host/v1/` and `host` are one; Docker's own registry has a name of old.
fn host_of(name: &str) -> String {
    let name = name.trim_start_matches("https://").trim_start_matches("http://");
    let host = name.split('/').next().unwrap_or_default().to_lowercase();
    if host == "index.docker.io" { "registry-1.docker.io".into() } else { host }
}

impl Credentials {
    /// Reads a file that the user named: it must be there and be readable by its owner alone.
    ///
    /// # Errors
    /// A file that cannot be read, that others can read, or that is not in the format.
    pub fn read(path: &Path) -> Result<Self, FetchError> {
        let bad = |why: String| FetchError::Setting { path: path.to_owned(), why };
        let mode = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(bad(format!(
                "its mode is {mode:04o}: others can read the passwords; mend with: chmod 600 {}",
                path.display()
            )));
        }
        let text = Zeroizing::new(std::fs::read(path).map_err(|e| bad(e.to_string()))?);
        // serde's own words would show a piece of the file.
        let file: File = serde_json::from_slice(&text).map_err(|e| {
            bad(format!("not in the format of docker's config.json (line {}, column {})", e.line(), e.column()))
        })?;
        let mut found = Self { path: Some(path.to_owned()), ..Self::default() };
        for (name, auth) in file.auths {
            let host = host_of(&name);
            if !auth.identitytoken.is_empty() {
                found.helpers.insert(host, "an identity token, which kprov does not use".into());
            } else if let Some(login) = login(&auth).map_err(|why| bad(format!("auths.{name}: {why}")))? {
                found.logins.insert(host, login);
            }
        }
        let helper = |name: String| format!("the program docker-credential-{name}, which kprov does not call");
        found.helpers.extend(file.cred_helpers.into_iter().map(|(host, name)| (host_of(&host), helper(name))));
        found.helpers.extend(file.creds_store.map(|name| (String::new(), helper(name))));
        Ok(found)
    }

    /// Those of docker's own file, where there is one that only its owner can read.
    pub fn of_docker(path: &Path) -> Self {
        if path.exists() { Self::read(path).unwrap_or_default() } else { Self::default() }
    }

    /// The login at a host (with its port, where it has one of its own).
    pub fn at(&self, host: &str) -> Option<&Login> {
        self.logins.get(&host.to_lowercase())
    }

    /// What to tell of a host that does not let us in.
    pub fn advice(&self, host: &str) -> String {
        let place = self.path.as_ref().map(|path| format!(" of {}", path.display())).unwrap_or_default();
        if self.at(host).is_some() {
            return format!("the user and password for {host}{place} were not accepted");
        }
        let helper = self.helpers.get(&host.to_lowercase()).or_else(|| self.helpers.get(""));
        let held = helper.map(|who| format!(" (its password is held by {who})")).unwrap_or_default();
        format!(
            "no user and password for {host} are known{held}; write them into a file of mode 0600 and name it with \
             --registry-credentials FILE: {{\"auths\": {{\"{host}\": {{\"username\": \"…\", \"password\": \"…\"}}}}}}"
        )
    }
}

fn login(auth: &Auth) -> Result<Option<Login>, &'static str> {
    if auth.auth.is_empty() {
        if auth.username.is_empty() {
            return Ok(None);
        }
        return Ok(Some(Login { user: auth.username.clone(), password: auth.password.clone() }));
    }
    let bytes = data_encoding::BASE64.decode(auth.auth.trim().as_bytes()).map_err(|_| "auth is not base64")?;
    let text = Zeroizing::new(String::from_utf8(bytes).map_err(|_| "auth is not UTF-8")?);
    let (user, password) = text.split_once(':').ok_or("auth is not base64 of USER:PASSWORD")?;
    Ok(Some(Login { user: user.to_owned(), password: Zeroizing::new(password.trim_end_matches('\0').to_owned()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, mode: u32) -> Result<Credentials, FetchError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        Credentials::read(file.path())
    }

    #[test]
    fn both_ways_of_writing_a_login_are_read() {
        let text = r#"{"auths": {"https://One.example:5000/v2/": {"auth": "bWU6c2VjOnJldA=="},
            "two.example": {"username": "you", "password": "hidden"}, "three.example": {}}, "HttpHeaders": {}}"#;
        let found = read(text, 0o600).unwrap();
        let login = found.at("one.example:5000").unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("me", "sec:ret"));
        assert_eq!(found.at("two.example").unwrap().user, "you");
        assert!(found.at("three.example").is_none() && found.at("one.example").is_none());
        assert!(!format!("{found:?}").contains("hidden"));
    }

    #[test]
    fn what_cannot_be_used_is_said_and_no_piece_of_it_shown() {
        let error = read(r#"{"auths": {}}"#, 0o640).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
        for text in [r#"{"auths": {"a": {"password": hidden}}}"#, r#"{"auths": {"a": {"auth": "aGlkZGVu"}}}"#] {
            let error = read(text, 0o600).unwrap_err().to_string();
            assert!(!error.contains("hidden") && !error.contains("aGlkZGVu"), "{error}");
        }
        let helped = read(r#"{"credsStore": "pass", "credHelpers": {"gcr.io": "gcloud"}}"#, 0o600).unwrap();
        assert!(helped.advice("gcr.io").contains("docker-credential-gcloud, which kprov does not call"));
        assert!(helped.advice("other.example").contains("docker-credential-pass"));
    }
}
