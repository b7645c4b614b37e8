//! The transport alone.

use super::World;
use candlewick::http::{Request, Timeouts, send};
use candlewick::{Code, Error};
use pollster::block_on;
use serde_json::json;
use std::time::Duration;

const TOKEN: &str = "hf_secretsecretsecret";

fn world(name: &str, fault: &str) -> World {
    let file = json!({ "size": 3_000_000, "seed": 1 });
    let repos = json!({ "a/b": { "commit": "c0ffee", "files": { "model.gguf": file } } });
    let script = json!([{ "match": "cdn/", "times": 1, "fault": fault }]);
    World::new(name, json!({ "repos": repos, "script": script }))
}

fn file(world: &World) -> Request {
    let timeouts = Timeouts { head: Duration::from_secs(20), stall: Duration::from_millis(100) };
    let url = format!("{}/a/b/resolve/main/model.gguf", world.url);
    Request::get(url).bearer(TOKEN).timeouts(timeouts)
}

#[test]
fn redirects_ranges_and_secrets() {
    let world = world("redirects", "none");
    let response = block_on(send(file(&world).range(10, 1000))).unwrap();
    assert_eq!(response.status(), 206);
    assert_eq!(response.header("content-range"), Some("bytes 10-1009/3000000"));
    assert!(response.url().contains("Signature="));
    assert!(!format!("{response:?}").contains("Signature"));
    assert!(!format!("{:?}", file(&world)).contains(TOKEN));
    assert_eq!(block_on(response.bytes(1000)).unwrap().len(), 1000);
    let too_long = block_on(async { send(file(&world)).await?.bytes(1000).await }).unwrap_err();
    assert_eq!(too_long.code, Code::Network);
    let log = world.log();
    let authorizations = |at: &str| -> Vec<_> {
        log.iter().filter(|entry| entry["at"] == at).map(|entry| entry["authorization"].clone()).collect()
    };
    let bearer = json!(format!("Bearer {TOKEN}"));
    assert_eq!(authorizations("hub"), [bearer.clone(), bearer]);
    // It is not the CDN's business.
    assert_eq!(authorizations("cdn"), [json!(null), json!(null)]);
}

fn whole(request: Request) -> Result<usize, Error> {
    block_on(async { Ok(send(request).await?.bytes(4_000_000).await?.len()) })
}

#[test]
fn connections_fail() {
    for fault in ["cut", "reset", "stall"] {
        let world = world(&format!("fails-{fault}"), fault);
        // The whole file: some of it comes before the fault.
        let error = whole(file(&world)).unwrap_err();
        assert_eq!(error.code, Code::Network, "{fault}: {error}");
        assert!(!error.message.contains("Signature") && !error.message.contains("model.gguf"), "{error}");
        assert_eq!(whole(file(&world)).unwrap(), 3_000_000);
    }
    let nobody = block_on(send(Request::get("http://127.0.0.1:1/secret?key=value"))).unwrap_err();
    assert_eq!(nobody.code, Code::Network);
    assert!(nobody.message.starts_with("127.0.0.1:1: ") && !nobody.message.contains("secret"), "{nobody}");
    for url in ["nonsense", "ftp://example.org/x", ""] {
        assert_eq!(block_on(send(Request::get(url))).unwrap_err().code, Code::InvalidArgument, "{url}");
    }
    let header = Request::get("http://127.0.0.1:1/").bearer("two\nlines");
    assert_eq!(block_on(send(header)).unwrap_err().code, Code::InvalidArgument);
}
