//! A server before the real one that does what networks and servers do on bad days: cuts, silence, slowness, refusals.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request, as the proxy sees it.
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// How often this path was asked for before.
    pub before: usize,
}

/// What becomes of one answer.
pub enum Fault {
    /// It is passed on.
    Pass,
    /// It ends after so many bytes of its body.
    Cut(u64),
    /// Nothing comes after so many bytes of its body.
    Stall(u64),
    /// So many bytes each hundredth of a second.
    Slow(usize),
    /// The byte at this place of its body is another one.
    Flip(u64),
    /// The real server is not asked: status line, headers, body.
    Say(&'static str, Vec<String>, String),
}

impl Fault {
    /// A status and nothing else.
    pub fn status(line: &'static str) -> Self {
        Self::Say(line, Vec::new(), String::new())
    }
}

/// What the proxy has seen.
#[derive(Default)]
pub struct Seen {
    counts: Mutex<BTreeMap<String, usize>>,
    /// Requests that asked for the rest of something.
    pub ranges: AtomicU64,
    /// Bytes of bodies that were passed on.
    pub bytes: AtomicU64,
    open: AtomicUsize,
    /// The most bodies that were on their way at once.
    pub most: AtomicUsize,
}

/// A proxy that runs until the process ends.
pub struct Proxy {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
}

impl Proxy {
    /// Before the server at `real`.
    pub fn before(real: SocketAddr, fault: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, fault) = (Arc::new(Seen::default()), Arc::new(fault));
        let proxy = Self { address, seen: seen.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, fault) = (seen.clone(), fault.clone());
                // A client that went away is no fault of the proxy's.
                std::thread::spawn(move || drop(serve(&client, real, &seen, &*fault)));
            }
        });
        proxy
    }

    /// Its address as a mirror or registry.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn head(from: &mut impl std::io::BufRead) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(lines);
        }
        lines.push(line.trim_end().to_owned());
    }
}

fn serve(client: &TcpStream, real: SocketAddr, seen: &Seen, fault: &dyn Fn(&Request) -> Fault) -> std::io::Result<()> {
    let lines = head(&mut BufReader::new(client))?;
    let Some(first) = lines.first() else { return Ok(()) };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let before = {
        let mut counts = seen.counts.lock().unwrap();
        let count = counts.entry(path.clone()).or_default();
        *count += 1;
        *count - 1
    };
    if headers.contains_key("range") {
        seen.ranges.fetch_add(1, Ordering::Relaxed);
    }
    let fault = fault(&Request { path, headers, before });
    let mut client = client;
    if let Fault::Say(status, headers, body) = &fault {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        return write!(
            client,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
    }
    let mut server = TcpStream::connect(real)?;
    for line in &lines {
        let lower = line.to_lowercase();
        // What the proxy asked for itself is none of the server's business.
        if !lower.starts_with("connection:") && !lower.starts_with("authorization: bearer") {
            write!(server, "{line}\r\n")?;
        }
    }
    write!(server, "Connection: close\r\n\r\n")?;
    let mut server = BufReader::new(server);
    for line in head(&mut server)? {
        write!(client, "{line}\r\n")?;
    }
    write!(client, "\r\n")?;
    let open = seen.open.fetch_add(1, Ordering::Relaxed) + 1;
    seen.most.fetch_max(open, Ordering::Relaxed);
    let passed = pass(client, server, seen, &fault);
    seen.open.fetch_sub(1, Ordering::Relaxed);
    passed
}

/// The body.
fn pass(mut client: &TcpStream, mut server: BufReader<TcpStream>, seen: &Seen, fault: &Fault) -> std::io::Result<()> {
    let (mut passed, mut buffer) = (0_u64, vec![0; 16 << 10]);
    loop {
        let limit = match fault {
            Fault::Cut(at) | Fault::Stall(at) => (at - passed).min(buffer.len() as u64) as usize,
            Fault::Slow(bytes) => (*bytes).min(buffer.len()),
            _ => buffer.len(),
        };
        if limit == 0 {
            if matches!(fault, Fault::Stall(_)) {
                // Until the client has had enough.
                let _ = client.read(&mut [0]);
            }
            return Ok(());
        }
        let n = server.read(&mut buffer[..limit])?;
        if n == 0 {
            return Ok(());
        }
        if let Fault::Flip(at) = fault
            && (passed..passed + n as u64).contains(at)
        {
            buffer[(at - passed) as usize] ^= 1;
        }
        client.write_all(&buffer[..n])?;
        passed += n as u64;
        seen.bytes.fetch_add(n as u64, Ordering::Relaxed);
        if matches!(fault, Fault::Slow(_)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
