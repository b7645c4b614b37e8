//! A cache folder in which something else lies than there should be, and disks that refuse.

use super::World;
use super::download::{COMMIT, client, digest, folder_store, pull, quiet};
use crate::cli::candlewick;
use crate::fixtures::stories;
use candlewick::hub::{Models, Spec, Verification};
use candlewick::{Code, Error};
use pollster::block_on;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

const SIZE: u64 = 100_000;
/// Nothing here waits for anything.
const LONG: Duration = Duration::from_secs(30);

fn world(name: &str) -> World {
    let files = json!({ "m.gguf": { "size": SIZE, "seed": 1 } });
    World::new(name, json!({ "repos": { "o/s": { "commit": COMMIT, "files": files } } }))
}

fn spec() -> Spec {
    "o/s".parse().unwrap()
}

/// The places of the one file.
struct Places {
    snapshot: PathBuf,
    blob: PathBuf,
    partial: PathBuf,
    journal: PathBuf,
    theirs: PathBuf,
    lock: PathBuf,
    note: PathBuf,
    main: PathBuf,
}

impl Places {
    fn of(folder: &Path, world: &World) -> Places {
        let sha256 = &world.sha256("o/s/m.gguf");
        // Notes tell mirrors apart.
        let mirror: String = Sha256::digest(&world.url).iter().map(|byte| format!("{byte:02x}")).collect();
        let base = folder.join("hub/models--o--s");
        let blobs = base.join("blobs");
        Places {
            snapshot: base.join("snapshots").join(COMMIT).join("m.gguf"),
            partial: blobs.join(format!("{sha256}.candlewick.incomplete")),
            journal: blobs.join(format!("{sha256}.candlewick.journal")),
            theirs: blobs.join(format!("{sha256}.incomplete")),
            blob: blobs.join(sha256),
            lock: folder.join("hub/.locks/models--o--s").join(format!("{sha256}.lock")),
            note: folder.join(format!("own/notes/o--s@main@{}.json", &mirror[..16])),
            main: base.join("refs/main"),
        }
    }

    fn all(&self) -> [&Path; 8] {
        let Places { snapshot, blob, partial, journal, theirs, lock, note, main } = self;
        [snapshot, blob, partial, journal, theirs, lock, note, main]
    }
}

/// What `work` comes to, unless it hangs.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(LONG).unwrap_or_else(|_| panic!("{what} hangs"))
}

/// Pulls with a patience of its own, in another thread.
fn pulled(what: &str, world: &World, folder: &Path, force: bool) -> Result<String, Error> {
    let (url, folder) = (world.url.clone(), folder.to_owned());
    in_time(what, move || {
        let client = candlewick::hub::Client::new(Some(&url), None).unwrap();
        let models = Models::new(client, folder_store(&folder));
        block_on(models.pull(&spec(), force, quiet())).and_then(|model| digest(&model))
    })
}

fn verdict(world: &World, folder: &Path) -> Verification {
    let models = Models::new(client(world, None), folder_store(folder));
    let cached = block_on(models.cached(&spec())).unwrap();
    block_on(models.verify(&cached[0], &mut |_| Ok(()))).unwrap()
}

#[test]
fn nothing_is_written_through_a_link() {
    let world = world("lies-links");
    let sha256 = world.sha256("o/s/m.gguf");
    for len in [10, SIZE, SIZE + 5] {
        for place in 0..5 {
            for force in [false, true] {
                let what = format!("{len} bytes behind a link at {place}, force {force}");
                let folder = tempfile::tempdir().unwrap();
                let places = Places::of(folder.path(), &world);
                if place < 2 {
                    assert_eq!(pulled(&what, &world, folder.path(), false).unwrap(), sha256);
                }
                let victim = folder.path().join("victim");
                let contents = vec![7_u8; len as usize];
                fs::write(&victim, &contents).unwrap();
                let path = places.all()[place];
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let _ = fs::remove_file(path);
                symlink(&victim, path).unwrap();
                let got = pulled(&what, &world, folder.path(), force);
                assert_eq!(fs::read(&victim).unwrap(), contents, "{what}");
                // A link to a file of the right length may be how a user keeps large files on another disk.
                if force || place >= 2 || len != SIZE {
                    assert_eq!(got.unwrap(), sha256, "{what}");
                    assert_eq!(verdict(&world, folder.path()), Verification::Right, "{what}");
                } else {
                    assert_eq!(verdict(&world, folder.path()), Verification::Wrong, "{what}");
                }
            }
        }
    }
}

