//! Which store a run uses, and where its address stands.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ArgMatches;
use clap::parser::ValueSource;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::arguments::Store;
use crate::exit::Failure;
use crate::log;

/// The file that has the address for all users of a host.
pub(crate) const HOST_FILE: &str = "/etc/globallock/url";

/// The longest file with an address, in bytes.
const MAX_FILE: u64 = 64 * 1024;

const URL: &str = "GLOBALLOCK_URL";
const URL_FILE: &str = "GLOBALLOCK_URL_FILE";

/// Where the address and the name of the file with the address were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    url: Source,
    url_file: Source,
}

/// Where an option was given. What comes first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Argument,
    Variable,
    #[default]
    Nowhere,
}

impl Sources {
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        let source = |id| match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Source::Argument,
            Some(ValueSource::EnvVariable) => Source::Variable,
            _ => Source::Nowhere,
        };
        Sources { url: source("url"), url_file: source("url_file") }
    }
}

/// The address of the store.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) url: String,
    /// The file that it was read from.
    file: Option<PathBuf>,
    is_argument: bool,
}

/// The address that counts in this process. Says who else can read its password.
pub(crate) fn choose(store: &Store, sources: Sources) -> Result<String, Failure> {
    let address = Address::choose(store, sources, Path::new(HOST_FILE))?;
    if let Some(warning) = address.warning() {
        log::warning("password").say(warning);
    }
    Ok(address.url)
}

/// The address that was given as an argument without an option. Says who else can read its password.
pub(crate) fn given(url: &str, sources: Sources) -> Result<String, Failure> {
    if sources.url == Source::Argument || sources.url_file == Source::Argument {
        return Err(Failure::Usage("give the address once: as it is, or by --url or --url-file".to_owned()));
    }
    let store = Store { url: url.to_owned(), url_file: None };
    choose(&store, Sources { url: Source::Argument, url_file: Source::Nowhere })
}

impl Address {
    /// The address that counts: arguments before variables, an address before a file, and at last the file of
    /// the host, if there is one, or the directory of this user.
    pub(crate) fn choose(store: &Store, sources: Sources, host_file: &Path) -> Result<Self, Failure> {
        let Sources { url, url_file } = sources;
        if url == Source::Argument && url_file == Source::Argument {
            return Err(Failure::Usage("give one of --url and --url-file".to_owned()));
        }
        match &store.url_file {
            Some(file) if url_file < url => {
                let named = if url_file == Source::Argument { "--url-file" } else { URL_FILE };
                return Address::read(file, &format!("{named} {}", file.display()));
            }
            _ => {}
        }
        if url == Source::Variable && store.url.trim().is_empty() {
            return Err(Failure::Usage(format!("{URL} is empty: unset it, or put an address into it")));
        }
        // The host has no address of its own if there is no such file. One that cannot be read is another
        // matter: without it, this run would use another store than its neighbours.
        let missing = || fs::metadata(host_file).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if url == Source::Nowhere && !missing() {
            return Address::read(host_file, &host_file.display().to_string());
        }
        Ok(Address { url: store.url.clone(), file: None, is_argument: url == Source::Argument })
    }

    fn read(file: &Path, named: &str) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::Usage(format!("{named}: {what}"));
        let mut text = String::new();
        let read = File::open(file).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
        match read {
            Err(error) => return Err(wrong(error.to_string())),
            Ok(length) if length as u64 > MAX_FILE => {
                return Err(wrong("it is too long for an address".into()));
            }
            Ok(_) => {}
        }
        let url = parse(&text).map_err(|what| wrong(what.to_owned()))?;
        Ok(Address { url: url.to_owned(), file: Some(file.to_owned()), is_argument: false })
    }

    /// Who else can read the password, and what to do about it.
    pub(crate) fn warning(&self) -> Option<String> {
        globallock::Address::parse(&self.url).ok().filter(|address| address.password.is_some())?;
        if self.is_argument {
            return Some(format!(
                "others can read the password in the list of processes; put the address into {URL} or a file \
                 for --url-file"
            ));
        }
        let file = self.file.as_ref()?;
        let others = fs::metadata(file).ok()?.permissions().mode() & 0o004;
        (others != 0).then(|| {
            let file = file.display();
            format!("others can read the password in {file}: take that right away (chmod o-r {file})")
        })
    }
}

