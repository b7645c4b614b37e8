//! `candlewick chat`.

use super::*;

fn chat(more: &[&str]) -> Command {
    candlewick([&["chat", &fixture("models/qwen2.gguf"), "-n", "8", "--seed", "1", "--quiet"], more].concat())
}

/// Without a terminal, a conversation is a line for each message.
#[test]
fn lines_from_a_pipe() {
    let one = text(with_input(chat(&[]), b"Hello\n"));
    assert!(one.ends_with('\n') && !one.trim().is_empty(), "{one:?}");
    let three = text(with_input(chat(&[]), b"Hello\n\n/clear\nHello\n/retry\n"));
    assert_eq!(three, one.repeat(3));
    assert_ne!(text(with_input(chat(&["--system", "Be brief."]), b"Hello\n")), one);
    assert_eq!(text(with_input(chat(&[]), b"")), "");
    assert_eq!(text(with_input(chat(&[]), b"/exit\nHello\n")), "");
    // The last line needs no end, and a backslash goes on in the next one.
    assert_eq!(text(with_input(chat(&[]), b"Hello")), one);
    assert_ne!(text(with_input(chat(&[]), b"Hello\\\nworld\n")), one);
}

#[test]
fn a_message_that_fails_is_forgotten() {
    let long = "Hello ".repeat(600);
    let input = format!("{long}\nHello\n/nonsense\n/retry\n");
    let output = with_input(chat(&[]), input.as_bytes());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("[context_length_exceeded]") && stderr.contains("/nonsense"), "{stderr}");
    assert_eq!(output.status.code(), Some(0));
    let one = text(with_input(chat(&[]), b"Hello\n"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), one.repeat(2));
}

#[test]
fn lines_that_are_no_text_are_left_out() {
    let one = text(with_input(chat(&[]), b"Hello\n"));
    for (input, answers) in [
        (&b"Hello\nb\xffad\nHello\n"[..], 2),
        (b"\xff\n\xfe\xfd\nHello\n", 1),
        (b"half a mess\\\n\xffage\nHello\n", 1),
    ] {
        let input = [input, b"/clear\nHello\n"].concat();
        let output = with_input(chat(&[]), &input);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("not valid UTF-8") && stderr.contains("[invalid_argument]"), "{stderr}");
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with(&one) && said.ends_with(&one), "{said:?}");
        assert!(said.lines().count() >= answers, "{said:?}");
    }
}

#[test]
fn settings_are_checked_first() {
    fails(&["chat", &fixture("models/qwen2.gguf"), "--temp", "-1"], "invalid_argument", &["temperature"]);
}

#[cfg(unix)]
mod terminal {
    use super::*;
    use nix::pty::openpty;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::fs::File;
    use std::io::Read;
    use std::process::Child;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A program in a terminal of its own.
    struct Terminal {
        child: Child,
        keyboard: File,
        screen: Receiver<Vec<u8>>,
        shown: String,
    }

