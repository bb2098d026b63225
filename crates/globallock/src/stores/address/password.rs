//! Passwords: in the address itself, or in a file or from a command, which are read again at each login,
//! because such passwords change.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{Address, printable};
use crate::duration::Shown;
use crate::error::Result;

/// The longest password, and the longest complaint of a command, in bytes.
const LONGEST: usize = 64 * 1024;
/// How many characters of a complaint are shown.
const SHOWN: usize = 200;
/// How long a password that was refused has to be replaced, so that it may be read again: it may be changed
/// in the store a moment before it is in the file.
const REPLACED: Duration = Duration::from_millis(100);
/// How long the rest of what a command has written may take to be read after it has ended. The output may
/// stay open, because something that it has started holds it.
const DRAINED: Duration = Duration::from_millis(100);

/// A password, wherever it is.
pub(crate) struct Password {
    source: Source,
    /// The option that names it; for one in the user's part of an address, nothing.
    option: String,
    /// Whether the store has ever accepted one from there.
    was_accepted: AtomicBool,
}

enum Source {
    Given(String),
    File(PathBuf),
    /// A program and its arguments.
    Command(Vec<String>),
}

/// Why a login is not possible now.
#[derive(Debug)]
pub(crate) struct NoLogin {
    pub(crate) why: String,
    /// Whether it may be possible later though nobody changes anything here: whoever changes passwords has
    /// not done it everywhere yet.
    pub(crate) may_heal: bool,
}

impl Password {
    fn new(source: Source, option: String) -> Self {
        Password { source, option, was_accepted: AtomicBool::new(false) }
    }

    /// How long it may take to be read, if a request may take so long.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(crate) fn takes(&self, limit: Duration) -> Duration {
        if let Source::Given(_) = self.source { Duration::ZERO } else { limit }
    }

    /// The password as it is now.
    ///
    /// # Errors
    /// Why it cannot be read, which never has the password in it.
    ///
    /// # Cancel safety
    /// A command that runs is killed.
    pub(crate) async fn read(&self, limit: Duration) -> Result<String, String> {
        match &self.source {
            Source::Given(password) => Ok(password.clone()),
            Source::File(path) => {
                let wrong = |why: String| format!("the option {}: {path:?}: {why}", self.option);
                let read = tokio::task::spawn_blocking({
                    let path = path.clone();
                    move || read_file(&path)
                });
                match timeout(limit, read).await {
                    Ok(Ok(Ok(bytes))) => first_line(&bytes).map_err(wrong),
                    Ok(Ok(Err(error))) => Err(wrong(error.to_string())),
                    _ => Err(wrong(format!("it could not be read within {}", Shown(limit)))),
                }
            }
            Source::Command(words) => {
                let wrong = |why: String| format!("the option {}: {:?}: {why}", self.option, words[0]);
                let late = |_| Err(format!("it did not end within {}", Shown(limit)));
                let output = timeout(limit, run(words)).await.unwrap_or_else(late);
                output.and_then(|bytes| first_line(&bytes)).map_err(wrong)
            }
        }
    }

    /// The same, for a login.
    ///
    /// # Errors
    /// If it cannot be read.
    ///
    /// # Cancel safety
    /// A command that runs is killed.
    pub(crate) async fn read_for_login(&self, limit: Duration) -> Result<String, NoLogin> {
        match self.read(limit).await {
            Ok(password) => Ok(password),
            Err(why) => Err(NoLogin { why, may_heal: self.may_change(None, limit).await }),
        }
    }

    /// What it means that the store has refused this password.
    ///
    /// # Cancel safety
    /// A command that runs is killed.
    pub(crate) async fn refused(&self, used: &str, limit: Duration) -> NoLogin {
        NoLogin { why: self.wrong(), may_heal: self.may_change(Some(used), limit).await }
    }

    /// Notes that the store has accepted it.
    pub(crate) fn accepted(&self) {
        self.was_accepted.store(true, Ordering::Relaxed);
    }

    /// Whether a login that failed with this password, or because none could be read, may succeed later
    /// though nobody changes anything here: whoever changes passwords has not done it everywhere yet.
    async fn may_change(&self, used: Option<&str>, limit: Duration) -> bool {
        if let Source::Given(_) = self.source {
            return false;
        }
        if self.was_accepted.load(Ordering::Relaxed) {
            return true;
        }
        sleep(REPLACED).await;
        self.read(limit).await.is_ok_and(|now| used != Some(now.as_str()))
    }

    /// What to tell of a login that the store has refused.
    fn wrong(&self) -> String {
        let option = &self.option;
        let place = match self.source {
            Source::Given(_) if option.is_empty() => "in the address".to_owned(),
            Source::Given(_) => format!("in the option {option}"),
            Source::File(_) => format!("in the file of the option {option}"),
            Source::Command(_) => format!("that the option {option} writes"),
        };
        format!("the user name or the password {place} is wrong")
    }
}