/// The one address in the text of a file.
fn parse(text: &str) -> Result<&str, &'static str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next(), lines.next()) {
        (Some(url), None) => Ok(url),
        (None, _) => Err("it has no address"),
        (Some(_), Some(_)) => Err("it has more than one address: keep one, and put # before the others"),
    }
}

/// Whether there may be a password. What is no address may be one with a typing error.
fn may_have_password(url: &str) -> bool {
    globallock::Address::parse(url).map_or(true, |address| address.password.is_some())
}

/// Takes an address with a password out of the environment that the command gets, and returns a file with it.
///
/// The environment of a process is printed by many programs when they fail. The file has no name, and the
/// command is told where its own user finds it while the lock is held.
pub(crate) fn for_command(command: &mut Command) -> std::io::Result<Option<File>> {
    let Ok(url) = std::env::var(URL) else { return Ok(None) };
    if url.is_empty() || !may_have_password(&url) {
        return Ok(None);
    }
    let mut file = File::from(memfd_create(c"globallock-url", MFdFlags::MFD_CLOEXEC)?);
    // Nobody else can open it there in any case, but who looks at its mode should see that.
    file.set_permissions(fs::Permissions::from_mode(0o400))?;
    writeln!(file, "{url}")?;
    command.env_remove(URL);
    Ok(Some(file))
}

/// Where a process of the same user reads the address, from the descriptors of the guardian.
pub(crate) fn show_to(command: &mut Command, guardian: u32, file: &impl AsRawFd) {
    command.env(URL_FILE, format!("/proc/{guardian}/fd/{}", file.as_raw_fd()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: (Source, &str), url_file: (Source, Option<&Path>), host: &Path) -> Result<String, String> {
        let store = Store { url: url.1.to_owned(), url_file: url_file.1.map(Path::to_owned) };
        let sources = Sources { url: url.0, url_file: url_file.0 };
        match Address::choose(&store, sources, host) {
            Ok(address) => Ok(address.url),
            Err(Failure::Usage(what)) => Err(what),
            Err(_) => unreachable!("every other failure comes later"),
        }
    }

    #[test]
    fn the_nearest_address_counts() {
        use Source::{Argument, Nowhere, Variable};
        let directory = tempfile::tempdir().unwrap();
        let [file, host, none] = ["file", "host", "none"].map(|name| directory.path().join(name));
        fs::write(&file, "# comment\n\n  redis://file \n# redis://old\n").unwrap();
        fs::write(&host, "redis://host").unwrap();
        let given = Some(&*file);
        for (url, url_file, host, expected) in [
            ((Argument, "redis://url"), (Nowhere, None), &host, "redis://url"),
            ((Argument, "redis://url"), (Variable, given), &host, "redis://url"),
            ((Variable, "redis://url"), (Argument, given), &host, "redis://file"),
            ((Variable, "redis://url"), (Variable, given), &host, "redis://url"),
            ((Nowhere, "file:"), (Variable, given), &host, "redis://file"),
            ((Nowhere, "file:"), (Nowhere, None), &host, "redis://host"),
            ((Nowhere, "file:"), (Nowhere, None), &none, "file:"),
        ] {
            assert_eq!(chosen(url, url_file, host).as_deref(), Ok(expected), "{url:?} {url_file:?}");
        }
        let both = chosen((Argument, "redis://url"), (Argument, given), &host);
        assert_eq!(both, Err("give one of --url and --url-file".to_owned()));
        let directory = directory.path();
        let unread = chosen((Nowhere, "file:"), (Nowhere, None), directory);
        assert_eq!(unread, Err(format!("{}: Is a directory (os error 21)", directory.display())));
    }

    #[test]
    fn a_file_has_one_address() {
        assert_eq!(parse("redis://a\n"), Ok("redis://a"));
        assert_eq!(parse("\u{20}\n#a\n \tredis://a \n\n"), Ok("redis://a"));
        assert_eq!(parse("# redis://a\n"), Err("it has no address"));
        assert!(parse("redis://a\nredis://b").unwrap_err().starts_with("it has more than one address"));
    }
}
