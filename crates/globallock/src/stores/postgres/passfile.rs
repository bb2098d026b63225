//! The passwords that are in a file for each server: `~/.pgpass`, as libpq reads it.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use super::config::Place;
use super::service::Surroundings;

/// Where the default sockets are, which a file of passwords calls `localhost`.
pub(super) const SOCKETS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];
/// The largest file that is read.
const LONGEST: u64 = 1024 * 1024;

/// A file of passwords.
#[derive(Clone, Debug)]
pub(super) struct Passfile {
    path: Option<PathBuf>,
}

/// What is in such a file for one server.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Found {
    Password(String),
    Nothing,
    /// It is not read, for this reason.
    Unread(String),
}

impl Passfile {
    /// The file that is named, or else the usual one.
    pub(super) fn new(named: Option<String>, surroundings: &Surroundings) -> Self {
        let path = named.map(PathBuf::from).or_else(|| surroundings.path("PGPASSFILE"));
        Passfile { path: path.or_else(|| surroundings.home().map(|home| home.join(".pgpass"))) }
    }

    /// How it is called.
    pub(super) fn shown(&self) -> String {
        self.path.as_deref().unwrap_or(Path::new("~/.pgpass")).display().to_string()
    }

    /// Looks for the password of a user at a server.
    pub(super) async fn find(&self, place: &Place, database: &str, user: &str, limit: Duration) -> Found {
        let Some(path) = self.path.clone() else { return Found::Nothing };
        let wanted = wanted(place, database, user);
        let found = tokio::task::spawn_blocking(move || match read(&path) {
            Ok(Some(text)) => password_in(&text, &wanted).map_or(Found::Nothing, Found::Password),
            Ok(None) => Found::Nothing,
            Err(reason) => Found::Unread(reason),
        });
        match timeout(limit, found).await {
            Ok(Ok(found)) => found,
            _ => Found::Unread("it could not be read in time".to_owned()),
        }
    }
}

/// What the fields of a line are compared with.
fn wanted(place: &Place, database: &str, user: &str) -> [String; 4] {
    let (host, port) = match place {
        Place::Tcp(host, port) => (host.clone(), port),
        Place::Unix(directory, port) if SOCKETS.iter().any(|usual| Path::new(usual) == directory) => {
            ("localhost".to_owned(), port)
        }
        Place::Unix(directory, port) => (directory.display().to_string(), port),
    };
    [host, port.to_string(), database.to_owned(), user.to_owned()]
}

/// Reads the file. A missing one is none; one that others may read is not read.
fn read(path: &Path) -> Result<Option<String>, String> {
    let Ok(known) = std::fs::metadata(path) else { return Ok(None) };
    if !known.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if known.mode() & 0o077 != 0 {
        return Err("others may read it, so that it is not used: run chmod 600 for it".to_owned());
    }
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    read.map(|_| Some(text)).map_err(|error| error.to_string())
}

/// The password in the first line whose fields are these, or `*`.
fn password_in(text: &str, wanted: &[String; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in wanted {
            let (field, is_any, after) = field(rest)?;
            if !is_any && field != *wanted {
                return None;
            }
            rest = after?;
        }
        // What follows another colon in the password is ignored, as by libpq.
        Some(field(rest)?.0).filter(|password| !password.is_empty())
    })
}

/// The first field of a line without its escapes, whether it is a plain `*`, and what follows its colon.
fn field(line: &str) -> Option<(String, bool, Option<&str>)> {
    let (mut field, mut characters) = (String::new(), line.char_indices());
    let mut end = None;
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => field.extend(characters.next().map(|(_, escaped)| escaped)),
            ':' => {
                end = Some(at);
                break;
            }
            c => field.push(c),
        }
    }
    let raw = &line[..end.unwrap_or(line.len())];
    Some((field, raw == "*", end.map(|end| &line[end + 1..])))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password(text: &str, place: &Place) -> Option<String> {
        password_in(text, &wanted(place, "d", "u"))
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let place = Place::Tcp("h".to_owned(), 5432);
        for (text, found) in [
            ("h:5432:d:u:pw", Some("pw")),
            ("*:*:*:*:pw", Some("pw")),
            ("h:5432:d:u:pw:more", Some("pw")),
            ("h:5432:d:u:p\\:w\\\\x", Some("p:w\\x")),
            ("h:5432:d:u:p w ", Some("p w ")),
            ("other:*:*:*:no\nh:*:*:*:pw\n*:*:*:*:later", Some("pw")),
            ("#h:5432:d:u:pw", None),
            ("h:1:d:u:pw", None),
            ("h:5432:x:u:pw", None),
            ("h:5432:d:x:pw", None),
            ("\\*:*:*:*:pw", None),
            ("h:5432:d:u", None),
            ("h:5432:d:u:", None),
            ("h", None),
            ("", None),
        ] {
            assert_eq!(password(text, &place).as_deref(), found, "{text:?}");
        }
        let colons = Place::Tcp("::1".to_owned(), 7);
        assert_eq!(password("\\:\\:1:7:*:*:pw", &colons).as_deref(), Some("pw"));
        let usual = Place::Unix("/var/run/postgresql".into(), 5432);
        assert_eq!(password("localhost:5432:*:*:pw", &usual).as_deref(), Some("pw"));
        let other = Place::Unix("/x".into(), 5432);
        assert_eq!(password("localhost:*:*:*:no\n/x:*:*:*:pw", &other).as_deref(), Some("pw"));
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:QQQ").unwrap();
        let surroundings = Surroundings { variable: |_| None };
        let passfile = Passfile::new(Some(path.display().to_string()), &surroundings);
        let place = Place::Tcp("h".to_owned(), 5432);
        for (mode, is_read) in [(0o600, true), (0o640, false), (0o604, false), (0o400, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match passfile.find(&place, "d", "u", Duration::from_secs(60)).await {
                Found::Password(password) => assert!(is_read && password == "QQQ", "{mode:o}"),
                Found::Unread(why) => assert!(!is_read && why.contains("run chmod 600"), "{mode:o}: {why}"),
                Found::Nothing => panic!("{mode:o}"),
            }
        }
        std::fs::remove_file(&path).unwrap();
        assert!(passfile.find(&place, "d", "u", Duration::from_secs(60)).await == Found::Nothing);
        std::fs::create_dir(&path).unwrap();
        let found = passfile.find(&place, "d", "u", Duration::from_secs(60)).await;
        assert!(matches!(found, Found::Unread(why) if why == "it is no regular file"));
    }
}