/// A later commit has the same file, of which its list says another length.
#[test]
fn a_list_that_lies_of_a_length_costs_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let honest = world("honest-length");
    let places = Places::of(folder.path(), &honest);
    let sha256 = pulled("an honest list", &honest, folder.path(), false).unwrap();
    for listed in [SIZE - 1, SIZE + 1, 1] {
        let files = json!({ "m.gguf": { "size": SIZE, "seed": 1, "listed": listed } });
        let repo = json!({ "commit": "b".repeat(40), "files": files });
        let lying = World::new("lying-length", json!({ "repos": { "o/s": repo } }));
        let models = Models::new(client(&lying, None), folder_store(folder.path()));
        let error = block_on(models.pull(&spec(), false, quiet())).map(|_| ()).unwrap_err();
        assert!(matches!(error.code, Code::CorruptModel | Code::Network), "{error}");
        assert_eq!(fs::metadata(&places.blob).unwrap().len(), SIZE);
    }
    let before = honest.log().len();
    assert_eq!(pulled("what is there", &honest, folder.path(), false).unwrap(), sha256);
    let asked: Vec<_> = honest.log().split_off(before);
    assert!(!asked.iter().any(|entry| entry["at"] == "cdn"), "{asked:?}");
}

#[test]
fn whatever_lies_in_the_place_of_a_file() {
    let world = world("lies-things");
    let sha256 = world.sha256("o/s/m.gguf");
    type Make = fn(&Path);
    let things: [(&str, Make); 6] = [
        ("a pipe", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
        ("an empty folder", |path| fs::create_dir(path).unwrap()),
        ("a link to nowhere", |path| symlink("nowhere", path).unwrap()),
        ("a link to itself", |path| symlink(path, path).unwrap()),
        ("a socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
        ("a link to a device", |path| symlink("/dev/zero", path).unwrap()),
    ];
    for (thing, make) in things {
        for place in 0..8 {
            for (there, force) in [(false, false), (true, false), (true, true)] {
                let folder = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
                let places = Places::of(folder.path(), &world);
                let path = places.all()[place];
                let what = format!("{thing} at {}, there {there}, force {force}", path.display());
                if there {
                    pulled(&what, &world, folder.path(), false).unwrap();
                }
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let _ = fs::remove_file(path);
                // The names of sockets are short.
                let short = folder.path().join("s");
                make(if thing == "a socket" { &short } else { path });
                if thing == "a socket" {
                    fs::rename(&short, path).unwrap();
                }
                // It is named, and can be removed.
                if place == 0 {
                    let (url, at) = (world.url.clone(), folder.path().to_owned());
                    let listed = in_time(&what, move || {
                        let client = candlewick::hub::Client::new(Some(&url), None).unwrap();
                        let models = Models::new(client, folder_store(&at));
                        let listed = block_on(models.list()).unwrap();
                        let verdict = block_on(models.verify(&listed[0], &mut |_| Ok(()))).unwrap();
                        (listed[0].model.clone(), listed[0].complete, verdict)
                    });
                    assert_eq!(listed, ("o/s/m.gguf".to_owned(), false, Verification::Incomplete), "{what}");
                }
                let got = pulled(&what, &world, folder.path(), force);
                assert_eq!(got.unwrap_or_else(|error| panic!("{what}: {error}")), sha256);
                assert_eq!(verdict(&world, folder.path()), Verification::Right, "{what}");
                let models = Models::new(client(&world, None), folder_store(folder.path()));
                block_on(models.remove(&spec())).unwrap();
                assert_eq!(block_on(models.list()).unwrap(), [], "{what}");
            }
        }
        let folder = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
        let places = Places::of(folder.path(), &world);
        fs::create_dir_all(places.snapshot.parent().unwrap()).unwrap();
        let short = folder.path().join("s");
        make(if thing == "a link to itself" { &places.snapshot } else { &short });
        if thing != "a link to itself" {
            fs::rename(&short, &places.snapshot).unwrap();
        }
        let models = Models::new(client(&world, None), folder_store(folder.path()));
        block_on(models.remove(&spec())).unwrap();
        assert!(!places.snapshot.exists() && block_on(models.list()).unwrap().is_empty(), "{thing}");
    }
}

#[test]
fn what_is_in_the_way_is_named() {
    let world = world("lies-way");
    for place in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let path = Places::of(folder.path(), &world).all()[place].to_owned();
        fs::create_dir_all(path.join("with")).unwrap();
        let error = pulled("a folder", &world, folder.path(), false).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.message.contains("models--o--s") && path.join("with").exists(), "{error}");
    }
    for file in ["hub", "hub/models--o--s", "hub/models--o--s/blobs", "hub/models--o--s/snapshots"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "a file").unwrap();
        let error = pulled("a file", &world, folder.path(), false).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{file}: {error}");
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }
}

/// The program with a cache at `home`, as a shell's `prefix` lets it run.
fn program(world: &World, home: &Path, prefix: &[&str], arguments: &[&str]) -> Output {
    let plain = candlewick(arguments);
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]).arg(plain.get_program()).args(plain.get_args());
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HF_TOKEN"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", &world.url).env("HF_HOME", home).env("NO_PROXY", "*");
    command.env("RAYON_NUM_THREADS", "1").env("CANDLEWICK_GPU_ADAPTER", "none of them");
    command.output().unwrap()
}

#[track_caller]
fn fails_with(output: &Output, code: &str, part: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("[{code}]")) && stderr.contains(part), "{stderr}");
}