impl Address {
    /// Takes the password: the one in the address, or the option `password_file` or `password_command`. What
    /// is of the sentinels begins with `of`, which is `sentinel_`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if there is more than one, or a command is
    /// none.
    pub(crate) fn take_password(&mut self, of: &str) -> Result<Option<Password>> {
        let option = |name: &str| format!("{of}{name}");
        let given = match of {
            "" => self.password.clone().map(|password| (password, String::new())),
            _ => self.take(&option("password")).map(|password| (password, option("password"))),
        };
        let given = given.map(|(password, named)| Password::new(Source::Given(password), named));
        let file = self.take(&option("password_file"));
        let file = file.map(|path| Password::new(Source::File(path.into()), option("password_file")));
        let command = match self.take(&option("password_command")) {
            None => None,
            Some(text) => match words(&text) {
                Some(words) => Some(Password::new(Source::Command(words), option("password_command"))),
                None => {
                    let reason = format!(
                        "the option {of}password_command is no program with its arguments, with blanks \
                         between them and quotes around what has blanks in it"
                    );
                    return Err(self.wrong(reason));
                }
            },
        };
        let mut passwords = [given, file, command].into_iter().flatten();
        let password = passwords.next();
        if passwords.next().is_some() {
            return Err(self.wrong("it has more than one password: leave all out but one"));
        }
        Ok(password)
    }
}

/// Reads a file. To open a pipe without a writer would take for ever, so it is opened as if for polling.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A command that runs. If this is dropped before it has ended, it is killed, and all that it has started.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a command and returns what it writes to its output, which is never shown.
async fn run(words: &[String]) -> Result<Vec<u8>, String> {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("it cannot be run: {error}"))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (Some(output), Some(complaint)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("it has no output".to_owned());
    };
    let (mut written, mut said, mut read) = (Vec::new(), Vec::new(), Ok(0));
    let ended = {
        // A command that writes more than is read must not wait for its reader, so the output is closed then.
        let first = async { read = output.take(LONGEST as u64 + 1).read_to_end(&mut written).await };
        let mut reading = pin!(async { tokio::join!(first, keep_last(complaint, &mut said)) });
        tokio::select! {
            _ = &mut reading => child.wait().await,
            ended = child.wait() => {
                group.0 = None;
                let _ = timeout(DRAINED, reading).await;
                ended
            }
        }
    };
    group.0 = None;
    read.map_err(|error| error.to_string())?;
    let ended = ended.map_err(|error| error.to_string())?;
    if ended.success() || written.len() > LONGEST { Ok(written) } else { Err(failed(ended, &said)) }
}

/// Reads to the end, and keeps what came last.
async fn keep_last(mut from: impl AsyncRead + Unpin, kept: &mut Vec<u8>) -> io::Result<()> {
    while from.read_buf(kept).await? > 0 {
        let surplus = kept.len().saturating_sub(LONGEST);
        kept.drain(..surplus);
    }
    Ok(())
}

/// Why a command failed, as it says itself: its last line.
fn failed(ended: ExitStatus, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let last: String = last.chars().take(SHOWN).collect();
    match last.is_empty() {
        true => format!("it failed ({ended})"),
        false => format!("it failed ({ended}): {}", printable(&last)),
    }
}

