//! Network code against a server that plays the Hub, with faults (`hub/server.js`).

mod download;
mod http;
mod names;
mod program;
mod schedules;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The server, which all tests share; it ends when this process does, because its standard input does.
struct Server {
    hub: String,
    _process: Child,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hub/server.js");
        let mut process = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tests of the network need Node");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        Server { hub: addresses["hub"].as_str().unwrap().to_owned(), _process: process }
    })
}

/// A Hub of this test's own, forgotten with its owner.
struct World {
    name: String,
    /// Its address, as `HF_ENDPOINT` takes it.
    url: String,
}

impl World {
    fn new(name: &str, description: Value) -> World {
        let hub = &server().hub;
        let world = World { name: name.to_owned(), url: format!("{hub}/{name}") };
        world.control("PUT", &description.to_string());
        world
    }

    /// What was asked of it: an array of requests.
    fn log(&self) -> Vec<Value> {
        let state: Value = serde_json::from_str(&self.control("GET", "")).unwrap();
        state["log"].as_array().unwrap().clone()
    }

    /// The hash that a file should have: `owner/repo/path`.
    fn sha256(&self, file: &str) -> String {
        let state: Value = serde_json::from_str(&self.control("GET", "")).unwrap();
        state["files"][file]["sha256"].as_str().unwrap().to_owned()
    }

    fn control(&self, method: &str, body: &str) -> String {
        // By hand: the crate's own client is what is tested here.
        use std::io::{Read, Write};
        let address = server().hub.strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let (name, len) = (&self.name, body.len());
        write!(
            stream,
            "{method} /_/{name} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {len}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        body.to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.control("DELETE", "");
    }
}
