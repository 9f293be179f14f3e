//! apt, as the host has it set up, or for another release of the same archive with lists of its own.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Outcome, Tried};
use crate::host;

/// With whose signatures the archive's lists of each release of today are signed.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How to call apt.
pub struct Apt {
    /// Before all others.
    options: Vec<OsString>,
    /// Whether its lists are the host's, which root alone may change.
    is_hosts: bool,
}

impl Apt {
    /// As the host has it.
    pub fn host() -> Self {
        Self { options: Vec::new(), is_hosts: true }
    }

    /// For these suites of the archive that the host has its own packages from. All that apt keeps of them is in `folder`:
    /// nothing of the host's is changed, and what is installed there is not known.
    pub fn of(suites: &[&str], folder: &Path) -> Outcome<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).tried(|| format!("cannot make {}", part.display()))?;
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).tried(|| format!("cannot write {}", path.display())).map(|()| path)
        };
        let archive = hosts_archive()?;
        let line = |suite: &&str| format!("deb [signed-by={KEYS}] {archive} {suite} main\n");
        let mut options = Vec::new();
        let mut set = |name: &str, path: &Path| {
            let mut value = OsString::from(format!("{name}="));
            value.push(path);
            options.extend([OsString::from("-o"), value]);
        };
        set("Dir::Etc::SourceList", &write("sources.list", &suites.iter().map(line).collect::<String>())?);
        set("Dir::Etc::SourceParts", Path::new("/dev/null"));
        set("Dir::Etc::PreferencesParts", Path::new("/dev/null"));
        set("Dir::State::Lists", &folder.join("lists"));
        set("Dir::State::status", &write("installed", "")?);
        set("Dir::Cache", &folder.join("cache"));
        Ok(Self { options, is_hosts: false })
    }

    /// `apt-get` or `apt-cache`, to be told what to do.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Refreshes the package lists when we may; leaves them as they are otherwise.
    pub fn refresh(&self) -> Outcome<()> {
        if self.is_hosts && !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        crate::progress::step("refreshing apt's package lists");
        let mut update = self.command("apt-get");
        host::output_of(update.args(["-o", "APT::Sandbox::User=root", "update", "--quiet"])).map(drop)
    }

    /// apt's record of the newest version of `name`, its lists fetched first if it knows none.
    pub fn record(&self, name: &str) -> Outcome<String> {
        if !host::has("apt-get") {
            return Err(Failure::new(
                "no apt-get on this host: guest kernels come from a Debian archive, run this on Debian 12 or later",
            ));
        }
        if let Some(shown) = self.known(name) {
            return Ok(shown);
        }
        self.refresh()?;
        self.known(name).ok_or_else(|| {
            Failure::new(format!(
                "apt knows no package {name}: run `apt-get update` as root, on Debian 12 or later"
            ))
        })
    }

    /// apt's record of the newest version of `name` in its lists, if they have one.
    pub fn known(&self, name: &str) -> Option<String> {
        let shown = host::text_of(self.command("apt-cache").args(["show", name])).ok()?;
        offered(&shown).map(str::to_owned)
    }
}

/// Where the host has the packages of its own release from.
fn hosts_archive() -> Outcome<String> {
    let look = || {
        let mut targets = Command::new("apt-get");
        targets.args([
            "indextargets",
            "--format",
            "$(LABEL) $(COMPONENT) $(REPO_URI)",
            "Created-By: Packages",
        ]);
        Ok(host::text_of(&mut targets)?.lines().find_map(archive_of).map(str::to_owned))
    };
    if let Some(archive) = look()? {
        return Ok(archive);
    }
    Apt::host().refresh()?;
    look()?
        .ok_or_else(|| Failure::new("apt has no lists of a Debian archive: run this on Debian 12 or later"))
}

/// Of an index, labelled as its release is, where its archive is.
fn archive_of(line: &str) -> Option<&str> {
    line.strip_prefix("Debian main ").filter(|archive| archive.contains("://"))
}

/// Of records, the newest one first, the first that an archive offers: a version that is installed here and that no list
/// has, or has any more, stands among them without a sum.
fn offered(records: &str) -> Option<&str> {
    records.split("\n\n").find(|record| field(record, "SHA256:").is_some())
}

/// The names of the packages that one depends on; of alternatives, the first.
pub fn dependencies(record: &str) -> impl Iterator<Item = String> {
    let list = field(record, "Depends:").unwrap_or_default().split(',');
    // NAME:ARCHITECTURE (RELATION VERSION) | ALTERNATIVE
    list.filter_map(|one| one.split(['|', '(', ':']).next())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
}

/// The value of one field of a control record.
pub fn field<'a>(record: &'a str, title: &str) -> Option<&'a str> {
    record.lines().find_map(|line| line.strip_prefix(title)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_names() {
        let record = "Package: a\nDepends: libc6 (>= 2.34), python3:any, b | c (<< 2)\nSection: libs\n";
        let names: Vec<String> = dependencies(record).collect();
        assert_eq!(names, ["libc6", "python3", "b"]);
        assert_eq!(dependencies("Package: a\n").count(), 0);
    }

    /// In the words of apt-cache: this host has a version that is in no list.
    #[test]
    fn the_newest_version_that_an_archive_offers_is_taken() {
        let here = "Package: a\nStatus: install ok installed\nVersion: 3\nDescription: of a\n";
        let newer = "Package: a\nVersion: 2\nSHA256: two\n";
        let older = "Package: a\nVersion: 1\nSHA256: one\n\n";
        let record = offered(&[here, newer, older].join("\n")).map(str::to_owned).unwrap();
        assert_eq!((field(&record, "Version:"), field(&record, "SHA256:")), (Some("2"), Some("two")));
        assert_eq!(offered(here), None);
        assert_eq!(offered(""), None);
    }

    #[test]
    fn the_archive_is_that_of_the_release_and_no_other() {
        assert_eq!(archive_of("Debian main file:///debian/"), Some("file:///debian/"));
        assert_eq!(archive_of("Debian-Security main file:///debian-security/"), None);
        assert_eq!(archive_of("Debian non-free file:///debian/"), None);
        assert_eq!(archive_of("Debian main "), None);
    }

    #[test]
    fn lists_of_its_own_are_written_for_each_suite() {
        let folder = tempfile::tempdir().unwrap();
        let apt = Apt::of(&["one", "one-updates"], folder.path()).unwrap();
        let sources = fs::read_to_string(folder.path().join("sources.list")).unwrap();
        let suites: Vec<&str> = sources.lines().filter_map(|line| line.split(' ').nth_back(1)).collect();
        assert_eq!(suites, ["one", "one-updates"]);
        // The host's lists know it, these are empty.
        assert!(apt.known("apt").is_none());
    }
}