    impl Terminal {
        fn open(mut command: Command) -> Terminal {
            let pty = openpty(None, None).unwrap();
            let side = || Stdio::from(pty.slave.try_clone().unwrap());
            let child =
                command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
            let keyboard = File::from(pty.master);
            let mut reader = keyboard.try_clone().unwrap();
            let (sender, screen) = channel();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                // A terminal that everyone has left gives an error.
                while let Ok(len @ 1..) = reader.read(&mut buffer) {
                    if sender.send(buffer[..len].to_vec()).is_err() {
                        break;
                    }
                }
            });
            Terminal { child, keyboard, screen, shown: String::new() }
        }

        /// Waits until something is shown that `wanted` accepts, and forgets it.
        fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
            let start = Instant::now();
            while !wanted(&self.shown) {
                let left = PATIENCE.saturating_sub(start.elapsed());
                match self.screen.recv_timeout(left) {
                    Ok(bytes) => self.shown += &String::from_utf8_lossy(&bytes),
                    Err(_) => panic!("waited for {what} in vain: {:?}", self.shown),
                }
            }
            self.shown.clear();
        }

        fn type_line(&mut self, line: &str) {
            self.keyboard.write_all(format!("{line}\r").as_bytes()).unwrap();
        }
    }

    impl Drop for Terminal {
        fn drop(&mut self) {
            // Where a test has failed.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn control_c_stops_the_answer_and_not_the_program() {
        let folder = Folder::new();
        let model = Edit::new(&contents(&path("models/qwen2.gguf"))).u32("qwen2.context_length", 1 << 16);
        let model = folder.write("chat.gguf", model.bytes());
        // This penalty rewards repeating, so that the answer does not end by itself.
        let endless = ["-n", "60000", "--ctx", "65536", "--temp", "0", "--repeat-penalty", "0.01"];
        let mut terminal = Terminal::open(candlewick([&["chat", &model], &endless[..]].concat()));
        terminal.wait_for("the prompt", |shown| shown.contains("> "));
        for message in ["Hello", "Again"] {
            terminal.type_line(message);
            // Much more than the editor writes while it echoes the line.
            terminal.wait_for("an answer", |shown| shown.len() > 3000);
            kill(Pid::from_raw(terminal.child.id() as i32), Signal::SIGINT).unwrap();
            terminal.wait_for("the next prompt", |shown| shown.contains("> "));
        }
        terminal.type_line("/exit");
        assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn control_c_and_control_d_while_typing() {
        let mut terminal = Terminal::open(chat(&[]));
        terminal.wait_for("the prompt", |shown| shown.contains("> "));
        // Between two lines the terminal treats control characters itself, so each waits for a prompt.
        let asks_again =
            |shown: &str| shown.split_once("Ctrl-D").is_some_and(|(_, rest)| rest.contains("> "));
        terminal.keyboard.write_all(b"half a mess\x03").unwrap();
        terminal.wait_for("what leaves, and the prompt", asks_again);
        terminal.keyboard.write_all(b"\x03").unwrap();
        terminal.wait_for("what leaves, and the prompt", asks_again);
        terminal.keyboard.write_all(b"\x04").unwrap();
        assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    }
}

/// The file of a session: what was said, and what the model has computed of it.
#[test]
fn a_session_goes_on_with_the_next_command() {
    let folder = Folder::new();
    let file = folder.0.path().join("talk.session").to_str().unwrap().to_owned();
    let model = fixture("models/qwen2.gguf");
    let run = |prompt: &str, more: &[&str]| {
        let arguments = ["run", &model, "-p", prompt, "-n", "8", "--temp", "0", "--json", "--quiet"];
        object(&[&arguments[..], more].concat())
    };
    let first = run("Hello", &["--session", &file, "--system", "Be brief."]);
    let second = run("And now?", &["--session", &file, "--system", "Not heard any more."]);
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= first["usage"]["total_tokens"].as_u64().unwrap() - 9, "{first} {second}");
    // In one conversation the same is said.
    let input = b"Hello\nAnd now?\n";
    let arguments = ["chat", &model, "-n", "8", "--temp", "0", "--quiet", "--system", "Be brief."];
    let said = text(with_input(candlewick(arguments), input));
    let texts = [&first, &second].map(|answer| answer["text"].as_str().unwrap());
    assert_eq!(said, format!("{}\n{}\n", texts[0], texts[1]));
    // That goes on as well.
    let third = ["chat", &model, "-n", "8", "--temp", "0", "--quiet", "--session", &file];
    let third = text(with_input(candlewick(third), b"More\n"));
    let whole = text(with_input(candlewick(arguments), b"Hello\nAnd now?\nMore\n"));
    assert!(whole.ends_with(&third) && whole.len() > third.len(), "{whole:?} {third:?}");

    // Another model says that it begins anew; what is no session stays as it is.
    let arguments = ["run", &fixture("models/qwen3.gguf"), "-p", "Hi", "-n", "2", "--session", &file];
    let output = with_input(candlewick(arguments), b"");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("reads the session again"), "{stderr}");
    let other = folder.write("other.session", "something else");
    fails(&["run", &model, "-p", "Hi", "--session", &other], "invalid_argument", &["no saved session"]);
    assert_eq!(std::fs::read(&other).unwrap(), b"something else");
    failure(&["run", &model, "-p", "Hi", "--raw", "--session", &file], 2);
    fails(
        &["run", &stories_path(), "-p", "Hi", "--session", folder.0.path().join("new").to_str().unwrap()],
        "invalid_argument",
        &["chat template"],
    );
}

#[test]
fn the_oldest_turns_go_where_that_is_wanted() {
    let model = fixture("models/qwen2.gguf");
    let line = "This is one of several messages, and it is about as long as all of the others are.\n";
    let arguments = ["chat", &model, "-n", "8", "--temp", "0", "--quiet", "--ctx", "256"];
    let all = line.repeat(8);
    let output = with_input(candlewick(arguments), all.as_bytes());
    assert!(String::from_utf8(output.stderr).unwrap().contains("--truncate"));
    let arguments = [&arguments[..], &["--truncate=oldest"]].concat();
    let output = with_input(candlewick(arguments), all.as_bytes());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    failure(&["run", &model, "-p", "x", "--truncate=newest"], 2);
}