#[test]
fn files_that_may_not_grow() {
    let files = json!({ "m.gguf": { "size": 3_000_000, "seed": 1 } });
    let world = World::new("lies-limit", json!({ "repos": { "o/s": { "commit": COMMIT, "files": files } } }));
    let home = tempfile::tempdir().unwrap();
    let limited = ["sh", "-c", "ulimit -f 2000; exec \"$0\" \"$@\""];
    let output = program(&world, home.path(), &limited, &["pull", "o/s"]);
    fails_with(&output, "quota_exceeded", "HF_HOME");
    // What came is there, and the rest comes without the limit.
    let output = program(&world, home.path(), &["env"], &["pull", "o/s"]);
    assert!(output.status.success(), "{output:?}");
    let output = program(&world, home.path(), &["env"], &["verify"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("right"), "{output:?}");
}

#[test]
fn folders_that_may_not_be_written_to() {
    let repo = json!({ "commit": COMMIT, "files": { "m-F32.gguf": { "file": stories() } } });
    let world = World::new("lies-rights", json!({ "repos": { "o/s": repo, "o/t": repo } }));
    let home = tempfile::tempdir().unwrap();
    assert!(program(&world, home.path(), &["env"], &["pull", "o/s"]).status.success());
    // As Python leaves it: there is no note of the repository.
    fs::remove_dir_all(home.path().join("candlewick")).unwrap();
    let status = Command::new("chmod").args(["-R", "a+rX,a-w"]).arg(home.path()).status();
    assert!(status.unwrap().success());
    // Rights mean nothing to root: it becomes somebody else.
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let prefix = if root { &nobody[..] } else { &["env"][..] };
    // Nobody can run a program in root's own folders.
    let copy = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
    let binary = copy.path().join("candlewick");
    fs::copy(env!("CARGO_BIN_EXE_candlewick"), &binary).unwrap();
    assert!(Command::new("chmod").arg("a+rx").args([copy.path(), &binary]).status().unwrap().success());
    let shell = format!("shift; exec {} \"$@\"", binary.display());
    let prefix = [prefix, &["sh", "-c", &shell, "sh"]].concat();
    let run = ["run", "o/s:F32", "--raw", "-n", "3", "-p", "Once"];
    let output = program(&world, home.path(), &prefix, &run);
    assert!(output.status.success(), "what is there can be read: {output:?}");
    let output = program(&world, home.path(), &prefix, &["pull", "o/t"]);
    fails_with(&output, "invalid_argument", "HF_HOME");
    let output = program(&world, home.path(), &prefix, &["rm", "o/s"]);
    fails_with(&output, "invalid_argument", "models--o--s");
    assert!(Command::new("chmod").args(["-R", "u+w"]).arg(home.path()).status().unwrap().success());
}

/// Mounts `options` at a folder, where that is allowed: root in a container may not.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, arguments: &[&str]) -> Option<Mount> {
        let status = Command::new("mount").args(arguments).arg(at).status();
        let mounted = status.is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("not tested here: mount {arguments:?} is not allowed");
        }
        mounted.then(|| Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn disks_that_are_full_or_read_only() {
    let files = json!({ "m.gguf": { "size": 700_000, "seed": 1 } });
    let large = json!({ "l.gguf": { "size": 3_000_000, "seed": 2 } });
    let repos = json!({
        "o/s": { "commit": COMMIT, "files": files },
        "o/l": { "commit": COMMIT, "files": large },
    });
    let world = World::new("lies-disks", json!({ "repos": repos }));
    let home = tempfile::tempdir().unwrap();
    let Some(_disk) = Mount::new(home.path(), &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) else { return };
    let plain = ["env"];
    fails_with(&program(&world, home.path(), &plain, &["pull", "o/l"]), "quota_exceeded", "l.gguf");
    // Room that goes while the file comes.
    let filler = home.path().join("filler");
    fs::write(&filler, vec![0; 500_000]).unwrap();
    let store = folder_store(home.path());
    let key = candlewick::store::Key {
        repo: "o/s".into(),
        commit: COMMIT.into(),
        path: "m.gguf".into(),
        etag: world.sha256("o/s/m.gguf"),
    };
    fs::remove_file(&filler).unwrap();
    block_on(store.begin(&[(key.clone(), 700_000)])).unwrap();
    fs::write(&filler, vec![0; 500_000]).unwrap();
    let error = block_on(store.put(&key, 0, &vec![1; 700_000])).unwrap_err();
    assert_eq!(error.code, Code::QuotaExceeded, "{error}");
    block_on(store.delete(&key)).unwrap();
    fs::remove_file(&filler).unwrap();
    assert!(program(&world, home.path(), &plain, &["pull", "o/s"]).status.success());
    // And now nobody may write.
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(home.path()).status().unwrap();
    assert!(remount.success());
    let verified = program(&world, home.path(), &plain, &["verify"]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("right       o/s/m.gguf"), "{verified:?}");
    let models = Models::new(client(&world, None), folder_store(home.path()));
    assert_eq!(pull(&models, "o/s").unwrap(), world.sha256("o/s/m.gguf"));
    fails_with(&program(&world, home.path(), &plain, &["pull", "o/l"]), "invalid_argument", "HF_HOME");
    fails_with(&program(&world, home.path(), &plain, &["rm", "o/s"]), "invalid_argument", "Read-only");
}
