//! The program of the pods in the scenarios: a web server, a client, a name look-up. Static, std alone, so that its image
//! is this one file.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", port] => serve(port),
        ["get", address] => get(address),
        ["resolve", name] => resolve(name),
        ["sleep"] => loop {
            std::thread::park();
        },
        _ => Err(io::Error::other("usage: probe serve PORT | get HOST:PORT | resolve NAME | sleep")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every request with the name of the node.
fn serve(port: &str) -> io::Result<()> {
    let node = std::env::var("NODE").unwrap_or_default();
    let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nfrom {node}\n");
    let listener =
        TcpListener::bind(format!("[::]:{port}")).or_else(|_| TcpListener::bind(format!("0.0.0.0:{port}")))?;
    for stream in listener.incoming() {
        let answer = answer.clone();
        std::thread::spawn(move || -> io::Result<()> {
            let mut stream = stream?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut line = String::new();
            while reader.read_line(&mut line)? > 2 {
                line.clear();
            }
            stream.write_all(answer.as_bytes())
        });
    }
    Ok(())
}

/// Prints the body of an answer; gives up after two seconds of silence.
fn get(address: &str) -> io::Result<()> {
    let limit = Duration::from_secs(2);
    let mut last = io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                print!("{}", text.split_once("\r\n\r\n").map_or("", |(_, body)| body));
                return Ok(());
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn resolve(name: &str) -> io::Result<()> {
    for address in format!("{name}:0").to_socket_addrs()? {
        println!("{}", address.ip());
    }
    Ok(())
}
