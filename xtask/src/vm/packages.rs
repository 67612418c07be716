//! Which kernels the Debian mirror has, and getting one: its image and the
//! modules that the tests need, cached in target/vm/kernels.
//!
//! apt does the finding, the download and the proof: lists of our own in
//! target/vm/apt, every suite signed by a key of debian-archive-keyring, every
//! package hashed in a signed list. The system's sources stay as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{command, output},
    tools::Missing,
};

/// The archive of everything but security, by apt's label, and where it is without a mirror.
pub(super) const DEBIAN: (&str, &str) = ("Debian", "http://deb.debian.org/debian/");

/// Archives by apt's label, where they are if the host does not use them,
/// and their suites that have a kernel that no other has.
const ARCHIVES: [(&str, &str, &[&str]); 2] = [
    (
        DEBIAN.0,
        DEBIAN.1,
        &["bullseye", "bookworm", "trixie", "trixie-backports", "sid", "experimental"],
    ),
    (
        "Debian-Security",
        "http://deb.debian.org/debian-security/",
        &["bullseye-security", "bookworm-security", "trixie-security"],
    ),
];

/// Verifies all of them: bookworm's has the keys of bullseye to sid.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The flavour for virtual machines: the smallest that has everything.
const FLAVOUR: &str = "-cloud-amd64";

/// Modules that the scenes and `ss` need; with dependencies.
/// Without a module `ss` falls back to /proc/net/tcp and has fewer states.
const MODULES: [&str; 3] = ["inet_diag", "tcp_diag", "veth"];

/// The oldest that tcpwatch runs on: ring buffer, iter/tcp and BTF in one.
const OLDEST: Series = Series(5, 10);

/// `6.12` of 6.12.117.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Series(u32, u32);

