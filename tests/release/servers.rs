//! The real servers: nginx and Debian's docker-registry, on loopback, each in a folder of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::LeftOut;
use crate::tools::{good, program, text};

/// User and password where a server wants them, and the password's bcrypt hash.
pub const USER: &str = "ali";
pub const PASSWORD: &str = "open sesame";
const BCRYPT: &str = "$2b$04$KEw.cvS7vjVrUW6KY2X5K.k8nDTuc1wE6kM7qMj1EFSfNVH8VaxAi";

/// A server; it ends with this.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Certificates for 127.0.0.1, and the CA that signed them.
pub struct Tls {
    pub dir: PathBuf,
}

impl Tls {
    /// Made by openssl.
    pub fn make(dir: &Path) -> Result<Self, LeftOut> {
        program("openssl")?;
        let script = "set -e; cd \"$1\"
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=own \
                -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out req.pem -subj /CN=server
            printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' >ext
            openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext";
        good(Command::new("/bin/sh").args(["-c", script, "sh", text(dir)]).output().unwrap());
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }
}

/// Programs of packages that were unpacked and not installed (installing would start their services).
fn unpacked(name: &str) -> Result<PathBuf, LeftOut> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let tools = cache.unwrap_or_default().join("kprov/tools/debian/usr");
    let found = ["bin", "sbin"].map(|dir| tools.join(dir).join(name)).into_iter().find(|file| file.is_file());
    found.map_or_else(|| program(name), Ok)
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start(mut command: Command, address: SocketAddr, dir: tempfile::TempDir) -> Server {
    let log = dir.path().join("log");
    let out = fs::File::create(&log).unwrap();
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let mut server = Server { child: command.spawn().unwrap(), address, _dir: dir };
    let (begun, mut pause) = (Instant::now(), Duration::from_millis(20));
    while TcpStream::connect(address).is_err() {
        let ended = server.child.try_wait().unwrap();
        let log = fs::read_to_string(&log).unwrap_or_default();
        assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(20), "{command:?}: {ended:?}\n{log}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    server
}

/// nginx with the files below `root`; with TLS and a password where asked for.
pub fn nginx(root: &Path, tls: Option<&Tls>) -> Result<Server, LeftOut> {
    let nginx = unpacked("nginx")?;
    let (dir, address) = (tempfile::tempdir().unwrap(), free());
    let guard = tls.map_or_else(String::new, |tls| {
        let at = text(&tls.dir);
        fs::write(dir.path().join("htpasswd"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).unwrap();
        format!("ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem; auth_basic files; auth_basic_user_file htpasswd;")
    });
    let ssl = if tls.is_some() { "ssl" } else { "" };
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {kind};")).concat();
    // One process, so that nothing outlives it. As root it would change to nobody, who cannot read our folders.
    let user = if crate::tools::root().is_ok() { "user root;" } else { "" };
    let conf = format!(
        "{user} daemon off; master_process off; pid pid; error_log error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; {temporary}\n\
         server {{ listen {address} {ssl}; root {}; {guard} }} }}\n",
        text(root)
    );
    fs::write(dir.path().join("nginx.conf"), conf).unwrap();
    let mut command = Command::new(nginx);
    command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf")).args(["-e", "error.log"]);
    Ok(start(command, address, dir))
}

/// docker-registry, empty or with the images of `storage`; with TLS and a password where asked for.
pub fn registry(storage: &Path, tls: Option<&Tls>) -> Result<Server, LeftOut> {
    let registry = unpacked("docker-registry")?;
    let (dir, address) = (tempfile::tempdir().unwrap(), free());
    let mut conf = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {address}\n",
        text(storage)
    );
    if let Some(tls) = tls {
        let (at, passwords) = (text(&tls.dir), dir.path().join("htpasswd"));
        fs::write(&passwords, format!("{USER}:{BCRYPT}\n")).unwrap();
        conf.push_str(&format!("  tls: {{certificate: {at}/cert.pem, key: {at}/key.pem}}\n"));
        conf.push_str(&format!("auth:\n  htpasswd: {{realm: own, path: {}}}\n", text(&passwords)));
    }
    let path = dir.path().join("config.yml");
    fs::write(&path, conf).unwrap();
    let mut command = Command::new(registry);
    command.arg("serve").arg(path);
    Ok(start(command, address, dir))
}
