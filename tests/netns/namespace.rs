//! A network namespace that ends with the test.

use std::path::PathBuf;
use std::process::{Command, Output};

pub(crate) struct Namespace {
    pub(crate) name: String,
    etc: PathBuf,
}

impl Namespace {
    /// A namespace with a loopback device, and a default route to nowhere, so that any address may be
    /// dialled; names are asked for at `nameserver`.
    pub(crate) fn create(nameserver: &str) -> Self {
        let name = format!("portolan-{}", std::process::id());
        let etc = PathBuf::from("/etc/netns").join(&name);
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(
            etc.join("resolv.conf"),
            format!("nameserver {nameserver}\noptions timeout:2 attempts:2\n"),
        )
        .unwrap();
        let namespace = Self { name, etc };
        must(Command::new("ip").args(["netns", "add", &namespace.name]));
        namespace.must(&["ip", "link", "set", "lo", "up"]);
        // A pair with nobody at the other end: routes like a network, and nothing answers.
        namespace.must(&[
            "ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "nobody",
        ]);
        namespace.must(&["ip", "link", "set", "nobody", "up"]);
        namespace.must(&["ip", "address", "add", "192.0.2.1/24", "dev", "nowhere"]);
        namespace.must(&["ip", "link", "set", "nowhere", "up"]);
        namespace.must(&["ip", "route", "add", "default", "dev", "nowhere"]);
        namespace
    }

    /// A command that will run inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a command inside to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words[0]).args(&words[1..]).output().unwrap()
    }

    /// Runs a command inside that must succeed.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        must(self.command(words[0]).args(&words[1..]))
    }
}

pub(crate) fn must(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .output();
        let _gone = std::fs::remove_dir_all(&self.etc);
    }
}