impl Series {
    pub(super) const fn new(major: u32, minor: u32) -> Self {
        Self(major, minor)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A kernel that boots.
#[derive(Clone)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// Each after those that it depends on, uncompressed.
    pub(super) modules: Vec<PathBuf>,
}

/// The mirror's kernels, by the signed lists.
pub(super) struct Mirror {
    folder: PathBuf,
    packages: BTreeMap<String, Package>,
}

struct Package {
    version: String,
    depends: String,
}

impl Package {
    /// The parts of the same kernel that it depends on.
    fn parts(&self) -> impl Iterator<Item = &str> {
        self.depends.split([',', ' ', '|']).filter(|name| kernel_part(name).is_some())
    }
}

impl Mirror {
    /// Fetches the lists, as far as they changed; `folder` keeps them.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            Missing(format!("{KEYRING} is missing: apt-get install debian-archive-keyring"))
        );
        let lists = folder.join("apt/lists/partial");
        fs::create_dir_all(&lists).with_context(|| format!("making {}", lists.display()))?;
        fs::write(folder.join("apt/sources.list"), sources()?).context("writing sources.list")?;
        // Nothing is installed, as far as these calls know.
        fs::write(folder.join("apt/status"), "").context("writing an empty status")?;
        // Lists of the last time serve when the network is away.
        if let Err(error) = output(apt("apt-get", folder).arg("update")) {
            println!("{error:#}\ngoing on with the lists at hand");
        }
        let stanzas = output(apt("apt-cache", folder).arg("dumpavail"))?;
        let packages: BTreeMap<_, _> = stanzas.split("\n\n").filter_map(parse_package).collect();
        ensure!(
            !packages.is_empty(),
            Missing("no list of Debian's kernels (no network?)".to_owned())
        );
        Ok(Self { folder: folder.to_path_buf(), packages })
    }

    /// The series that `names` mean: `6.1`, `oldest`, `newest`; all without.
    pub(super) fn select(&self, names: &[String]) -> Result<Vec<Series>> {
        let all: BTreeSet<Series> =
            self.images().map(|(series, _)| series).filter(|series| *series >= OLDEST).collect();
        if names.is_empty() {
            return Ok(all.into_iter().collect());
        }
        let known = all.iter().map(Series::to_string).collect::<Vec<_>>().join(", ");
        let mut selected = BTreeSet::new();
        for name in names {
            let series = match name.as_str() {
                "oldest" => Some(OLDEST),
                "newest" => all.last().copied(),
                number => Series::parse(number),
            };
            let series = series.filter(|series| all.contains(series));
            selected.insert(series.with_context(|| {
                format!("no kernel {name}: the mirror has {known}; or say oldest, newest")
            })?);
        }
        Ok(selected.into_iter().collect())
    }

    /// The newest of a series, from the cache or the mirror.
    pub(super) fn fetch(&self, series: Series) -> Result<Kernel> {
        let newest = self.images().filter(|(of, _)| *of == series);
        let newest = newest.max_by_key(|(_, name)| numbers(&self.packages[*name].version));
        let (_, image) = newest.with_context(|| format!("the mirror has no kernel {series}"))?;
        let version = &self.packages[image].version;
        let cached = self.folder.join("kernels").join(format!("{image}_{version}"));
        if !cached.is_dir() {
            let unpacked = self.folder.join("unpacked");
            self.unpack(image, &unpacked).with_context(|| format!("getting {image}"))?;
            let chosen = self.folder.join("chosen");
            choose(&unpacked, &chosen).with_context(|| format!("unpacking {image}"))?;
            fs::create_dir_all(self.folder.join("kernels")).context("making kernels/")?;
            // Last, so that what is there is whole.
            fs::rename(&chosen, &cached).with_context(|| cached.display().to_string())?;
            fs::remove_dir_all(&unpacked).context("removing what is not needed")?;
        }
        let modules = cached.join("modules").read_dir().context("the modules")?;
        let mut modules: Vec<PathBuf> = modules.flatten().map(|entry| entry.path()).collect();
        modules.sort();
        Ok(Kernel { image: cached.join("vmlinuz"), modules })
    }

    /// Those that are whole. Of backports that were succeeded by the next
    /// series the mirror keeps the signed image, but not the modules.
    fn images(&self) -> impl Iterator<Item = (Series, &str)> {
        self.packages.iter().filter_map(|(name, package)| {
            name.strip_prefix("linux-image-")?;
            let whole = package.parts().all(|part| self.packages.contains_key(part));
            let mut numbers = numbers(&package.version).into_iter();
            let series = Series(numbers.next()?, numbers.next()?);
            whole.then_some((series, name.as_str()))
        })
    }

    /// Downloads a package with those parts of the kernel that it depends on
    /// (from 6.19 on the image is in one and the modules in another).
    fn unpack(&self, image: &str, folder: &Path) -> Result<()> {
        let mut needed: BTreeMap<&str, &Package> = BTreeMap::new();
        let mut names = vec![image];
        while let Some(name) = names.pop() {
            let Some((name, package)) = self.packages.get_key_value(name) else { continue };
            if needed.insert(name, package).is_none() {
                names.extend(package.parts());
            }
        }
        empty(folder)?;
        let exact = needed.iter().map(|(name, package)| format!("{name}={}", package.version));
        let mut download = apt("apt-get", &self.folder);
        println!("downloading {}", needed.keys().copied().collect::<Vec<_>>().join(", "));
        output(download.arg("download").args(exact).current_dir(folder))?;
        for entry in folder.read_dir().context("what was downloaded")?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".deb") {
                output(command("dpkg-deb").arg("--extract").arg(entry.path()).arg(folder))?;
            }
        }
        Ok(())
    }
}

