//! Records as lines of a file, which is put aside when it is large and thrown away when it is old.
//! See <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#log-backend>.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::clock::{SharedClock, rfc3339_micro};

/// Where records go, and for how long.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The file; `-` is the standard output.
    pub path: PathBuf,
    /// How many days files that were put aside are kept; for ever where 0.
    pub max_age_days: u64,
    /// How many files that were put aside are kept; all where 0.
    pub max_backups: usize,
    /// How large the file may become, in megabytes; 100 where 0.
    pub max_size_mb: u64,
}

const DEFAULT_SIZE_MB: u64 = 100;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Records may hold what not everybody may read.
const MODE: u32 = 0o600;

/// A log of records.
pub struct Log {
    settings: Settings,
    clock: SharedClock,
    open: Mutex<Open>,
}

struct Open {
    to: Box<dyn Write + Send>,
    size_bytes: u64,
}

impl Log {
    /// Opens the file, and makes its folder.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(settings: Settings, clock: SharedClock) -> io::Result<Self> {
        let open = Mutex::new(open(&settings.path)?);
        Ok(Self { settings, clock, open })
    }

    /// Writes one record, which has no line's end, before it returns.
    ///
    /// # Errors
    /// The file cannot be written or put aside.
    pub fn write(&self, record: &[u8]) -> io::Result<()> {
        let mut now = self.open.lock();
        let size_bytes = record.len() as u64 + 1;
        if now.size_bytes > 0 && now.size_bytes + size_bytes > self.limit_bytes() && !is_stdout(&self.settings.path) {
            self.put_aside()?;
            *now = open(&self.settings.path)?;
            if let Err(error) = self.clear_away() {
                tracing::warn!(%error, "old audit logs cannot be removed");
            }
        }
        let mut line = Vec::with_capacity(record.len() + 1);
        line.extend_from_slice(record);
        line.push(b'\n');
        now.size_bytes += size_bytes;
        now.to.write_all(&line)
    }

    fn limit_bytes(&self) -> u64 {
        let megabytes = if self.settings.max_size_mb == 0 { DEFAULT_SIZE_MB } else { self.settings.max_size_mb };
        megabytes * 1024 * 1024
    }

    fn put_aside(&self) -> io::Result<()> {
        let path = &self.settings.path;
        let time = rfc3339_micro(self.clock.now()).replace(':', "-");
        // Milliseconds, as upstream's names have them.
        let time = time.get(..23).unwrap_or(&time);
        let (stem, extension) = parts(path);
        fs::rename(path, path.with_file_name(format!("{stem}-{time}{extension}")))
    }

    /// Removes what is too old or too much.
    fn clear_away(&self) -> io::Result<()> {
        let path = &self.settings.path;
        let (stem, extension) = parts(path);
        let mut aside = Vec::new();
        for entry in fs::read_dir(folder(path))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
            if time.is_some_and(|time| time.starts_with(|letter: char| letter.is_ascii_digit())) {
                aside.push((name.clone(), entry.path()));
            }
        }
        // The names hold the times: the newest come first.
        aside.sort_by(|one, other| other.cmp(one));
        let age = DAY.saturating_mul(u32::try_from(self.settings.max_age_days).unwrap_or(u32::MAX));
        // Nothing is older than what no calendar has.
        let oldest = self.clock.now().checked_sub(age).map_or_else(|_| String::new(), rfc3339_micro);
        let oldest = format!("{stem}-{}", oldest.replace(':', "-"));
        for (index, (name, path)) in aside.iter().enumerate() {
            let too_many = self.settings.max_backups > 0 && index >= self.settings.max_backups;
            let too_old = self.settings.max_age_days > 0 && *name < oldest;
            if too_many || too_old {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open(path: &Path) -> io::Result<Open> {
    if is_stdout(path) {
        return Ok(Open { to: Box::new(io::stdout()), size_bytes: 0 });
    }
    fs::create_dir_all(folder(path))?;
    let file: File = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
    let size_bytes = file.metadata()?.len();
    Ok(Open { to: Box::new(file), size_bytes })
}

/// `audit` and `.log`.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|extension| format!(".{extension}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default(), extension)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skiff_base::clock::ManualClock;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("one").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_large_file_is_put_aside_and_old_ones_go() {
        let folder = std::env::temp_dir().join(format!("skiff-audit-{}", std::process::id())).join("logs");
        let start = "2026-03-04T05:06:07.089Z".parse().expect("a time");
        let clock = Arc::new(ManualClock::at(start));
        let path = folder.join("audit.log");
        let settings = Settings { path: path.clone(), max_age_days: 3, max_backups: 2, max_size_mb: 1 };
        let log = Log::open(settings.clone(), clock.clone()).expect("opened");
        let record = vec![b'x'; 700_000];
        for day in 0..5 {
            log.write(&record).expect("written");
            let aside = names(&folder).len() - 1;
            assert_eq!(aside, day.min(2), "day {day}");
            clock.advance(DAY);
        }
        assert_eq!(names(&folder)[0], "audit-2026-03-07T05-06-07.089.log");
        clock.advance(DAY * 3);
        // Another server takes the file up where it is.
        drop(log);
        let log = Log::open(settings, clock).expect("opened");
        log.write(&record).expect("written");
        assert_eq!(names(&folder), ["audit-2026-03-12T05-06-07.089.log", "audit.log"]);
        let text = fs::read(&path).expect("read");
        assert_eq!((text.len(), text.last()), (700_001, Some(&b'\n')));
        fs::remove_dir_all(folder.parent().expect("the test's own")).expect("removed");
    }
}