/// The password in what was read: the first line.
fn first_line(bytes: &[u8]) -> Result<String, String> {
    if bytes.len() > LONGEST {
        return Err("it is too long for a password".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text (UTF-8)".to_owned())?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err("its first line is empty, where the password should be".to_owned()),
    }
}

/// Splits a command into its words at blanks that are in no quotes. `None` if there is no word, or no end
/// of a quote.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    let is_whole = quote.is_none() && words.first().is_some_and(|program| !program.is_empty());
    is_whole.then_some(words)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::process::kill_process;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn password(text: &str) -> Password {
        let mut address = Address::parse(text).unwrap();
        let password = address.take_password("").unwrap().unwrap();
        address.finish(&[]).unwrap();
        password
    }

    fn file(path: &Path) -> Password {
        Password::new(Source::File(path.to_owned()), "password_file".to_owned())
    }

    fn command(words: &[&str]) -> Password {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Password::new(Source::Command(words), "password_command".to_owned())
    }

    #[test]
    fn a_command_is_split_into_words_without_a_shell() {
        for (text, expected) in [
            ("a", Some(vec!["a"])),
            ("  a  b ", Some(vec!["a", "b"])),
            ("a 'b c' \"d'e\" f''g ''", Some(vec!["a", "b c", "d'e", "fg", ""])),
            ("a $HOME;b|c", Some(vec!["a", "$HOME;b|c"])),
            ("", None),
            ("  ", None),
            ("'' a", None),
            ("a 'b", None),
        ] {
            assert_eq!(
                words(text).as_deref(),
                expected
                    .map(|words| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
                    .as_deref(),
                "{text:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_password_is_read_anew_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pw");
        let of_file = password(&format!("store://u@h?password_file={}", path.display()));
        let of_command = password(&format!("store://u@h?password_command=cat%20'{}'", path.display()));
        for (content, read) in
            [("one", "one"), ("two\n", "two"), ("three\r\nmore\n", "three"), (" x y ", " x y ")]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(of_file.read(LIMIT).await.unwrap(), read);
            assert_eq!(of_command.read(LIMIT).await.unwrap(), read);
        }
        assert_eq!(password("store://u:p@h").read(LIMIT).await.unwrap(), "p");
    }

    #[tokio::test]
    async fn what_is_no_password_is_told_without_showing_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pw");
        let of_file = file(&path);
        assert!(of_file.read(LIMIT).await.unwrap_err().contains("No such file or directory"));
        for (content, why) in [
            (&b""[..], "its first line is empty"),
            (b"\nQQQ", "its first line is empty"),
            (b"QQQ\xff", "it is no text"),
            (&[b'Q'; 70_000], "it is too long"),
        ] {
            std::fs::write(&path, content).unwrap();
            let refused = of_file.read(LIMIT).await.unwrap_err();
            assert!(refused.starts_with("the option password_file: ") && refused.contains(why), "{refused}");
            assert!(!refused.contains("QQQ"), "{refused}");
        }
        for (words, why) in [
            (
                &["sh", "-c", "echo QQQ; echo first >&2; echo 'why\tnot' >&2; exit 3"][..],
                "(exit status: 3): why\\tnot",
            ),
            (&["sh", "-c", "echo QQQ; kill -9 $$"], "it failed (signal: 9 (SIGKILL))"),
            (&["/nowhere/program"], "it cannot be run: No such file or directory"),
            (&["true"], "its first line is empty"),
        ] {
            let refused = command(words).read(LIMIT).await.unwrap_err();
            assert!(
                refused.starts_with("the option password_command: ") && refused.contains(why),
                "{refused}"
            );
            assert!(!refused.contains("QQQ"), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let text = format!("sleep 600 & echo $$ $! > '{}'; wait", path.display());
        let hangs = command(&["sh", "-c", &text]);
        let read = tokio::spawn(async move { hangs.read(Duration::from_secs(2)).await });
        let refused = read.await.unwrap().unwrap_err();
        assert!(refused.contains("it did not end within 2 s"), "{refused}");
        let pids = std::fs::read_to_string(&path).unwrap();
        assert_eq!(pids.split_whitespace().count(), 2);
        for pid in pids.split_whitespace() {
            let status = format!("/proc/{pid}/stat");
            while std::fs::read_to_string(&status).is_ok_and(|text| !text.contains(") Z ")) {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_command_may_leave_something_running_and_complain_at_length() {
        let leaves = command(&["sh", "-c", "sleep 600 & echo $!"]);
        let since = Instant::now();
        let pid = leaves.read(LIMIT).await.unwrap();
        assert!(since.elapsed() < LIMIT / 2, "it waited for what was left");
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert!(!status.contains(") Z "), "{status}");
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        let complains = command(&["sh", "-c", "head -c 300000 /dev/zero >&2; echo at last >&2; echo pw"]);
        assert_eq!(complains.read(LIMIT).await.unwrap(), "pw");
        let fails =
            command(&["sh", "-c", "head -c 300000 /dev/zero >&2; echo >&2; echo at last >&2; exit 1"]);
        assert!(fails.read(LIMIT).await.unwrap_err().ends_with("(exit status: 1): at last"));
        let writes = command(&["sh", "-c", "head -c 300000 /dev/zero"]);
        assert!(writes.read(LIMIT).await.unwrap_err().ends_with("it is too long for a password"));
    }

    #[tokio::test]
    async fn a_pipe_is_no_file_of_a_password() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        for path in [&*path, directory.path(), Path::new("/dev/zero")] {
            let refused = file(path).read(LIMIT).await.unwrap_err();
            assert!(refused.ends_with(": it is no regular file"), "{refused}");
        }
    }

    #[test]
    fn what_is_told_of_a_wrong_password_names_its_option() {
        for (address, of, place) in [
            ("store://u:p@h", "", "in the address"),
            ("store://u@h?password_file=/x", "", "in the file of the option password_file"),
            ("store://u@h?password_command=x", "", "that the option password_command writes"),
            ("store://h?sentinel_password=p", "sentinel_", "in the option sentinel_password"),
            (
                "store://h?sentinel_password_file=/x",
                "sentinel_",
                "in the file of the option sentinel_password_file",
            ),
        ] {
            let password = Address::parse(address).unwrap().take_password(of).unwrap().unwrap();
            assert_eq!(password.wrong(), format!("the user name or the password {place} is wrong"));
        }
    }

    #[tokio::test]
    async fn a_refused_password_may_change_if_it_has_changed_or_one_was_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pw");
        std::fs::write(&path, "one").unwrap();
        let of_file = file(&path);
        assert!(!of_file.may_change(Some("one"), LIMIT).await);
        assert!(of_file.may_change(Some("before"), LIMIT).await);
        assert!(of_file.may_change(None, LIMIT).await, "it can be read now");
        of_file.accepted();
        assert!(of_file.may_change(Some("one"), LIMIT).await);
        let given = password("store://u:one@h");
        given.accepted();
        assert!(!given.may_change(Some("one"), LIMIT).await);
    }

    #[test]
    fn an_address_has_one_password() {
        let taken = |text: &str, of: &str| Address::parse(text).unwrap().take_password(of);
        assert!(taken("store://u@h", "").unwrap().is_none());
        assert!(taken("store://h?sentinel_password_file=/x", "sentinel_").unwrap().is_some());
        for text in [
            "store://u:p@h?password_file=/x",
            "store://u@h?password_file=/x&password_command=a",
            "store://u:p@h?password_command=a",
        ] {
            let Err(refused) = taken(text, "") else { panic!("{text}") };
            assert!(refused.to_string().contains("more than one password"), "{refused}");
        }
        let Err(refused) = taken("store://u@h?password_command='a", "") else { panic!("it is no command") };
        assert!(refused.to_string().contains("no program with its arguments"), "{refused}");
    }
}