/// Copies out of an unpacked kernel what a guest needs.
fn choose(unpacked: &Path, chosen: &Path) -> Result<()> {
    empty(&chosen.join("modules"))?;
    // Packages of merged-/usr suites have no lib/, where kmod looks.
    if !unpacked.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", unpacked.join("lib")).context("lib")?;
    }
    let mut releases = unpacked.join("lib/modules").read_dir().context("lib/modules")?.flatten();
    let release = releases.next().context("no modules")?.file_name();
    let release = release.to_str().context("a release in UTF-8")?;
    // Debian moved it in 7.2.
    let homes = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let image = homes.iter().map(|home| unpacked.join(home)).find(|file| file.is_file());
    fs::copy(image.context("no vmlinuz")?, chosen.join("vmlinuz")).context("vmlinuz")?;

    output(command("depmod").arg("-b").arg(unpacked).arg(release))?;
    let mut files: Vec<String> = Vec::new();
    for module in MODULES {
        let mut query = command("modprobe");
        // Without the options that the host's modprobe.d gives to modules.
        query.args(["-C", "/dev/null", "--show-depends", "-S", release]);
        query.arg("-d").arg(unpacked).arg(module);
        for line in output(&mut query)?.lines() {
            // The other word is `builtin`.
            let Some(file) = line.strip_prefix("insmod ") else { continue };
            let file = file.trim();
            if !files.iter().any(|known| known == file) {
                files.push(file.to_owned());
            }
        }
    }
    for (number, file) in files.iter().enumerate() {
        let name = Path::new(file).file_name().context("a module's name")?.to_string_lossy();
        let plain = chosen.join(format!("modules/{number:02}-{}", name.trim_end_matches(".xz")));
        if name.ends_with(".xz") {
            // An old kernel's insmod cannot, and the guest has no xz.
            let to = fs::File::create(&plain).context("a module")?;
            let mut xz = command("xz");
            let status = xz.args(["--decompress", "--stdout", file]).stdout(to).status()?;
            ensure!(status.success(), "xz {file}: {status}");
        } else {
            fs::copy(file, &plain).with_context(|| format!("copying {file}"))?;
        }
    }
    Ok(())
}

/// The mirror of an archive that the host's own sources use, else `default`.
pub(super) fn mirror(label: &str, default: &str) -> Result<String> {
    let mut query = command("apt-get");
    query.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Identifier: Packages"]);
    let used = output(&mut query)?;
    let mirror = used.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(' '));
    Ok(mirror.unwrap_or(default).to_owned())
}

/// sources.list, of the mirrors that the host's own sources use.
fn sources() -> Result<String> {
    let mut text = String::new();
    for (label, default, suites) in ARCHIVES {
        let mirror = mirror(label, default)?;
        for suite in suites {
            let _ = writeln!(
                text,
                "deb [signed-by={KEYRING} arch=amd64 target=Packages] {mirror} {suite} main"
            );
        }
    }
    Ok(text)
}

/// apt with our lists, our cache, and none of the host's preferences.
fn apt(program: &str, folder: &Path) -> Command {
    let mut command = command(program);
    let own = folder.join("apt");
    for (key, file) in [
        ("Dir::Etc::SourceList", own.join("sources.list")),
        ("Dir::Etc::SourceParts", "/dev/null".into()),
        ("Dir::Etc::Preferences", "/dev/null".into()),
        ("Dir::Etc::PreferencesParts", "/dev/null".into()),
        ("Dir::State::Lists", own.join("lists")),
        ("Dir::State::status", own.join("status")),
        ("Dir::Cache", own.join("cache")),
    ] {
        command.arg("-o").arg(format!("{key}={}", file.display()));
    }
    for option in [
        // User _apt cannot write below a target folder that is root's.
        "APT::Sandbox::User=root",
        // Whatever the host allows itself.
        "Acquire::AllowInsecureRepositories=false",
        "APT::Get::AllowUnauthenticated=false",
    ] {
        command.args(["-o", option]);
    }
    command.stdin(Stdio::null());
    command
}

