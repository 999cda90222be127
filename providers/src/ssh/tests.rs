//! Against a server in this process (russh's own server half), which runs commands with `sh -c`.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{self, Auth, Msg, Server as _};
use russh::{Channel, ChannelId};
use tokio::io::AsyncWriteExt;

use super::*;

/// Accepts one key, runs commands, and can be told to break the connection after so many bytes of input.
#[derive(Clone)]
struct Sh {
    login: PublicKey,
    break_after: Option<usize>,
    seen: usize,
    input: Option<tokio::sync::mpsc::UnboundedSender<Vec<u8>>>,
}

impl server::Server for Sh {
    type Handler = Self;
    fn new_client(&mut self, _: Option<SocketAddr>) -> Self {
        self.clone()
    }
}

impl server::Handler for Sh {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: server::VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(if key.public_key.key_data() == self.login.key_data() { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: server::ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn data(&mut self, _: ChannelId, data: &[u8], _: &mut server::Session) -> Result<(), Self::Error> {
        self.seen += data.len();
        if let Some(input) = &self.input {
            let _ = input.send(data.to_vec());
        }
        if self.break_after.is_some_and(|limit| self.seen > limit) {
            return Err(russh::Error::Disconnect);
        }
        Ok(())
    }

    async fn channel_eof(&mut self, _: ChannelId, _: &mut server::Session) -> Result<(), Self::Error> {
        self.input = None;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let (input, mut fed) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
        self.input = Some(input);
        let handle = session.handle();
        let command = String::from_utf8_lossy(command).into_owned();
        session.channel_success(channel)?;
        tokio::spawn(async move {
            let mut child = tokio::process::Command::new("sh")
                .args(["-c", &command])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let feeder = tokio::spawn(async move {
                while let Some(data) = fed.recv().await {
                    if stdin.write_all(&data).await.is_err() {
                        break;
                    }
                }
            });
            let output = child.wait_with_output().await.unwrap();
            feeder.abort();
            let _ = handle.data(channel, output.stdout).await;
            let _ = handle.extended_data(channel, 1, output.stderr).await;
            let _ = handle.exit_status_request(channel, output.status.code().unwrap_or(255).try_into().unwrap()).await;
            let _ = handle.eof(channel).await;
            let _ = handle.close(channel).await;
        });
        Ok(())
    }
}

/// A server on a free port of loopback, and a host that knows its key.
async fn serve(break_after: Option<usize>) -> Host {
    let key = keys::generate("host").unwrap();
    let login = keys::generate("login").unwrap();
    let host_key = keys::line(key.public_key()).unwrap();
    let config = server::Config { keys: vec![key], auth_rejection_time: Duration::ZERO, ..server::Config::default() };
    let mut server = Sh { login: login.public_key().clone(), break_after, seen: 0, input: None };
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move { server.run_on_socket(Arc::new(config), &socket).await });
    Host { name: "test-1".into(), address, user: "root".into(), host_key, login: Arc::new(login) }
}

#[tokio::test]
async fn commands_have_input_output_and_an_exit_code() {
    let session = serve(None).await.connect().await.unwrap();
    let exit = session.run("cat; echo no >&2; exit 7", b"hello").await.unwrap();
    assert_eq!((exit.code, exit.text().as_str(), exit.stderr.as_slice()), (7, "hello", b"no\n".as_slice()));
    let (one, two) = tokio::join!(session.run("echo 1", b""), session.run("echo 2", b""));
    assert_eq!(one.unwrap().text() + &two.unwrap().text(), "1\n2\n");
    let error = session.done("greeting", "echo why >&2; exit 3", b"").await.unwrap_err();
    assert_eq!(error.to_string(), "greeting failed (exit 3): why: test-1");
}

#[tokio::test]
async fn another_host_key_is_refused_with_both_fingerprints() {
    let mut host = serve(None).await;
    host.host_key = keys::line(keys::generate("other").unwrap().public_key()).unwrap();
    let error = host.connect_within(Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(&error, Error::KeyChanged { got, .. } if got.starts_with("SHA256:")), "{error:?}");
    assert!(error.to_string().starts_with("the host key has changed"), "{error}");
}

#[tokio::test]
async fn another_login_key_is_refused() {
    let mut host = serve(None).await;
    host.login = Arc::new(keys::generate("stranger").unwrap());
    assert!(matches!(host.connect().await.unwrap_err(), Error::Refused { .. }));
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let mut host = serve(None).await;
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    host.address = socket.local_addr().unwrap();
    drop(socket);
    let error = host.connect().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.passes(), "{error}");
}

#[tokio::test]
async fn an_upload_is_verified_kept_and_not_sent_twice() {
    let host = serve(None).await;
    let session = host.connect().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("it's/here/to"));
    let content: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    std::fs::write(&from, &content).unwrap();
    let mut last = 0;
    let sent = upload::upload(&session, &from, to.to_str().unwrap(), 0o755, |bytes| last = bytes).await.unwrap();
    assert!(sent);
    assert_eq!(last, 3_000_000);
    assert_eq!(std::fs::read(&to).unwrap(), content);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&to).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o755);
    assert!(!upload::upload(&session, &from, to.to_str().unwrap(), 0o755, |_| {}).await.unwrap());
    assert_eq!(std::fs::read_dir(to.parent().unwrap()).unwrap().count(), 1, "no part is left");
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, vec![7u8; 4_000_000]).unwrap();
    let breaking = serve(Some(1_000_000)).await;
    let session = breaking.connect().await.unwrap();
    let error = upload::upload(&session, &from, to.to_str().unwrap(), 0o644, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    assert!(!to.exists());
    let session = serve(None).await.connect().await.unwrap();
    let mut first = None;
    upload::upload(&session, &from, to.to_str().unwrap(), 0o644, |bytes| {
        first.get_or_insert(bytes);
    })
    .await
    .unwrap();
    assert!(first.unwrap() > 0, "what had arrived is not sent again");
    assert_eq!(std::fs::read(&to).unwrap(), vec![7u8; 4_000_000]);
}

#[tokio::test]
async fn a_damaged_part_is_removed() {
    let session = serve(None).await.connect().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, b"all of it").unwrap();
    let sum = upload::sha256(&from).await.unwrap();
    std::fs::write(dir.path().join(format!("to.{}.part", &sum[..12])), b"bad").unwrap();
    let error = upload::upload(&session, &from, to.to_str().unwrap(), 0o644, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(upload::upload(&session, &from, to.to_str().unwrap(), 0o644, |_| {}).await.unwrap());
}
