//! A window of a terminal multiplexer with a shell in it, as a person at a keyboard has it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{LIMIT, TestStore};

/// What the shell prints when it waits for a line.
const PROMPT: &str = "READY>";
/// How often the screen is looked at.
const LOOKS: Duration = Duration::from_millis(20);

/// The window. Its multiplexer is a process of its own, which ends with it.
pub(super) struct Window<'a> {
    pub(super) store: &'a TestStore,
    directory: tempfile::TempDir,
}

impl<'a> Window<'a> {
    /// Opens a window with a shell, whose variable TOP begins a command line.
    pub(super) fn open(store: &'a TestStore, columns: u16, rows: u16) -> Self {
        let window = Window::with(store, (columns, rows), "exec bash --noprofile --rcfile start");
        window.until(PROMPT);
        window
    }

    /// Opens a window with this command in it.
    pub(super) fn with(store: &'a TestStore, (columns, rows): (u16, u16), command: &str) -> Self {
        let window = Window { store, directory: tempfile::tempdir().unwrap() };
        let mut tmux = window.command();
        let (columns, rows) = (columns.to_string(), rows.to_string());
        tmux.args(["new-session", "-d", "-x", &columns, "-y", &rows, command]);
        fs::write(window.directory.path().join("start"), format!("PS1='{PROMPT} '\n")).unwrap();
        tmux.env("GLOBALLOCK_URL", store.url()).env("SHELL", "/bin/bash");
        tmux.env("TOP", format!("{} top --interval 100ms", env!("CARGO_BIN_EXE_globallock")));
        tmux.env_remove("GLOBALLOCK_URL_FILE").env_remove("NO_COLOR").env_remove("TMUX");
        assert!(tmux.current_dir(window.directory.path()).status().unwrap().success());
        window
    }

    fn command(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-uS").arg(self.directory.path().join("socket")).args(["-f", "/dev/null"]);
        tmux.stdin(Stdio::null());
        tmux
    }

    /// What the multiplexer answers.
    pub(super) fn asks(&self, arguments: &[&str]) -> String {
        let answer = self.command().args(arguments).output().unwrap();
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    /// Presses keys, by the names that the multiplexer has for them.
    pub(super) fn keys(&self, keys: &[&str]) {
        self.asks(&[&["send-keys"], keys].concat());
    }

    /// Types a text.
    pub(super) fn text(&self, text: &str) {
        self.asks(&["send-keys", "-l", "--", text]);
    }

    /// Types a line of the shell.
    pub(super) fn line(&self, line: &str) {
        self.text(line);
        self.keys(&["Enter"]);
    }

    /// What is on the screen.
    pub(super) fn screen(&self) -> String {
        self.asks(&["capture-pane", "-p"])
    }

    /// What is on the screen, each line of the shell as it was written, however long.
    pub(super) fn unwrapped(&self) -> String {
        self.asks(&["capture-pane", "-pJ"])
    }

    /// Waits until the screen is as it should be, and returns it. One look may catch it while it is drawn, so
    /// that two must show the same.
    pub(super) fn until_it(&self, is_right: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        let mut before = None;
        loop {
            let screen = self.screen();
            if is_right(&screen) && before.as_ref() == Some(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "the screen stays like this:\n{screen}");
            before = Some(screen);
            std::thread::sleep(LOOKS);
        }
    }

    /// Waits for a text on the screen.
    pub(super) fn until(&self, text: &str) -> String {
        self.until_it(|screen| screen.contains(text))
    }

    /// Waits until there is no such text on the screen.
    pub(super) fn until_not(&self, text: &str) -> String {
        self.until_it(|screen| !screen.contains(text))
    }

    /// Waits for the shell's prompt in the last line, on its own screen.
    pub(super) fn prompt(&self) -> String {
        self.until_it(|screen| {
            screen.lines().rfind(|line| !line.is_empty()).is_some_and(|line| line.trim_end() == PROMPT)
                && self.asks(&["display", "-p", "#{alternate_on} #{cursor_flag}"]).trim() == "0 1"
        })
    }

    /// The process that the shell runs.
    pub(super) fn child(&self) -> String {
        let shell = self.asks(&["display", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.trim().to_owned()
    }

    /// Changes its size.
    pub(super) fn resize(&self, columns: u16, rows: u16) {
        self.asks(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Writes from now on everything that is written to the terminal into a file as well.
    pub(super) fn record(&self) -> std::path::PathBuf {
        let file = self.store.path("record");
        self.asks(&["pipe-pane", &format!("exec cat >'{}'", file.display())]);
        file
    }

    /// Closes it, with everything in it.
    pub(super) fn close(&self) {
        self.asks(&["kill-server"]);
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.close();
    }
}