/// A stanza of a list; `None` unless it is a part of a kernel of our flavour.
fn parse_package(stanza: &str) -> Option<(String, Package)> {
    let field =
        |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let name = stanza.trim_start().strip_prefix("Package: ")?.lines().next()?;
    kernel_part(name)?;
    let package = Package {
        version: field("Version")?.to_owned(),
        depends: field("Depends").unwrap_or_default().to_owned(),
    };
    Some((name.to_owned(), package))
}

/// The release in the name of a package with a part of a kernel.
fn kernel_part(package: &str) -> Option<&str> {
    // linux-base-RELEASE has lists of symbols and of what is built in.
    let mut parts = ["image", "binary", "modules"].iter();
    let name = package.strip_prefix("linux-")?;
    let release = parts.find_map(|part| name.strip_prefix(part)?.strip_prefix('-'))?;
    let ours = release.starts_with(|first: char| first.is_ascii_digit());
    (ours && release.ends_with(FLAVOUR)).then_some(release)
}

/// The numbers of a version, without what follows `~`: a backport and its
/// original are one, `7.3~rc7` is 7.3.
fn numbers(version: &str) -> Vec<u32> {
    let version = version.split('~').next().unwrap_or_default();
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use super::{Mirror, Package, numbers, parse_package};

    fn mirror() -> Mirror {
        let whole = "linux-base-7.3-cloud-amd64 (= 7.3~rc7-1~exp1), linux-modules-7.3-cloud-amd64 (= 7.3~rc7-1~exp1)";
        let packages = [
            ("linux-image-4.19.0-27-cloud-amd64", "4.19.316-1", "kmod"),
            ("linux-image-5.10.0-46-cloud-amd64", "5.10.262-1", "kmod"),
            ("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2", "linux-base (>= 4.3~)"),
            ("linux-image-7.0-cloud-amd64", "7.0.1-1", "linux-modules-7.0-cloud-amd64 (= 7.0.1)"),
            ("linux-image-7.3-cloud-amd64", "7.3~rc7-1~exp1", whole),
            ("linux-modules-7.3-cloud-amd64", "7.3~rc7-1~exp1", ""),
        ];
        let packages = packages.map(|(name, version, depends)| {
            let package = Package { version: version.into(), depends: depends.into() };
            (name.to_owned(), package)
        });
        Mirror { folder: PathBuf::new(), packages: BTreeMap::from(packages) }
    }

    #[test]
    fn versions_have_names_and_kernels_without_modules_are_none() {
        let select = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let selected = mirror().select(&names).map_err(|error| error.to_string())?;
            Ok::<_, String>(selected.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(select(&[]), Ok(vec!["5.10".into(), "6.1".into(), "7.3".into()]));
        assert_eq!(select(&["newest", "oldest"]), Ok(vec!["5.10".into(), "7.3".into()]));
        assert_eq!(select(&["6.1", "6.1"]), Ok(vec!["6.1".into()]));
        assert!(select(&["6.6"]).is_err_and(|error| error.contains("5.10, 6.1, 7.3")));
    }

    #[test]
    fn only_parts_of_a_kernel_of_the_flavour_are_packages() {
        let stanza = |name: &str| format!("Package: {name}\nVersion: 6.1.192-2\nDepends: kmod");
        let parsed = |name: &str| parse_package(&stanza(name)).map(|(name, _)| name);
        for part in ["image", "binary", "modules"] {
            let name = format!("linux-{part}-6.1.0-56-cloud-amd64");
            assert_eq!(parsed(&name), Some(name));
        }
        assert_eq!(parsed("linux-image-cloud-amd64"), None);
        assert_eq!(parsed("linux-image-6.1.0-56-amd64"), None);
        assert_eq!(parsed("linux-image-6.1.0-56-cloud-amd64-dbg"), None);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("6.1.192-2") > numbers("6.1.180-1~deb11u1"));
        assert!(numbers("6.1.192-10") > numbers("6.1.192-9"));
    }
}
