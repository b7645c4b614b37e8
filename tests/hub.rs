//! Network code against a server that plays the Hub, with faults (`hub/server.js`).

mod download;
mod http;
#[cfg(unix)]
mod lies;
mod names;
mod parts;
mod program;
mod reach;
mod schedules;

use crate::double::{Double, control};
use serde_json::Value;
use std::sync::OnceLock;

/// The server, which all tests share.
fn server() -> &'static str {
    static SERVER: OnceLock<Double> = OnceLock::new();
    SERVER.get_or_init(|| Double::start("hub/server.js")).addresses["hub"].as_str().unwrap()
}

/// A Hub of this test's own, forgotten with its owner.
struct World {
    name: String,
    /// Its address, as `HF_ENDPOINT` takes it.
    url: String,
}

impl World {
    fn new(name: &str, description: Value) -> World {
        let hub = server();
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
        control(server(), method, &format!("/_/{}", self.name), body)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.control("DELETE", "");
    }
}
