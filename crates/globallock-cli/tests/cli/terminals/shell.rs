//! An interactive shell on a terminal of its own, as a person at a keyboard has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

use crate::support::{LIMIT, end_of};

/// What the shell prints when it waits for a line.
const PROMPT: &str = "READY> ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bash,
    Dash,
    Zsh,
}

impl Kind {
    fn words(self) -> &'static [&'static str] {
        match self {
            Kind::Bash => &["bash", "--norc", "--noprofile", "--noediting", "-i"],
            Kind::Dash => &["dash", "-i"],
            // Without its line editor, which draws the line anew at each key.
            Kind::Zsh => &["zsh", "-f", "-i", "+Z"],
        }
    }
}

#[derive(Default)]
struct Screen {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

/// The terminal and its shell.
pub(crate) struct Shell {
    keyboard: Option<File>,
    reader: Option<JoinHandle<()>>,
    /// The reader ends when this is dropped.
    reads: Option<UnixStream>,
    screen: Arc<Screen>,
    /// How much of the text was there when something was typed for the last time.
    mark: usize,
    child: Child,
}

impl Shell {
    /// Starts a shell in a directory, and waits for its prompt.
    pub(crate) fn start(kind: Kind, directory: &Path, variables: &[(&str, &str)]) -> Self {
        // Not `openpty`, whose descriptors the commands of other cells would inherit.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let terminal = posix_openpt(flags).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let path = ptsname_r(&terminal).unwrap();
        let open = || File::options().read(true).write(true).custom_flags(flags.bits()).open(&path).unwrap();
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(kind.words()).current_dir(directory);
        command.env("TERM", "dumb").envs(variables.iter().copied()).env_remove("GLOBALLOCK_URL");
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        drop(command);
        let keyboard = File::from(OwnedFd::from(terminal));
        let screen = Arc::new(Screen::default());
        let (from, to) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        let (reads, until) = UnixStream::pair().unwrap();
        let reader = std::thread::spawn(move || read(from, &until, &to));
        let mut shell = Shell {
            keyboard: Some(keyboard),
            reader: Some(reader),
            reads: Some(reads),
            screen,
            mark: 0,
            child,
        };
        // What is typed is echoed, so it must not look like what is waited for.
        shell.keys("PS1='REA''DY> '; PS2=; PROMPT_EOL_MARK=\r");
        shell.until(PROMPT);
        shell
    }

    /// Presses keys.
    pub(crate) fn keys(&mut self, keys: &str) {
        self.mark = self.screen.text.lock().unwrap().0.len();
        self.keyboard.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line.
    pub(crate) fn line(&mut self, line: &str) {
        self.keys(&format!("{line}\r"));
    }

    /// Waits for a text that comes after the last keys, and returns what came until then.
    pub(crate) fn until(&self, text: &str) -> String {
        self.within(LIMIT, text).unwrap_or_else(|since| panic!("{text:?} does not come after {since:?}"))
    }

    /// Waits for a text for as long as this. Returns what came instead if it does not come.
    fn within(&self, limit: Duration, text: &str) -> Result<String, String> {
        let until = Instant::now() + limit;
        let mut screen = self.screen.text.lock().unwrap();
        loop {
            let since = &screen.0[self.mark..];
            if let Some(at) = since.find(text) {
                return Ok(since[..at + text.len()].to_owned());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || screen.1 {
                return Err(since.to_owned());
            }
            screen = self.screen.changed.wait_timeout(screen, left).unwrap().0;
        }
    }

    /// Waits for the prompt.
    pub(crate) fn prompt(&self) -> String {
        self.until(PROMPT)
    }

    /// Types until the shell answers: a key that is no character makes it forget what was typed just before
    /// and just after.
    pub(crate) fn answers(&mut self) {
        let until = Instant::now() + LIMIT;
        loop {
            self.line("echo he''re-I-am");
            match self.within(Duration::from_secs(1), "here-I-am") {
                Ok(_) => return,
                Err(since) => assert!(Instant::now() < until, "the shell does not answer after {since:?}"),
            }
        }
    }

    /// The status of the last command, as the shell has it.
    pub(crate) fn status(&mut self) -> String {
        self.line("echo sta''tus=$? th''at-is-it");
        let said = self.until(" that-is-it");
        said[said.rfind("status=").unwrap()..].trim_end_matches(" that-is-it").to_owned()
    }

    /// Closes the terminal, as when its window is closed, and waits for the end of the shell.
    pub(crate) fn hang_up(&mut self) {
        (self.reads, self.keyboard) = (None, None);
        self.reader.take().unwrap().join().unwrap();
        self.end();
    }

    /// Waits for the end of the shell.
    pub(crate) fn end(&mut self) {
        end_of(&mut self.child);
    }
}

/// Reads the terminal until nobody has it any more, or the other end of `until` is dropped.
fn read(mut from: File, until: &UnixStream, to: &Screen) {
    let mut bytes = [0; 4096];
    loop {
        let mut both = [from.as_fd(), until.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut both, PollTimeout::NONE).unwrap();
        if both[1].any() == Some(true) {
            break;
        }
        let Ok(length @ 1..) = from.read(&mut bytes) else { break };
        to.text.lock().unwrap().0 += &String::from_utf8_lossy(&bytes[..length]);
        to.changed.notify_all();
    }
    to.text.lock().unwrap().1 = true;
    to.changed.notify_all();
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
