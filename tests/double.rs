//! Servers for tests, written in Node (`hub/server.js`, `remote/server.js`), so that the browser's tests
//! use the same ones.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A server; it ends when this process does, because its standard input does.
pub(crate) struct Double {
    /// What it printed: its addresses.
    pub addresses: Value,
    _process: Child,
}

impl Double {
    /// Starts a script below `tests`.
    pub(crate) fn start(script: &str) -> Double {
        let script = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut process = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tests of the network need Node");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Double { addresses: serde_json::from_str(&line).unwrap(), _process: process }
    }
}

/// Asks a server by hand: the crate's own client is what is tested.
pub(crate) fn control(url: &str, method: &str, path: &str, body: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let len = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {len}\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}
